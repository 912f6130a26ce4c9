"""The RBAC roles and bindings every cluster starts with, as data.

Differences from Kubernetes: the controller manager acts as its controllers' accounts, whose roles are in
`controller_policy`, and needs no tokens of theirs; and hosts of nodes run the service proxy, the ingress,
volume replicas and network policies too, for which their group has roles.
Source: Kubernetes reference "Using RBAC Authorization", default roles and role bindings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayplane.control_plane.api import joining, signers
from rayplane.control_plane.api.authorization import controller_policy
from rayplane.control_plane.api.authorization.node_identity import VOLUME_RECORDS_NAMESPACE
from rayplane.control_plane.api.authorization.policy_rules import ALL as _ALL
from rayplane.control_plane.api.authorization.policy_rules import EVENTS as _EVENTS
from rayplane.control_plane.api.authorization.policy_rules import READ as _READ
from rayplane.control_plane.api.authorization.policy_rules import paths as _paths
from rayplane.control_plane.api.authorization.policy_rules import rule as _rule
from rayplane.control_plane.api.authorization.rbac import aggregated_rules
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.identities import CONTROLLER_MANAGER, FLOODER, MASTERS, NODE_HOSTS, NODES, SCHEDULER

API_VERSION = "rbac.authorization.k8s.io/v1"
GROUP = "rbac.authorization.k8s.io"
INGRESS, VOLUMES, PAGE = "rayplane:ingress", "rayplane:volumes", "rayplane:page"
NETWORK_POLICIES = "rayplane:network-policies"
NODE_HOST_CONFIG = "rayplane:node-host-config"
CLUSTER_INFO = "kubeadm:bootstrap-signer-clusterinfo"
JOINING = "system:bootstrappers:kubeadm:default-node-token"
_WRITE = ("create", "delete", "deletecollection", "patch", "update")
_APPS = ("daemonsets", "deployments", "replicasets", "statefulsets")
_APPS_SCALE = ("deployments/scale", "replicasets/scale", "statefulsets/scale")
BOOTSTRAPPING = "kubernetes.io/bootstrapping"
"""The label of default roles and bindings."""
_AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"
_REQUESTS = "system:certificates.k8s.io:certificatesigningrequests"


def _approves(signer: str) -> dict[str, Any]:
    return _rule(("approve",), signers.GROUP, ("signers",), (signer,))


_DISCOVERY_PATHS = (
    "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*",
    "/readyz", "/version", "/version/",
)  # fmt: skip

_VIEW_RULES = (
    _rule(_READ, "core", (
        "configmaps", "endpoints", "persistentvolumeclaims", "persistentvolumeclaims/status",
        "pods", "replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts",
        "services", "services/status",
    )),
    _rule(_READ, "core", (
        "bindings", "events", "limitranges", "namespaces/status", "pods/log", "pods/status",
        "replicationcontrollers/status", "resourcequotas", "resourcequotas/status",
    )),
    _rule(_READ, "core", ("namespaces",)),
    _rule(_READ, "discovery.k8s.io", ("endpointslices",)),
    _rule(_READ, "apps", (
        "controllerrevisions", *_APPS, *(f"{one}/status" for one in _APPS), *_APPS_SCALE,
    )),
    _rule(_READ, "autoscaling", (
        "horizontalpodautoscalers", "horizontalpodautoscalers/status",
    )),
    _rule(_READ, "batch", ("cronjobs", "cronjobs/status", "jobs", "jobs/status")),
    _rule(_READ, "policy", ("poddisruptionbudgets", "poddisruptionbudgets/status")),
    _rule(_READ, "networking.k8s.io", ("ingresses", "ingresses/status", "networkpolicies")),
    _rule(_READ, "scheduling.k8s.io", ("podgroups", "podgroups/status", "workloads")),
)  # fmt: skip
_EDIT_RULES = (
    _rule(_READ, "core", (
        "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy",
    )),
    _rule(("impersonate",), "core", ("serviceaccounts",)),
    _rule(_WRITE, "core", (
        "pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy",
    )),
    _rule(("create",), "core", ("pods/eviction",)),
    _rule(_WRITE, "core", (
        "configmaps", "events", "persistentvolumeclaims", "replicationcontrollers",
        "replicationcontrollers/scale", "secrets", "serviceaccounts", "services",
        "services/proxy",
    )),
    _rule(("create",), "core", ("serviceaccounts/token",)),
    _rule(_WRITE, "apps", (
        "daemonsets", "deployments", "deployments/rollback", "deployments/scale", "replicasets",
        "replicasets/scale", "statefulsets", "statefulsets/scale",
    )),
    _rule(_WRITE, "autoscaling", ("horizontalpodautoscalers",)),
    _rule(_WRITE, "batch", ("cronjobs", "jobs")),
    _rule(_WRITE, "policy", ("poddisruptionbudgets",)),
    _rule(_WRITE, "networking.k8s.io", ("ingresses", "networkpolicies")),
    _rule(_WRITE, "scheduling.k8s.io", ("podgroups", "workloads")),
    _rule((*_WRITE, *_READ), "coordination.k8s.io", ("leases",)),
)  # fmt: skip
_ADMIN_RULES = (
    _rule(("create",), "authorization.k8s.io", ("localsubjectaccessreviews",)),
    _rule((*_WRITE, *_READ), GROUP, ("rolebindings", "roles")),
)
_SCHEDULER_RULES = (
    _EVENTS,
    _rule(("create",), "coordination.k8s.io", ("leases",)),
    _rule(("get", "list", "watch", "update"), "coordination.k8s.io", ("leases",)),
    _rule(_READ, "core", (
        "namespaces", "nodes", "persistentvolumes", "replicationcontrollers", "services",
    )),
    _rule(("delete", "get", "list", "watch"), "core", ("pods",)),
    _rule(("create",), "core", ("bindings", "pods/binding")),
    _rule(("patch", "update"), "core", ("pods/status",)),
    _rule(_READ, "apps", ("replicasets", "statefulsets")),
    _rule(_READ, "policy", ("poddisruptionbudgets",)),
    _rule(("get", "list", "watch", "patch", "update"), "core", ("persistentvolumeclaims",)),
    _rule(("patch", "update"), "core", ("persistentvolumes",)),
    _rule(_READ, "scheduling.k8s.io", ("podgroups", "priorityclasses")),
    _rule(("patch", "update"), "scheduling.k8s.io", ("podgroups/status",)),
    _rule(_READ, "resource.k8s.io", ("deviceclasses", "devicetaintrules", "resourceclaims", "resourceslices")),
    _rule(("create", "delete", "patch", "update"), "resource.k8s.io", ("resourceclaims",)),
    _rule(("patch", "update"), "resource.k8s.io", ("resourceclaims/binding", "resourceclaims/status")),
    _rule(_READ, "storage.k8s.io", (
        "csidrivers", "csinodes", "csistoragecapacities", "storageclasses", "volumeattachments",
    )),
    _rule(("create",), "authentication.k8s.io", ("tokenreviews",)),
    _rule(("create",), "authorization.k8s.io", ("subjectaccessreviews",)),
)  # fmt: skip
# What it does in its own name: it leads, reads for all controllers, and removes tokens of accounts that are gone.
_CONTROLLER_RULES = (
    _EVENTS,
    _rule(("list", "watch"), "*", _ALL),
    _rule(("create", "get", "update"), "coordination.k8s.io", ("leases",)),
    _rule(("get", "delete"), "core", ("secrets",)),
    _rule(("get",), "core", ("configmaps", "namespaces", "serviceaccounts")),
    _rule(("create",), "authentication.k8s.io", ("tokenreviews",)),
    _rule(("create",), "authorization.k8s.io", ("subjectaccessreviews",)),
)
NODE_RULES = (
    _EVENTS,
    _rule(("create",), "authentication.k8s.io", ("tokenreviews",)),
    _rule(("create",), "authorization.k8s.io", (
        "localsubjectaccessreviews", "subjectaccessreviews",
    )),
    _rule(_READ, "core", ("services", "secrets", "configmaps", "pods", "nodes")),
    _rule(("create", "patch", "update"), "core", ("nodes",)),
    _rule(("patch", "update"), "core", ("nodes/status",)),
    _rule(("create", "delete"), "core", ("pods",)),
    _rule(("patch", "update"), "core", ("pods/status",)),
    _rule(("create",), "core", ("pods/eviction", "serviceaccounts/token")),
    _rule(("get",), "core", ("endpoints", "persistentvolumeclaims", "persistentvolumes")),
    _rule(("get", "patch", "update"), "core", ("persistentvolumeclaims/status",)),
    _rule(("create", "get", "list", "watch"), "certificates.k8s.io", (
        "certificatesigningrequests",
    )),
    _rule(_READ, "certificates.k8s.io", ("clustertrustbundles",)),
    _rule(("create", "get", "list", "watch"), "certificates.k8s.io", ("podcertificaterequests",)),
    _rule(("create", "delete", "get", "patch", "update"), "coordination.k8s.io", ("leases",)),
    _rule(("create", "delete", "get", "patch", "update"), "storage.k8s.io", ("csinodes",)),
    _rule(("get",), "storage.k8s.io", ("volumeattachments",)),
    _rule(_READ, "storage.k8s.io", ("csidrivers",)),
    _rule(_READ, "node.k8s.io", ("runtimeclasses",)),
    _rule(("get",), "resource.k8s.io", ("resourceclaims",)),
    # How simulated pods behave, and answer.
    _rule(_READ, "kwok.x-k8s.io", _ALL),
    _rule(("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"), "resource.k8s.io", (
        "resourceslices",
    )),
)  # fmt: skip
"""What a node may do at most: the node authorizer leaves of most of it only what the node's own pods need."""
_PROXY_RULES = (
    _EVENTS,
    _rule(("list", "watch"), "core", ("services", "endpoints")),
    _rule(_READ, "core", ("nodes",)),
    _rule(("list", "watch"), "discovery.k8s.io", ("endpointslices",)),
    _rule(("list", "watch"), "networking.k8s.io", ("servicecidrs",)),
)
_INGRESS_RULES = (
    _rule(_READ, "networking.k8s.io", ("ingresses", "ingressclasses")),
    _rule(("patch", "update"), "networking.k8s.io", ("ingresses/status",)),
    _rule(("list", "watch"), "core", ("services",)),
    _rule(("list", "watch"), "discovery.k8s.io", ("endpointslices",)),
)
_DNS_RULES = (
    _rule(("list", "watch"), "core", ("namespaces", "services")),
    _rule(("list", "watch"), "discovery.k8s.io", ("endpointslices",)),
)
# Of whom a policy allows to speak with a pod, its node must know the addresses, wherever they are.
_NETWORK_POLICIES_RULES = (
    _rule(("list", "watch"), "core", ("namespaces", "pods")),
    _rule(("list", "watch"), "networking.k8s.io", ("networkpolicies",)),
)
_VOLUMES_RULES = (_rule(("get", "list"), "core", ("persistentvolumes",)),)
_FLOOD_RULES = (_rule(("list",), "core", ("pods",)),)
# Where the replicas of a volume write down who they are. NodeRestriction looks at the names.
_VOLUME_RECORDS_RULES = (
    _rule(("create", "delete", "get", "list", "patch", "update"), "coordination.k8s.io", ("leases",)),
)
# What servers of extensions read to authenticate clients.
_EXTENSION_RULES = (_rule(_READ, "core", ("configmaps",), ("extension-apiserver-authentication",)),)
_CONTROLLER_ACCOUNTS = "system:kube-controller-manager:accounts"
_ROLES: tuple[tuple[str, Sequence[dict[str, Any]], dict[str, str]], ...] = (
    ("cluster-admin", (_rule(_ALL, "*", _ALL), _paths(_ALL, "*")), {}),
    ("system:aggregate-to-view", _VIEW_RULES, {_AGGREGATE + "view": "true"}),
    ("system:aggregate-to-edit", _EDIT_RULES, {_AGGREGATE + "edit": "true"}),
    ("system:aggregate-to-admin", _ADMIN_RULES, {_AGGREGATE + "admin": "true"}),
    ("system:discovery", (_paths(("get",), *_DISCOVERY_PATHS),), {}),
    (
        "system:public-info-viewer",
        (_paths(("get",), "/healthz", "/livez", "/readyz", "/version", "/version/"),),
        {},
    ),
    # A browser shows nobody's token when it loads a page: what the page then asks, it asks as somebody.
    (PAGE, (_paths(("get",), "/ui", "/ui/*"),), {}),
    (
        "system:basic-user",
        (
            _rule(("create",), "authorization.k8s.io", (
                "selfsubjectaccessreviews", "selfsubjectrulesreviews",
            )),
            _rule(("create",), "authentication.k8s.io", ("selfsubjectreviews",)),
        ),
        {},
    ),
    ("system:monitoring", (_paths(("get",), "/flagz", "/healthz", "/healthz/*", "/livez", "/livez/*",
                                  "/metrics", "/metrics/slis", "/readyz", "/readyz/*", "/statusz"),), {}),
    ("system:kube-scheduler", _SCHEDULER_RULES, {}),
    ("system:kube-controller-manager", _CONTROLLER_RULES, {}),
    ("system:node", NODE_RULES, {}),
    ("system:node-proxier", _PROXY_RULES, {}),
    (INGRESS, _INGRESS_RULES, {}),
    (VOLUMES, _VOLUMES_RULES, {}),
    (NETWORK_POLICIES, _NETWORK_POLICIES_RULES, {}),
    (FLOODER, _FLOOD_RULES, {}),
    ("system:coredns", _DNS_RULES, {}),
    (
        "system:node-bootstrapper",
        (_rule(("create", "get", "list", "watch"), "certificates.k8s.io", (
            "certificatesigningrequests",
        )),),
        {},
    ),
    *(
        (f"{_REQUESTS}:{right}", (_rule(("create",), signers.GROUP, (f"certificatesigningrequests/{right}",)),), {})
        for right in ("nodeclient", "selfnodeclient", "selfnodeserver")
    ),
    *(
        (f"system:certificates.k8s.io:{signer.partition('/')[2]}-approver", (_approves(signer),), {})
        for signer in signers.SIGNERS
    ),
    (
        "system:auth-delegator",
        (
            _rule(("create",), "authentication.k8s.io", ("tokenreviews",)),
            _rule(("create",), "authorization.k8s.io", ("subjectaccessreviews",)),
        ),
        {},
    ),
    ("system:service-account-issuer-discovery",
     (_paths(("get",), "/.well-known/openid-configuration", "/openid/v1/jwks"),), {}),
    (
        "system:persistent-volume-provisioner",
        (
            _rule(("create", "delete", "get", "list", "watch"), "core", ("persistentvolumes",)),
            _rule(("get", "list", "watch", "update"), "core", ("persistentvolumeclaims",)),
            _rule(_READ, "storage.k8s.io", ("storageclasses",)),
            _EVENTS,
        ),
        {},
    ),
)  # fmt: skip
_BINDINGS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("cluster-admin", "cluster-admin", (("Group", MASTERS),)),
    ("system:discovery", "system:discovery", (("Group", "system:authenticated"),)),
    ("system:basic-user", "system:basic-user", (("Group", "system:authenticated"),)),
    (
        "system:public-info-viewer",
        "system:public-info-viewer",
        (("Group", "system:authenticated"), ("Group", "system:unauthenticated")),
    ),
    (PAGE, PAGE, (("Group", "system:authenticated"), ("Group", "system:unauthenticated"))),
    ("system:monitoring", "system:monitoring", (("Group", "system:monitoring"),)),
    ("system:kube-scheduler", "system:kube-scheduler", (("User", SCHEDULER),)),
    (
        "system:kube-controller-manager",
        "system:kube-controller-manager",
        (("User", CONTROLLER_MANAGER),),
    ),
    # As kubeadm makes them: a bootstrap token brings this group only where whoever makes it says so.
    ("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", (("Group", JOINING),)),
    ("kubeadm:node-autoapprove-bootstrap", f"{_REQUESTS}:nodeclient", (("Group", JOINING),)),
    ("kubeadm:node-autoapprove-certificate-rotation", f"{_REQUESTS}:selfnodeclient", (("Group", NODES),)),
    # A node that joined serves by the one name that is its own.
    ("rayplane:node-autoapprove-serving", f"{_REQUESTS}:selfnodeserver", (("Group", NODES),)),
    # Nobody: the node authorizer grants nodes what they need.
    ("system:node", "system:node", ()),
    (
        "system:node-proxier",
        "system:node-proxier",
        (("User", "system:kube-proxy"), ("Group", NODE_HOSTS)),
    ),
    (INGRESS, INGRESS, (("Group", NODE_HOSTS),)),
    (VOLUMES, VOLUMES, (("Group", NODE_HOSTS),)),
    (NETWORK_POLICIES, NETWORK_POLICIES, (("Group", NODE_HOSTS),)),
    (FLOODER, FLOODER, (("User", FLOODER),)),
    ("system:coredns", "system:coredns", (("Group", NODE_HOSTS),)),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        (("Group", "system:serviceaccounts"),),
    ),
)


