"""Gates: what keeps a pod out of the queue altogether (PreEnqueue). Pure.

Source: KEP-3521 "Pod Scheduling Readiness"; Kubernetes concepts "Dynamic Resource Allocation".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.scheduler.config import Profile
from rayplane.control_plane.scheduler.devices import DeviceIndex
from rayplane.control_plane.scheduler.groups import GANGS, GroupIndex
from rayplane.control_plane.scheduler.hints import CLAIM_MISSING, CLAIM_UNNAMED
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.queue import Gate

_SCHEDULING_GATES = Gate("SchedulingGates")
_DEVICES = "DynamicResources"
GateOf = Callable[[PodInfo], Gate | None]


class Gates:
    """The gates of all profiles."""

    def __init__(self, profiles: Iterable[Profile]) -> None:
        self._heeded = frozenset(profile.name for profile in profiles if profile.gates)

    def __call__(self, pod: PodInfo) -> Gate | None:
        """A pod with `spec.schedulingGates` waits; its condition says so since the API server took it."""
        gated = pod.scheduler in self._heeded and meta.spec(pod.obj).get("schedulingGates")
        return _SCHEDULING_GATES if gated else None


def with_objects(gate: GateOf, groups: GroupIndex, devices: DeviceIndex, profiles: Iterable[Profile]) -> GateOf:
    """The gate, and behind it those of what must be there: a pod's claims to devices, and the pods of its group."""
    asking = frozenset(profile.name for profile in profiles if _DEVICES in profile.filters)

    def every(pod: PodInfo) -> Gate | None:
        found = gate(pod)
        if found is None and pod.device_claims and pod.scheduler in asking and (missing := devices.missing(pod)):
            return Gate(_DEVICES, missing, CLAIM_UNNAMED if devices.unnamed(pod) else CLAIM_MISSING)
        if found is not None or not pod.group:
            return found
        awaited = groups.awaited(pod.group)
        return Gate(GANGS, awaited) if awaited else None

    return every
