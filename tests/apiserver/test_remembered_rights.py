"""What is known of rights holds no longer than they do, and for no other object than they were granted for."""

from typing import Any

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.client import ApiClient
from tests.apiserver.conftest import Stack

GROUP = "rbac.authorization.k8s.io"
ROLES, BINDINGS = f"roles.{GROUP}", f"rolebindings.{GROUP}"
JANE = [{"apiGroup": GROUP, "kind": "User", "name": "jane"}]
ALL = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]}


async def granted(stack: Stack, *rules: dict[str, Any]) -> ApiClient:
    """Jane, with these rights in namespace `default`, where there are two config maps."""
    admin = stack.client()
    for name in ("one", "other"):
        await admin.create("configmaps", {"metadata": {"name": name, "namespace": "default"}})
    await admin.create(ROLES, {"metadata": {"name": "r", "namespace": "default"}, "rules": list(rules)})
    reference = {"apiGroup": GROUP, "kind": "Role", "name": "r"}
    bound = {"metadata": {"name": "b", "namespace": "default"}, "roleRef": reference, "subjects": JANE}
    await admin.create(BINDINGS, bound)
    return stack.client_as("jane")


async def writes(jane: ApiClient, name: str, value: str) -> None:
    await jane.patch("configmaps", name, "default", {"data": {"k": value}})


async def withdrawn(stack: Stack) -> None:
    """The binding goes, and the server knows."""
    await stack.client().delete(BINDINGS, "b", "default")
    await stack.servers[0].registry.hub.fresh()


async def test_a_right_that_was_used_ends_with_its_binding(stack: Stack) -> None:
    jane = await granted(stack, ALL)
    await writes(jane, "one", "1")
    await writes(jane, "one", "2")
    await withdrawn(stack)
    with pytest.raises(errors.Forbidden):
        await writes(jane, "one", "3")


async def test_a_right_that_was_used_ends_with_its_rule(stack: Stack) -> None:
    jane = await granted(stack, ALL)
    await writes(jane, "one", "1")
    await stack.client().patch(ROLES, "r", "default", {"rules": []})
    await stack.servers[0].registry.hub.fresh()
    with pytest.raises(errors.Forbidden):
        await writes(jane, "one", "2")


async def test_a_right_to_one_object_is_none_to_another(stack: Stack) -> None:
    jane = await granted(stack, {**ALL, "resourceNames": ["one"]})
    await writes(jane, "one", "1")
    with pytest.raises(errors.Forbidden):
        await writes(jane, "other", "1")
    await writes(jane, "one", "2")


async def test_a_right_in_one_namespace_is_none_in_another(stack: Stack) -> None:
    jane = await granted(stack, ALL)
    await writes(jane, "one", "1")
    await stack.client().create("configmaps", {"metadata": {"name": "one", "namespace": "kube-public"}})
    with pytest.raises(errors.Forbidden):
        await jane.patch("configmaps", "one", "kube-public", {"data": {"k": "1"}})


async def test_a_right_that_is_refused_is_had_as_soon_as_it_is_granted(stack: Stack) -> None:
    jane = await granted(stack)
    with pytest.raises(errors.Forbidden):
        await writes(jane, "one", "1")
    await stack.client().patch(ROLES, "r", "default", {"rules": [ALL]})
    await writes(jane, "one", "1")


async def test_a_right_to_a_namespace_by_its_own_role_is_none_to_another(stack: Stack) -> None:
    jane = await granted(stack, {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "patch"]})
    for _ in range(2):
        assert (await jane.get("namespaces", "default"))["metadata"]["name"] == "default"
    with pytest.raises(errors.Forbidden):
        await jane.get("namespaces", "kube-public")
    await jane.patch("namespaces", "default", "", {"metadata": {"labels": {"a": "b"}}})
    with pytest.raises(errors.Forbidden):
        await jane.patch("namespaces", "kube-public", "", {"metadata": {"labels": {"a": "b"}}})
