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
from rayplane.control_plane.controllers.replicaset import wanted
from rayplane.control_plane.controllers.rollout import REVISION_HISTORY, bounds_of

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
    """The status to write. `sets` holds all ReplicaSets, `new` among them when it exists."""
    old = meta.status(deployment)
    replicas, ready = _sum(sets, "replicas"), _sum(sets, "readyReplicas")
    available = _sum(sets, "availableReplicas")
    counts = {
        "observedGeneration": meta.generation(deployment),
        "replicas": replicas,
        "updatedReplicas": _sum([new], "replicas") if new else 0,
        "readyReplicas": ready,
        "availableReplicas": available,
        "unavailableReplicas": max(0, replicas - available, wanted(deployment) - available),
        "terminatingReplicas": _sum(sets, "terminatingReplicas"),
        "collisionCount": old.get("collisionCount") or 0,
    }
    status: dict[str, Any] = {field: count for field, count in counts.items() if count}
    conditions = copy.deepcopy(old.get("conditions") or [])
    enough = available >= bounds_of(deployment).least_available
    _set(
        conditions,
        "Available",
        "True" if enough else "False",
        reason=("MinimumReplicasAvailable", "Deployment has minimum availability.")
        if enough
        else ("MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
        now=now,
    )
    status["conditions"] = _progress(deployment, new, status, conditions=conditions, now=now)
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
    """Set a condition; lastUpdateTime moves with status or reason, or with `touch`."""
    old = meta.get_condition(conditions, kind)
    same = old is not None and old.get("status") == value and old.get("reason") == reason[0]
    if old is not None and same and not touch and old.get("message") == reason[1]:
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


def _progress(
    deployment: Object,
    new: Object | None,
    status: dict[str, Any],
    *,
    conditions: list[dict[str, Any]],
    now: Moment,
) -> list[dict[str, Any]]:
    if _deadline(deployment) is None:
        return [c for c in conditions if c.get("type") != "Progressing"]
    current = meta.get_condition(conditions, "Progressing") or {}
    if meta.spec(deployment).get("paused"):
        if current.get("reason") != "ProgressDeadlineExceeded":
            reason = ("DeploymentPaused", "Deployment is paused")
            _set(conditions, "Progressing", "Unknown", reason=reason, now=now)
        return conditions
    if current.get("reason") == "DeploymentPaused":
        reason = ("DeploymentResumed", "Deployment is resumed")
        _set(conditions, "Progressing", "Unknown", reason=reason, now=now)
        return conditions
    title = f'ReplicaSet "{meta.name(new)}"' if new else f'Deployment "{meta.name(deployment)}"'
    done = (
        current.get("reason") == "NewReplicaSetAvailable"
        and status.get("replicas", 0) == status.get("updatedReplicas", 0)
        and title in (current.get("message") or "")
    )
    if done:
        return conditions
    if is_complete(deployment, status):
        reason = ("NewReplicaSetAvailable", f"{title} has successfully progressed.")
        _set(conditions, "Progressing", "True", reason=reason, now=now)
    elif (
        new is not None
        and f'"{meta.name(new)}"' not in (current.get("message") or "")
        and (current.get("reason") != "DeploymentResumed")
    ):
        found = REVISION_HISTORY in meta.annotations(new)
        reason = (
            ("FoundNewReplicaSet", f'Found new replica set "{meta.name(new)}"')
            if found
            else ("NewReplicaSetCreated", f'Created new replica set "{meta.name(new)}"')
        )
        _set(conditions, "Progressing", "True", reason=reason, now=now, touch=True)
    elif _advanced(meta.status(deployment), status):
        reason = ("ReplicaSetUpdated", f"{title} is progressing.")
        _set(conditions, "Progressing", "True", reason=reason, now=now, touch=True)
    elif _timed_out(deployment, current, now):
        reason = ("ProgressDeadlineExceeded", f"{title} has timed out progressing.")
        _set(conditions, "Progressing", "False", reason=reason, now=now)
    return conditions


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
