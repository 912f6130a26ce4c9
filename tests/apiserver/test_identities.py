"""Who a caller is: certificates that name nobody or are too old, and callers who act as others."""

import ssl
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver.authentication.impersonation import asked_for
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.rpc import Context, Identity, RpcError, Stub
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.proto.rayplane.v1 import objects_pb2
from tests.apiserver.conftest import Stack
from tests.apiserver.secure import Cluster, cluster  # noqa: F401
from tests.apiserver.test_rest import Rest, rest  # noqa: F401

SELF = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


async def whoami(address: str, directory: Path, credentials: Credentials) -> tuple[int, Any]:
    """Who the server takes the owner of a certificate for, over HTTPS."""
    credentials.write(directory)
    context = ssl.create_default_context(cadata=credentials.ca.decode())
    context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    body = {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"https://{address}{SELF}", json=body, ssl=context) as response,
    ):
        return response.status, await response.json()


async def test_a_certificate_without_a_name_is_nobody(cluster: Cluster, tmp_path: Path) -> None:  # noqa: F811
    address = cluster.servers[0].https_address
    named = cluster.authority.issue("jane", ["system:masters"])
    code, answer = await whoami(address, tmp_path / "named", named)
    assert (code, answer["status"]["userInfo"]["username"]) == (201, "jane")
    nameless = cluster.authority.issue("", ["system:masters"])
    code, answer = await whoami(address, tmp_path / "nameless", nameless)
    assert (code, answer["reason"]) == (403, "Forbidden")
    assert 'User "system:anonymous" cannot create' in answer["message"]


async def test_the_same_over_grpc(stack: Stack) -> None:
    # Even where who shows nothing is trusted.
    client = stack.client_as("", "system:masters")
    with pytest.raises(errors.Forbidden, match='User "system:anonymous" cannot list'):
        await client.list("secrets")


async def test_an_expired_certificate_is_refused(cluster: Cluster, tmp_path: Path) -> None:  # noqa: F811
    expired = cluster.authority.issue("jane", ["system:masters"], validity=timedelta(minutes=-10))
    with pytest.raises((aiohttp.ClientError, ConnectionError, ssl.SSLError)):
        await whoami(cluster.servers[0].https_address, tmp_path, expired)
    server = GrpcNetwork(cluster.authority.issue("server", hosts=["127.0.0.1"]))
    listening = await server.serve("127.0.0.1:0", [])
    network = GrpcNetwork(expired)
    discovery = Stub(network.channel(listening.address), objects_pb2.DESCRIPTOR.services_by_name["Discovery"])
    with pytest.raises(RpcError, match="connect"):
        await discovery.Endpoints(objects_pb2.EndpointsRequest(), timeout=1)
    await network.close()
    await listening.stop()
    await server.close()


async def test_a_certificate_may_expire_while_its_connection_stays(stack: Stack) -> None:
    authenticator = stack.servers[0].registry.authenticator
    now = authenticator._env.clock.now().timestamp()
    context = Context(identity=Identity("jane", ("g",), not_after=now + 60))
    assert (await authenticator.of_call(context)).name == "jane"
    with pytest.raises(errors.Unauthorized):
        await authenticator.of_call(replace(context, identity=Identity("jane", ("g",), not_after=now - 1)))


# --- impersonation --------------------------------------------------------------------------------


def test_headers_say_whom_to_act_as() -> None:
    asked = asked_for(
        [
            ("Impersonate-User", "jane"),
            ("Impersonate-Group", "dev"),
            ("Impersonate-Group", "ops"),
            ("Impersonate-Uid", "u-1"),
            ("Impersonate-Extra-Example.com%2fscopes", "view"),
            ("Impersonate-Extra-Example.com%2fscopes", "edit"),
        ]
    )
    assert asked is not None
    scopes = {"example.com/scopes": ("view", "edit")}
    assert asked.user == User("jane", ("dev", "ops", "system:authenticated"), uid="u-1")
    assert asked.user.extra == scopes
    (way,) = asked.ways(User("bob"), None)
    rights = [(r.asked.group, r.asked.resource, r.asked.subresource, r.asked.name) for r in way.rights]
    assert rights == [
        ("", "users", "", "jane"),
        ("authentication.k8s.io", "uids", "", "u-1"),
        ("", "groups", "", "dev"),
        ("", "groups", "", "ops"),
        ("authentication.k8s.io", "userextras", "example.com/scopes", "view"),
        ("authentication.k8s.io", "userextras", "example.com/scopes", "edit"),
    ]


