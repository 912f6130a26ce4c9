"""A machine joins with nothing but a token, and roles are aggregated, by a manager with a manager's rights."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from rayplane.control_plane.api import errors, meta, signers
from rayplane.control_plane.api.authorization.controller_policy import user_of
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.signers import REQUESTS
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster import callers
from rayplane.control_plane.cluster.join.certificates import Kind, certify
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.cluster.supervisor.service import Signing
from rayplane.control_plane.cluster.supervisor.signing import CertificateSigning
from rayplane.control_plane.controllers.config import ControllersConfig
from rayplane.control_plane.controllers.manager.manager import ControllerManager
from rayplane.control_plane.identities import CONTROLLER_MANAGER
from rayplane.control_plane.rpc import Context, Identity, RpcError, Service
from rayplane.control_plane.rpc.memory import MemoryNetwork
from rayplane.control_plane.rpc.tls import Authority, identity_of
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from tests.api.certificate_requests import certificate_request, node_request
from tests.apiserver.conftest import Stack, make_env
from tests.apiserver.test_bootstrap_tokens import JOINING, add_token, bearer

SUPERVISOR = "host-0:9100"
ROLES = "clusterroles.rbac.authorization.k8s.io"


class Supervisor:
    """The part of a supervisor that signs."""

    def __init__(self, signing: Signing) -> None:
        self.signing = signing

    async def Sign(self, request: pb.SignRequest, context: Context) -> pb.SignResponse:
        return pb.SignResponse(certificate=await self.signing.sign(request.name, request.uid))

    async def _other(self, request: Any, context: Context) -> Any:
        raise AssertionError("nobody asks for this")

    Topology = Add = Remove = Kill = Renew = _other


class Place:
    def __init__(self, stack: Stack, authority: Authority) -> None:
        self.stack, self.authority, self.client = stack, authority, stack.client()

    def signing(self) -> CertificateSigning:
        secrets = Secrets(self.authority.cert, self.authority.key, b"")
        return CertificateSigning(self.client, secrets, make_env().clock.now, timedelta)

    async def until(self, found: Callable[[], Awaitable[Any]]) -> Any:
        async with asyncio.timeout(60):
            while not (value := await found()):
                await asyncio.sleep(0.02)
        return value

    async def issued(self, name: str) -> bytes:
        async def certificate() -> Any:
            return meta.status(await self.client.get(REQUESTS, name)).get("certificate")

        return base64.b64decode(await self.until(certificate))


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Place]:
    stack = Stack()
    await stack.add_server()
    made = Place(stack, Authority.create("test"))
    supervisor = Service(
        pb.DESCRIPTOR.services_by_name["Supervisor"], Supervisor(made.signing()), callers=callers.SUPERVISOR
    )
    server = await stack.network.serve(SUPERVISOR, [supervisor])
    network = MemoryNetwork(stack.fabric, "host-of-manager", Identity(CONTROLLER_MANAGER))
    config = ControllersConfig(
        identity="a",
        api_endpoints=(stack.servers[0].grpc_address,),
        discovery=(SUPERVISOR,),
        ca_certificate=made.authority.cert.decode(),
        server="https://127.0.0.1:6443",
        node_hosts="{}",
    )
    manager = ControllerManager(config, make_env(7), network)
    await manager.start()
    yield made
    await manager.stop()
    await server.stop()
    await stack.stop()


async def test_a_node_joins_with_a_token_and_renews_by_itself(place: Place) -> None:
    await add_token(
        place.client,
        **{"usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true", "auth-extra-groups": JOINING},
    )
    joining = bearer(place.stack)
    await joining.create(REQUESTS, node_request("first", "n1", expirationSeconds=3600))
    first = identity_of(await place.issued("first"))
    assert (first.user, first.groups) == ("system:node:n1", ("system:nodes",))
    assert 3000 < first.not_after - place.stack.servers[0].registry.env.clock.now().timestamp() < 3700
    node = place.stack.client_as(first.user, *first.groups)
    await node.create("nodes", {"metadata": {"name": "n1"}})
    with pytest.raises(errors.Forbidden):
        await node.list("secrets")
    await node.create(REQUESTS, node_request("second", "n1"))
    assert identity_of(await place.issued("second")).user == "system:node:n1"
    # It may not be another node, and may not approve itself.
    with pytest.raises(errors.Forbidden):
        await joining.create("nodes", {"metadata": {"name": "n2"}})

    async def signed() -> Object | None:
        data = (await place.client.get("configmaps", "cluster-info", "kube-public"))["data"]
        return data if "jws-kubeconfig-abcdef" in data else None

    await place.until(signed)


async def test_a_node_that_joined_gets_what_it_shows_and_is_told_how_to_be_a_node(place: Place) -> None:
    node = place.stack.client_as("system:node:n1", "system:nodes")
    for kind in (Kind.client("n1"), Kind.serving("n1")):
        request = kind.new()
        assert request.answered(place.authority.cert, await certify(node, kind, request.pem)).is_sound
    told = await place.until(lambda: found(node, "configmaps", "rayplane-node-hosts", "kube-system"))
    assert told["data"] == {"config": "{}"}
    with pytest.raises(errors.Forbidden):
        await node.get("configmaps", "cluster-info", "kube-public")
    # By another's name it would have to be approved by somebody.
    csr = certificate_request(
        "as-another",
        "system:node:n1",
        "system:nodes",
        names=(x509.DNSName("n2.nodes.rayplane.internal"),),
        signer=signers.KUBELET_SERVING,
        usages=("server auth", "digital signature"),
    )
    await node.create(REQUESTS, csr)
    request = Kind.client("n1").new()
    await certify(node, Kind.client("n1"), request.pem)
    assert not meta.status(await place.client.get(REQUESTS, "as-another")).get("conditions")


async def found(client: ApiClient, resource: str, name: str, namespace: str) -> Object | None:
    try:
        return await client.get(resource, name, namespace)
    except errors.NotFound:
        return None


async def test_only_what_is_approved_is_signed(place: Place) -> None:
    made = await place.client.create(REQUESTS, certificate_request("jane", "jane", "dev"))
    network = MemoryNetwork(place.stack.fabric, "host-of-thief", Identity(CONTROLLER_MANAGER))
    manager = ApiClient(network, [place.stack.servers[0].grpc_address]).acting(user_of("certificate-controller"))
    signing = place.signing()
    with pytest.raises(RpcError, match="is not approved"):
        await signing.sign("jane", meta.uid(made))
    approval = {"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]}}
    with pytest.raises(errors.Forbidden, match="not permitted to approve"):
        await manager.patch(REQUESTS, "jane", "", approval, subresource="approval")
    await place.client.patch(REQUESTS, "jane", "", approval, subresource="approval")
    with pytest.raises(RpcError, match="another one now"):
        await signing.sign("jane", "another")
    issued = await place.issued("jane")
    found = identity_of(issued)
    assert (found.user, found.groups) == ("jane", ("dev",))
    certificate = x509.load_pem_x509_certificate(issued)
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [*usages] == [ExtendedKeyUsageOID.CLIENT_AUTH]
    # A list of no usages at all would make it good for nothing.
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.KeyUsage)


@pytest.mark.parametrize("host", ["rayplane.internal", "Rayplane.INTERNAL", "rayplane.internal."])
def test_nobody_gets_a_certificate_by_the_name_of_the_clusters_servers(host: str) -> None:
    csr = certificate_request("a", "system:node:n1", "system:nodes", names=(x509.DNSName(host),))
    request = base64.b64decode(csr["spec"]["request"])
    with pytest.raises(ValueError, match="is the cluster's own"):
        Authority.create("test").grant(request, ["server auth"], now=datetime.now(UTC), validity=timedelta(days=1))


@pytest.mark.parametrize(("hours", "back"), [(1, 0), (8, 5), (24 * 36500, None)])
def test_certificates_begin_five_minutes_ago_and_long_ones_end_as_much_earlier(hours: int, back: int | None) -> None:
    request = base64.b64decode(certificate_request("a", "system:node:n1", "system:nodes")["spec"]["request"])
    now, authority = datetime.now(UTC).replace(microsecond=0), Authority.create("test")
    made = authority.grant(request, ["client auth"], now=now, validity=timedelta(hours=hours))
    certificate = x509.load_pem_x509_certificate(made)
    assert certificate.not_valid_before_utc == now - timedelta(minutes=5)
    own = x509.load_pem_x509_certificate(authority.cert).not_valid_after_utc
    end = own if back is None else now + timedelta(hours=hours, minutes=-back)
    assert certificate.not_valid_after_utc == end


async def test_aggregated_roles_hold_the_rules_of_those_they_select(place: Place) -> None:
    rule = {"apiGroups": ["example.org"], "resources": ["widgets"], "verbs": ["get"]}
    labels = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
    await place.client.create(ROLES, {"metadata": {"name": "widgets", "labels": labels}, "rules": [rule]})

    async def holds(name: str) -> bool:
        return rule in ((await place.client.get(ROLES, name)).get("rules") or ())

    for name in ("view", "edit", "admin"):
        await place.until(lambda name=name: holds(name))  # type: ignore[misc]
    await place.client.delete(ROLES, "widgets")

    async def is_gone() -> bool:
        return not any([await holds(name) for name in ("view", "edit", "admin")])

    await place.until(is_gone)
