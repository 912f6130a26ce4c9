"""Facts of a node that matter for scheduling, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import volume_capacity
from rayplane.control_plane.api.taints import Taint
from rayplane.control_plane.scheduler.pods import AMOUNT_MAX, amount

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
#: Names of one image that are looked at.
_IMAGE_NAMES_MAX = 16


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node as the scheduler sees it, compared by value: a node whose heartbeat changed only its conditions is the
    same node.
    """

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    unschedulable: bool
    allocatable: Mapping[str, int]
    #: Bytes for volumes; None when the node reports none (no limit known).
    volume_bytes: int | None
    #: Sizes of the images that the node has, by name.
    images: Mapping[str, int] = field(default_factory=dict)
    features: frozenset[str] = frozenset()
    """Those that it declares."""

    @staticmethod
    def of(node: Object) -> NodeInfo:
        spec, status = meta.spec(node), meta.status(node)
        resources = status.get("allocatable") or status.get("capacity") or {}
        return NodeInfo(
            name=meta.name(node),
            labels=meta.labels(node),
            taints=tuple(Taint.of(t) for t in spec.get("taints") or ()),
            unschedulable=bool(spec.get("unschedulable")),
            allocatable={resource: amount(resource, text) for resource, text in resources.items()},
            volume_bytes=volume_capacity(node),
            images={
                name: min(int(image.get("sizeBytes") or 0), AMOUNT_MAX)
                for image in status.get("images") or ()
                for name in (image.get("names") or ())[:_IMAGE_NAMES_MAX]
            },
            features=frozenset(status.get("declaredFeatures") or ()),
        )
