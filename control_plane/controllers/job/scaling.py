"""The pods that a Job makes and those it deletes, so that as many run as it asks for and has work for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import Moment
from rayplane.control_plane.controllers.job.counting import Count
from rayplane.control_plane.controllers.job.indexes import Indexes
from rayplane.control_plane.controllers.job.pods import index_of, valid_index
from rayplane.control_plane.controllers.job.retries import Retries
from rayplane.control_plane.controllers.job.spec import JobSpec
from rayplane.control_plane.controllers.replicaset import BURST
from rayplane.control_plane.controllers.templates import ranked_for_deletion


@dataclass(frozen=True, slots=True)
class Plan:
    """Pods to delete or to make; never both at once, since an index may have to go before it comes again."""

    delete: Sequence[Object] = ()
    make: int = 0
    """How many, where pods have no index."""
    indexes: Sequence[int] = field(default=())
    """Those to make pods for."""
    wait_s: float | None = None
    """Seconds until failures hold new pods back no longer."""


def plan(key: str, spec: JobSpec, count: Count, retries: Retries, now: Moment) -> Plan:
    active = len(count.active)
    if spec.suspended:
        return Plan(delete=count.active[:BURST])
    wanted = _wanted(spec, count)
    delete = _surplus(spec, count.active, active - wanted, now)
    if delete:
        return Plan(delete=delete[:BURST])
    missing = wanted - active - (len(count.terminating) if spec.replaces_failed_only else 0)
    if missing <= 0:
        return Plan()
    per_index = count.given_up is not None
    wait_s = 0.0 if per_index else retries.wait_s(key, now)
    if wait_s > 0:
        return Plan(wait_s=wait_s)
    if not spec.indexed:
        return Plan(make=min(missing, BURST))
    free = list(islice(_free(spec, count), min(missing, BURST)))
    if not per_index:
        return Plan(indexes=free)
    waits = {index: retries.index_wait_s(count.to_replace.get(index), now) for index in free}
    due = [index for index, wait in waits.items() if wait <= 0]
    return Plan(indexes=due, wait_s=min((wait for wait in waits.values() if wait > 0), default=None))


def _wanted(spec: JobSpec, count: Count) -> int:
    """How many pods are to run."""
    if spec.completions is not None:
        return max(0, min(spec.parallelism, spec.completions - count.succeeded))
    # A queue of work: once a pod has found it empty no new ones start.
    return len(count.active) if count.succeeded else spec.parallelism


def _free(spec: JobSpec, count: Count) -> Iterator[int]:
    taken = Indexes.of(i for pod in count.active if (i := index_of(pod)) is not None)
    if spec.replaces_failed_only:
        taken |= Indexes.of(i for pod in count.terminating if (i := index_of(pod)) is not None)
    if count.given_up is not None:
        taken |= count.given_up
    return (taken | count.completed).missing(spec.completions or 0)


def _surplus(spec: JobSpec, active: Sequence[Object], least: int, now: Moment) -> list[Object]:
    """Pods to delete: first those with no index of the Job and all but one of each, then whoever is least far."""
    chosen: list[Object] = []
    left = active
    if spec.indexed:
        groups: dict[int | None, list[Object]] = {}
        for pod in active:
            groups.setdefault(valid_index(pod, spec), []).append(pod)
        chosen += groups.pop(None, ())
        for index, group in groups.items():
            if len(group) > 1:
                ranked = _ranked(group, now)
                chosen += ranked[:-1]
                groups[index] = ranked[-1:]
        left = [group[0] for group in groups.values()]
    if len(chosen) < least:
        chosen += _ranked(left, now)[: least - len(chosen)]
    return chosen


def _ranked(pods: Sequence[Object], now: Moment) -> list[Object]:
    return ranked_for_deletion(pods, companions=lambda _: 0, now=now)
