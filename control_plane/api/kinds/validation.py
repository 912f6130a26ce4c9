"""Validation of objects, in Kubernetes' words.

Owns: what an object of a kind may look like when it is created, and what an update of it may
change. Does not own: the schema (unknown fields, wrong types are refused before), admission rules
that need other objects. Objects must have been defaulted.

Concurrency: pure functions; nothing is changed and nothing kept but caches of checked names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rayplane.control_plane.api.errors import FieldError
from rayplane.control_plane.api.kinds import (
    validation_config as config,
)
from rayplane.control_plane.api.kinds import (
    validation_networking as networking,
)
from rayplane.control_plane.api.kinds import (
    validation_policy as policy,
)
from rayplane.control_plane.api.kinds import (
    validation_services as services,
)
from rayplane.control_plane.api.kinds import (
    validation_storage as storage,
)
from rayplane.control_plane.api.kinds import (
    validation_workloads as workloads,
)
from rayplane.control_plane.api.kinds.events import event as events
from rayplane.control_plane.api.kinds.metadata import NameCheck, validate_metadata, validate_metadata_update
from rayplane.control_plane.api.kinds.pod_template.validation import (
    validate_pod,
    validate_pod_update,
    validate_template,
)
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.meta import Object

Errors = list[FieldError]


class Resource(Protocol):
    """What is needed to know of a resource here (see `resources.ResourceInfo`)."""

    @property
    def group(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def namespaced(self) -> bool: ...
    @property
    def custom(self) -> bool: ...


def _pod_template(obj: Object) -> Errors:
    errs: Errors = []
    restart = ("Always", "OnFailure", "Never")
    validate_template(obj.get("template"), "template", errs, restart=restart)
    return errs


_RBAC = "rbac.authorization.k8s.io"
_NAME_CHECKS: dict[tuple[str, str], NameCheck] = {
    ("", "Namespace"): names.label_errors,
    ("", "Service"): names.dns1035_errors,
    (_RBAC, "Role"): names.path_segment_errors,
    (_RBAC, "ClusterRole"): names.path_segment_errors,
    (_RBAC, "RoleBinding"): names.path_segment_errors,
    (_RBAC, "ClusterRoleBinding"): names.path_segment_errors,
}
_CREATE: dict[tuple[str, str], Callable[[Object], Errors]] = {
    ("", "Pod"): validate_pod,
    ("", "PodTemplate"): _pod_template,
    ("", "ReplicationController"): workloads.replication_controller,
    ("apps", "Deployment"): workloads.deployment,
    ("apps", "ReplicaSet"): workloads.replica_set,
    ("apps", "StatefulSet"): workloads.stateful_set,
    ("apps", "DaemonSet"): workloads.daemon_set,
    ("batch", "Job"): workloads.job,
    ("batch", "CronJob"): workloads.cron_job,
    ("", "Service"): services.service,
    ("", "Endpoints"): services.endpoints,
    ("discovery.k8s.io", "EndpointSlice"): services.endpoint_slice,
    ("networking.k8s.io", "Ingress"): networking.ingress,
    ("networking.k8s.io", "IngressClass"): networking.ingress_class,
    ("networking.k8s.io", "NetworkPolicy"): networking.network_policy,
    ("", "PersistentVolume"): storage.persistent_volume,
    ("", "PersistentVolumeClaim"): storage.persistent_volume_claim,
    ("storage.k8s.io", "StorageClass"): storage.storage_class,
    ("", "ConfigMap"): config.config_map,
    ("", "Secret"): config.secret,
    ("", "Namespace"): config.namespace,
    ("", "ResourceQuota"): config.resource_quota,
    ("", "LimitRange"): config.limit_range,
    ("", "Node"): config.node,
    ("", "Event"): events.event,
    ("coordination.k8s.io", "Lease"): config.lease,
    ("scheduling.k8s.io", "PriorityClass"): config.priority_class,
    (_RBAC, "Role"): policy.role,
    (_RBAC, "ClusterRole"): policy.cluster_role,
    (_RBAC, "RoleBinding"): policy.role_binding,
    (_RBAC, "ClusterRoleBinding"): policy.cluster_role_binding,
    ("policy", "PodDisruptionBudget"): policy.disruption_budget,
    ("autoscaling", "HorizontalPodAutoscaler"): policy.autoscaler,
    ("certificates.k8s.io", "CertificateSigningRequest"): policy.certificate_request,
}
_UPDATE: dict[tuple[str, str], Callable[[Object, Object], Errors]] = {
    ("", "Pod"): validate_pod_update,
    ("apps", "Deployment"): workloads.selector_immutable,
    ("apps", "ReplicaSet"): workloads.selector_immutable,
    ("apps", "DaemonSet"): workloads.selector_immutable,
    ("apps", "StatefulSet"): workloads.stateful_set_update,
    ("batch", "Job"): workloads.job_update,
    ("", "Service"): services.service_update,
    ("discovery.k8s.io", "EndpointSlice"): services.endpoint_slice_update,
    ("networking.k8s.io", "IngressClass"): networking.ingress_class_update,
    ("", "PersistentVolume"): storage.persistent_volume_update,
    ("", "PersistentVolumeClaim"): storage.persistent_volume_claim_update,
    ("storage.k8s.io", "StorageClass"): storage.storage_class_update,
    ("", "ConfigMap"): config.config_map_update,
    ("", "Secret"): config.secret_update,
    ("", "ResourceQuota"): config.resource_quota_update,
    ("", "Node"): config.node_update,
    ("scheduling.k8s.io", "PriorityClass"): config.priority_class_update,
    (_RBAC, "RoleBinding"): policy.binding_update,
    (_RBAC, "ClusterRoleBinding"): policy.binding_update,
    ("certificates.k8s.io", "CertificateSigningRequest"): policy.certificate_request_update,
}
# Where the rules for updates say all: validating the unchanged rest again would only cost time or
# refuse old objects.
_UPDATE_ONLY = frozenset({("", "Pod")})


def _metadata(obj: Object, info: Resource) -> Errors:
    check: NameCheck = names.subdomain_errors
    if not info.custom:
        check = _NAME_CHECKS.get((info.group, info.kind), check)
    metadata = obj.get("metadata") or {}
    return validate_metadata(metadata, namespaced=info.namespaced, check=check)


def validate_create(obj: Object, info: Resource) -> list[FieldError]:
    """Everything that is wrong with a new object; empty when nothing is."""
    errs = _metadata(obj, info)
    if not info.custom:
        special = _CREATE.get((info.group, info.kind))
        if special is not None:
            errs += special(obj)
    return errs


def validate_update(new: Object, old: Object, info: Resource) -> list[FieldError]:
    """Everything that is wrong with replacing `old` by `new`; empty when nothing is."""
    kind = info.group, info.kind
    errs = _metadata(new, info) + validate_metadata_update(new, old)
    if info.custom:
        return errs
    create, update = _CREATE.get(kind), _UPDATE.get(kind)
    if create is not None and kind not in _UPDATE_ONLY:
        errs += create(new)
    if update is not None:
        errs += update(new, old)
    return errs