def test_an_account_brings_its_groups() -> None:
    asked = asked_for([("impersonate-user", "system:serviceaccount:ns:acc")])
    assert asked is not None
    assert asked.user.groups == ("system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated")
    (way,) = asked.ways(User("bob"), None)
    assert [(r.asked.resource, r.asked.namespace, r.asked.name) for r in way.rights] == [
        ("serviceaccounts", "ns", "acc")
    ]
    nobody = asked_for([("Impersonate-User", "system:anonymous")])
    assert nobody is not None
    assert nobody.user.groups == ("system:unauthenticated",)


MALFORMED = [{"Impersonate-Group": "dev"}, {"Impersonate-Uid": "1"}, {"Impersonate-Extra-Scopes": "view"}]


@pytest.mark.parametrize("headers", MALFORMED, ids=str)
async def test_what_makes_no_sense_is_a_bad_request(rest: Rest, headers: dict[str, str]) -> None:  # noqa: F811
    code, status = await rest.json("GET", "/api/v1/namespaces", **headers)
    assert (code, status["reason"]) == (400, "BadRequest")


@pytest.mark.parametrize("name", ["", "x", "x:", ":x", "a:b:c", "A:b", "a/b:c"])
async def test_a_user_that_only_looks_like_a_service_account_is_a_user(rest: Rest, name: str) -> None:  # noqa: F811
    asked = {"Impersonate-User": f"system:serviceaccount:{name}"}
    code, status = await rest.json("GET", "/api/v1/namespaces", **asked)
    assert (code, asked["Impersonate-User"] in status["message"]) == (403, True)


GROUP = "rbac.authorization.k8s.io"
ALL_HEADERS = {
    "Impersonate-User": "jane",
    "Impersonate-Group": "dev",
    "Impersonate-Uid": "u-1",
    "Impersonate-Extra-Scopes": "view",
}
HEADERS = {
    "groups": "Impersonate-Group",
    "uids": "Impersonate-Uid",
    "userextras/scopes": "Impersonate-Extra-Scopes",
}
REVIEW = {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}


@pytest.mark.parametrize("lacking", ["", "users", "groups", "uids", "userextras/scopes"])
async def test_each_part_of_an_identity_takes_a_right(lacking: str) -> None:
    stack = Stack()
    server = await stack.add_server(https_address="127.0.0.1:0", static_tokens={"bob": ("bob", ())})
    admin = stack.client()
    parts = {"users": "", "groups": "", "uids": "authentication.k8s.io", "userextras/scopes": "authentication.k8s.io"}
    rules = [
        {"apiGroups": [group], "resources": [part], "verbs": ["impersonate"]}
        for part, group in parts.items()
        if part != lacking
    ]
    await admin.create(f"clusterroles.{GROUP}", {"metadata": {"name": "actor"}, "rules": rules})
    reference = {"apiGroup": GROUP, "kind": "ClusterRole", "name": "actor"}
    subjects = [{"apiGroup": GROUP, "kind": "User", "name": "bob"}]
    binding = {"metadata": {"name": "actor"}, "roleRef": reference, "subjects": subjects}
    await admin.create(f"clusterrolebindings.{GROUP}", binding)
    headers = {"Authorization": "Bearer bob", **ALL_HEADERS}
    url = f"http://{server.https_address}{SELF}"
    async with aiohttp.ClientSession() as session:
        if lacking in HEADERS:
            # Who has become somebody in this way is told what it lacks for it, and not for others.
            enough = {name: value for name, value in headers.items() if name != HEADERS[lacking]}
            async with session.post(url, json=REVIEW, headers=enough) as response:
                assert response.status == 201
        async with session.post(url, json=REVIEW, headers=headers) as response:
            answer = await response.json()
    await stack.stop()
    if lacking:
        what = f'impersonate resource "{lacking}"' if lacking in HEADERS else "impersonate-on:user-info:create resource"
        assert answer["code"] == 403
        assert f'User "bob" cannot {what}' in answer["message"]
        return
    assert answer["status"]["userInfo"] == {
        "username": "jane",
        "uid": "u-1",
        "groups": ["dev", "system:authenticated"],
        "extra": {"scopes": ["view"]},
    }
