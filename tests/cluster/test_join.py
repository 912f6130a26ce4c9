"""What a machine that joins believes, is told, and gets, without a cluster."""

import asyncio
import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from cryptography import x509

from rayplane.control_plane.api import bootstrap_tokens
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError, NotAdmitted, NotTrusted, UsageError
from rayplane.control_plane.cluster.join.admission import admitted
from rayplane.control_plane.cluster.join.certificates import Kind, certify
from rayplane.control_plane.cluster.join.config import JoinConfig
from rayplane.control_plane.cluster.join.discovery import check_pins, checked_token, discovered
from rayplane.control_plane.cluster.join.settings import read_told, told_nodes
from rayplane.control_plane.cluster.join.tokens import create, new_token
from rayplane.control_plane.controllers.bootstrapsigner import kubeconfig
from rayplane.control_plane.rpc import Identity, RpcError, Stub
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import Authority, Credentials, Request, identity_of, key_hash
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.env import SystemClock
from tests.rpc.open_service import open_service

TOKEN = "abcdef.0123456789abcdef"
SERVER = "https://192.0.2.1:6443"
NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("test")


def info(authority: Authority, token: str = TOKEN, **more: str) -> dict[str, str]:
    """The data of a `cluster-info` that is signed with one token."""
    text = kubeconfig(SERVER, authority.cert.decode())
    own = checked_token(token)
    return {"kubeconfig": text, f"jws-kubeconfig-{own.id}": own.signature(text), **more}


# --- whom to trust --------------------------------------------------------------------------------


def test_a_cluster_that_knows_the_token_and_has_the_key_is_trusted(authority: Authority) -> None:
    pin = key_hash(authority.cert)
    for pins in ((), (pin,), ("sha256:" + 64 * "0", pin.upper().replace("SHA", "sha"))):
        found = discovered(info(authority), checked_token(TOKEN), pins)
        assert (found.server, found.ca) == (SERVER, authority.cert)


def test_what_is_not_signed_with_the_token_is_not_believed(authority: Authority) -> None:
    other = Authority.create("other")
    exchanged = {**info(authority), "kubeconfig": info(other)["kubeconfig"]}
    for data, why in (
        ({}, "no cluster that can be joined"),
        (info(authority, "zzzzzz.0123456789abcdef"), "does not know token abcdef: it has expired"),
        (info(authority, "abcdef.zzzzzzzzzzzzzzzz"), "not signed with token abcdef"),
        (exchanged, "not signed with token abcdef"),
    ):
        with pytest.raises(NotTrusted, match=why):
            discovered(data, checked_token(TOKEN), ())


def test_who_else_knows_the_token_is_told_by_the_authoritys_key(authority: Authority) -> None:
    with pytest.raises(NotTrusted, match="it is another cluster"):
        discovered(info(Authority.create("other")), checked_token(TOKEN), (key_hash(authority.cert),))


def test_an_authority_beside_the_one_that_is_named_is_not_trusted(authority: Authority) -> None:
    both = kubeconfig(SERVER, (authority.cert + Authority.create("other").cert).decode())
    data = {"kubeconfig": both, "jws-kubeconfig-abcdef": checked_token(TOKEN).signature(both)}
    for pins in ((key_hash(authority.cert),), ()):
        with pytest.raises(NotTrusted, match="has 2 authorities"):
            discovered(data, checked_token(TOKEN), pins)


def test_a_signed_text_that_is_no_kubeconfig_is_told_so() -> None:
    for text in ("[", "clusters: []", "clusters: [{cluster: {server: x, certificate-authority-data: eA==}}]"):
        data = {"kubeconfig": text, "jws-kubeconfig-abcdef": checked_token(TOKEN).signature(text)}
        with pytest.raises(NotTrusted, match="cannot be read"):
            discovered(data, checked_token(TOKEN), ())


@pytest.mark.parametrize(("pins", "unsafe"), [((), False), (("abc",), False), (("sha256:abc",), True)])
def test_nothing_is_joined_without_a_way_to_tell_whose_it_is(pins: tuple[str, ...], unsafe: bool) -> None:
    with pytest.raises(UsageError, match="--discovery-token-ca-cert-hash"):
        check_pins(pins, unsafe=unsafe)


