"""The end of a Job, and its reasons: the first condition of its end, and the one it ends with.

`FailureTarget` and `SuccessCriteriaMet` say that it is decided; `Failed` and `Complete` follow once all pods have ended
and are counted. Source: API reference batch/v1 JobConditionType; KEP-3998, KEP-4368.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import Moment
from rayplane.control_plane.controllers.job.counting import Count
from rayplane.control_plane.controllers.job.failure_policy import judge
from rayplane.control_plane.controllers.job.pods import container_restarts, has_failed
from rayplane.control_plane.controllers.job.spec import JobSpec
from rayplane.control_plane.controllers.job.success_policy import met_by


@dataclass(frozen=True, slots=True)
class Verdict:
    """The way a Job ends."""

    failed: bool
    reason: str
    message: str

    @property
    def decided(self) -> str:
        return "FailureTarget" if self.failed else "SuccessCriteriaMet"

    @property
    def ended(self) -> str:
        return "Failed" if self.failed else "Complete"


def decide(job: Object, spec: JobSpec, pods: Sequence[Object], count: Count, now: Moment) -> Verdict | None:
    """How a Job ends while its pods may still run; None while it goes on. What was decided stays so."""
    return (
        _decided_before(job)
        or _by_failure_policy(spec, pods)
        or _by_limits(job, spec, pods, count, now)
        or _by_indexes(spec, count)
    )


def completed(spec: JobSpec, count: Count) -> Verdict | None:
    """How a Job ends by what its pods did, once none runs any more."""
    enough = count.succeeded > 0 if spec.completions is None else count.succeeded >= spec.completions
    if not enough or count.active:
        return None
    return Verdict(failed=False, reason="CompletionsReached", message="Reached expected number of succeeded pods")


def deadline_left_s(spec: JobSpec, started: str | None, now: Moment) -> float | None:
    """Seconds until a Job has been active for too long; None where nothing limits it now."""
    if spec.deadline_s is None or spec.suspended or not started:
        return None
    return spec.deadline_s - now.seconds_since(started)


def _decided_before(job: Object) -> Verdict | None:
    for kind in ("SuccessCriteriaMet", "FailureTarget"):
        found = meta.get_condition(job, kind)
        if found is not None and found.get("status") == "True":
            return Verdict(kind == "FailureTarget", found.get("reason") or "", found.get("message") or "")
    return None


def _by_failure_policy(spec: JobSpec, pods: Sequence[Object]) -> Verdict | None:
    if spec.failure_rules is None:
        return None
    for pod in pods:
        if has_failed(pod, spec):
            finding = judge(spec.failure_rules, pod)
            if finding.action == "FailJob":
                return Verdict(failed=True, reason="PodFailurePolicy", message=finding.message)
    return None


def _by_limits(job: Object, spec: JobSpec, pods: Sequence[Object], count: Count, now: Moment) -> Verdict | None:
    limit = spec.backoff_limit
    over = count.failed > limit
    if spec.restarts_in_place:
        over = over or container_restarts(pods) >= max(limit, 1)
    if over:
        text = "Job has reached the specified backoff limit"
        return Verdict(failed=True, reason="BackoffLimitExceeded", message=text)
    left = deadline_left_s(spec, meta.status(job).get("startTime"), now)
    if left is not None and left <= 0:
        text = "Job was active longer than specified deadline"
        return Verdict(failed=True, reason="DeadlineExceeded", message=text)
    return None


def _by_indexes(spec: JobSpec, count: Count) -> Verdict | None:
    completions = spec.completions or 0
    given_up = count.given_up.total if count.given_up is not None else 0
    if given_up and spec.max_failed_indexes is not None and given_up > spec.max_failed_indexes:
        text = "Job has exceeded the specified maximal number of failed indexes"
        return Verdict(failed=True, reason="MaxFailedIndexesExceeded", message=text)
    if given_up and given_up + count.completed.total >= completions:
        return Verdict(failed=True, reason="FailedIndexes", message="Job has failed indexes")
    rule = met_by(spec.success_rules, count.completed, completions) if spec.indexed else ""
    return Verdict(failed=False, reason="SuccessPolicy", message=rule) if rule else None
