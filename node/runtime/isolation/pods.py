"""Namespaces, kernel parameters and memory that the containers of a pod get by its spec. Pure.

Source: core/v1 PodSpec; Kubernetes concepts "Share Process Namespace", "Node-pressure Eviction", "Volumes".
"""

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.qos import BEST_EFFORT, GUARANTEED, qos_class
from rayplane.control_plane.api.pods.resources import container_requests, pod_limits
from rayplane.node.config import PIDS_MAX
from rayplane.node.kernel_parameters import dotted
from rayplane.node.runtime.isolation.memory import SHM, SHM_BYTES, VOLUME
from rayplane.node.runtime.isolation.namespaces import PROCESSES_MAX

_GUARANTEED, _BEST_EFFORT, _LEAST, _MOST = -997, 1000, 3, 999


def shares(pod: Object, node_memory: int) -> dict[str, Any]:
    """What containers of a pod share with each other and not with the machine, as the shim is told."""
    spec = meta.spec(pod)
    kinds = ["user", "uts"]
    kinds += [] if spec.get("hostNetwork") else ["net"]
    kinds += [] if spec.get("hostIPC") else ["ipc"]
    kinds += ["pid"] if spec.get("shareProcessNamespace") and not spec.get("hostPID") else []
    keeps = {} if spec.get("hostIPC") else {SHM: {"size": SHM_BYTES}}
    for name, settings in memory_volumes(pod, node_memory).items():
        keeps[f"{VOLUME}{name}"] = settings
    parameters = (spec.get("securityContext") or {}).get("sysctls") or ()
    sysctls = {dotted(p["name"]).replace(".", "/"): str(p["value"]) for p in parameters}
    return {"kinds": kinds, "sysctls": sysctls, "memory": keeps}


def memory_volumes(pod: Object, node_memory: int) -> dict[str, dict[str, int]]:
    """Volumes in memory by name: `size` in bytes, `gid` of their files.

    As in Kubernetes one holds no more than its own limit, its pod's limit of memory, and the node.
    """
    spec = meta.spec(pod)
    most = [node_memory] if node_memory else []
    if limit := pod_limits(pod).get("memory"):
        most.append(limit.value)
    group = (spec.get("securityContext") or {}).get("fsGroup")
    found = {}
    for volume in spec.get("volumes") or ():
        source = volume.get("emptyDir") or {}
        if source.get("medium") == "Memory":
            own = quantity.value(source["sizeLimit"]) if source.get("sizeLimit") else 0
            sizes = [*most, own] if own > 0 else most
            settings = {"size": min(sizes)} if sizes else {}
            found[volume["name"]] = settings | ({} if group is None else {"gid": int(group)})
    return found


def processes_of_user(most: int) -> int:
    """What one user of a pod may have by its resource limit, where the pod may have `most`, 0 for any number.

    That holds a fork bomb until it is seen. Kernels before 5.14 count what all pods have of a user: there is room.
    """
    return max(PIDS_MAX, min(most, PROCESSES_MAX)) if most else PROCESSES_MAX


def oom_score(pod: Object, container: Mapping[str, Any], node_memory: int) -> int:
    """How soon the kernel ends a container when memory is short: by what its pod asked for."""
    quality = qos_class(pod)
    if quality == GUARANTEED:
        return _GUARANTEED
    if quality == BEST_EFFORT or not node_memory:
        return _BEST_EFFORT
    asked = quantity.value(container_requests(container).get("memory") or 0)
    return max(_LEAST, min(_MOST, 1000 - 1000 * asked // node_memory))
