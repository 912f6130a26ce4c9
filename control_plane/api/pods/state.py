"""The state of a pod in its life: phase, readiness, availability, whether it still counts.

Source: Kubernetes concepts "Pod Lifecycle" (phases, conditions), API reference apps/v1 (minReadySeconds).
"""

from datetime import datetime

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

TERMINAL_PHASES = frozenset({"Succeeded", "Failed"})


MIRROR = "kubernetes.io/config.mirror"
CONFIG_SOURCE = "kubernetes.io/config.source"
"""Where a node has a pod from, if not from the API."""


def is_mirror(pod: Object) -> bool:
    """Whether the pod only shows what a node runs by itself (a static pod)."""
    return MIRROR in meta.annotations(pod)


def is_static(pod: Object) -> bool:
    """Whether a node has the pod from a manifest of its own."""
    return meta.annotations(pod).get(CONFIG_SOURCE, "api") != "api" and not is_mirror(pod)


def pod_phase(pod: Object) -> str:
    return meta.status(pod).get("phase") or ""


def pod_is_terminated(pod: Object) -> bool:
    """True when all containers have stopped for good (phase Succeeded or Failed)."""
    return pod_phase(pod) in TERMINAL_PHASES


def stays_with_node(pod: Object) -> bool:
    """Whether a pod is its node's own, or has ended: of no account to whoever empties the node."""
    owner = meta.controller_of(pod)
    return is_mirror(pod) or pod_is_terminated(pod) or (owner is not None and owner.get("kind") == "DaemonSet")


def pod_is_active(pod: Object) -> bool:
    """Neither terminated nor being deleted: counts as a replica."""
    return not pod_is_terminated(pod) and not meta.is_deleting(pod)


def pod_is_ready(pod: Object) -> bool:
    """True when the Ready condition is True."""
    return meta.condition_is(pod, "Ready")


def ready_since(pod: Object) -> str | None:
    """When the pod became ready (RFC 3339, empty if unknown); None while it is not."""
    condition = meta.get_condition(pod, "Ready")
    if condition is None or condition.get("status") != "True":
        return None
    return condition.get("lastTransitionTime") or ""


def available_in(pod: Object, min_ready_seconds: int, now: datetime) -> float | None:
    """Seconds until the pod has been ready for `min_ready_seconds`, 0 when it has.

    None while it is not ready, or not known since when.
    """
    since = ready_since(pod)
    if since is None:
        return None
    if not min_ready_seconds:
        return 0.0
    if not since:
        return None
    return max(0.0, min_ready_seconds - (now - meta.parse_time(since)).total_seconds())


def pod_is_available(pod: Object, min_ready_seconds: int, now: datetime) -> bool:
    """Ready for at least `min_ready_seconds`."""
    return available_in(pod, min_ready_seconds, now) == 0
