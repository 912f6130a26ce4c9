"""RBAC: who is allowed what, why, and what a new cluster grants."""

from typing import Any

import pytest

from rayplane.control_plane.api.authorization.rbac import Attributes, Policy, aggregated_rules, denied_message
from rayplane.control_plane.api.bootstrap import bootstrap_objects


def role(name: str, *rules: dict[str, Any], namespace: str = "") -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {
        "kind": "Role" if namespace else "ClusterRole",
        "metadata": metadata,
        "rules": list(rules),
    }


def binding(name: str, ref: tuple[str, str], *subjects: tuple[str, str], namespace: str = "") -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": metadata,
        "roleRef": {"kind": ref[0], "name": ref[1]},
        "subjects": [{"kind": kind, "name": who} for kind, who in subjects],
    }


def rule(verbs: str, resources: str, group: str = "", names: str = "") -> dict[str, Any]:
    return {
        "verbs": verbs.split(),
        "apiGroups": [group],
        "resources": resources.split(),
        "resourceNames": names.split(),
    }


def policy(*objs: dict[str, Any]) -> Policy:
    found = Policy()
    for obj in objs:
        found.put(obj)
    return found


def can(found: Policy, user: str, verb: str, what: str, **rest: Any) -> bool:
    resource, _, subresource = what.partition("/")
    request = Attributes(user=user, verb=verb, resource=resource, subresource=subresource, **rest)
    return found.authorize(request).allowed


READER = role("r", rule("get list", "pods pods/log"), namespace="ns")


def test_a_role_holds_in_its_namespace_only() -> None:
    found = policy(READER, binding("b", ("Role", "r"), ("User", "u"), namespace="ns"))
    assert can(found, "u", "get", "pods", namespace="ns")
    assert can(found, "u", "get", "pods/log", namespace="ns")
    assert not can(found, "u", "get", "pods", namespace="other")
    assert not can(found, "u", "get", "pods")
    assert not can(found, "u", "delete", "pods", namespace="ns")
    assert not can(found, "u", "get", "pods/exec", namespace="ns")
    assert not can(found, "u", "get", "pods", namespace="ns", group="apps")
    assert not can(found, "v", "get", "pods", namespace="ns")


def test_the_reason_names_binding_role_and_subject() -> None:
    found = policy(READER, binding("b", ("Role", "r"), ("User", "u"), namespace="ns"))
    request = Attributes(user="u", verb="get", resource="pods", namespace="ns")
    assert found.authorize(request).reason == ('RBAC: allowed by RoleBinding "b/ns" of Role "r" to User "u"')


def test_a_missing_role_is_said() -> None:
    found = policy(binding("b", ("ClusterRole", "gone"), ("User", "u")))
    decision = found.authorize(Attributes(user="u", verb="get", resource="pods"))
    assert not decision.allowed
    assert decision.reason == 'RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found'


def test_cluster_role_bound_in_a_namespace() -> None:
    view = role("view", rule("get", "*", "*"))
    found = policy(view, binding("b", ("ClusterRole", "view"), ("Group", "g"), namespace="ns"))
    assert can(found, "u", "get", "deployments", group="apps", namespace="ns", groups=["g"])
    assert not can(found, "u", "get", "deployments", group="apps", namespace="x", groups=["g"])


def test_service_accounts_by_name_and_by_group() -> None:
    bound = binding("b", ("ClusterRole", "c"), namespace="ns")
    bound["subjects"] = [{"kind": "ServiceAccount", "name": "sa"}]
    found = policy(role("c", rule("get", "pods")), bound)
    assert can(found, "system:serviceaccount:ns:sa", "get", "pods", namespace="ns")
    assert not can(found, "system:serviceaccount:other:sa", "get", "pods", namespace="ns")


def test_resource_names() -> None:
    found = policy(
        role("c", rule("get list", "configmaps", names="one")),
        binding("b", ("ClusterRole", "c"), ("User", "u")),
    )
    assert can(found, "u", "get", "configmaps", name="one")
    assert not can(found, "u", "get", "configmaps", name="two")
    assert not can(found, "u", "list", "configmaps")


def test_any_resource_with_one_subresource() -> None:
    found = policy(role("c", rule("update", "*/scale", "*")), binding("b", ("ClusterRole", "c"), ("User", "u")))
    assert can(found, "u", "update", "deployments/scale", group="apps")
    assert not can(found, "u", "update", "deployments", group="apps")


@pytest.mark.parametrize(("path", "allowed"), [("/healthz", True), ("/healthz/etcd", False), ("/api/v1", True)])
def test_paths(path: str, allowed: bool) -> None:
    rules = {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}
    found = policy(role("c", rules), binding("b", ("ClusterRole", "c"), ("User", "u")))
    assert found.authorize(Attributes(user="u", verb="get", path=path)).allowed is allowed


def test_replaced_and_removed_objects_count_no_more() -> None:
    bound = binding("b", ("Role", "r"), ("User", "u"), namespace="ns")
    found = policy(READER, bound)
    found.put(binding("b", ("Role", "r"), ("User", "v"), namespace="ns"))
    assert not can(found, "u", "get", "pods", namespace="ns")
    assert can(found, "v", "get", "pods", namespace="ns")
    found.remove(bound)
    assert not can(found, "v", "get", "pods", namespace="ns")
    found.put(bound)
    found.remove(READER)
    assert not can(found, "u", "get", "pods", namespace="ns")


