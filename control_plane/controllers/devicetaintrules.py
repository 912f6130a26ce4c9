"""The condition of a rule of taints: whether pods have to go on account of it, and how many went. Pure.

Source: Kubernetes concepts "Dynamic Resource Allocation" (device taints and tolerations, KEP-5055).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.taints import NO_EXECUTE

IN_PROGRESS = "EvictionInProgress"
NO_EFFECT = "None"
PERIOD_S = 10.0
"""What is said of a rule is said anew after this at the earliest."""
_NO_MORE = "This information will not be updated again. Recreate the DeviceTaintRule to trigger an update."


def selects(rule: Object, device: Mapping[str, Any]) -> bool:
    """Whether a rule is about a device, which has a driver, a pool and a name."""
    wanted = meta.spec(rule).get("deviceSelector") or {}
    return all(wanted.get(field) in (None, "", device.get(field)) for field in ("driver", "pool", "device"))


def condition(rule: Object, pods: Collection[Object], evicted: int, published: int, allocated: int) -> dict[str, Any]:
    """What is to be said: `pods` have to go, or would; so many went already. Devices are those that it selects."""
    effect = (meta.spec(rule).get("taint") or {}).get("effect")
    status, words = "False", []
    if effect == NO_EXECUTE and pods:
        status, reason = "True", "PodsPendingEviction"
        words.append(f"{_many(len(pods), 'pod needs', 'pods need')} to be evicted in {_namespaces(pods)}.")
    elif effect == NO_EXECUTE:
        reason = "Completed" if evicted else "NotStarted"
    elif effect == NO_EFFECT:
        reason = "NoEffect"
        words += [
            f"{_many(published, 'published device', 'published devices')} selected.",
            f"{_many(allocated, 'allocated device', 'allocated devices')} selected.",
            f"{_many(len(pods), 'pod', 'pods')} would be evicted in {_namespaces(pods)} if the effect was NoExecute.",
            _NO_MORE,
        ]
    else:
        reason = "OtherEffect"
        words.append("Eviction only happens for the NoExecute effect.")
    if evicted:
        words.append(f"{_many(evicted, 'pod', 'pods')} evicted since starting the controller.")
    found = {"type": IN_PROGRESS, "status": status, "reason": reason, "message": " ".join(words)}
    return {**found, "observedGeneration": meta.metadata(rule).get("generation") or 0}


def _many(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _namespaces(pods: Collection[Object]) -> str:
    return _many(len({meta.namespace(pod) for pod in pods}), "namespace", "different namespaces")
