"""Status and conditions of a Deployment, as `kubectl rollout status` and `kubectl wait` read them.

Source: Kubernetes API reference apps/v1 DeploymentStatus; reasons and messages as recorded from a real cluster.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import Moment
from rayplane.control_plane.controllers.replicaset import FAILURE, wanted
from rayplane.control_plane.controllers.rollout import bounds_of, total

NEVER_S = 2**31 - 1  # a progress deadline that means "none"


def _sum(sets: Sequence[Object], field: str) -> int:
    return sum(meta.status(rs).get(field) or 0 for rs in sets)


def is_complete(deployment: Object, status: dict[str, Any]) -> bool:
    want = wanted(deployment)
    return (
        (status.get("updatedReplicas") or 0) == want
        and (status.get("replicas") or 0) == want
        and (status.get("availableReplicas") or 0) == want
        and (status.get("observedGeneration") or 0) >= meta.generation(deployment)
    )


def status_of(deployment: Object, new: Object | None, sets: Sequence[Object], *, now: Moment) -> dict[str, Any]:
    """Counts and availability. `sets` holds all ReplicaSets, `new` among them when it exists."""
    old = meta.status(deployment)
    available = _sum(sets, "availableReplicas")
    counts = {
        "observedGeneration": meta.generation(deployment),
        "replicas": _sum(sets, "replicas"),
        "updatedReplicas": _sum([new], "replicas") if new else 0,
        "readyReplicas": _sum(sets, "readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, total(sets) - available),
    }
    status: dict[str, Any] = {field: count for field, count in counts.items() if count}
    if all("terminatingReplicas" in meta.status(rs) for rs in sets):
        status["terminatingReplicas"] = _sum(sets, "terminatingReplicas")
    if (collisions := old.get("collisionCount")) is not None:
        status["collisionCount"] = collisions
    status["conditions"] = copy.deepcopy(old.get("conditions") or [])
    enough = available >= bounds_of(deployment).least_available
    _set(
        status["conditions"],
        "Available",
        "True" if enough else "False",
        reason=("MinimumReplicasAvailable", "Deployment has minimum availability.")
        if enough
        else ("MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
        now=now,
    )
    return status


def _set(
    conditions: list[dict[str, Any]],
    kind: str,
    value: str,
    *,
    reason: tuple[str, str],
    now: Moment,
    touch: bool = False,
) -> None:
    """Set a condition that says something else by status or reason (its message alone makes no news), or `touch` it."""
    old = meta.get_condition(conditions, kind)
    if old is not None and (old.get("status"), old.get("reason")) == (value, reason[0]) and not touch:
        return
    new = {
        "type": kind,
        "status": value,
        "reason": reason[0],
        "message": reason[1],
        "lastUpdateTime": now.stamp,
    }
    meta.set_condition(conditions, new, now.stamp)


def _deadline(deployment: Object) -> int | None:
    seconds = meta.spec(deployment).get("progressDeadlineSeconds")
    return None if seconds is None or seconds >= NEVER_S else int(seconds)


def paused_or_resumed(deployment: Object, now: Moment) -> list[dict[str, Any]] | None:
    """The conditions after a pause began or ended, where they do not say so yet."""
    current = meta.get_condition(deployment, "Progressing") or {}
    if _deadline(deployment) is None or current.get("reason") == "ProgressDeadlineExceeded":
        return None
    paused = bool(meta.spec(deployment).get("paused"))
    if paused == (current.get("reason") == "DeploymentPaused"):
        return None
    reason = ("DeploymentPaused", "Deployment is paused") if paused else ("DeploymentResumed", "Deployment is resumed")
    return progressing(deployment, "Unknown", reason, now)


def progressing(deployment: Object, value: str, reason: tuple[str, str], now: Moment) -> list[dict[str, Any]]:
    """The conditions with another Progressing."""
    conditions = copy.deepcopy(meta.status(deployment).get("conditions") or [])
    _set(conditions, "Progressing", value, reason=reason, now=now)
    return conditions


def has_deadline(deployment: Object) -> bool:
    return _deadline(deployment) is not None


def judge_rollout(
    deployment: Object, new: Object | None, sets: Sequence[Object], *, status: dict[str, Any], now: Moment
) -> None:
    """Bring Progressing and ReplicaFailure up to date in a status whose counts are."""
    conditions = status["conditions"]
    if _deadline(deployment) is None:
        _drop(conditions, "Progressing")
    else:
        _judge_progress(deployment, new, status, conditions, now)
    others = (rs for rs in sets if rs is not new)
    failures = (meta.get_condition(rs, FAILURE) for rs in (new, *others) if rs is not None)
    failure = next((f for f in failures if f is not None), None)
    if failure is None:
        _drop(conditions, FAILURE)
    else:
        reason = (failure.get("reason") or "", failure.get("message") or "")
        _set(conditions, FAILURE, failure.get("status") or "True", reason=reason, now=now)


def _drop(conditions: list[dict[str, Any]], kind: str) -> None:
    conditions[:] = [c for c in conditions if c.get("type") != kind]


def _judge_progress(
    deployment: Object,
    new: Object | None,
    status: dict[str, Any],
    conditions: list[dict[str, Any]],
    now: Moment,
) -> None:
    current = meta.get_condition(conditions, "Progressing") or {}
    settled = current.get("reason") == "NewReplicaSetAvailable"
    if settled and status.get("replicas", 0) == status.get("updatedReplicas", 0):
        return
    title = f'ReplicaSet "{meta.name(new)}"' if new else f'Deployment "{meta.name(deployment)}"'
    if is_complete(deployment, status):
        reason = ("NewReplicaSetAvailable", f"{title} has successfully progressed.")
        _set(conditions, "Progressing", "True", reason=reason, now=now)
    elif _advanced(meta.status(deployment), status):
        reason = ("ReplicaSetUpdated", f"{title} is progressing.")
        _set(conditions, "Progressing", "True", reason=reason, now=now, touch=True)
    elif _timed_out(deployment, current, now):
        reason = ("ProgressDeadlineExceeded", f"{title} has timed out progressing.")
        _set(conditions, "Progressing", "False", reason=reason, now=now)


def _advanced(old: dict[str, Any], new: dict[str, Any]) -> bool:
    def count(status: dict[str, Any], field: str) -> int:
        return status.get(field) or 0

    def outdated(status: dict[str, Any]) -> int:
        return count(status, "replicas") - count(status, "updatedReplicas")

    return (
        count(new, "updatedReplicas") > count(old, "updatedReplicas")
        or outdated(new) < outdated(old)
        or count(new, "readyReplicas") > count(old, "readyReplicas")
        or count(new, "availableReplicas") > count(old, "availableReplicas")
    )


def _timed_out(deployment: Object, current: dict[str, Any], now: Moment) -> bool:
    deadline = _deadline(deployment)
    if deadline is None or not current or current.get("reason") == "NewReplicaSetAvailable":
        return False
    if current.get("reason") == "ProgressDeadlineExceeded":
        return True
    return now.seconds_since(current.get("lastUpdateTime")) >= deadline


def deadline_in(deployment: Object, status: dict[str, Any], now: Moment) -> float | None:
    """Seconds until the progress deadline may pass; None when nothing is under way."""
    deadline = _deadline(deployment)
    current = meta.get_condition(status.get("conditions"), "Progressing")
    settled = ("NewReplicaSetAvailable", "ProgressDeadlineExceeded", "DeploymentPaused")
    if deadline is None or current is None or current.get("reason") in settled:
        return None
    return max(0.0, deadline - now.seconds_since(current.get("lastUpdateTime"))) + 1.0
