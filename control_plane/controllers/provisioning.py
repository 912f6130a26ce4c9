"""Dynamic provisioning, the pure part: which nodes take a new volume, and its PersistentVolume object."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import (
    LOCAL,
    REPLICATED,
    SELECTED_NODE,
    requested_bytes,
    requested_storage,
)
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import member_address, volume_capacity
from rayplane.control_plane.controllers.actions import Provision
from rayplane.control_plane.controllers.core import View
from rayplane.control_plane.controllers.nodelifecycle import ready_status
from rayplane.control_plane.controllers.snapshot_sources import origin_of
from rayplane.control_plane.controllers.volume_match import (
    HOSTNAME,
    PROVISIONED_BY,
    REPLICAS,
    free_bytes,
    nodes_of,
)

ATTRIBUTES = "volumeattributesclasses.storage.k8s.io"
REPLICA_COUNT = 3
PV_PROTECTION = "kubernetes.io/pv-protection"


@dataclass(frozen=True, slots=True)
class Unprovisionable:
    """A reason why no volume can be made now. `reschedule`: another node may do."""

    reason: str
    reschedule: bool = False


def plan(claim: Object, storage: Object, view: View) -> Provision | Unprovisionable:
    """Choose nodes with room for the claim, and describe the volume."""
    attributes = meta.spec(claim).get("volumeAttributesClassName")
    if attributes and view.get(ATTRIBUTES, "", attributes) is None:
        return Unprovisionable(f'volumeattributesclass.storage.k8s.io "{attributes}" not found')
    wanted = requested_bytes(claim)
    origin = origin_of(claim, driver_of(storage), view)
    if isinstance(origin, str):
        return Unprovisionable(origin)
    nodes = {meta.name(n): n for n in view.list("nodes") if _can_host(n) and volume_capacity(n) != 0}
    # Whoever holds the source has to make the copy, whatever was selected: the consumer is placed again then.
    selected = origin.node or meta.annotations(claim).get(SELECTED_NODE, "")
    if selected and selected not in nodes:
        return Unprovisionable(f'node "{selected}" cannot take volumes now', reschedule=not origin.node)
    free = {name: room for name, room in free_bytes(view).items() if name in nodes}
    # Most room first; the selected node leads where there is one.
    order = sorted(free, key=lambda name: (name != selected, -free[name], name))
    fitting = [name for name in order if free[name] >= wanted]
    replicated = storage.get("provisioner") == REPLICATED
    if selected and selected not in fitting and not replicated:
        text = f'node "{selected}" has {_shown(free[selected])} free for volumes, {wanted} bytes are asked for'
        return Unprovisionable(text, reschedule=not origin.node)
    count = min(_replica_count(storage), len(nodes)) if replicated else 1
    if not nodes:
        return Unprovisionable("no node is ready to take volumes")
    if len(fitting) < count:
        most = max(free.values())
        which = f"{count} nodes have" if count > 1 else "no node has"
        verb = f"not {which}" if count > 1 else which
        return Unprovisionable(
            f"{verb} {wanted} bytes free for volumes (the most free is {_shown(most)})",
            reschedule=bool(selected),
        )
    # The backend places the replicas itself; any node can be asked to, this is the order to try.
    asked = fitting if replicated else fitting[:1]
    return Provision(
        claim=claim,
        volume=_volume(claim, storage, asked[0], replicated=replicated),
        targets=tuple((name, member_address(nodes[name])) for name in asked),
        capacity_bytes=wanted,
        parameters=dict(storage.get("parameters") or {}),
        snapshot_id=origin.snapshot_id,
        source_volume_id=origin.volume_id,
    )


def _shown(room: float) -> str:
    return f"{max(0, int(room))} bytes" if room != float("inf") else "unlimited room"


def _replica_count(storage: Object) -> int:
    text = (storage.get("parameters") or {}).get(REPLICAS, "")
    return max(1, int(text)) if re.fullmatch("[0-9]{1,4}", text) else REPLICA_COUNT


def _can_host(node: Object) -> bool:
    return bool(member_address(node)) and ready_status(node) == "True" and not meta.is_deleting(node)


def driver_of(storage: Object) -> str:
    """The backend that serves a class: provisioners of others are served by the local one."""
    return REPLICATED if storage.get("provisioner") == REPLICATED else LOCAL


def _volume(claim: Object, storage: Object, node: str, *, replicated: bool) -> Object:
    spec = meta.spec(claim)
    handle = f"pvc-{meta.uid(claim)}"
    attributes = {"storage.kubernetes.io/csiProvisionerIdentity": driver_of(storage)}
    body: dict[str, Any] = {
        "capacity": {"storage": requested_storage(claim)},
        "accessModes": list(spec.get("accessModes") or ()),
        "persistentVolumeReclaimPolicy": storage.get("reclaimPolicy") or "Delete",
        "storageClassName": meta.name(storage),
        "volumeMode": spec.get("volumeMode") or "Filesystem",
        "claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": meta.namespace(claim),
            "name": meta.name(claim),
            "uid": meta.uid(claim),
        },
        "csi": {
            "driver": driver_of(storage),
            "volumeHandle": handle,
            "volumeAttributes": attributes,
        },
    }
    if spec.get("volumeAttributesClassName"):
        body["volumeAttributesClassName"] = spec["volumeAttributesClassName"]
    if storage.get("mountOptions"):
        body["mountOptions"] = list(storage["mountOptions"])
    if not replicated:
        term = {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [node]}]}
        body["nodeAffinity"] = {"required": {"nodeSelectorTerms": [term]}}
    own = {
        "name": handle,
        "annotations": {PROVISIONED_BY: storage.get("provisioner") or LOCAL},
        "finalizers": [PV_PROTECTION],
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": own, "spec": body}


def targets_of(volume: Object, view: View) -> tuple[tuple[str, str], ...]:
    """Nodes to ask: the one that holds a local volume; any that is ready for a replicated one, holders first."""
    return hosts(view, nodes_of(volume), local=meta.spec(volume)["csi"]["driver"] == LOCAL)


def hosts(view: View, holders: Sequence[str], *, local: bool) -> tuple[tuple[str, str], ...]:
    """Nodes that are ready and their addresses, holders first; of what is local only they."""
    nodes = sorted(view.list("nodes"), key=lambda node: (meta.name(node) not in holders, meta.name(node)))
    return tuple(
        (meta.name(node), member_address(node))
        for node in nodes
        if _can_host(node) and (not local or meta.name(node) in holders)
    )
