"""Rules about pods that keep their node: by Cluster Autoscaler's annotations, and its names of reasons. Pure."""

from __future__ import annotations

from typing import Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

SAFE_TO_EVICT: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict"
SAFE_VOLUMES: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
SCALE_DOWN_DISABLED: Final = "cluster-autoscaler.kubernetes.io/scale-down-disabled"
_SYSTEM = "kube-system"


def why_kept(pod: Object, *, budgeted: bool) -> str:
    """Why a pod keeps its node; empty when it may go elsewhere. `budgeted`: whether a disruption budget is about it."""
    annotations = meta.annotations(pod)
    told = annotations.get(SAFE_TO_EVICT)
    if told == "false":
        return "NotSafeToEvictAnnotation"
    if told == "true":
        return ""
    if meta.controller_of(pod) is None:
        return "NotReplicated"
    if meta.namespace(pod) == _SYSTEM and not budgeted:
        return "UnmovableKubeSystemPod"
    safe = {name.strip() for name in annotations.get(SAFE_VOLUMES, "").split(",")}
    if any(_is_local(volume) and volume.get("name") not in safe for volume in meta.spec(pod).get("volumes") or ()):
        return "LocalStorageRequested"
    return ""


def _is_local(volume: Object) -> bool:
    empty = volume.get("emptyDir")
    return "hostPath" in volume or (empty is not None and empty.get("medium") != "Memory")
