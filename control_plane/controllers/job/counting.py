"""The count of a Job's pods: how many have succeeded and failed, which indexes are done with.

A pod counts while it is tracked, or its uid is among the uncounted, or it is in the status' numbers already: exactly
one of the three holds at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_active, pod_is_ready, pod_phase
from rayplane.control_plane.controllers.job.failure_policy import judge
from rayplane.control_plane.controllers.job.indexes import Indexes
from rayplane.control_plane.controllers.job.pods import (
    ended_at,
    has_failed,
    ignored_index_failures,
    index_failures,
    index_of,
    is_terminating,
    is_tracked,
    may_count,
    valid_index,
)
from rayplane.control_plane.controllers.job.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Count:
    """The count of a Job's pods now, whether or not its status says so yet."""

    active: tuple[Object, ...]
    ready: int
    terminating: tuple[Object, ...]
    succeeded: int
    failed: int
    completed: Indexes
    """Indexes that have succeeded."""
    given_up: Indexes | None
    """Indexes that have failed for good; None where indexes have no limit of their own."""
    to_replace: dict[int, Object]
    """By index, the failed pod that a new one has still to take the place of: it tells how often the index failed."""


def count(job: Object, spec: JobSpec, pods: Sequence[Object]) -> Count:
    status = meta.status(job)
    active = tuple(pod for pod in pods if pod_is_active(pod))
    inactive = [pod for pod in pods if not pod_is_active(pod)] if len(active) < len(pods) else []
    tracked = [pod for pod in inactive if is_tracked(pod) and may_count(pod, spec)]
    uncounted = status.get("uncountedTerminatedPods") or {}
    known = {field: frozenset(uncounted.get(field) or ()) for field in ("succeeded", "failed")}
    if spec.indexed:
        done = {index_of(pod) or 0 for pod in tracked if pod_phase(pod) == "Succeeded"}
        completed = Indexes.read(status.get("completedIndexes"), spec.completions or 0) | Indexes.of(done)
        succeeded = completed.total
    else:
        completed = Indexes()
        new = sum(pod_phase(pod) == "Succeeded" and meta.uid(pod) not in known["succeeded"] for pod in tracked)
        succeeded = (status.get("succeeded") or 0) + len(known["succeeded"]) + new
    new_failed = sum(
        has_failed(pod, spec) and meta.uid(pod) not in known["failed"] and judge(spec.failure_rules, pod).counts
        for pod in tracked
    )
    given_up = _given_up(job, spec, tracked)
    return Count(
        active=active,
        ready=sum(map(pod_is_ready, active)),
        terminating=tuple(pod for pod in inactive if is_terminating(pod)),
        succeeded=succeeded,
        failed=(status.get("failed") or 0) + len(known["failed"]) + new_failed,
        completed=completed,
        given_up=given_up,
        to_replace={} if given_up is None else _to_replace(spec, tracked, active, completed | given_up),
    )


def _given_up(job: Object, spec: JobSpec, tracked: Sequence[Object]) -> Indexes | None:
    limit = spec.backoff_limit_per_index
    if limit is None:
        return None
    new = {valid_index(pod, spec) or 0 for pod in tracked if has_failed(pod, spec) and _fails_index(pod, spec, limit)}
    return Indexes.read(meta.status(job).get("failedIndexes"), spec.completions or 0) | Indexes.of(new)


def _fails_index(pod: Object, spec: JobSpec, limit: int) -> bool:
    finding = judge(spec.failure_rules, pod)
    return finding.action == "FailIndex" or (finding.counts and index_failures(pod) >= limit)


def _to_replace(
    spec: JobSpec, tracked: Sequence[Object], active: Sequence[Object], done_with: Indexes
) -> dict[int, Object]:
    running = {index_of(pod) for pod in active}
    found: dict[int, Object] = {}
    for pod in tracked:
        index = valid_index(pod, spec)
        if index is None or index in running or index in done_with or not has_failed(pod, spec):
            continue
        if index not in found or _age(found[index]) <= _age(pod):
            found[index] = pod
    return found


def _age(pod: Object) -> tuple[int, float]:
    return index_failures(pod) + ignored_index_failures(pod), ended_at(pod).timestamp()
