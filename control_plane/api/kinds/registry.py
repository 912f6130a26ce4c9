"""Finding the rules of a kind: the list of all rooms, each of which is loaded when it is first asked for.

A command that shows pods pays for the room of pods; an API server loads them all as it starts (`load_all`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Final, Protocol

from rayplane.control_plane.api.kinds.rules import PLAIN, Rules
from rayplane.control_plane.api.meta import Object

_PACKAGE: Final = __name__.rpartition(".")[0]
# By API group: its folder, and the module of each kind in it.
GROUPS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "": (
        "core",
        {
            "Binding": "binding",
            "ComponentStatus": "component_status",
            "ConfigMap": "config_map",
            "Endpoints": "endpoints",
            "Event": "event",
            "LimitRange": "limit_range",
            "Namespace": "namespace",
            "Node": "node",
            "PersistentVolume": "persistent_volume",
            "PersistentVolumeClaim": "persistent_volume_claim",
            "Pod": "pod",
            "PodTemplate": "pod_template",
            "ReplicationController": "replication_controller",
            "ResourceQuota": "resource_quota",
            "Secret": "secret",
            "Service": "service",
            "ServiceAccount": "service_account",
        },
    ),
    "admissionregistration.k8s.io": (
        "admissionregistration",
        {
            "MutatingAdmissionPolicy": "admission_policies",
            "MutatingAdmissionPolicyBinding": "admission_policy_bindings",
            "MutatingWebhookConfiguration": "webhook_configurations",
            "ValidatingAdmissionPolicy": "admission_policies",
            "ValidatingAdmissionPolicyBinding": "admission_policy_bindings",
            "ValidatingWebhookConfiguration": "webhook_configurations",
        },
    ),
    "apiextensions.k8s.io": (
        "apiextensions",
        {
            "CustomResourceDefinition": "custom_resource_definition",
        },
    ),
    "apiregistration.k8s.io": (
        "apiregistration",
        {
            "APIService": "api_service",
        },
    ),
    "apps": (
        "apps",
        {
            "ControllerRevision": "controller_revision",
            "DaemonSet": "daemon_set",
            "Deployment": "deployment",
            "ReplicaSet": "replica_set",
            "StatefulSet": "stateful_set",
        },
    ),
    "authentication.k8s.io": (
        "authentication",
        {
            "SelfSubjectReview": "reviews",
            "TokenReview": "reviews",
        },
    ),
    "authorization.k8s.io": (
        "authorization",
        {
            "LocalSubjectAccessReview": "access_reviews",
            "SelfSubjectAccessReview": "access_reviews",
            "SelfSubjectRulesReview": "access_reviews",
            "SubjectAccessReview": "access_reviews",
        },
    ),
    "autoscaling": (
        "autoscaling",
        {
            "HorizontalPodAutoscaler": "horizontal_pod_autoscaler",
        },
    ),
    "batch": (
        "batch",
        {
            "CronJob": "cron_job",
            "Job": "job",
        },
    ),
    "certificates.k8s.io": (
        "certificates",
        {
            "CertificateSigningRequest": "certificate_signing_request",
            "ClusterTrustBundle": "cluster_trust_bundle",
            "PodCertificateRequest": "pod_certificate_request",
        },
    ),
    "coordination.k8s.io": (
        "coordination",
        {
            "Lease": "lease",
        },
    ),
    "discovery.k8s.io": (
        "discovery",
        {
            "EndpointSlice": "endpoint_slice",
        },
    ),
    "events.k8s.io": (
        "events",
        {
            "Event": "event",
        },
    ),
    "flowcontrol.apiserver.k8s.io": (
        "flowcontrol",
        {
            "FlowSchema": "flow_schema",
            "PriorityLevelConfiguration": "priority_level_configuration",
        },
    ),
    "networking.k8s.io": (
        "networking",
        {
            "IPAddress": "ip_address",
            "Ingress": "ingress",
            "IngressClass": "ingress_class",
            "NetworkPolicy": "network_policy",
            "ServiceCIDR": "service_cidr",
        },
    ),
    "node.k8s.io": (
        "node",
        {
            "RuntimeClass": "runtime_class",
        },
    ),
    "policy": (
        "policy",
        {
            "PodDisruptionBudget": "pod_disruption_budget",
        },
    ),
    "rbac.authorization.k8s.io": (
        "rbac",
        {
            "ClusterRole": "roles",
            "ClusterRoleBinding": "role_bindings",
            "Role": "roles",
            "RoleBinding": "role_bindings",
        },
    ),
    "resource.k8s.io": (
        "resource",
        {
            "DeviceClass": "device_class",
            "DeviceTaintRule": "device_taint_rule",
            "ResourceClaim": "resource_claim",
            "ResourceClaimTemplate": "resource_claim_template",
            "ResourceSlice": "resource_slice",
        },
    ),
    "scheduling.k8s.io": (
        "scheduling",
        {
            "PodGroup": "pod_group",
            "PriorityClass": "priority_class",
            "Workload": "workload",
        },
    ),
    "storage.k8s.io": (
        "storage",
        {
            "CSIDriver": "csi_driver",
            "CSINode": "csi_node",
            "CSIStorageCapacity": "csi_storage_capacity",
            "StorageClass": "storage_class",
            "VolumeAttachment": "volume_attachment",
            "VolumeAttributesClass": "volume_attributes_class",
        },
    ),
    "storagemigration.k8s.io": (
        "storagemigration",
        {
            "StorageVersionMigration": "storage_version_migration",
        },
    ),
}
ROOMS: Final = {
    (group, kind): f"{folder}.{module}" for group, (folder, kinds) in GROUPS.items() for kind, module in kinds.items()
}
_loaded: dict[tuple[str, str], Rules] = {}


class Resource(Protocol):
    """The facts of a resource that are needed here (see `machinery.resources.ResourceInfo`)."""

    @property
    def group(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def custom(self) -> bool: ...


def rules_of(group: str, kind: str) -> Rules:
    """The rules of a kind by the name of its API group; `PLAIN` for a kind that is not Kubernetes' own."""
    found = _loaded.get((group, kind))
    if found is None:
        room = ROOMS.get((group, kind))
        if room is None:
            return PLAIN
        found = _loaded[group, kind] = import_module(f"{_PACKAGE}.{room}").RULES[kind]
    return found


def rules_for(info: Resource) -> Rules:
    """The rules of a resource: a custom one has nothing of its own, whatever it is called."""
    if info.custom:
        return PLAIN
    return _loaded.get((info.group, info.kind)) or rules_of(info.group, info.kind)


def rules_by_object(obj: Object) -> Rules:
    """The rules of the kind that an object says it is of."""
    return rules_of((obj.get("apiVersion") or "").rpartition("/")[0], obj.get("kind") or "")


def load_all() -> None:
    """Load every room now, so that no request waits for one."""
    for group, kind in ROOMS:
        rules_of(group, kind)
