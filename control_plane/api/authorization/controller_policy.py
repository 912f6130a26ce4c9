"""The roles of controllers: each has a service account of its own in kube-system, and the role that it alone has.

The controller manager reads for all of them under its own name, and writes under the account of whoever wants it. Names
and rules are those of Kubernetes; what stands under `_MORE` is what controllers do otherwise here (they patch where
Kubernetes updates, and one file does what two do there), and the controllers that Kubernetes has in other programs.
Source: Kubernetes reference "Using RBAC Authorization", controller roles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rayplane.control_plane.api import joining, signers
from rayplane.control_plane.api.authorization.policy_rules import EVENTS, rule
from rayplane.control_plane.api.legacy_tokens import TRACKING
from rayplane.control_plane.identities import SERVICE_ACCOUNT_PREFIX

NAMESPACE = "kube-system"
PREFIX = "system:controller:"
"""Of the names of their roles and bindings; the account's follows."""
_Rules = tuple[str, ...]
_GROUPS = {
    "admission": "admissionregistration.k8s.io",
    "certificates": signers.GROUP,
    "chaos": "chaos-mesh.org",
    "discovery": "discovery.k8s.io",
    "flowcontrol": "flowcontrol.apiserver.k8s.io",
    "networking": "networking.k8s.io",
    "rbac": "rbac.authorization.k8s.io",
    "resource": "resource.k8s.io",
    "scheduling": "scheduling.k8s.io",
    "snapshot": "snapshot.storage.k8s.io",
    "storage": "storage.k8s.io",
}
_ALL = "get list watch create update patch delete"
_PODS = "core: pods: list watch create patch delete"
_REVISIONS = f"apps: controllerrevisions: {_ALL}"