def _metadata(name: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "labels": {BOOTSTRAPPING: "rbac-defaults", **(labels or {})},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    }


def _cluster_role(name: str, rules: Sequence[Any], labels: dict[str, str]) -> Object:
    return {
        "apiVersion": API_VERSION,
        "kind": "ClusterRole",
        "metadata": _metadata(name, labels),
        "rules": [dict(rule) for rule in rules],
    }


def _aggregated() -> list[Object]:
    """admin, edit and view, whose rules are those of the roles labelled for them."""
    found = []
    for name, parts, upward in (
        ("view", ("view",), {_AGGREGATE + "edit": "true"}),
        ("edit", ("edit",), {_AGGREGATE + "admin": "true"}),
        ("admin", ("admin",), {}),
    ):
        role = _cluster_role(name, (), upward)
        role["aggregationRule"] = {
            "clusterRoleSelectors": [{"matchLabels": {_AGGREGATE + one: "true"}} for one in parts]
        }
        found.append(role)
    return found


def cluster_roles() -> list[Object]:
    """All default ClusterRoles, new objects on every call; aggregated ones carry their rules."""
    roles = [_cluster_role(name, rules, labels) for name, rules, labels in _ROLES]
    controllers = controller_policy.cluster_rules()
    roles += [_cluster_role(controller_policy.PREFIX + own, rules, {}) for own, rules in controllers.items()]
    for role in _aggregated():
        role["rules"] = aggregated_rules(role, roles)
        roles.append(role)
    return roles


