"""The pods of a Job as they are made. Source: Kubernetes concepts "Jobs"; KEP-2214, KEP-3850."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import lifecycled
from rayplane.control_plane.controllers.actions import Create, Event
from rayplane.control_plane.controllers.job.counting import Count
from rayplane.control_plane.controllers.job.failure_policy import judge
from rayplane.control_plane.controllers.job.pods import (
    FAILURES,
    IGNORED_FAILURES,
    INDEX,
    TRACKING,
    ignored_index_failures,
    index_failures,
)
from rayplane.control_plane.controllers.job.scaling import Plan
from rayplane.control_plane.controllers.job.spec import JobSpec
from rayplane.control_plane.controllers.templates import pod_from

_VARIABLE = "JOB_COMPLETION_INDEX"
_PREFIX_MAX = 58  # of a name to which the API server adds five characters
_INDEX_FIELD = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}


def creations(job: Object, spec: JobSpec, count: Count, wanted: Plan) -> list[Create]:
    """The pods to make."""
    if wanted.make:
        # They are all alike, and none is changed.
        return [_create(job, _pod(job))] * wanted.make
    return [_create(job, _indexed_pod(job, spec, index, count.to_replace.get(index))) for index in wanted.indexes]


def _create(job: Object, pod: Object) -> Create:
    done = Event(job, "Normal", "SuccessfulCreate", "Created pod: {name}")
    failed = Event(job, "Warning", "FailedCreate", "Error creating: {error}")
    return Create("pods", pod, done=done, failed=failed)


def _pod(job: Object) -> Object:
    pod = pod_from(meta.spec(job).get("template") or {}, job)
    own = pod["metadata"]
    if TRACKING not in (own.get("finalizers") or ()):
        own["finalizers"] = [*(own.get("finalizers") or ()), TRACKING]
    return pod


def _indexed_pod(job: Object, spec: JobSpec, index: int, replaced: Object | None) -> Object:
    pod = _pod(job)
    own, template = pod["metadata"], pod["spec"]
    end = f"-{index}-"
    own["generateName"] = meta.name(job)[: _PREFIX_MAX - len(end)] + end
    notes = own.setdefault("annotations", {})
    notes[INDEX] = own.setdefault("labels", {})[INDEX] = str(index)
    template["hostname"] = f"{meta.name(job)}-{index}"
    _tell_index(lifecycled(template))
    if spec.backoff_limit_per_index is not None:
        failures, ignored = _failures(spec, replaced)
        notes[FAILURES] = str(failures)
        if ignored:
            notes[IGNORED_FAILURES] = str(ignored)
    return pod


def _tell_index(containers: Iterable[dict[str, Any]]) -> None:
    for container in containers:
        known = container.get("env") or []
        if all(variable.get("name") != _VARIABLE for variable in known):
            container["env"] = [*known, {"name": _VARIABLE, "valueFrom": _INDEX_FIELD}]


def _failures(spec: JobSpec, replaced: Object | None) -> tuple[int, int]:
    """How often an index has failed, what counts and what does not, by the pod that a new one takes the place of."""
    if replaced is None:
        return 0, 0
    counts = judge(spec.failure_rules, replaced).counts
    return index_failures(replaced) + counts, ignored_index_failures(replaced) + (not counts)
