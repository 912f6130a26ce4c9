"""Job: pods that run to completion; finished Jobs go after their time to live.

Source: Kubernetes concepts "Jobs", API reference batch/v1; events and conditions as kube-controller-manager writes
them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.selectors import from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import (
    Action,
    Delete,
    Event,
    UpdateStatus,
)
from rayplane.control_plane.controllers.adoption import claim, orphan_matches
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    controller_key,
    in_namespace,
    result,
    slow_start,
    soonest,
)
from rayplane.control_plane.controllers.job import conditions, scaling, verdict
from rayplane.control_plane.controllers.job.counting import Count, count
from rayplane.control_plane.controllers.job.creation import creations
from rayplane.control_plane.controllers.job.pods import TRACKING, is_tracked
from rayplane.control_plane.controllers.job.retries import BACKOFF, Retries
from rayplane.control_plane.controllers.job.scaling import Plan
from rayplane.control_plane.controllers.job.spec import CONTROLLER, JOBS, JobSpec, manager_of
from rayplane.control_plane.controllers.job.tracking import Tracked, track, untrack
from rayplane.control_plane.controllers.job.verdict import Verdict
from rayplane.control_plane.controllers.replicaset import FIRST

_MOMENT_S = 0.01  # after which a deadline has passed for sure


class JobController(BaseController):
    """One for all Jobs. It remembers their failures in a row (`retries`)."""

    name = "job"
    component = "job-controller"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self._retries = Retries(BACKOFF)
        self.watches = (
            Watch(JOBS),
            Watch("pods", controller_key("Job", "batch"), delay_s=coalesce_s),
            Watch("pods", _adopters, delay_s=coalesce_s, changed=_belongs_elsewhere),
            Watch("namespaces", _jobs_in, changed=_begins_to_go),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        job = view.get(JOBS, *meta.split_key(key))
        if job is None or conditions.is_finished(job):
            self._retries.forget(key)
            return NOTHING if job is None else _expire(job, now)
        if manager_of(job) != CONTROLLER:
            return NOTHING
        selector = from_label_selector(meta.spec(job).get("selector"))
        claimed = claim(view, "pods", job, owners=JOBS, selector=selector, finalizer=TRACKING)
        if claimed.steps:
            return result(claimed.steps)
        spec = JobSpec.of(job)
        self._retries.note(key, job, spec, claimed.owned)
        namespace = view.get("namespaces", "", meta.namespace(job))
        going = meta.is_deleting(job) or (namespace is not None and meta.is_deleting(namespace))
        return _step(key, job, spec, claimed.owned, self._retries, now, going=going)


def _adopters(pod: Object, view: View) -> Iterable[str]:
    return orphan_matches(view, JOBS, pod)


def _belongs_elsewhere(old: Object, new: Object) -> bool:
    return meta.labels(old) != meta.labels(new) or meta.controller_of(old) != meta.controller_of(new)


def _jobs_in(namespace: Object, view: View) -> Iterable[str]:
    return (
        [meta.key(job) for job in in_namespace(view, JOBS, meta.name(namespace))] if meta.is_deleting(namespace) else ()
    )


def _begins_to_go(old: Object, new: Object) -> bool:
    return meta.is_deleting(new) and not meta.is_deleting(old)


def _step(
    key: str, job: Object, spec: JobSpec, pods: Sequence[Object], retries: Retries, now: Moment, *, going: bool
) -> Result:
    """One reconcile of a Job that has not ended: the status first, then finalizers, then pods.

    `going`: it is being deleted, or its namespace, where the pods go first: none is made, and no pod is held back.
    """
    found = count(job, spec, pods)
    decided = verdict.decide(job, spec, pods, found, now)
    plan = Plan()
    if decided is not None:
        plan = Plan(delete=found.active)
    elif not going:
        plan = scaling.plan(key, spec, found, retries, now)
        decided = None if plan.delete else verdict.completed(spec, found)
    tracked = track(job, spec, pods, found, decided, going=going)
    makes = creations(job, spec, found, plan) if decided is None else []
    status = _status(job, spec, found, tracked)
    events: list[Event] = []
    if decided is not None:
        events = _decide(job, spec, status, decided, now, settled=tracked.is_settled and not plan.delete)
    elif not going:
        events = conditions.suspend(job, spec, status, now)
        _start(spec, status, len(makes), now)
    writes: list[Action] = []
    if status != meta.status(job):
        writes.append(UpdateStatus(JOBS, {**job, "status": status}))
    left = verdict.deadline_left_s(spec, status.get("startTime"), now) if decided is None else None
    wait = soonest(plan.wait_s, None if left is None else max(0.0, left) + _MOMENT_S)
    deletes = [_delete(job, pod) for pod in plan.delete]
    # What is deleted because the Job wants fewer pods is no failure: it is let go before it can look like one.
    release = [*tracked.release, *([] if decided is not None else filter(is_tracked, plan.delete))]
    patches = [untrack(pod) for pod in release]
    if decided is not None:
        return result(writes, events, deletes, patches, requeue_after=wait)
    first, *others = slow_start(makes, first=FIRST) or [()]
    if not patches:
        return result([*writes, *first], events, deletes, *others, requeue_after=wait)
    return result(writes, events, patches, [*deletes, *first], *others, requeue_after=wait)


def _status(job: Object, spec: JobSpec, found: Count, tracked: Tracked) -> dict[str, Any]:
    status = copy.deepcopy(dict(meta.status(job)))
    numbers = {"active": len(found.active), **tracked.counted}
    if spec.indexed:
        numbers["succeeded"] = found.completed.total
        _set(status, "completedIndexes", str(found.completed))
    if found.given_up is not None:
        status["failedIndexes"] = str(found.given_up)
    for field, number in numbers.items():
        _set(status, field, number)
    status["ready"] = found.ready
    status["terminating"] = len(found.terminating)
    status["uncountedTerminatedPods"] = {field: uids for field, uids in tracked.uncounted.items() if uids}
    return status


def _set(status: dict[str, Any], field: str, value: object) -> None:
    if value:
        status[field] = value
    else:
        status.pop(field, None)


def _start(spec: JobSpec, status: dict[str, Any], made: int, now: Moment) -> None:
    """Say since when a Job is active, and with how many pods: it is about to make them."""
    if not spec.suspended and not status.get("startTime"):
        status["startTime"] = now.stamp
        _set(status, "active", (status.get("active") or 0) + made)


def _decide(
    job: Object, spec: JobSpec, status: dict[str, Any], decided: Verdict, now: Moment, *, settled: bool
) -> list[Event]:
    conditions.ensure(status, decided.decided, "True", decided.reason, decided.message, now)
    if not settled or status["terminating"]:
        return []
    return conditions.end(job, spec, status, decided, now)


def _delete(job: Object, pod: Object) -> Delete:
    done = Event(job, "Normal", "SuccessfulDelete", "Deleted pod: {name}")
    failed = Event(job, "Warning", "FailedDelete", "Error deleting: {error}")
    return Delete("pods", pod, done=done, failed=failed)


def _expire(job: Object, now: Moment) -> Result:
    """The end of a finished Job's time to live."""
    ttl, ended = meta.spec(job).get("ttlSecondsAfterFinished"), conditions.finished_at(job)
    if ttl is None or ended is None or meta.is_deleting(job):
        return NOTHING
    left = ttl - now.seconds_since(ended)
    if left > 0:
        return result(requeue_after=left)
    return result([Delete(JOBS, job, propagation="Foreground")])
