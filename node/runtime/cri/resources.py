"""Resources of containers as a runtime is told them. Pure.

Source: Kubernetes documentation, "Node-pressure Eviction"; the numbers are those of the out-of-memory killer (proc(5),
oom_score_adj).
"""

from typing import Any

from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.qos import qos_class
from rayplane.control_plane.api.pods.resources import container_limits, container_requests
from rayplane.node.runtime.isolation.limits import PERIOD_US, of_container
from rayplane.proto.cri import cri_pb2 as pb

_CRITICAL = ("system-node-critical", "system-cluster-critical")
_GUARANTEED_SCORE, _BEST_EFFORT_SCORE = -997, 1000
_HUGE = "hugepages-"


def container_resources(pod: Object, container: dict[str, Any], *, node_memory: int) -> pb.LinuxContainerResources:
    """`node_memory`: what the node has, in bytes."""
    bounds = of_container(container)
    asked = quantity.value(container_requests(container).get("memory") or 0)
    found = pb.LinuxContainerResources(
        cpu_shares=bounds.cpu_shares,
        cpu_quota=bounds.cpu_quota_us,
        cpu_period=PERIOD_US if bounds.cpu_quota_us else 0,
        oom_score_adj=oom_score(pod, asked, node_memory),
        memory_limit_in_bytes=bounds.memory,
        # Without swap: both limits are the same.
        memory_swap_limit_in_bytes=bounds.memory,
    )
    for name, amount in sorted(container_limits(container).items()):
        if name.startswith(_HUGE):
            size = page_size(quantity.value(name.removeprefix(_HUGE)))
            found.hugepage_limits.add(page_size=size, limit=quantity.value(amount))
    return found


def oom_score(pod: Object, memory_request: int, node_memory: int) -> int:
    """What the kernel ends first when memory is short: the less of its own a container asked for, the sooner."""
    if pod["spec"].get("priorityClassName") in _CRITICAL:
        return _GUARANTEED_SCORE
    match qos_class(pod):
        case "Guaranteed":
            return _GUARANTEED_SCORE
        case "BestEffort":
            return _BEST_EFFORT_SCORE
    score = _BEST_EFFORT_SCORE - _BEST_EFFORT_SCORE * memory_request // max(1, node_memory)
    # Between those of the other two, so that they keep their places.
    return min(max(score, _BEST_EFFORT_SCORE + _GUARANTEED_SCORE), _BEST_EFFORT_SCORE - 1)


def page_size(size: int) -> str:
    """As the kernel names sizes of huge pages."""
    for unit, letter in ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{letter}"
    return f"{size}B"


def cgroup_parent(pod: Object, uid: str, driver: int) -> str:
    """The cgroup of a pod, by its class, in the words of the runtime's cgroup driver."""
    tier = {"Guaranteed": "", "Burstable": "burstable", "BestEffort": "besteffort"}[qos_class(pod)]
    if driver == pb.CgroupDriver.SYSTEMD:
        middle = f"{tier}-" if tier else ""
        return f"kubepods-{middle}pod{uid.replace('-', '_')}.slice"
    return "/".join(part for part in ("/kubepods", tier, f"pod{uid}") if part)
