"""Who may write the status of a claim to devices still needs the right to what it changes in it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver.requests import AUTHENTICATED, Target, User, WriteOptions
from tests.apiserver.conftest import Stack

CLAIMS, RBAC, DRIVER = "resourceclaims.resource.k8s.io", "rbac.authorization.k8s.io", "d.example.com"
NODE_NAME = "authentication.kubernetes.io/node-name"


def account(*nodes: str) -> User:
    name = "system:serviceaccount:default:default"
    return User(name, ("system:serviceaccounts", AUTHENTICATED), extra={NODE_NAME: nodes} if nodes else {})


def allocation(*nodes: str, device: str = "d0", **more: Any) -> dict[str, Any]:
    fields = [{"key": "metadata.name", "operator": "In", "values": [node]} for node in nodes]
    result = {"request": "r", "driver": DRIVER, "pool": "p", "device": device, **more}
    return {
        "devices": {"results": [result]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [one]} for one in fields]},
    }


def told(status: str = "True", driver: str = DRIVER) -> dict[str, Any]:
    condition = {
        "type": "Up",
        "status": status,
        "reason": "R",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    return {"driver": driver, "pool": "p", "device": "d0", "conditions": [condition]}


async def prepare(stack: Stack, *rights: tuple[str, str, str]) -> None:
    """A claim, and an account that may write its status and has these rights (part, verb, name of the driver)."""
    admin = stack.client()
    requests = [{"name": "r", "exactly": {"deviceClassName": "c"}}]
    spec = {"devices": {"requests": requests}}
    await admin.create(CLAIMS, {"metadata": {"name": "a", "namespace": "default"}, "spec": spec})
    group = {"apiGroups": ["resource.k8s.io"]}
    rules = [{**group, "resources": ["resourceclaims/status"], "verbs": ["update", "patch"]}]
    for part, verb, driver in rights:
        names = {"resourceNames": [driver]} if driver else {}
        rules.append({**group, "resources": [f"resourceclaims/{part}"], "verbs": [verb], **names})
    await admin.create(f"clusterroles.{RBAC}", {"metadata": {"name": "teller"}, "rules": rules})
    subjects = [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]
    reference = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "teller"}
    binding = {"metadata": {"name": "teller"}, "roleRef": reference, "subjects": subjects}
    await admin.create(f"clusterrolebindings.{RBAC}", binding)


async def allocate(stack: Stack, *nodes: str) -> None:
    await stack.client().patch(
        CLAIMS, "a", "default", {"status": {"allocation": allocation(*nodes)}}, subresource="status"
    )


async def write(stack: Stack, user: User, status: dict[str, Any], *, patches: bool = False) -> None:
    registry = stack.servers[0].registry
    target, options = Target(registry.kinds.named(CLAIMS), "default", "a", "status"), WriteOptions(patches=patches)
    if patches:
        await registry.patch(user, target, "merge", orjson.dumps({"status": status}), options)
        return
    claim = await stack.client().get(CLAIMS, "a", "default")
    claim["status"] = {**(claim.get("status") or {}), **status}
    await registry.update(user, target, orjson.dumps(claim), "application/json", options)


BINDING = r'status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="{}" permission: '


@pytest.mark.parametrize("patches", [False, True])
async def test_allocating_and_reserving_take_the_right_to_bind(stack: Stack, patches: bool) -> None:
    """Whichever verb comes, it is the one that is needed."""
    verb = "patch" if patches else "update"
    await prepare(stack, ("binding", "update" if patches else "patch", ""), ("driver", "arbitrary-node:*", ""))
    with pytest.raises(errors.Invalid, match=BINDING.format(verb)) as refused:
        await write(stack, account(), {"allocation": allocation("n1")}, patches=patches)
    assert (
        f'cannot {verb} resource "resourceclaims/binding" in API group "resource.k8s.io" at the cluster scope'
        in str(refused.value)
    )
    await allocate(stack, "n1")
    reserved = [{"resource": "pods", "name": "p", "uid": "u"}]
    with pytest.raises(errors.Invalid, match=BINDING.format(verb)):
        await write(stack, account(), {"reservedFor": reserved}, patches=patches)
    other = not patches
    await write(stack, account(), {"reservedFor": reserved}, patches=other)
    assert (await stack.client().get(CLAIMS, "a", "default"))["status"]["reservedFor"] == reserved
    await write(stack, account(), {"reservedFor": reserved}, patches=patches)  # nothing changes


CASES: dict[str, tuple[User, tuple[str, ...], tuple[tuple[str, str, str], ...], str]] = {
    "nobody without a right": (account("n1"), ("n1",), (), "[associated-node:update arbitrary-node:update]"),
    "its own node's": (account("n1"), ("n1",), (("driver", "associated-node:update", DRIVER),), ""),
    "any node's, from that one": (account("n1"), ("n1",), (("driver", "arbitrary-node:update", ""),), ""),
    "any node's, from nowhere": (account(), ("n1",), (("driver", "arbitrary-node:update", DRIVER),), ""),
    "another node's": (account("n2"), ("n1",), (("driver", "associated-node:update", ""),), "[arbitrary-node:update]"),
    "one of more nodes'": (
        *(account("n1"), ("n1", "n2"), (("driver", "associated-node:update", ""),)),
        "[arbitrary-node:update]",
    ),
    "two nodes at once": (account("n1", "n2"), ("n1",), (("driver", "associated-node:update", ""),), "[arbitrary-"),
    "no account": (
        *(User("jane", (AUTHENTICATED,), extra={NODE_NAME: ("n1",)}), ("n1",)),
        *((("driver", "associated-node:update", ""),), "[arbitrary-node:update]"),
    ),
    "another driver": (
        *(account("n1"), ("n1",), (("driver", "associated-node:update", "other"),)),
        "[associated-node:update arbitrary-node:update]",
    ),
    "another verb": (
        *(account("n1"), ("n1",), (("driver", "associated-node:patch", ""),)),
        "[associated-node:update arbitrary-node:update]",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_telling_of_devices_takes_the_right_to_speak_for_their_driver(stack: Stack, case: str) -> None:
    user, nodes, rights, refused = CASES[case]
    await prepare(stack, *rights)
    if user.name == "jane":
        binding = await stack.client().get(f"clusterrolebindings.{RBAC}", "teller", "")
        binding["subjects"] = [{"apiGroup": RBAC, "kind": "User", "name": "jane"}]
        await stack.client().update(f"clusterrolebindings.{RBAC}", binding)
    await allocate(stack, *nodes)
    if not refused:
        await write(stack, user, {"devices": [told()]})
        await write(stack, user, {"devices": []})  # taking it back is speaking, too
        return
    with pytest.raises(errors.Invalid, match=r"status\.devices: Forbidden") as said:
        await write(stack, user, {"devices": [told()]})
    assert f'changing status.devices requires resource="resourceclaims/driver", verb="{refused}' in str(said.value)


async def test_access_for_administrators_is_given_where_their_namespace_is_marked(stack: Stack) -> None:
    admin = stack.client()
    await prepare(stack)
    given = {"status": {"allocation": allocation("n1", adminAccess=True)}}
    with pytest.raises(
        errors.Invalid, match=r"status.allocation.devices.results\[0\].adminAccess: Forbidden: admin access"
    ):
        await admin.patch(CLAIMS, "a", "default", given, subresource="status")
    marked = {"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}
    await admin.patch("namespaces", "default", "", marked)
    await admin.patch(CLAIMS, "a", "default", given, subresource="status")
    await admin.patch("namespaces", "default", "", {"metadata": {"labels": None}})
    # What was given stays: allocations do not change.
    reserved = {"status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}}
    await admin.patch(CLAIMS, "a", "default", reserved, subresource="status")
