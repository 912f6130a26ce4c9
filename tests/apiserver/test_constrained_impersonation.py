"""Impersonation for single actions: who may be whom, and for what (KEP-5284)."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rayplane.control_plane.apiserver.authentication.impersonation import LEGACY, Way, asked_for
from rayplane.control_plane.apiserver.config import AuditConfig
from rayplane.control_plane.apiserver.requests import User
from tests.apiserver.conftest import Stack
from tests.apiserver.test_audit import EVERYTHING, environment

RBAC = "rbac.authorization.k8s.io"
AUTHENTICATION = "authentication.k8s.io"
AGENT = User("system:serviceaccount:kube-system:agent", extra={"authentication.kubernetes.io/node-name": ("n1",)})


def ways(user: str, *more: tuple[str, str], caller: User = AGENT) -> list[Way]:
    asked = asked_for([("Impersonate-User", user), *more])
    assert asked is not None
    return [*asked.ways(caller, caller.asks("list", resource="pods", namespace="default"))]


def told(way: Way) -> list[tuple[str, str, str, str]]:
    return [(one.asked.verb, one.asked.group, one.asked.resource, one.asked.name) for one in way.rights]


def test_users_are_impersonated_part_by_part() -> None:
    constrained, old = ways("jane", ("Impersonate-Uid", "u"), ("Impersonate-Group", "dev"))
    assert told(constrained) == [
        ("impersonate-on:user-info:list", "", "pods", ""),
        ("impersonate:user-info", AUTHENTICATION, "users", "jane"),
        ("impersonate:user-info", AUTHENTICATION, "uids", "u"),
        ("impersonate:user-info", AUTHENTICATION, "groups", "dev"),
    ]
    assert constrained.constraint == "impersonate:user-info" and constrained.user == old.user
    assert (old.verb, old.constraint) == (LEGACY, "")


def test_accounts_and_nodes_are_named_and_the_rest_is_what_they_are() -> None:
    account, _ = ways("system:serviceaccount:shop:web")
    assert told(account)[1:] == [("impersonate:serviceaccount", AUTHENTICATION, "serviceaccounts", "web")]
    assert account.rights[1].asked.namespace == "shop"
    mine, any_node, old = ways("system:node:n1")
    assert [told(mine)[0][0], told(any_node)[0][0]] == [
        "impersonate-on:associated-node:list",
        "impersonate-on:arbitrary-node:list",
    ]
    # An account that runs on many nodes has one right for all of them, which does not depend on where it runs.
    keys = (("authentication.kubernetes.io/associated-node-keys", ("authentication.kubernetes.io/node-name",)),)
    assert told(mine)[1] == ("impersonate:associated-node", AUTHENTICATION, "nodes", "*")
    assert [right.asked.extra for right in mine.rights] == [keys, keys]
    assert told(any_node)[1] == ("impersonate:arbitrary-node", AUTHENTICATION, "nodes", "n1")
    assert mine.user.groups == any_node.user.groups == ("system:nodes", "system:authenticated")
    assert told(old) == [("impersonate", "", "users", "system:node:n1")]


@pytest.mark.parametrize(
    ("user", "more", "verbs"),
    [
        ("system:node:n2", [], ["impersonate:arbitrary-node"]),
        ("system:node:n1", [("Impersonate-Group", "dev")], []),
        ("system:serviceaccount:a:b", [("Impersonate-Uid", "u")], []),
        # What only looks like one is neither: it would be one by its group.
        ("system:node:N_1", [], []),
        ("system:node:n1 ", [("Impersonate-Group", "system:nodes")], []),
    ],
)
def test_each_sort_of_user_has_its_ways(user: str, more: list[tuple[str, str]], verbs: list[str]) -> None:
    assert [one.verb for one in ways(user, *more)] == [*verbs, LEGACY]
    person = User("jane", extra=AGENT.extra)
    assert "impersonate:associated-node" not in [one.verb for one in ways("system:node:n1", caller=person)]


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (("Impersonate-Group", "system:masters"), "impersonating the system:masters group is not allowed"),
        (("Impersonate-Group", ""), "impersonating the empty string group is not allowed"),
        (("Impersonate-Extra-scopes", "view"), "must be a domain-prefixed path"),
        (("Impersonate-Extra-a.b%2Fc%44", "view"), "impersonating a non-lowercase key in extra is not allowed"),
        (("Impersonate-Extra-a.b%2Fc", ""), "impersonating the empty string value in extra is not allowed"),
    ],
)
def test_what_nobody_becomes_by_a_constrained_way(header: tuple[str, str], why: str) -> None:
    constrained, old = ways("jane", header)
    assert why in constrained.rights[-1].why_not
    assert not any(right.why_not for right in old.rights)


# --- over HTTP ------------------------------------------------------------------------------------


async def granted(stack: Stack, user: str, kind: str, rules: list[Any]) -> None:
    """`kind`: where the rules hold: Role, in the namespace default, or ClusterRole."""
    metadata = {"name": f"{user}-{kind.lower()}", **({"namespace": "default"} if kind == "Role" else {})}
    client = stack.client()
    await client.create(f"{kind.lower()}s.{RBAC}", {"metadata": metadata, "rules": rules})
    reference = {"apiGroup": RBAC, "kind": kind, "name": metadata["name"]}
    subjects = [{"apiGroup": RBAC, "kind": "User", "name": user}]
    binding = {"metadata": metadata, "roleRef": reference, "subjects": subjects}
    await client.create(f"{kind.lower()}bindings.{RBAC}", binding)


async def test_somebody_is_impersonated_to_do_one_thing_and_nothing_else(tmp_path: Path) -> None:
    stack = Stack()
    server = await stack.add_server(
        env=environment(tmp_path),
        https_address="127.0.0.1:0",
        static_tokens={"bob": ("bob", ())},
        audit=AuditConfig(EVERYTHING),
    )
    await granted(stack, "jane", "ClusterRole", [{"apiGroups": [""], "resources": ["*"], "verbs": ["*"]}])
    identity = {"apiGroups": [AUTHENTICATION], "resources": ["users"], "resourceNames": ["jane"]}
    await granted(stack, "bob", "ClusterRole", [{**identity, "verbs": ["impersonate:user-info"]}])
    action = {"apiGroups": [""], "resources": ["pods"], "verbs": ["impersonate-on:user-info:list"]}
    await granted(stack, "bob", "Role", [action])

    async def ask(method: str, path: str, user: str) -> tuple[int, str]:
        headers = {"Authorization": "Bearer bob", "Impersonate-User": user}
        url = f"http://{server.https_address}{path}"
        async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as response:
            return response.status, (await response.json()).get("message", "")

    assert (await ask("GET", "/api/v1/namespaces/default/pods", "jane"))[0] == 200
    refused = [
        ("GET", "/api/v1/pods", "jane", 'impersonate-on:user-info:list resource "pods" in API group "" at the cluster'),
        ("DELETE", "/api/v1/namespaces/default/pods/p", "jane", 'impersonate-on:user-info:delete resource "pods"'),
        ("GET", "/metrics", "jane", 'impersonate-on:user-info:get path "/metrics"'),
        ("GET", "/api/v1/namespaces/default/pods", "joe", 'impersonate:user-info resource "users" in API group "auth'),
    ]
    for method, path, user, text in refused:
        code, message = await ask(method, path, user)
        assert (code, f'User "bob" cannot {text}' in message) == (403, True), message
    await stack.stop()
    events = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    (acted,) = [one for one in events if "impersonatedUser" in one and one["stage"] == "ResponseComplete"]
    assert acted["authenticationMetadata"] == {"impersonationConstraint": "impersonate:user-info"}
