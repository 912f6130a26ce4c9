"""Arithmetic of a Deployment's roll-out: surge and unavailability, scaling in proportion, what to scale next.

Source: Kubernetes concepts "Deployments" (rolling update, proportional scaling), API reference DeploymentSpec.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.replicaset import wanted

REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAX = "deployment.kubernetes.io/max-replicas"


def int_or_percent(value: int | str | None, total: int, *, up: bool) -> int:
    """`25%` of `total`, rounded up or down, or the number itself."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    if not value.endswith("%"):
        return int(value)
    share = int(value[:-1]) * total / 100
    return math.ceil(share) if up else math.floor(share)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Numbers of pods that a Deployment may have and must keep available while it rolls."""

    replicas: int
    max_surge: int
    max_unavailable: int

    @property
    def most(self) -> int:
        return self.replicas + self.max_surge

    @property
    def least_available(self) -> int:
        return self.replicas - self.max_unavailable


def is_rolling(deployment: Object) -> bool:
    kind = (meta.spec(deployment).get("strategy") or {}).get("type") or "RollingUpdate"
    return bool(kind == "RollingUpdate")


def bounds_of(deployment: Object) -> Bounds:
    """Surge rounds up, unavailability down; if both come to nothing, one pod may be unavailable."""
    replicas = wanted(deployment)
    if not is_rolling(deployment):
        return Bounds(replicas, 0, 0)
    rolling = (meta.spec(deployment).get("strategy") or {}).get("rollingUpdate") or {}
    surge = int_or_percent(rolling.get("maxSurge", "25%"), replicas, up=True)
    unavailable = int_or_percent(rolling.get("maxUnavailable", "25%"), replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Bounds(replicas, surge, min(unavailable, replicas))


def available(rs: Object) -> int:
    return int(meta.status(rs).get("availableReplicas") or 0)


def total(sets: Iterable[Object]) -> int:
    return sum(wanted(rs) for rs in sets)


def number(rs: Object, annotation: str, default: int = 0) -> int:
    """An annotation that holds a number."""
    try:
        return int(meta.annotations(rs).get(annotation) or default)
    except ValueError:
        return default


def oldest_first(sets: Iterable[Object]) -> list[Object]:
    return sorted(sets, key=lambda rs: (meta.metadata(rs).get("creationTimestamp") or "", meta.name(rs)))


Scale = tuple[Object, int]
"""A ReplicaSet and the replicas it should have."""


def new_replicas(bounds: Bounds, new: int, all_replicas: int, *, rolling: bool) -> int:
    """Replicas the new ReplicaSet may have now, given what it and all of them together have."""
    if not rolling or new >= bounds.replicas:
        return bounds.replicas
    room = bounds.most - all_replicas
    return new + max(0, min(room, bounds.replicas - new))


def shrink_old(bounds: Bounds, new: Object, old: Sequence[Object]) -> list[Scale]:
    """Old ReplicaSets to scale down: first pods that are not available anyway, then as many as availability allows."""
    sets = {meta.name(rs): wanted(rs) for rs in old}
    if not any(sets.values()):
        return []
    waiting = wanted(new) - available(new)
    budget = sum(sets.values()) + wanted(new) - bounds.least_available - waiting
    if budget <= 0:
        return []
    before = dict(sets)
    for rs in oldest_first(old):  # unhealthy ones cost no availability
        sick = max(0, min(budget, sets[meta.name(rs)] - available(rs)))
        sets[meta.name(rs)] -= sick
        budget -= sick
    # A set that is shrinking already still counts pods as available that are about to go.
    spare = sum(min(available(rs), wanted(rs)) for rs in (new, *old)) - bounds.least_available
    for rs in oldest_first(old):
        cut = max(0, min(spare, budget, sets[meta.name(rs)]))
        sets[meta.name(rs)] -= cut
        spare -= cut
        budget -= cut
    return [(rs, sets[meta.name(rs)]) for rs in old if sets[meta.name(rs)] != before[meta.name(rs)]]


def is_scaling(deployment: Object, sets: Iterable[Object]) -> bool:
    """True when the Deployment's replicas changed since its active ReplicaSets were last sized."""
    return any(
        wanted(rs) > 0 and DESIRED in meta.annotations(rs)
        and number(rs, DESIRED) != wanted(deployment)
        for rs in sets
    )  # fmt: skip


def is_saturated(deployment: Object, rs: Object | None) -> bool:
    if rs is None:
        return False
    want = wanted(deployment)
    return wanted(rs) == want and number(rs, DESIRED, -1) == want and available(rs) == want


def rescale(deployment: Object, new: Object | None, old: Sequence[Object]) -> list[Scale]:
    """Sizes after a change of spec.replicas (or while paused): in proportion when several sets are active."""
    bounds = bounds_of(deployment)
    sets = [*old, *([new] if new else [])]
    active = [rs for rs in sets if wanted(rs) > 0]
    if len(active) <= 1:
        one = active[0] if active else new or (oldest_first(old)[-1] if old else None)
        return [(one, bounds.replicas)] if one is not None else []
    if is_saturated(deployment, new):
        return [(rs, 0) for rs in old if wanted(rs)]
    if not is_rolling(deployment):
        return [(rs, wanted(rs)) for rs in active]
    allowed = bounds.most if bounds.replicas > 0 else 0
    to_add = allowed - total(active)
    # The larger sets take their share first; among equals the newer when growing, the older when shrinking.
    ordered = oldest_first(active)
    if to_add > 0:
        ordered.reverse()
    ordered.sort(key=wanted, reverse=True)
    sizes, added = [], 0
    for rs in ordered:
        share = _share(deployment, rs, bounds, left=to_add - added)
        sizes.append(wanted(rs) + share)
        added += share
    if sizes and to_add != added:
        sizes[0] = max(0, sizes[0] + to_add - added)
    return list(zip(ordered, sizes, strict=True))


def _share(deployment: Object, rs: Object, bounds: Bounds, *, left: int) -> int:
    """What a set gets of `left` pods that are still to be added, or taken away where it is negative."""
    if left == 0:
        return 0
    before = number(rs, MAX) or meta.status(deployment).get("replicas") or bounds.most
    fraction = -wanted(rs)
    if bounds.replicas:
        fraction += math.floor(wanted(rs) * bounds.most / before + 0.5)
    return min(fraction, left) if left > 0 else max(fraction, left)
