"""Resources of containers as values of the kernel's control groups, as Kubernetes computes them. Pure.

Source: Kubernetes concepts "Resource Management for Pods and Containers", KEP-2254 (cgroup v2) with the conversion of
shares to weights that container runtimes use since 2025; Linux documentation cgroup-v1 and cgroup-v2.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object, spec
from rayplane.control_plane.api.pods.containers import lifecycled
from rayplane.control_plane.api.pods.resources import container_limits, container_requests, pod_limits, pod_requests

PERIOD_US = 100_000
QUOTA_MIN_US = 1000
SHARES_MIN, SHARES_MAX = 2, 262_144
WEIGHT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a group: `cpu_shares` against others, `cpu_quota_us` a period, bytes of `memory`, `processes`.

    0 stands for no bound. `whole_pod`: of a pod and not of one container.
    """

    cpu_shares: int = SHARES_MIN
    cpu_quota_us: int = 0
    memory: int = 0
    processes: int = 0
    whole_pod: bool = False


def of_container(container: Mapping[str, Any]) -> Limits:
    """The limits of one container. Without a request it counts for what it may have at most."""
    requests, limits = container_requests(container), container_limits(container)
    asked = quantity.milli(requests.get("cpu") or limits.get("cpu") or 0)
    return Limits(
        cpu_shares=shares(asked),
        cpu_quota_us=quota_us(quantity.milli(limits.get("cpu") or 0)),
        memory=quantity.value(limits.get("memory") or 0),
    )


def of_pod(pod: Object, processes: int, *, reported: bool = True) -> Limits:
    """The limits of all containers of a pod together, as far as each of them has some. `processes`: as in Limits.

    `reported`: not less than the status says that the pod has, as while it is resized.
    """
    asked, most = pod_requests(pod, reported=reported), pod_limits(pod, reported=reported)
    bounded = {name for name in ("cpu", "memory") if all(container_limits(c).get(name) for c in lifecycled(spec(pod)))}
    bounded |= container_limits(spec(pod)).keys()  # given for the pod as a whole
    cpu, memory = most.get("cpu"), most.get("memory")
    return Limits(
        cpu_shares=shares(asked["cpu"].milli if "cpu" in asked else 0),
        cpu_quota_us=quota_us(cpu.milli) if cpu is not None and "cpu" in bounded else 0,
        memory=memory.value if memory is not None and "memory" in bounded else 0,
        processes=processes,
        whole_pod=True,
    )


def shares(milli: int) -> int:
    """Shares of the processors, 1024 for each, for thousandths of one."""
    return max(SHARES_MIN, min(SHARES_MAX, milli * 1024 // 1000))


def weight(cpu_shares: int) -> int:
    """The weight that stands for shares: 100, the usual one, for one processor."""
    if cpu_shares <= SHARES_MIN:
        return 1
    if cpu_shares >= SHARES_MAX:
        return WEIGHT_MAX
    exponent = math.log2(cpu_shares)
    return math.ceil(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34))


def quota_us(milli: int) -> int:
    """Time in each period for thousandths of a processor; 0 for none."""
    return max(QUOTA_MIN_US, milli * PERIOD_US // 1000) if milli else 0


#: What a new group has, of either version.
NEW = {
    "cpu.max": f"max {PERIOD_US}",
    "memory.max": "max",
    "memory.oom.group": "0",
    "pids.max": "max",
    "cpu.cfs_period_us": str(PERIOD_US),
    "cpu.cfs_quota_us": "-1",
    "memory.limit_in_bytes": "-1",
}


def files_v2(limits: Limits) -> dict[str, str]:
    """File to value in a group of version 2. All of a group that runs out of memory ends together."""
    return {
        "cpu.weight": str(weight(limits.cpu_shares)),
        "cpu.max": f"{limits.cpu_quota_us or 'max'} {PERIOD_US}",
        "memory.max": str(limits.memory or "max"),
        "memory.swap.max": "0",
        "memory.oom.group": "1" if not limits.whole_pod else "0",
        "pids.max": str(limits.processes or "max"),
    }


def files_v1(limits: Limits) -> dict[str, str]:
    """The same in groups of version 1."""
    return {
        "cpu.shares": str(limits.cpu_shares),
        "cpu.cfs_period_us": str(PERIOD_US),
        "cpu.cfs_quota_us": str(limits.cpu_quota_us or -1),
        "memory.limit_in_bytes": str(limits.memory or -1),
        "pids.max": str(limits.processes or "max"),
    }
