"""Gates: what keeps a pod out of the queue altogether (PreEnqueue). Pure.

Source: KEP-3521 "Pod Scheduling Readiness".
"""

from __future__ import annotations

from rayplane.control_plane.api import meta
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.queue import Gate

_SCHEDULING_GATES = Gate("SchedulingGates")


def scheduling_gates(pod: PodInfo) -> Gate | None:
    """A pod with `spec.schedulingGates` waits; its condition says so since the API server took it."""
    return _SCHEDULING_GATES if meta.spec(pod.obj).get("schedulingGates") else None
