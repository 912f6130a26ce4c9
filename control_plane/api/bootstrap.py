"""The objects every cluster starts with, to be created where they are missing.

Namespaces come first, so that what lives in them can follow. Objects carry no uid or time: whoever
creates them adds those, as for any other object.
"""

from __future__ import annotations

from typing import Any

from rayplane.control_plane.api.authorization.bootstrap_policy import (
    cluster_role_bindings,
    cluster_roles,
    role_bindings,
    roles,
)
from rayplane.control_plane.api.authorization.node_identity import NODE_LEASES
from rayplane.control_plane.api.meta import Object

NAMESPACES = ("default", "kube-system", "kube-public", NODE_LEASES)
LOCAL_PROVISIONER = "rayplane.io/local"
REPLICATED_PROVISIONER = "rayplane.io/replicated"
INGRESS_CLASS = "rayplane"
DEFAULT_STORAGE_CLASS = "storageclass.kubernetes.io/is-default-class"
SYSTEM_CRITICAL = 2_000_000_000
"""Priority of system-cluster-critical; no user's PriorityClass may have more than half of it."""


def _object(api_version: str, kind: str, name: str, **rest: Any) -> Object:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, **rest}


def namespaces() -> list[Object]:
    return [_object("v1", "Namespace", name) for name in NAMESPACES]


def priority_classes() -> list[Object]:
    texts = {
        "system-cluster-critical": (
            SYSTEM_CRITICAL,
            "Used for system critical pods that must run in the cluster, but can be moved to "
            "another node if necessary.",
        ),
        "system-node-critical": (
            SYSTEM_CRITICAL + 1000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    }
    return [
        _object(
            "scheduling.k8s.io/v1",
            "PriorityClass",
            name,
            value=value,
            description=text,
            preemptionPolicy="PreemptLowerPriority",
        )
        for name, (value, text) in texts.items()
    ]


def storage_classes() -> list[Object]:
    api_version, kind = "storage.k8s.io/v1", "StorageClass"
    standard = _object(
        api_version,
        kind,
        "standard",
        provisioner=LOCAL_PROVISIONER,
        reclaimPolicy="Delete",
        volumeBindingMode="WaitForFirstConsumer",
        allowVolumeExpansion=True,
    )
    standard["metadata"]["annotations"] = {DEFAULT_STORAGE_CLASS: "true"}
    replicated = _object(
        api_version,
        kind,
        "replicated",
        provisioner=REPLICATED_PROVISIONER,
        reclaimPolicy="Delete",
        volumeBindingMode="Immediate",
        allowVolumeExpansion=True,
    )
    return [standard, replicated]


def ingress_classes() -> list[Object]:
    found = _object(
        "networking.k8s.io/v1",
        "IngressClass",
        INGRESS_CLASS,
        spec={"controller": "rayplane.io/ingress"},
    )
    found["metadata"]["annotations"] = {"ingressclass.kubernetes.io/is-default-class": "true"}
    return [found]


def bootstrap_objects() -> list[Object]:
    """All of them, in the order to create them in; new objects on every call."""
    return [
        *namespaces(),
        *priority_classes(),
        *storage_classes(),
        *ingress_classes(),
        *cluster_roles(),
        *cluster_role_bindings(),
        *roles(),
        *role_bindings(),
    ]
