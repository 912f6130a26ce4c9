"""Job: pods that run to completion; finished Jobs go after their time to live.

Pods are counted from the objects themselves, and no count falls below what the status says already, for finished pods
may be removed with their node. Kubernetes counts exactly, by finalizers on pods; here a pod that is removed right after
it ended may be run once more.
Source: Kubernetes concepts "Jobs", API reference batch/v1.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import lifecycled
from rayplane.control_plane.api.pods.state import pod_is_active, pod_is_ready, pod_is_terminated, pod_phase
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.controllers.core import (
    NOTHING,
    Action,
    BaseController,
    Create,
    Delete,
    Event,
    Moment,
    Result,
    UpdateStatus,
    View,
    Watch,
    controlled,
    controller_key,
    result,
    soonest,
)
from rayplane.control_plane.controllers.replicaset import BURST
from rayplane.control_plane.controllers.templates import pod_from

JOBS = "jobs.batch"
INDEX = "batch.kubernetes.io/job-completion-index"
BACKOFF = Backoff(10.0, 600.0)
_CREATED_MESSAGE = "Created pod: {name}"
_RANGE = re.compile(r"(?<![^,])([0-9]{1,10})(?:-([0-9]{1,10}))?(?![^,])")


def is_finished(job: Object) -> bool:
    return meta.condition_is(job, "Complete") or meta.condition_is(job, "Failed")


class JobController(BaseController):
    name = "job"
    component = "job-controller"

    def __init__(self, *, coalesce_s: float = 0.05, backoff: Backoff = BACKOFF) -> None:
        self._backoff = backoff
        self.watches = (
            Watch(JOBS),
            Watch("pods", controller_key("Job", "batch"), delay_s=coalesce_s),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        job = view.get(JOBS, *meta.split_key(key))
        if job is None or meta.is_deleting(job):
            return NOTHING
        # By owner reference alone: the selector of a Job is made by the API server and matches no others' pods.
        pods = sorted(controlled(view, "pods", job), key=meta.name)
        return _Sync(job, pods, now, backoff=self._backoff).run()


class _Sync:
    """One reconcile of one Job."""

    def __init__(self, job: Object, pods: Sequence[Object], now: Moment, *, backoff: Backoff) -> None:
        self.job, self.pods, self.now, self.backoff = job, pods, now, backoff
        spec = meta.spec(job)
        self.indexed = spec.get("completionMode") == "Indexed"
        self.completions: int | None = spec.get("completions")
        self.parallelism = 1 if spec.get("parallelism") is None else int(spec["parallelism"])
        self.suspended = bool(spec.get("suspend"))
        self.active = [p for p in pods if pod_is_active(p)]
        self.succeeded = [p for p in pods if pod_phase(p) == "Succeeded"]
        self.failed = [p for p in pods if pod_phase(p) == "Failed"]
        self.done_indexes = _numbers(meta.status(job).get("completedIndexes") or "", below=self.completions or 0)
        self.done_indexes |= {i for p in self.succeeded if (i := _index_of(p)) is not None}

    def run(self) -> Result:
        if is_finished(self.job):
            return self._expire()
        status = copy.deepcopy(dict(meta.status(self.job)))
        if not self.suspended:
            status.setdefault("startTime", self.now.stamp)
        verdict = self._verdict(status)
        if verdict is not None:
            return self._finish(status, verdict)
        steps, wait = self._adjust()
        if steps:
            return result(steps, requeue_after=wait)
        self._count(status)
        self._suspend_condition(status)
        deadline = meta.spec(self.job).get("activeDeadlineSeconds")
        left = None
        if deadline is not None and status.get("startTime"):
            left = max(0.0, deadline - self.now.seconds_since(status["startTime"])) + 0.01
        return result(self._write(status), requeue_after=soonest(wait, left))

    # --- outcome --------------------------------------------------------------------------------

    def _succeeded_count(self) -> int:
        if self.indexed:
            return len(self.done_indexes)
        return max(len(self.succeeded), meta.status(self.job).get("succeeded") or 0)

    def _failed_count(self) -> int:
        return max(len(self.failed), meta.status(self.job).get("failed") or 0)

    def _verdict(self, status: dict[str, Any]) -> tuple[str, str, str] | None:
        """(condition, reason, message) once the Job is decided."""
        spec = meta.spec(self.job)
        limit = 6 if spec.get("backoffLimit") is None else int(spec["backoffLimit"])
        # Pods that restart in place count their restarts.
        retries = self._failed_count()
        template = (spec.get("template") or {}).get("spec") or {}
        if template.get("restartPolicy") == "OnFailure":
            retries += sum(_restarts(pod) for pod in self.active)
        if retries > limit:
            return ("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        deadline = spec.get("activeDeadlineSeconds")
        if deadline is not None and self.now.seconds_since(status.get("startTime") or self.now.stamp) >= deadline:
            text = "Job was active longer than specified deadline"
            return ("Failed", "DeadlineExceeded", text)
        done = self._succeeded_count()
        if self.completions is None:
            complete = done > 0 and not self.active
        else:
            complete = done >= self.completions
        if complete:
            text = "Reached expected number of succeeded pods"
            return ("Complete", "CompletionsReached", text)
        return None

    def _finish(self, status: dict[str, Any], verdict: tuple[str, str, str]) -> Result:
        """Stop what still runs, then say how it ended."""
        kind, reason, message = verdict
        if self.active:
            return result([self._delete(pod) for pod in self.active])
        self._count(status)
        conditions = status.setdefault("conditions", [])
        early = "SuccessCriteriaMet" if kind == "Complete" else "FailureTarget"
        for one in (early, kind):
            condition = {
                "type": one,
                "status": "True",
                "reason": reason,
                "message": message,
                "lastProbeTime": self.now.stamp,
            }
            meta.set_condition(conditions, condition, self.now.stamp)
        if kind == "Complete":
            status["completionTime"] = self.now.stamp
            event = Event(self.job, "Normal", "Completed", "Job completed")
        else:
            event = Event(self.job, "Warning", reason, message)
        return result([event, *self._write(status)])

    def _expire(self) -> Result:
        ttl = meta.spec(self.job).get("ttlSecondsAfterFinished")
        ended = next(
            (
                c.get("lastTransitionTime")
                for c in meta.status(self.job).get("conditions") or ()
                if c.get("type") in ("Complete", "Failed") and c.get("status") == "True"
            ),
            None,
        )
        if ttl is None or ended is None:
            return NOTHING
        left = ttl - self.now.seconds_since(ended)
        if left > 0:
            return result(requeue_after=left)
        return result([Delete(JOBS, self.job, propagation="Foreground")])

    # --- pods -----------------------------------------------------------------------------------

    def _adjust(self) -> tuple[list[Action], float | None]:
        """Make or delete pods; the span to wait for when a failure holds new ones back."""
        if self.suspended:
            return [self._delete(pod) for pod in self.active], None
        wanted = self.parallelism
        if self.completions is not None:
            wanted = min(wanted, self.completions - self._succeeded_count())
        elif self.succeeded:
            wanted = len(self.active)  # a work queue: once one has succeeded no new ones start
        surplus = len(self.active) - wanted
        if surplus > 0:
            ranked = sorted(self.active, key=lambda p: (pod_is_ready(p), meta.name(p)))
            return [self._delete(pod) for pod in ranked[: min(surplus, BURST)]], None
        # Terminating pods are waited for: their number must not exceed the parallelism either.
        leaving = sum(meta.is_deleting(p) and not pod_is_terminated(p) for p in self.pods)
        missing = -surplus - leaving
        if missing <= 0:
            return [], None
        wait = self._backoff()
        if wait > 0:
            return [], wait
        return [self._create(index) for index in self._free_indexes(min(missing, BURST))], None

    def _free_indexes(self, count: int) -> list[int | None]:
        if not self.indexed:
            return [None] * count
        taken = self.done_indexes | {i for p in self.active if (i := _index_of(p)) is not None}
        return list(islice((i for i in range(self.completions or 0) if i not in taken), count))

    def _backoff(self) -> float:
        """Seconds until pods may be made after failures: 10 s, 20 s, 40 s, ... since the last one."""
        since = [p for p in self.failed if _ended(p) > max(map(_ended, self.succeeded), default="")]
        if not since:
            return 0.0
        return max(0.0, self.backoff.pause_s(len(since)) - self.now.seconds_since(max(map(_ended, since))))

    def _create(self, index: int | None) -> Create:
        pod = pod_from(meta.spec(self.job).get("template") or {}, self.job)
        spec = pod["spec"]
        spec.setdefault("restartPolicy", "Never")
        if index is not None:
            own = pod["metadata"]
            own["generateName"] = f"{meta.name(self.job)[:50]}-{index}-"
            own.setdefault("annotations", {})[INDEX] = str(index)
            own.setdefault("labels", {})[INDEX] = str(index)
            spec.setdefault("hostname", f"{meta.name(self.job)}-{index}"[:63])
            for container in lifecycled(spec):
                variable = {"name": "JOB_COMPLETION_INDEX", "value": str(index)}
                container["env"] = [*(container.get("env") or ()), variable]
        return Create(
            "pods",
            pod,
            done=Event(self.job, "Normal", "SuccessfulCreate", _CREATED_MESSAGE),
            failed=Event(self.job, "Warning", "FailedCreate", "Error creating: {error}"),
        )

    def _delete(self, pod: Object) -> Delete:
        done = Event(self.job, "Normal", "SuccessfulDelete", "Deleted pod: {name}")
        return Delete("pods", pod, done=done)

    # --- status ---------------------------------------------------------------------------------

    def _count(self, status: dict[str, Any]) -> None:
        terminating = sum(meta.is_deleting(p) and not pod_is_terminated(p) for p in self.pods)
        counts = {
            "active": len(self.active),
            "succeeded": self._succeeded_count(),
            "failed": self._failed_count(),
        }
        for field, count in counts.items():
            status.pop(field, None)
            if count:
                status[field] = count
        status["ready"] = sum(map(pod_is_ready, self.active))
        status["terminating"] = terminating
        status["uncountedTerminatedPods"] = {}
        if self.indexed and self.done_indexes:
            status["completedIndexes"] = _ranges(sorted(self.done_indexes))

    def _suspend_condition(self, status: dict[str, Any]) -> None:
        conditions = status.setdefault("conditions", [])
        known = meta.get_condition(conditions, "Suspended")
        if self.suspended:
            condition = {"status": "True", "reason": "JobSuspended", "message": "Job suspended"}
            status.pop("startTime", None)
        elif known:
            condition = {"status": "False", "reason": "JobResumed", "message": "Job resumed"}
        else:
            if not conditions:
                del status["conditions"]
            return
        meta.set_condition(conditions, {"type": "Suspended", **condition}, self.now.stamp)

    def _write(self, status: dict[str, Any]) -> list[Action]:
        if status == meta.status(self.job):
            return []
        return [UpdateStatus(JOBS, {**self.job, "status": status})]


_INDEX_TEXT = re.compile("[0-9]{1,9}")


def _index_of(pod: Object) -> int | None:
    text = meta.annotations(pod).get(INDEX, "")
    return int(text) if _INDEX_TEXT.fullmatch(text) else None


def _restarts(pod: Object) -> int:
    return sum(s.get("restartCount") or 0 for s in meta.status(pod).get("containerStatuses") or ())


def _ended(pod: Object) -> str:
    """When the last container ended (RFC 3339); the pod's creation where nothing tells."""
    ends = [
        ((s.get("state") or {}).get("terminated") or {}).get("finishedAt") or ""
        for s in meta.status(pod).get("containerStatuses") or ()
    ]
    return max([*ends, meta.metadata(pod).get("creationTimestamp") or ""])


def _ranges(numbers: Sequence[int]) -> str:
    """`0-2,5` for 0, 1, 2, 5."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _numbers(text: str, *, below: int) -> set[int]:
    """The inverse of `_ranges`; what is no range, and numbers that cannot be, are passed over."""
    found: set[int] = set()
    for first, last in _RANGE.findall(text):
        found.update(range(int(first), min(int(last or first) + 1, below)))
    return found