def test_only_who_says_so_joins_by_the_token_alone() -> None:
    check_pins((), unsafe=True)


@pytest.mark.parametrize("text", ["", "abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123"])
def test_what_is_no_token_is_refused_before_anything_is_sent(text: str) -> None:
    with pytest.raises(UsageError, match="--token"):
        checked_token(text)


@pytest.mark.parametrize(
    "flags",
    [
        *({"url": "http://x"}, {"url": "https://x/y"}, {"node": "A"}, {"node": "a" * 64}),
        *({"address": "x"}, {"port": 70000}),
    ],
)
def test_flags_that_make_no_node_are_refused(flags: dict[str, Any], tmp_path: Path) -> None:
    good = JoinConfig(url="192.0.2.1:6443", node="edge-1.example", directory=tmp_path, address="192.0.2.2")
    good.validate()
    with pytest.raises(UsageError):
        replace(good, **flags).validate()


async def test_kept_certificates_of_a_cluster_that_was_made_anew_are_not_used(
    authority: Authority, tmp_path: Path
) -> None:
    # Nobody listens there.
    config = JoinConfig(url="https://127.0.0.1:1", node="n1", directory=tmp_path, pins=(key_hash(authority.cert),))
    granted(authority, Kind.client("n1")).write(config.tls)
    with pytest.raises(ClusterError, match="does not answer"):
        await admitted(config, SystemClock(), print)
    anew = replace(config, pins=(key_hash(Authority.create("test").cert),))
    with pytest.raises(UsageError, match="give --token"):
        await admitted(anew, SystemClock(), print)


# --- what is told ---------------------------------------------------------------------------------


def test_a_new_token_is_a_secret_that_is_read_again() -> None:
    token = new_token()
    made = bootstrap_tokens.secret_object(token, expires=NOW, groups=("system:bootstrappers:x",), description="why")
    data = {key: base64.b64encode(text.encode()).decode() for key, text in made["stringData"].items()}
    found = bootstrap_tokens.BootstrapToken.of({**made, "data": data})
    assert found is not None and f"{found.id}.{found.secret}" == token
    assert found.expires == NOW and found.groups == ("system:bootstrappers", "system:bootstrappers:x")
    assert found.serves(bootstrap_tokens.SIGNING, NOW - timedelta(seconds=1))
    assert not found.serves(bootstrap_tokens.AUTHENTICATION, NOW)
    assert bootstrap_tokens.description({**made, "data": data}) == "why"


def test_no_token_lives_shorter_than_was_asked_for() -> None:
    made = bootstrap_tokens.secret_object(TOKEN, expires=NOW + timedelta(milliseconds=1), groups=())
    assert made["stringData"]["expiration"] == "2030-01-01T00:00:01Z"


async def test_a_token_that_expires_before_it_is_signed_is_not_waited_for() -> None:
    class Later:
        """A clock that is a minute on whenever it is asked."""

        at = NOW

        def now(self) -> datetime:
            self.at += timedelta(minutes=1)
            return self.at

    class Unsigned:
        async def create(self, resource: str, obj: Object) -> Object:
            return obj

        async def get(self, resource: str, name: str, namespace: str) -> Object:
            return {"data": {}}

    admin: Any = SimpleNamespace(api=Unsigned())
    with pytest.raises(ClusterError, match="give a longer ttl"):
        await create(admin, TOKEN, Later(), ttl_s=1, description="")


def test_nodes_are_told_what_is_about_nodes_and_nothing_else() -> None:
    config = ClusterConfig(nodes=300, timing="kubernetes", egress="relay", authentication_config="a secret")
    text = told_nodes(config, AddressPlan(3, isolated=True))
    assert "secret" not in text
    found, plan = read_told(text.replace('"config": {', '"config": {"of_a_newer_build": 1, '))
    assert plan == AddressPlan(3, isolated=True)
    assert found == replace(config, authentication_config="")
    for other in ("", "[]", "{}"):
        with pytest.raises(ValueError):
            read_told(other)


# --- certificates ---------------------------------------------------------------------------------


