"""Cluster events: changes that may let a waiting pod be scheduled.

Pure. An event is one resource, what happened to it, and the object before and after: a NodeInfo of nodes, a PodInfo of
pods, the object itself of all else.

Source: Kubernetes "Scheduling Framework" (EnqueueExtensions), KEP-4247 "Per-plugin callback functions for accurate
requeueing".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, Flag, auto
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.pods import PodInfo


class Resource(Enum):
    """Resources whose changes plug-ins may wait for."""

    NODE = "Node"
    ASSIGNED_POD = "AssignedPod"
    """A pod that has a node. Its deletion may also be that of one for which room was kept."""
    PENDING_POD = "UnscheduledPod"
    NAMESPACE = "Namespace"
    CLAIM = "PersistentVolumeClaim"
    VOLUME = "PersistentVolume"
    STORAGE_CLASS = "StorageClass"
    STORAGE_CAPACITY = "CSIStorageCapacity"
    CSI_NODE = "CSINode"
    CSI_DRIVER = "CSIDriver"
    ATTACHMENT = "VolumeAttachment"
    RESOURCE_CLAIM = "ResourceClaim"
    RESOURCE_SLICE = "ResourceSlice"
    DEVICE_CLASS = "DeviceClass"
    POD_GROUP = "PodGroup"
    DEVICE_TAINT_RULE = "DeviceTaintRule"


class Action(Flag):
    """Actions on a resource; those for updates say which part changed, as far as a plug-in may care."""

    ADD = auto()
    DELETE = auto()
    UPDATE = auto()
    NODE_ALLOCATABLE = auto()
    NODE_LABELS = auto()
    NODE_TAINTS = auto()
    NODE_CONDITIONS = auto()
    NODE_FEATURES = auto()
    NODE_OTHER = auto()
    POD_LABELS = auto()
    POD_SCALED_DOWN = auto()
    POD_TOLERATIONS = auto()
    POD_GATES_GONE = auto()
    POD_CLAIMS_MADE = auto()
    POD_OTHER = auto()


_NONE = Action(0)
_VERBS = {
    Action.ADD: "Add",
    Action.DELETE: "Delete",
    Action.UPDATE: "Update",
    Action.NODE_ALLOCATABLE: "UpdateNodeAllocatable",
    Action.NODE_LABELS: "UpdateNodeLabel",
    Action.NODE_TAINTS: "UpdateNodeTaint",
    Action.NODE_CONDITIONS: "UpdateNodeCondition",
    Action.NODE_FEATURES: "UpdateNodeDeclaredFeature",
    Action.POD_LABELS: "UpdatePodLabel",
    Action.POD_SCALED_DOWN: "UpdatePodScaleDown",
    Action.POD_TOLERATIONS: "UpdatePodToleration",
    Action.POD_GATES_GONE: "UpdatePodSchedulingGatesEliminated",
    Action.POD_CLAIMS_MADE: "UpdatePodGeneratedResourceClaim",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `old` is None for ADD, `new` for DELETE."""

    resource: Resource
    action: Action
    old: Any = None
    new: Any = None

    @property
    def label(self) -> str:
        """The event's name in measurements; of an update of many parts it is only an update."""
        return self.resource.value + _VERBS.get(self.action, "Update")


def node_actions(old: NodeInfo, new: NodeInfo) -> Action:
    """What of a node changed that schedulers read."""
    found = _NONE
    if old.allocatable != new.allocatable:
        found |= Action.NODE_ALLOCATABLE
    if old.labels != new.labels:
        found |= Action.NODE_LABELS
    if (old.taints, old.unschedulable) != (new.taints, new.unschedulable):
        found |= Action.NODE_TAINTS
    if old.features != new.features:
        found |= Action.NODE_FEATURES
    if (old.volume_bytes, old.images) != (new.volume_bytes, new.images):
        found |= Action.NODE_OTHER
    return found


def conditions_changed(old: Object, new: Object) -> bool:
    """Whether a node's conditions say something else; that they say it later does not count."""
    return _conditions(old) != _conditions(new)


def _conditions(node: Object) -> dict[str, str]:
    return {c.get("type") or "": c.get("status") or "" for c in meta.status(node).get("conditions") or ()}


def pod_actions(old: PodInfo, new: PodInfo) -> Action:
    """What of a pod changed that may let it, or others, be scheduled."""
    found = _NONE
    if old.labels != new.labels:
        found |= Action.POD_LABELS
    if old.shape is not new.shape:
        found |= _shape_actions(old, new)
    before, after = meta.spec(old.obj), meta.spec(new.obj)
    if before.get("schedulingGates") and not after.get("schedulingGates"):
        found |= Action.POD_GATES_GONE
    made = "resourceClaimStatuses"
    if meta.status(old.obj).get(made) != meta.status(new.obj).get(made):
        found |= Action.POD_CLAIMS_MADE
    if old.uid != new.uid or old.priority != new.priority:
        found |= Action.POD_OTHER
    return found


def _shape_actions(old: PodInfo, new: PodInfo) -> Action:
    found = _NONE
    if old.shape.tolerations != new.shape.tolerations:
        found |= Action.POD_TOLERATIONS
    asked, asks = old.shape.requests, new.shape.requests
    if any(asks.get(resource, 0) < count for resource, count in asked.items()):
        found |= Action.POD_SCALED_DOWN
    return found or Action.POD_OTHER