def test_granting_more_than_one_has_is_found() -> None:
    found = policy(role("c", rule("get list", "pods")), binding("b", ("ClusterRole", "c"), ("User", "u")))
    more = [rule("get delete", "pods")]
    missing = found.uncovered("u", (), scope="ns", rules=more)
    assert [(right.verb, right.resource) for right in missing] == [("delete", "pods")]
    assert found.uncovered("u", (), scope="ns", rules=[rule("get", "pods", names="one")]) == []
    assert found.uncovered("x", ("system:masters",), scope="", rules=more) == []


def test_rules_of_a_user() -> None:
    found = policy(READER, binding("b", ("Role", "r"), ("User", "u"), namespace="ns"))
    assert found.rules("u", (), "ns") == READER["rules"]
    assert found.rules("u", (), "other") == []


def test_aggregation_collects_labelled_roles() -> None:
    part = role("part", rule("get", "pods"))
    part["metadata"]["labels"] = {"to": "sum"}
    total = role("sum")
    total["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {"to": "sum"}}]}
    assert aggregated_rules(total, [total, role("x", rule("get", "x")), part]) == part["rules"]


def test_denied_messages() -> None:
    request = Attributes(user="u", verb="list", resource="pods", namespace="ns")
    assert denied_message(request) == ('User "u" cannot list resource "pods" in API group "" in the namespace "ns"')
    request = Attributes(user="u", verb="get", path="/metrics")
    assert denied_message(request) == 'User "u" cannot get path "/metrics"'


@pytest.fixture(scope="module")
def cluster() -> Policy:
    return policy(
        *(obj for obj in bootstrap_objects() if "Role" in obj["kind"]),
        binding("v", ("ClusterRole", "view"), ("User", "viewer"), namespace="ns"),
        binding("e", ("ClusterRole", "edit"), ("User", "editor"), namespace="ns"),
        binding("a", ("ClusterRole", "admin"), ("User", "admin"), namespace="ns"),
    )


@pytest.mark.parametrize(
    ("user", "groups", "verb", "what", "group", "allowed"),
    [
        ("viewer", (), "get", "pods", "", True),
        ("viewer", (), "get", "secrets", "", False),
        ("viewer", (), "create", "pods", "", False),
        ("editor", (), "get", "secrets", "", True),
        ("editor", (), "list", "deployments", "apps", True),
        ("editor", (), "create", "deployments", "apps", True),
        ("editor", (), "create", "roles", "rbac.authorization.k8s.io", False),
        ("admin", (), "create", "roles", "rbac.authorization.k8s.io", True),
        ("admin", (), "list", "pods", "", True),
        ("admin", (), "create", "resourcequotas", "", False),
        ("root", ("system:masters",), "delete", "nodes", "", True),
        ("system:kube-scheduler", (), "create", "pods/binding", "", True),
        ("system:kube-scheduler", (), "create", "pods", "", False),
        ("system:kube-controller-manager", (), "list", "pods", "", True),
        ("system:kube-controller-manager", (), "delete", "pods", "", False),
        # What a node may do is not said by roles.
        ("system:node:n1", ("system:nodes",), "patch", "nodes/status", "", False),
        ("system:node:n1", ("system:nodes",), "list", "secrets", "", False),
        ("system:node:n1", ("system:nodes", "rayplane:node-hosts"), "list", "endpointslices", "discovery.k8s.io", True),
        ("system:node:n1", ("system:nodes", "rayplane:node-hosts"), "list", "secrets", "", False),
        ("system:node:n1", ("system:nodes",), "delete", "nodes", "", False),
        ("u", ("system:authenticated",), "create", "selfsubjectaccessreviews",
         "authorization.k8s.io", True),
        ("u", ("system:authenticated",), "list", "pods", "", False),
    ],
)  # fmt: skip
def test_a_new_cluster(
    cluster: Policy, user: str, groups: tuple[str, ...], verb: str, what: str, group: str,
    allowed: bool,
) -> None:  # fmt: skip
    assert can(cluster, user, verb, what, group=group, groups=groups, namespace="ns") is allowed


@pytest.mark.parametrize("path", ["/healthz/etcd", "/metrics", "/metrics/slis", "/statusz", "/flagz"])
def test_who_monitors_may_see_how_components_are_and_others_may_not(cluster: Policy, path: str) -> None:
    monitoring = Attributes(user="prometheus", groups=("system:monitoring",), verb="get", path=path)
    assert cluster.authorize(monitoring).allowed
    others = Attributes(user="u", groups=("system:authenticated",), verb="get", path=path)
    assert not cluster.authorize(others).allowed


def test_everyone_may_ask_for_health(cluster: Policy) -> None:
    anyone = ("system:unauthenticated",)
    request = Attributes(user="system:anonymous", groups=anyone, verb="get", path="/readyz")
    assert cluster.authorize(request).allowed
    request = Attributes(user="system:anonymous", groups=anyone, verb="get", path="/api")
    assert not cluster.authorize(request).allowed
