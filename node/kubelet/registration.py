"""Registration of a node: the Node and the Lease that a kubelet writes (core/v1 Node). Pure."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from rayplane.control_plane.api import meta, node_annotations
from rayplane.control_plane.api.authorization.node_identity import NODE_LEASES
from rayplane.control_plane.api.kinds.pod_template.resources import is_extended
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_labels import ZONE, old_names
from rayplane.control_plane.api.pods.declared_features import DECLARED
from rayplane.node.config import NodeConfig
from rayplane.node.images.listing import listed
from rayplane.node.runtime import Features

KUBELET_VERSION = "v1.37.0"
_DISK = "100Gi"
_PRESSURE = {
    "MemoryPressure": (
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    ),
    "DiskPressure": (
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    ),
    "PIDPressure": (
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    ),
}


def _pressures(real: Collection[str]) -> list[tuple[str, str, str, str]]:
    return [(kind, str(kind in real), *words[kind in real]) for kind, words in _PRESSURE.items()]


def _ready(trouble: str) -> tuple[str, str, str, str]:
    if trouble:
        return "Ready", "False", "KubeletNotReady", trouble
    return "Ready", "True", "KubeletReady", "kubelet is posting ready status"


def _services(why_not: str) -> tuple[str, str, str, str]:
    if why_not:
        return node_annotations.NO_SERVICES, "True", "NoServiceGateway", f"pods find no services: {why_not}"
    return node_annotations.NO_SERVICES, "False", "ServiceGateway", "pods find services"


@dataclass(frozen=True, slots=True)
class Health:
    """A node's account of itself.

    `trouble`: why it runs nothing; `pressure`: types of the conditions of pressure that are true; `no_services`: why
    its pods find no services.
    """

    trouble: str = ""
    pressure: Collection[str] = ()
    no_services: str = ""

    def conditions(self, before: Collection[str]) -> list[tuple[str, str, str, str]]:
        """Type, status, reason and message of each. `before`: the types of those that the Node has."""
        told = [*_pressures(self.pressure), _ready(self.trouble)]
        if self.no_services or node_annotations.NO_SERVICES in before:
            told.append(_services(self.no_services))
        return told


def contradicted(node: Object, health: Health) -> bool:
    """Whether somebody has put other conditions in place of what the node says of itself."""
    said = {one.get("type") or "": one.get("status") for one in meta.status(node).get("conditions") or ()}
    return any(said.get(kind) != value for kind, value, _, _ in health.conditions(said))


@dataclass(frozen=True, slots=True)
class Machine:
    """The kernel's boot id and release; both empty for a node of simulated pods."""

    boot_id: str = ""
    kernel: str = ""


def healthy_conditions() -> list[dict[str, str]]:
    """Conditions of a node in order, as far as they say nothing of times."""
    told = Health().conditions(())
    return [{"type": kind, "status": value, "reason": reason, "message": text} for kind, value, reason, text in told]


def node_object(
    config: NodeConfig,
    *,
    host_address: str,
    volume_capacity: str,
    heartbeat: str = "",
    network: str = "",
    isolation: str = "",
) -> Object:
    """The Node without its status.

    `host_address`: host:port of the node host's gRPC services; `heartbeat`: the node whose Lease stands for this one's;
    `network`, `isolation`: see NETWORK and ISOLATION.
    """
    more = {node_annotations.HEARTBEAT: heartbeat, node_annotations.NETWORK: network}
    more[node_annotations.ISOLATION] = isolation
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": config.name,
            "labels": node_labels(config),
            "annotations": {
                node_annotations.RUNTIME: config.runtime,
                node_annotations.HOST_ADDRESS: host_address,
                node_annotations.VOLUME_CAPACITY: volume_capacity,
                **{name: value for name, value in more.items() if value},
            },
        },
        "spec": {},
    }


def node_labels(config: NodeConfig) -> dict[str, str]:
    labels = {
        "kubernetes.io/hostname": config.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": config.arch,
        **config.labels,
    }
    if config.zone:
        labels[ZONE] = config.zone
    return {**labels, **old_names(labels)}