#: By account: `group: resources: verbs[: names]`, and `events` for the right to tell of what is done.
_ROLES: Mapping[str, _Rules] = {
    "attachdetach-controller": (
        "core: persistentvolumes persistentvolumeclaims pods: list watch",
        "core: nodes: get list watch",
        "core: nodes/status: patch update",
        "storage: volumeattachments: get list watch create delete",
        "storage: csidrivers csinodes: get list watch",
        "events",
    ),
    "certificate-controller": (
        "certificates: certificatesigningrequests: get list watch delete",
        "certificates: certificatesigningrequests/status certificatesigningrequests/approval: update",
        f"certificates: signers: approve: {signers.KUBELET_CLIENT}",
        f"certificates: signers: sign: {' '.join(signers.SIGNERS)}",
        "authorization.k8s.io: subjectaccessreviews: create",
        "events",
    ),
    # Whoever gathers rules into roles must be able to grant all of them.
    "clusterrole-aggregation-controller": ("rbac: clusterroles: escalate get list watch update patch",),
    "cronjob-controller": (
        "batch: cronjobs: get list watch update",
        f"batch: jobs: {_ALL}",
        "batch: cronjobs/status cronjobs/finalizers: update",
        "core: pods: list watch delete",
        "events",
    ),
    "daemon-set-controller": (
        "apps: daemonsets: get list watch",
        "apps: daemonsets/status daemonsets/finalizers: update",
        "core: nodes: list watch",
        "core: pods/binding: create",
        _PODS,
        _REVISIONS,
        "events",
    ),
    "deployment-controller": (
        "apps: deployments: get list watch update",
        "apps: deployments/status deployments/finalizers: update",
        f"apps: replicasets: {_ALL}",
        "core: pods: get list watch update",
        "events",
    ),
    "device-taint-eviction-controller": (
        "core: pods: get list watch delete",
        "core: pods/status: update patch",
        "resource: resourceclaims resourceslices deviceclasses devicetaintrules: get list watch",
        "resource: devicetaintrules/status: update patch",
        "events",
    ),
    "disruption-controller": (
        "apps: deployments replicasets statefulsets: get list watch",
        "core: replicationcontrollers: get list watch",
        "policy: poddisruptionbudgets: get list watch",
        "policy: poddisruptionbudgets/status: update",
        "core: pods/status: patch update",
        "*: */scale: get",
        "events",
    ),
    "endpoint-controller": (
        "core: services pods: get list watch",
        "core: endpoints: get list watch create update delete",
        "core: endpoints/restricted: create",
        "events",
    ),
    "endpointslice-controller": (
        "core: services pods nodes: get list watch",
        "core: services/finalizers: update",
        "discovery: endpointslices: get list watch create update delete",
        "events",
    ),
    "endpointslicemirroring-controller": (
        "core: services endpoints: get list watch",
        "core: services/finalizers endpoints/finalizers: update",
        "discovery: endpointslices: get list watch create update delete",
        "events",
    ),
    "ephemeral-volume-controller": (
        "core: pods: get list watch",
        "core: pods/finalizers: update",
        "core: persistentvolumeclaims: get list watch create",
        "events",
    ),
    "expand-controller": (
        "core: persistentvolumes: get list watch update patch",
        "core: persistentvolumeclaims/status: update patch",
        "core: persistentvolumeclaims: get list watch",
        "events",
    ),
    "generic-garbage-collector": ("*: *: get list watch patch update delete", "events"),
    "horizontal-pod-autoscaler": (
        "autoscaling: horizontalpodautoscalers: get list watch",
        "autoscaling: horizontalpodautoscalers/status: update",
        "*: */scale: get update",
        "core: pods: list watch",
        "metrics.k8s.io: pods: list watch",
        "custom.metrics.k8s.io: *: get list watch",
        "external.metrics.k8s.io: *: get list watch",
        "events",
    ),
    "job-controller": (
        "batch: jobs: get list watch update patch",
        "batch: jobs/status jobs/finalizers: update",
        _PODS,
        "events",
    ),
    "kube-apiserver-serving-clustertrustbundle-publisher": (
        f"certificates: signers: attest: {signers.API_SERVING}",
        "certificates: clustertrustbundles: create update delete list watch",
        "events",
    ),
    "legacy-service-account-token-cleaner": (
        f"core: configmaps: get: {TRACKING}",
        "core: secrets: patch delete",
    ),
    "namespace-controller": (
        "core: namespaces: get list watch delete",
        "core: namespaces/finalize namespaces/status: update",
        "*: *: get list watch delete deletecollection",
    ),
    "node-controller": (
        "core: nodes: get list watch update delete patch",
        "core: nodes/status pods/status: patch update",
        "core: pods: get list watch delete",
        "events",
    ),
    "persistent-volume-binder": (
        "core: persistentvolumes: get list watch update create delete",
        "core: persistentvolumes/status persistentvolumeclaims/status: update",
        "core: persistentvolumeclaims: get list watch update",
        "core: nodes pods: get list watch",
        "storage: storageclasses: get list watch",
        "events",
    ),
    "podcertificaterequestcleaner": ("certificates: podcertificaterequests: get list watch delete",),
    "pod-garbage-collector": (
        "core: pods: list watch delete",
        "core: nodes: get list watch",
        "core: pods/status: patch",
    ),
    "podgroup-protection-controller": (
        "scheduling: podgroups: get list watch update",
        "core: pods: list watch get",
        "events",
    ),
    "pvc-protection-controller": (
        "core: persistentvolumeclaims: get list watch update",
        "core: persistentvolumeclaims/status: update",
        "core: pods: get list watch",
        "events",
    ),
    "pv-protection-controller": ("core: persistentvolumes: get list watch update", "events"),
    "replicaset-controller": (
        "apps: replicasets: get list watch update",
        "apps: replicasets/status replicasets/finalizers: update",
        _PODS,
        "events",
    ),
    "replication-controller": (
        "core: replicationcontrollers: get list watch update",
        "core: replicationcontrollers/status replicationcontrollers/finalizers: update",
        _PODS,
        "events",
    ),
    "resource-claim-controller": (
        "core: pods: get list watch",
        "core: pods/finalizers: update",
        "core: pods/status: update patch",
        f"resource: resourceclaims: {_ALL}",
        "resource: resourceclaims/binding resourceclaims/status: update patch",
        "events",
    ),
    "resourcequota-controller": ("*: *: list watch", "core: resourcequotas/status: update", "events"),
    "root-ca-cert-publisher": ("core: configmaps: create update", "events"),
    "service-account-controller": ("core: serviceaccounts: create", "events"),
    "service-cidrs-controller": (
        "networking: servicecidrs: get list watch patch update",
        "networking: servicecidrs/finalizers servicecidrs/status: patch update",
        "networking: ipaddresses: get list watch",
        "events",
    ),
    "service-controller": (
        "core: services nodes: get list watch",
        "core: services/status: patch update",
        "events",
    ),
    "statefulset-controller": (
        "apps: statefulsets: get list watch",
        "apps: statefulsets/status statefulsets/finalizers: update",
        f"core: pods: {_ALL}",
        "core: pods/finalizers: update",
        _REVISIONS,
        "core: persistentvolumeclaims: get list watch create update delete",
        "events",
    ),
    "storage-version-migrator-controller": (
        "*: *: list watch create patch",
        "storagemigration.k8s.io: storageversionmigrations/status: update",
    ),
    "volumeattributesclass-protection-controller": (
        "core: persistentvolumeclaims persistentvolumes: get list watch",
        "storage: volumeattributesclasses: get list watch update",
        "events",
    ),
    "ttl-controller": ("core: nodes: update patch list watch", "events"),
}
_MORE: Mapping[str, _Rules] = {
    "certificate-controller": (
        "certificates: certificatesigningrequests/approval: patch",
        f"certificates: signers: approve: {signers.KUBELET_SERVING}",
    ),
    "deployment-controller": ("apps: deployments/status: patch",),
    "horizontal-pod-autoscaler": ("*: */scale: patch",),
    # Jobs go here when their time is over.
    "job-controller": ("batch: jobs: delete",),
    "persistent-volume-binder": ("core: persistentvolumes persistentvolumes/status persistentvolumeclaims: patch",),
    "expand-controller": ("core: persistentvolumes/status: patch update",),
    "pod-garbage-collector": ("events",),
    "podgroup-protection-controller": ("scheduling: podgroups: patch",),
    "pvc-protection-controller": ("core: persistentvolumeclaims: patch",),
    "pv-protection-controller": ("core: persistentvolumes: patch",),
    # The addresses of services are repaired here, in Kubernetes by its API servers.
    "service-cidrs-controller": ("networking: ipaddresses: create delete",),
    "statefulset-controller": ("core: persistentvolumeclaims: patch",),
    "storage-version-migrator-controller": ("apiextensions.k8s.io: customresourcedefinitions/status: update",),
    "apiservice-registration-controller": ("apiregistration.k8s.io: apiservices: create update delete",),
    "flowschema-controller": ("flowcontrol: flowschemas/status: update", "events"),
    "volumeattributesclass-protection-controller": ("storage: volumeattributesclasses: patch",),
    # Whoever writes an experiment is asked for the right to make it where it hits.
    "chaos-controller": (
        "chaos: podchaos networkchaos stresschaos: get list watch create patch delete",
        "chaos: schedules: get list watch create delete",
        "chaos: workflows: get list watch",
        "chaos: podchaos/status networkchaos/status stresschaos/status schedules/status workflows/status: update",
        "core: pods: get list watch patch delete",
        "core: nodes: get list watch",
        "events",
    ),
    "snapshot-controller": (
        "core: persistentvolumeclaims: get list watch patch",
        "snapshot: volumesnapshots: get list watch patch",
        "snapshot: volumesnapshots/status volumesnapshotcontents/status: update",
        "snapshot: volumesnapshotcontents: get list watch create patch delete",
        "events",
    ),
}
#: Roles in one namespace, by (account, namespace).
_LOCAL: Mapping[tuple[str, str], _Rules] = {
    ("bootstrap-signer", "kube-public"): (
        "core: configmaps: get list watch create",
        "core: configmaps: update patch: cluster-info",
        "events",
    ),
    ("bootstrap-signer", NAMESPACE): ("core: secrets: get list watch",),
    ("node-host-config", NAMESPACE): ("core: configmaps: create", f"core: configmaps: update: {joining.NODE_HOSTS}"),
    ("token-cleaner", NAMESPACE): ("core: secrets: get list watch delete", "events"),
}
ACCOUNTS = tuple(sorted({*_ROLES, *_MORE, *(account for account, _ in _LOCAL)}))


def user_of(account: str) -> str:
    """The name of the user that a controller's account is."""
    return f"{SERVICE_ACCOUNT_PREFIX}{NAMESPACE}:{account}"


def cluster_rules() -> dict[str, list[dict[str, Any]]]:
    """The rules of each account's ClusterRole."""
    accounts = sorted({*_ROLES, *_MORE})
    return {one: _rules((*_ROLES.get(one, ()), *_MORE.get(one, ()))) for one in accounts}


def local_rules() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The rules of Roles, by account and namespace."""
    return {place: _rules(rules) for place, rules in _LOCAL.items()}


def _rules(texts: Iterable[str]) -> list[dict[str, Any]]:
    return [_rule(text) for text in texts]


def _rule(text: str) -> dict[str, Any]:
    if text == "events":
        return EVENTS
    group, resources, verbs, *names = text.split(": ")
    return rule(verbs.split(), _GROUPS.get(group, group), resources.split(), names[0].split() if names else ())
