"""The traits of a Job's pod: its index, whether it has failed, when it ended, what its annotations remember."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated, pod_phase
from rayplane.control_plane.controllers.job.spec import JobSpec

TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED_FAILURES = "batch.kubernetes.io/job-index-ignored-failure-count"
_INDEX_TEXT = re.compile("[0-9]{1,10}")
_INT32_MAX = 2**31 - 1


def is_tracked(pod: Object) -> bool:
    """Whether the Job's status has still to take in how this pod ends."""
    return TRACKING in meta.finalizers(pod)


def is_terminating(pod: Object) -> bool:
    """Being deleted, and not ended yet."""
    return meta.is_deleting(pod) and not pod_is_terminated(pod)


def has_failed(pod: Object, spec: JobSpec) -> bool:
    """Failed; a pod that is being deleted counts as such at once where it is replaced at once."""
    phase = pod_phase(pod)
    return phase == "Failed" or (not spec.replaces_failed_only and meta.is_deleting(pod) and phase != "Succeeded")


def index_of(pod: Object) -> int | None:
    """The completion index of a pod; None where it tells none."""
    return _number(pod, INDEX)


def valid_index(pod: Object, spec: JobSpec) -> int | None:
    """The completion index of a pod; None where the Job has no such index."""
    index = index_of(pod)
    return index if index is not None and index < (spec.completions or 0) else None


def may_count(pod: Object, spec: JobSpec) -> bool:
    """Pods of an indexed Job count only with one of its indexes."""
    return not spec.indexed or valid_index(pod, spec) is not None


def index_failures(pod: Object) -> int:
    """How often the index had failed when this pod was made; what the policy ignores is not in it."""
    return _int32(pod, FAILURES)


def ignored_index_failures(pod: Object) -> int:
    return _int32(pod, IGNORED_FAILURES)


def container_restarts(pods: Iterable[Object]) -> int:
    """How often containers of pods that run, or wait to, were started again in place."""
    return sum(
        status.get("restartCount") or 0
        for pod in pods
        if pod_phase(pod) in ("Running", "Pending")
        for field in ("initContainerStatuses", "containerStatuses")
        for status in meta.status(pod).get(field) or ()
    )


def ended_at(pod: Object) -> datetime:
    """When a pod ended: its last container, or since when it is not ready, or when it was deleted, or made."""
    ends = [
        ((one.get("state") or {}).get("terminated") or {}).get("finishedAt")
        for one in meta.status(pod).get("containerStatuses") or ()
    ]
    if ends and all(ends):
        return max(meta.parse_time(end) for end in ends if end)
    ready, own = meta.get_condition(pod, "Ready"), meta.metadata(pod)
    if ready is not None and ready.get("status") == "False" and ready.get("lastTransitionTime"):
        return meta.parse_time(ready["lastTransitionTime"])
    if meta.is_deleting(pod):
        grace = timedelta(seconds=own.get("deletionGracePeriodSeconds") or 0)
        return meta.parse_time(own["deletionTimestamp"]) - grace
    return meta.parse_time(own["creationTimestamp"])


def _number(pod: Object, annotation: str) -> int | None:
    text = meta.annotations(pod).get(annotation) or ""
    return int(text) if _INDEX_TEXT.fullmatch(text) else None


def _int32(pod: Object, annotation: str) -> int:
    value = _number(pod, annotation) or 0
    return value if value <= _INT32_MAX else 0