class Requests:
    """An API whose answers to a request for a certificate are given."""

    def __init__(self, *statuses: dict[str, Any]) -> None:
        self.made: list[Object] = []
        self._statuses = [*statuses]

    async def create(self, resource: str, obj: Object) -> Object:
        self.made.append(obj)
        return {**obj, "metadata": {"name": "node-csr-x"}}

    async def get(self, resource: str, name: str, namespace: str = "") -> Object:
        return {"metadata": {"name": name}, "status": self._statuses.pop(0) if self._statuses else {}}


def conditions(kind: str) -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": "True", "message": "because"}]}


async def test_a_request_is_followed_until_it_is_signed_or_refused() -> None:
    kind = Kind.client("n1")
    approved = {**conditions("Approved"), "certificate": base64.b64encode(b"PEM").decode()}
    api = Requests(conditions("Approved"), approved)
    assert await certify(api, kind, b"request") == b"PEM"
    assert api.made[0]["spec"]["signerName"] == "kubernetes.io/kube-apiserver-client-kubelet"
    for verdict in ("Denied", "Failed"):
        with pytest.raises(NotAdmitted, match=f"{verdict}: because"):
            await certify(Requests(conditions(verdict)), kind, b"request")
    with pytest.raises(NotAdmitted, match="kubectl certificate approve node-csr-x"):
        await certify(Requests(), kind, b"request", patience_s=0.0)


def granted(authority: Authority, kind: Kind) -> Credentials:
    request = kind.new()
    cert = authority.grant(request.pem, kind.usages, now=datetime.now(UTC), validity=timedelta(hours=1))
    return request.answered(authority.cert, cert)


def test_a_node_asks_for_its_own_names_only(authority: Authority) -> None:
    found = identity_of(granted(authority, Kind.client("n1")).cert)
    assert (found.user, found.groups) == ("system:node:n1", ("system:nodes",))
    shown = x509.load_pem_x509_certificate(granted(authority, Kind.serving("n1")).cert)
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [*names] == [x509.DNSName("n1.nodes.rayplane.internal")]
    # An actor names nobody: who signs knows who it is.
    assert not [*x509.load_pem_x509_csr(Request().pem).subject]


class Kv:
    """A service that answers with nothing, and remembers who called."""

    def __init__(self) -> None:
        self.callers: list[Identity | None] = []

    async def Range(self, request: pb.RangeRequest, context: Any) -> pb.RangeResponse:
        self.callers.append(context.identity)
        return pb.RangeResponse()

    async def _other(self, request: Any, context: Any) -> Any:
        raise AssertionError("nobody asks for this")

    Put = DeleteRange = Txn = Compact = _other


async def test_a_node_is_called_by_its_own_name_and_by_no_other(authority: Authority) -> None:
    node = GrpcNetwork(granted(authority, Kind.client("n1")), serving=granted(authority, Kind.serving("n1")))
    component = GrpcNetwork(authority.issue("system:apiserver"))
    kv = pb.DESCRIPTOR.services_by_name["KV"]
    handler = Kv()
    try:
        at_node = await node.serve("127.0.0.1:0", [open_service(kv, handler)])
        at_component = await component.serve("127.0.0.1:0", [open_service(kv, handler)])

        async def call(network: GrpcNetwork, address: str) -> None:
            await Stub(network.channel(address), kv).Range(pb.RangeRequest(), timeout=10)

        own = f"n1.nodes.rayplane.internal@{at_node.address}"
        await call(component, own)
        await call(node, at_component.address)
        users = [caller.user for caller in handler.callers if caller is not None]
        assert users == ["system:apiserver", "system:node:n1"]
        # Neither passes for the other, nor for another node.
        for wrong in (at_node.address, f"n2.nodes.rayplane.internal@{at_node.address}"):
            with pytest.raises(RpcError) as refused:
                await call(component, wrong)
            assert refused.value.code is grpc.StatusCode.UNAVAILABLE
        renewed = granted(authority, Kind.serving("n3"))
        node.renew_serving(renewed)
        node.renew(granted(authority, Kind.client("n3")))
        fresh = GrpcNetwork(authority.issue("system:apiserver"))
        await call(fresh, f"n3.nodes.rayplane.internal@{at_node.address}")
        await call(node, at_component.address)
        assert [caller.user for caller in handler.callers[2:] if caller] == ["system:apiserver", "system:node:n3"]
        await fresh.close()
    finally:
        await asyncio.gather(node.close(), component.close())
        for server in (at_node, at_component):
            await server.stop()