def cluster_role_bindings() -> list[Object]:
    """All default ClusterRoleBindings, new objects on every call."""
    found = [_binding("ClusterRoleBinding", name, "ClusterRole", role, subjects) for name, role, subjects in _BINDINGS]
    return [*found, *(_of_controller("ClusterRole", account) for account in controller_policy.cluster_rules())]


def _of_controller(kind: str, account: str, namespace: str = "") -> Object:
    """The binding of a controller's role to its account."""
    name = controller_policy.PREFIX + account
    binding = _binding(f"{kind}Binding", name, kind, name, ())
    if namespace:
        binding["metadata"]["namespace"] = namespace
    subject = {"kind": "ServiceAccount", "name": account, "namespace": controller_policy.NAMESPACE}
    return {**binding, "subjects": [subject]}


def _binding(kind: str, name: str, role_kind: str, role: str, subjects: Sequence[tuple[str, str]]) -> Object:
    bound = [{"apiGroup": GROUP, "kind": subject, "name": who} for subject, who in subjects]
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": _metadata(name),
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role},
        **({"subjects": bound} if bound else {}),
    }


def roles() -> list[Object]:
    """All default Roles, new objects on every call."""
    return [
        _role(VOLUMES, VOLUME_RECORDS_NAMESPACE, _VOLUME_RECORDS_RULES),
        _role("extension-apiserver-authentication-reader", "kube-system", _EXTENSION_RULES),
        # What nodes that join are told of the cluster's.
        _role(NODE_HOST_CONFIG, joining.NAMESPACE, (_rule(("get",), "core", ("configmaps",), (joining.NODE_HOSTS,)),)),
        # Bound to nobody: who lets strangers read where the cluster is binds `system:anonymous`.
        _role(
            CLUSTER_INFO,
            joining.PUBLIC_NAMESPACE,
            (_rule(("get",), "core", ("configmaps",), (joining.CLUSTER_INFO,)),),
        ),
        _role(
            _CONTROLLER_ACCOUNTS,
            controller_policy.NAMESPACE,
            (_rule(("impersonate",), "core", ("serviceaccounts",), controller_policy.ACCOUNTS),),
        ),
        *(
            _role(controller_policy.PREFIX + account, namespace, rules)
            for (account, namespace), rules in controller_policy.local_rules().items()
        ),
    ]


def _role(name: str, namespace: str, rules: Sequence[Any]) -> Object:
    role = _cluster_role(name, rules, {})
    role["metadata"]["namespace"] = namespace
    return {**role, "kind": "Role"}


def role_bindings() -> list[Object]:
    """All default RoleBindings, new objects on every call."""
    return [
        _local_binding(VOLUMES, VOLUME_RECORDS_NAMESPACE, ("Group", NODE_HOSTS)),
        _local_binding(NODE_HOST_CONFIG, joining.NAMESPACE, ("Group", NODES)),
        _local_binding(_CONTROLLER_ACCOUNTS, controller_policy.NAMESPACE, ("User", CONTROLLER_MANAGER)),
        *(_of_controller("Role", account, namespace) for account, namespace in controller_policy.local_rules()),
    ]


def _local_binding(name: str, namespace: str, subject: tuple[str, str]) -> Object:
    binding = _binding("RoleBinding", name, "Role", name, (subject,))
    binding["metadata"]["namespace"] = namespace
    return binding