def node_status(
    config: NodeConfig,
    known: Object,
    *,
    node_ip: str,
    port: int,
    stamp: str,
    in_use: Sequence[str] = (),
    health: Health = Health(),
    version: str = "",
    machine: Machine = Machine(),
) -> dict[str, Any]:
    """The node's status.

    `known`: the Node as last seen, for the times at which conditions changed; `in_use`: names of volumes; `version`:
    the runtime's own name and version, where it is no part of this project.
    """
    before = {c["type"]: c for c in (known.get("status") or {}).get("conditions") or ()}
    conditions = []
    for kind, value, reason, message in health.conditions(before):
        old = before.get(kind) or {}
        same = old.get("status") == value
        since = (same and old.get("lastTransitionTime")) or stamp
        conditions.append(
            {
                "type": kind,
                "status": value,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": stamp,
                "lastTransitionTime": since,
            }
        )
        before.pop(kind, None)
    addresses = [{"type": "Hostname", "address": config.name}]
    if node_ip:
        addresses.insert(0, {"type": "InternalIP", "address": node_ip})
    resources = {
        "cpu": quantity.canonical(config.cpu),
        "memory": quantity.canonical(config.memory),
        "ephemeral-storage": _DISK,
        "pods": str(config.max_pods),
    }
    return {
        "capacity": resources,
        "allocatable": resources | _extended(known),
        "conditions": [*conditions, *before.values()],
        "addresses": addresses,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": _node_info(config, version, machine),
        "declaredFeatures": [*DECLARED],
        "volumesInUse": [*in_use] or None,
    }


def status_patch(known: Object, status: Mapping[str, Any]) -> Object:
    """The strategic merge patch that writes a node's status, composed from the Node as it is `known`.

    Conditions that stay are not in it: they are others', who may have changed them meanwhile.
    """
    there = meta.status(known).get("conditions") or ()
    conditions = [one for one in status["conditions"] if one not in there]
    addresses = [{"$patch": "replace"}, *status["addresses"]]
    return {"status": {**status, "conditions": conditions, "addresses": addresses}}


def node_features(features: Features) -> dict[str, Any]:
    """The part of the status that says what the node's runtime can do."""
    handlers = [
        {"name": name, "features": {"recursiveReadOnlyMounts": can}}
        for name, can in sorted(features.recursive_read_only.items())
    ]
    policy = {"supplementalGroupsPolicy": features.groups_policy}
    return {"features": policy, "runtimeHandlers": handlers or None}


def node_images(node: Object, images: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """The part of the status that lists images. `images`: those it has, None for a simulated node."""
    return {"images": [*(_declared_images(node) if images is None else images)] or None}


def _declared_images(node: Object) -> list[dict[str, Any]]:
    """The images that a simulated node is said to have, by an annotation with their sizes by name."""
    try:
        found = orjson.loads(meta.annotations(node).get(node_annotations.IMAGES) or "{}")
        sizes = {str(name): quantity.value(str(size)) for name, size in found.items()}
    except (ValueError, AttributeError):
        return []
    return listed(([name], size) for name, size in sizes.items())


def _extended(known: Object) -> dict[str, str | None]:
    """Extended resources as the node's capacity has them, which users and devices write; None for those it has not."""
    status = known.get("status") or {}
    capacity, told = status.get("capacity") or {}, status.get("allocatable") or {}
    return {name: capacity.get(name) for name in (*told, *capacity) if is_extended(name)}


def follows_capacity(node: Object) -> bool:
    """Whether what is allocatable of extended resources is what the node has."""
    told = (node.get("status") or {}).get("allocatable") or {}
    return all(told.get(name) == amount for name, amount in _extended(node).items())


def rebooted(known: Object, machine: Machine) -> bool:
    """Whether the node's machine has been started anew, or the node is on another, since the Node was written as it is
    `known`: either way nothing goes on that ran there.
    """
    before = (meta.status(known).get("nodeInfo") or {}).get("bootID")
    return bool(before and machine.boot_id) and before != machine.boot_id


def _node_info(config: NodeConfig, version: str, machine: Machine) -> dict[str, str]:
    ident = hashlib.sha256(config.name.encode()).hexdigest()[:32]
    return {
        "machineID": ident,
        "systemUUID": f"{ident[:8]}-{ident[8:12]}-{ident[12:16]}-{ident[16:20]}-{ident[20:]}",
        "bootID": machine.boot_id,
        "kernelVersion": machine.kernel,
        "osImage": "rayplane",
        "containerRuntimeVersion": version or f"rayplane-{config.runtime.partition(':')[0]}://1.0.0",
        "kubeletVersion": KUBELET_VERSION,
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": config.arch,
    }


def lease_object(node: Object, *, duration_s: int, renewed: str) -> Object:
    """The node's Lease (coordination.k8s.io/v1), owned by the Node. `renewed`: RFC 3339 with microseconds."""
    name = node["metadata"]["name"]
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node["metadata"].get("uid", "")}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": NODE_LEASES, "ownerReferences": [owner]},
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": duration_s,
            "renewTime": renewed,
        },
    }
