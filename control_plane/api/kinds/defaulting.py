"""Defaults of fields a client left out, per kind, in place.

`default(obj)` dispatches on (API group, kind); the version matters only where a kind's versions
differ. What needs other objects or allocation (service accounts, tolerations, priorities, cluster
addresses) is not defaulted here. Applying defaults twice changes nothing.
Source: Kubernetes API reference v1.37, "default" notes of each field.
"""

from __future__ import annotations

from collections.abc import Callable

from rayplane.control_plane.api.kinds import defaults_misc as misc
from rayplane.control_plane.api.kinds import defaults_net as net
from rayplane.control_plane.api.kinds import defaults_storage as storage
from rayplane.control_plane.api.kinds import defaults_workloads as workloads
from rayplane.control_plane.api.kinds.pod_template.defaults import default_pod, default_pod_template
from rayplane.control_plane.api.meta import Object

Defaulter = Callable[[Object], None]


def _pod_template(obj: Object) -> None:
    default_pod_template(obj.setdefault("template", {}))


_RBAC = "rbac.authorization.k8s.io"
DEFAULTERS: dict[tuple[str, str], Defaulter] = {
    ("", "Pod"): default_pod,
    ("", "PodTemplate"): _pod_template,
    ("", "ReplicationController"): workloads.replication_controller,
    ("apps", "Deployment"): workloads.deployment,
    ("apps", "ReplicaSet"): workloads.replica_set,
    ("apps", "StatefulSet"): workloads.stateful_set,
    ("apps", "DaemonSet"): workloads.daemon_set,
    ("batch", "Job"): workloads.job,
    ("batch", "CronJob"): workloads.cron_job,
    ("", "Service"): net.service,
    ("", "Endpoints"): net.endpoints,
    ("discovery.k8s.io", "EndpointSlice"): net.endpoint_slice,
    ("networking.k8s.io", "IngressClass"): net.ingress_class,
    ("networking.k8s.io", "NetworkPolicy"): net.network_policy,
    ("", "PersistentVolumeClaim"): storage.persistent_volume_claim,
    ("", "PersistentVolume"): storage.persistent_volume,
    ("storage.k8s.io", "StorageClass"): storage.storage_class,
    ("storage.k8s.io", "CSIDriver"): storage.csi_driver,
    ("", "Secret"): misc.secret,
    ("", "Namespace"): misc.namespace,
    ("", "Node"): misc.node,
    ("", "ResourceQuota"): misc.resource_quota,
    ("", "LimitRange"): misc.limit_range,
    ("autoscaling", "HorizontalPodAutoscaler"): misc.horizontal_pod_autoscaler,
    ("scheduling.k8s.io", "PriorityClass"): misc.priority_class,
    (_RBAC, "RoleBinding"): misc.role_binding,
    (_RBAC, "ClusterRoleBinding"): misc.role_binding,
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): misc.mutating_webhooks,
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): misc.webhooks,
    ("apiregistration.k8s.io", "APIService"): misc.api_service,
}


def default(obj: Object) -> None:
    """Fill the defaults of `obj` (which carries apiVersion and kind) in place.

    Kinds without defaults are left alone. The object must have passed the schema: wrong types are
    not looked for here.
    """
    group = (obj.get("apiVersion") or "").rpartition("/")[0]
    defaulter = DEFAULTERS.get((group, obj.get("kind") or ""))
    if defaulter is not None:
        defaulter(obj)
