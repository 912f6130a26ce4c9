"""Indexes over cached objects, the same for the informers and for in-memory views of tests.

`namespace`, `controller` (uid of the controller reference) and `label` (`ns/key=value`) exist for every resource,
`owner` (uid of every owner reference) too; pods also have `node`, `claim` (`ns/claim` they mount) and `end`, nodes
`heartbeat` (whose Lease stands for theirs) and `cidr`, services `selector`, persistent volumes `claimref`
(`ns/claim`), claims `class`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import heartbeat_of
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.api.pods.volumes import claims_of

Index = Callable[[Object], Iterable[str]]


def by_namespace(o: Object) -> Iterable[str]:
    return (meta.namespace(o),)


def by_controller(o: Object) -> Iterable[str]:
    ref = meta.controller_of(o)
    return (ref["uid"],) if ref else ()


def by_owner(o: Object) -> Iterable[str]:
    return [ref["uid"] for ref in meta.metadata(o).get("ownerReferences") or ()]


def by_label(o: Object) -> Iterable[str]:
    space = meta.namespace(o)
    return [f"{space}/{k}={v}" for k, v in meta.labels(o).items()]


def orphans(o: Object) -> Iterable[str]:
    return () if meta.controller_of(o) else (meta.namespace(o),)


def by_node(o: Object) -> Iterable[str]:
    name = meta.node_name(o)
    return (name,) if name else ()


def by_end(pod: Object) -> Iterable[str]:
    """How a pod comes to its end: terminating on a node (`leaving`) or without one (`lost`), and whether it `ended`."""
    found = []
    if meta.is_deleting(pod):
        found.append("leaving" if meta.node_name(pod) else "lost")
    if pod_is_terminated(pod):
        found.append("ended")
    return found


def by_selector(service: Object) -> Iterable[str]:
    """One label of those that a service selects by: every pod that it selects has it."""
    selector = meta.spec(service).get("selector")
    if not selector:
        return ()
    key, value = min(selector.items())
    return (f"{meta.namespace(service)}/{key}={value}",)


def by_claim_ref(volume: Object) -> Iterable[str]:
    ref = meta.spec(volume).get("claimRef")
    return (f"{ref.get('namespace') or ''}/{ref.get('name') or ''}",) if ref else ()


def by_heartbeat(node: Object) -> Iterable[str]:
    """The node by whose Lease this one is heard of."""
    lead = heartbeat_of(node)
    return (lead,) if lead else ()


def by_cidr(node: Object) -> Iterable[str]:
    """The range of a node's pods, and its length as `/24`; empty for none."""
    cidr: str = meta.spec(node).get("podCIDR") or ""
    return (cidr, cidr[cidr.index("/") :]) if "/" in cidr else (cidr,)


def by_group(pod: Object) -> Iterable[str]:
    """The pod group that a pod is scheduled with."""
    name = (meta.spec(pod).get("schedulingGroup") or {}).get("podGroupName")
    return (f"{meta.namespace(pod)}/{name}",) if name else ()


def by_bound_volume(claim: Object) -> Iterable[str]:
    name = meta.spec(claim).get("volumeName")
    return (name,) if name else ()


def attributes_classes_of(o: Object) -> tuple[str, ...]:
    """The VolumeAttributesClasses that a claim or a volume names: that it has, and that it is to have."""
    spec, status = meta.spec(o), meta.status(o)
    target = (status.get("modifyVolumeStatus") or {}).get("targetVolumeAttributesClassName")
    found = (spec.get("volumeAttributesClassName"), status.get("currentVolumeAttributesClassName"), target)
    return tuple(dict.fromkeys(name for name in found if name))


def by_attached_volume(attachment: Object) -> Iterable[str]:
    name = (meta.spec(attachment).get("source") or {}).get("persistentVolumeName")
    return (name,) if name else ()


def by_attached_node(attachment: Object) -> Iterable[str]:
    name = meta.spec(attachment).get("nodeName")
    return (name,) if name else ()


_EVERYWHERE: Mapping[str, Index] = {
    "namespace": by_namespace,
    "controller": by_controller,
    "owner": by_owner,
}
_LABELLED = frozenset({
    "pods",
    "replicasets.apps",
    "controllerrevisions.apps",
    "endpointslices.discovery.k8s.io",
})  # fmt: skip
_EXTRA: Mapping[str, Mapping[str, Index]] = {
    "pods": {"node": by_node, "claim": claims_of, "orphan": orphans,
             "end": by_end, "group": by_group},
    "nodes": {"heartbeat": by_heartbeat, "cidr": by_cidr},
    "services": {"selector": by_selector},
    "replicasets.apps": {"orphan": orphans},
    "controllerrevisions.apps": {"orphan": orphans},
    "persistentvolumes": {"claimref": by_claim_ref, "attributesclass": attributes_classes_of},
    "persistentvolumeclaims": {"volume": by_bound_volume, "attributesclass": attributes_classes_of},
    "volumeattachments.storage.k8s.io": {"volume": by_attached_volume, "node": by_attached_node},
}  # fmt: skip


def indexes_of(resource: str) -> dict[str, Index]:
    """All indexes of a resource by name."""
    found: dict[str, Index] = dict(_EVERYWHERE)
    if resource in _LABELLED:
        found["label"] = by_label
    found.update(_EXTRA.get(resource, {}))
    return found
