"""The objects every cluster starts with, to be created where they are missing.

Namespaces come first, so that what lives in them can follow. Objects carry no uid or time: whoever
creates them adds those, as for any other object.
"""

from __future__ import annotations

from typing import Any, Final

from rayplane.control_plane.api import legacy_tokens
from rayplane.control_plane.api.authorization.bootstrap_policy import (
    cluster_role_bindings,
    cluster_roles,
    role_bindings,
    roles,
)
from rayplane.control_plane.api.authorization.controller_policy import ACCOUNTS, NAMESPACE
from rayplane.control_plane.api.authorization.node_identity import NODE_LEASES
from rayplane.control_plane.api.bootstrap_flow import flow_schemas, priority_levels
from rayplane.control_plane.api.claims import LOCAL, REPLICATED
from rayplane.control_plane.api.ingresses import INGRESS_CLASS
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.priority import SYSTEM_CRITICAL
from rayplane.control_plane.identities import FRONT_PROXY

OF_EACH_CLUSTER: Final = frozenset(
    {
        ("networking.k8s.io", "ServiceCIDR", "", "kubernetes"),
        ("", "Service", "default", "kubernetes"),
        ("", "Service", "kube-system", "kube-dns"),
        ("", "ConfigMap", "kube-system", "extension-apiserver-authentication"),
        ("", "ConfigMap", legacy_tokens.TRACKING_NAMESPACE, legacy_tokens.TRACKING),
    }
)
"""Places of objects that servers make besides, whose content is each cluster's own."""
NAMESPACES = ("default", "kube-system", "kube-public", NODE_LEASES)
DEFAULT_STORAGE_CLASS = "storageclass.kubernetes.io/is-default-class"


def _object(api_version: str, kind: str, name: str, **rest: Any) -> Object:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, **rest}


def namespaces() -> list[Object]:
    return [_object("v1", "Namespace", name) for name in NAMESPACES]


def service_accounts() -> list[Object]:
    """The accounts under which controllers write."""
    found = [_object("v1", "ServiceAccount", account) for account in ACCOUNTS]
    for account in found:
        account["metadata"]["namespace"] = NAMESPACE
    return found


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
        provisioner=LOCAL,
        reclaimPolicy="Delete",
        volumeBindingMode="WaitForFirstConsumer",
        allowVolumeExpansion=True,
    )
    standard["metadata"]["annotations"] = {DEFAULT_STORAGE_CLASS: "true"}
    replicated = _object(
        api_version,
        kind,
        "replicated",
        provisioner=REPLICATED,
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


# Groups by the order in which they are looked through: how much before others, and their versions.
_GROUP_PRIORITIES = {
    "": 18_000,
    "apps": 17_800,
    "events.k8s.io": 17_750,
    "authentication.k8s.io": 17_700,
    "authorization.k8s.io": 17_600,
    "autoscaling": 17_500,
    "batch": 17_400,
    "certificates.k8s.io": 17_300,
    "networking.k8s.io": 17_200,
    "policy": 17_100,
    "rbac.authorization.k8s.io": 17_000,
    "storage.k8s.io": 16_800,
    "apiextensions.k8s.io": 16_700,
    "admissionregistration.k8s.io": 16_700,
    "scheduling.k8s.io": 16_600,
    "coordination.k8s.io": 16_500,
    "node.k8s.io": 16_300,
    "discovery.k8s.io": 16_200,
    "flowcontrol.apiserver.k8s.io": 16_100,
    "resource.k8s.io": 15_900,
    "storagemigration.k8s.io": 15_800,
    # As who installs a metrics server has it.
    "metrics.k8s.io": 100,
}
_METRICS = ("metrics.k8s.io", "v1beta1")
_VERSION_PRIORITIES = {
    "/v1": 1,
    "autoscaling/v2": 30,
    "flowcontrol.apiserver.k8s.io/v1": 21,
    "/".join(_METRICS): 100,
}
_VERSION_PRIORITY = 15
_AGGREGATION = "apiregistration.k8s.io"


def api_services() -> list[Object]:
    """An APIService for each group and version that the servers answer themselves."""
    found = []
    ours = {(i.group, i.version) for i in builtin_registry().all()} | {_METRICS}
    for group, version in sorted(ours - {(_AGGREGATION, "v1")}):
        service = _object(f"{_AGGREGATION}/v1", "APIService", f"{version}.{group}")
        service["metadata"]["labels"] = {"kube-aggregator.kubernetes.io/automanaged": "onstart"}
        service["spec"] = {
            **({"group": group} if group else {}),
            "version": version,
            "groupPriorityMinimum": _GROUP_PRIORITIES.get(group, 1_000),
            "versionPriority": _VERSION_PRIORITIES.get(f"{group}/{version}", _VERSION_PRIORITY),
        }
        found.append(service)
    return found


def extension_authentication(authority: str) -> Object:
    """What servers of extensions need to know to authenticate clients as this cluster does, and to know their proxy.

    One authority has signed the certificates of clients and of the API servers: whose names are among the allowed is
    a proxy.
    """
    found = _object(
        "v1",
        "ConfigMap",
        "extension-apiserver-authentication",
        data={
            "client-ca-file": authority,
            "requestheader-allowed-names": f'["{FRONT_PROXY}"]',
            "requestheader-client-ca-file": authority,
            "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
            "requestheader-group-headers": '["X-Remote-Group"]',
            "requestheader-uid-headers": '["X-Remote-Uid"]',
            "requestheader-username-headers": '["X-Remote-User"]',
        },
    )
    found["metadata"]["namespace"] = "kube-system"
    return found


def bootstrap_objects() -> list[Object]:
    """All of them, in the order to create them in; new objects on every call."""
    return [
        *namespaces(),
        *service_accounts(),
        *priority_classes(),
        *storage_classes(),
        *ingress_classes(),
        *cluster_roles(),
        *cluster_role_bindings(),
        *roles(),
        *role_bindings(),
        *priority_levels(),
        *flow_schemas(),
        *api_services(),
    ]
