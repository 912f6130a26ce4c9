"""Nobody becomes more than they are by writing roles and bindings, whichever way they write them."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.client import ApiClient, ops
from tests.apiserver.conftest import Stack

GROUP = "rbac.authorization.k8s.io"
ROLES, BINDINGS = f"clusterroles.{GROUP}", f"clusterrolebindings.{GROUP}"
NOT_HELD = "is attempting to grant RBAC permissions not currently held"
NOT_ADMIN = "must have cluster-admin privileges to use the aggregationRule"
PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}
TO_VIEW = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
JANE = [{"apiGroup": GROUP, "kind": "User", "name": "jane"}]

Try = Callable[[ApiClient], Awaitable[Any]]


def role(name: str, *rules: dict[str, Any], labels: dict[str, str] | None = None, **rest: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels or {}}, "rules": list(rules), **rest}


def binding(name: str, role_name: str) -> dict[str, Any]:
    reference = {"apiGroup": GROUP, "kind": "ClusterRole", "name": role_name}
    return {"metadata": {"name": name}, "roleRef": reference, "subjects": JANE}


def selecting(labels: dict[str, str]) -> dict[str, Any]:
    return {"clusterRoleSelectors": [{"matchLabels": labels}]}


async def writer_of_roles(stack: Stack, *more: dict[str, Any]) -> ApiClient:
    """Jane, who may write all roles and bindings and view most objects, but no secrets."""
    writes = {"apiGroups": [GROUP], "resources": ["*"], "verbs": ["create", "get", "update", "patch", "delete"]}
    admin = stack.client()
    await admin.create(ROLES, role("writer", writes, PODS, *more))
    await admin.create(BINDINGS, binding("jane", "writer"))
    # What is there to be taken: a role of much, one that is selected by a label, one that selects by it.
    await admin.create(ROLES, role("reader", SECRETS))
    await admin.create(ROLES, role("gathered", SECRETS, labels={"to": "gather"}))
    await admin.create(ROLES, role("gatherer", aggregationRule=selecting({"to": "gather"})))
    return stack.client_as("jane")


def patched(name: str, body: Any, kind: str = "merge") -> Try:
    return lambda c: c.patch(ROLES, name, "", body, kind=kind)


def in_batch(operation: Any) -> Try:
    async def run(client: ApiClient) -> None:
        (answer,) = await client.batch([operation])
        if isinstance(answer, errors.ApiError):
            raise answer

    return run


ESCALATIONS: dict[str, tuple[Try, str]] = {
    "a role with more": (lambda c: c.create(ROLES, role("more", SECRETS)), NOT_HELD),
    "a label on a role of others": (patched("reader", {"metadata": {"labels": TO_VIEW}}), NOT_HELD),
    "the same in a batch": (in_batch(ops.patch(ROLES, "reader", "", {"metadata": {"labels": TO_VIEW}})), NOT_HELD),
    "the same as a JSON patch": (
        patched("reader", [{"op": "add", "path": "/metadata/labels", "value": TO_VIEW}], "json"),
        NOT_HELD,
    ),
    "the label of cluster-admin": (patched("cluster-admin", {"metadata": {"labels": TO_VIEW}}), NOT_HELD),
    "rules by a patch": (patched("writer", {"rules": [SECRETS]}), NOT_HELD),
    "gathering": (lambda c: c.create(ROLES, role("g", aggregationRule=selecting({}))), NOT_ADMIN),
    "gathering by a patch": (patched("writer", {"aggregationRule": selecting(TO_VIEW)}), NOT_ADMIN),
    "gathering more": (patched("gatherer", {"aggregationRule": selecting({})}), NOT_ADMIN),
    "an end to gathering": (patched("gatherer", {"aggregationRule": None}), NOT_ADMIN),
    "a binding to more": (lambda c: c.create(BINDINGS, binding("b", "reader")), NOT_HELD),
    # Nothing is stored in this role: what it grants is what it gathers.
    "a binding to what gathers more": (lambda c: c.create(BINDINGS, binding("b", "gatherer")), NOT_HELD),
    "a binding to a role to come": (lambda c: c.create(BINDINGS, binding("b", "none")), "not found"),
}


@pytest.mark.parametrize("name", ESCALATIONS)
async def test_a_writer_of_roles_grants_only_what_it_holds(stack: Stack, name: str) -> None:
    jane = await writer_of_roles(stack)
    attempt, message = ESCALATIONS[name]
    with pytest.raises(errors.ApiError, match=message):
        await attempt(jane)
    with pytest.raises(errors.Forbidden):
        await jane.list("secrets", "default")


async def test_server_side_apply_is_no_way_around(stack: Stack) -> None:
    jane = await writer_of_roles(stack)
    body = {"apiVersion": f"{GROUP}/v1", "kind": "ClusterRole", "metadata": {"name": "reader", "labels": TO_VIEW}}
    with pytest.raises(errors.Forbidden, match=NOT_HELD):
        await jane.patch(ROLES, "reader", "", body, kind="apply", field_manager="jane")


async def test_who_may_only_patch_makes_nothing_by_applying(stack: Stack) -> None:
    """As in Kubernetes: what is applied and not there is created, and that takes the right to create."""
    admin = stack.client()
    patches = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]}
    await admin.create(ROLES, role("patcher", patches))
    await admin.create(BINDINGS, binding("jane", "patcher"))
    jane = stack.client_as("jane")

    async def apply() -> None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}}
        await jane.patch("configmaps", "m", "default", body, kind="apply", field_manager="jane")

    with pytest.raises(errors.Forbidden, match='User "jane" cannot create resource "configmaps"'):
        await apply()
    assert (await admin.list("configmaps", "default", field_selector="metadata.name=m")).items == []
    await admin.create("configmaps", {"metadata": {"name": "m", "namespace": "default"}})
    await apply()
    assert (await admin.get("configmaps", "m", "default"))["data"] == {"a": "b"}


BODY: dict[str, Any] = {"metadata": {"name": "x", "namespace": "default"}}
NOT_FOR_CONTROLLERS: dict[str, Try] = {
    "secrets": lambda c: c.create("secrets", BODY),
    "tokens": lambda c: c.create(
        "serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}}, subresource="token"
    ),
    "roles": lambda c: c.create(ROLES, role("all", {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})),
    "more in a role": patched("view", {"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}),
    "itself in a binding": lambda c: c.patch(BINDINGS, "cluster-admin", "", {"subjects": JANE}),
    "bindings": lambda c: c.create(BINDINGS, binding("b", "cluster-admin")),
    "nodes": lambda c: c.create("nodes", {"metadata": {"name": "n"}}),
}


@pytest.mark.parametrize("what", NOT_FOR_CONTROLLERS)
async def test_the_controllers_are_no_administrators(stack: Stack, what: str) -> None:
    controllers = stack.client_as("system:kube-controller-manager")
    with pytest.raises(errors.Forbidden):
        await NOT_FOR_CONTROLLERS[what](controllers)


async def test_a_rule_for_an_empty_name_is_not_one_for_all(stack: Stack) -> None:
    nameless = {**SECRETS, "resourceNames": [""]}
    jane = await writer_of_roles(stack, nameless)
    with pytest.raises(errors.Forbidden, match=NOT_HELD):
        await jane.create(ROLES, role("more", SECRETS))


async def test_what_is_held_may_be_granted(stack: Stack) -> None:
    jane = await writer_of_roles(stack)
    made = await jane.create(ROLES, role("less", PODS, labels={"to": "gather"}))
    await jane.create(BINDINGS, binding("b", "less"))
    await jane.patch(ROLES, "less", "", {"metadata": {"annotations": {"seen": "yes"}}})
    # The garbage collector has to change owners of what it could never grant.
    body = {"metadata": {"finalizers": ["example.com/hold"]}}
    assert (await jane.patch(ROLES, "reader", "", body))["metadata"]["finalizers"] == ["example.com/hold"]
    await jane.delete(ROLES, made["metadata"]["name"], "")


async def test_verbs_lift_the_bound(stack: Stack) -> None:
    escalate = {"apiGroups": [GROUP], "resources": ["clusterroles"], "verbs": ["escalate"]}
    bind = {"apiGroups": [GROUP], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["reader"]}
    jane = await writer_of_roles(stack, escalate, bind)
    await jane.create(ROLES, role("g", SECRETS, aggregationRule=selecting({})))
    with pytest.raises(errors.Forbidden, match=NOT_HELD):
        await jane.create(BINDINGS, binding("b", "g"))
    await jane.create(BINDINGS, binding("b", "reader"))
    assert (await jane.list("secrets", "default")).items == []


async def test_the_refusal_says_what_is_missing(stack: Stack) -> None:
    jane = await writer_of_roles(stack)
    with pytest.raises(errors.Forbidden) as refused:
        await jane.create(ROLES, role("more", SECRETS, PODS, {"verbs": ["get"], "nonResourceURLs": ["/metrics"]}))
    assert refused.value.message == (
        'clusterroles.rbac.authorization.k8s.io "more" is forbidden: user "jane" (groups=["system:authenticated"]) is '
        "attempting to grant RBAC permissions not currently held:\n"
        '{NonResourceURLs:["/metrics"], Verbs:["get"]}\n'
        '{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}'
    )


async def test_a_rule_of_a_billion_rights_is_refused_at_once(stack: Stack) -> None:
    jane = await writer_of_roles(stack, {"apiGroups": ["a"], "resources": ["*"], "verbs": ["*"]})
    many = [f"x{i}" for i in range(1000)]
    huge = {"apiGroups": ["a"] * 500 + ["b"], "resources": many, "verbs": many}
    with pytest.raises(errors.Forbidden, match=NOT_HELD):
        await jane.create(ROLES, role("huge", huge))
