"""Who may call what, of everything that every actor of a running cluster serves, over its real ports.

Each method is called with a request that cannot be read. Who may call is told so; who may not never gets that far, and
no call does anything.
"""

import fnmatch
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_reflection.v1alpha import reflection_pb2

from rayplane.control_plane.cluster.pki import identity_of_actor
from rayplane.control_plane.cluster.topology import Instance, Machine, Role
from rayplane.control_plane.rpc import Method, RpcError, Stub, methods_of
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import Authority, Credentials
from rayplane.proto.pool import POOL
from tests.cluster.harness import Cluster, cluster

OTHERS = ("scheduler", "controllers", "lb", "kubelet", "nameless")
ETCD = ("admin", "supervisor", "apiserver")
ADMINS = ("admin", "supervisor")
EVERYONE = (*ETCD, "member", "node", *OTHERS)
#: Who may call the methods that a pattern names. Each method is named by exactly one.
TABLE = {
    "/etcdserverpb.*/*": ETCD,
    "/v3lockpb.Lock/*": ETCD,
    "/v3electionpb.Election/*": ETCD,
    "/rayplane.raft.v1.Peer/*": ("member",),
    "/rayplane.raft.v1.Standings/*": ETCD,
    "/rayplane.raft.v1.Convoys/*": ETCD,
    "/rayplane.v1.Scheduler/*": ADMINS,
    "/rayplane.v1.Controllers/*": ADMINS,
    "/rayplane.v1.Supervisor/[TAKDML]*": ADMINS,
    "/rayplane.v1.Supervisor/Remove": ADMINS,
    # It answers an actor of its own certificate only.
    "/rayplane.v1.Supervisor/Renew": EVERYONE,
    "/rayplane.v1.Supervisor/Sign": ("controllers",),
    # API servers ask RBAC first.
    "/rayplane.v1.Faults/*": ETCD,
    "/rayplane.v1.Views/*": ETCD,
    "/rayplane.v1.Node/[LES]*": ETCD,
    "/rayplane.v1.Node/Page": ETCD,
    "/rayplane.v1.Node/PortForward": (*ETCD, "node", "kubelet"),
    "/rayplane.v1.Images/*": ADMINS,
    "/rayplane.v1.VolumeReplica/[CRPAF]*": ("node",),
    "/rayplane.v1.VolumeReplica/[DI]*": (*ADMINS, "node"),
    "/csi.v1.Identity/*": (*ADMINS, "controllers"),
    "/csi.v1.Controller/*": (*ADMINS, "controllers"),
    "/csi.v1.Node/*": ADMINS,
    # The API server's authorizer has the word here.
    "/rayplane.v1.Aggregation/*": EVERYONE,
    "/rayplane.v1.Chaos/*": EVERYONE,
    "/rayplane.v1.Objects/*": EVERYONE,
    "/rayplane.v1.Pods/*": EVERYONE,
    "/rayplane.v1.Discovery/*": EVERYONE,
    "/grpc.health.v1.Health/*": EVERYONE,
    "/grpc.reflection.v1alpha.ServerReflection/*": EVERYONE,
}
ADMITTED, REFUSED, CUT_OFF, UNKNOWN = "admitted", "refused", "cut off", "unknown"


class Garbage:
    """A request that no message type can read."""

    def SerializeToString(self) -> bytes:
        return b"\xff"


async def garbage() -> AsyncIterator[Any]:
    yield Garbage()


def roles(authority: Authority) -> dict[str, Credentials]:
    def actor(name: str, role: Role) -> Credentials:
        identity = identity_of_actor(Instance(name, role, Machine(), nodes=("node-0",)))
        return authority.issue(identity.user, identity.groups)

    return {
        "admin": authority.issue("kubernetes-admin", ["system:masters"]),
        "apiserver": actor("apiserver-0", Role.APISERVER),
        "member": actor("member-0", Role.MEMBER),
        "supervisor": actor("supervisor", Role.SUPERVISOR),
        "scheduler": actor("scheduler-0", Role.SCHEDULER),
        "controllers": actor("controllers-0", Role.CONTROLLERS),
        "lb": actor("lb", Role.LOAD_BALANCER),
        "node": actor("node-host-0", Role.NODE_HOST),
        # Of a node that joined: it is in the pods' network, and has no volumes of ours.
        "kubelet": authority.issue("system:node:node-0", ["system:nodes"]),
        "nameless": signed(authority, user="", groups=("system:masters", "system:etcd-members", "system:nodes")),
    }


def signed(authority: Authority, *, user: str, groups: tuple[str, ...], days: int = 1) -> Credentials:
    """A certificate as no cluster issues it: without a name, or with `days` that are over."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, g) for g in groups]
    names += [x509.NameAttribute(NameOID.COMMON_NAME, user)] if user else []
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        subject_name=x509.Name(names),
        issuer_name=x509.load_pem_x509_certificate(authority.cert).subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(days=9),
        not_valid_after=now + timedelta(days=days),
    )
    ca_key: Any = serialization.load_pem_private_key(authority.key, password=None)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Credentials(authority.cert, builder.sign(ca_key, hashes.SHA256()).public_bytes(pem), private)


def grpc_ports(c: Cluster) -> Iterator[tuple[str, str]]:
    """(actor and port, host:port), one actor of each role."""
    labels = {
        Role.MEMBER: ("client", "peer"),
        Role.APISERVER: ("grpc",),
        Role.SUPERVISOR: ("grpc",),
        Role.NODE_HOST: ("grpc",),
        Role.SCHEDULER: ("metrics",),
        Role.CONTROLLERS: ("metrics",),
    }
    for role, ports in labels.items():
        instance = c.topology.of(role)[0]
        yield from ((f"{instance.name}/{label}", instance.endpoint(label)) for label in ports)


async def served(network: GrpcNetwork, address: str) -> list[Method]:
    """Everything that listens there, as it says itself."""
    reflection = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    stub = Stub(network.channel(address), reflection)

    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="*")

    answers = [a async for a in stub.ServerReflectionInfo(ask(), timeout=10)]
    found = [POOL.FindServiceByName(s.name) for s in answers[0].list_services_response.service]
    return [m for descriptor in found for m in methods_of(descriptor)]


async def verdict(network: GrpcNetwork, address: str, method: Method) -> str:
    channel = network.channel(address)
    try:
        if method.client_streaming or method.server_streaming:
            _ = [r async for r in channel.stream(method, garbage(), 10, None)]
        else:
            await channel.unary(method, Garbage(), 10, None)  # type: ignore[arg-type]
    except RpcError as e:
        if e.code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return REFUSED
        if e.code is grpc.StatusCode.UNAVAILABLE:
            return CUT_OFF
        if e.code is grpc.StatusCode.UNIMPLEMENTED:
            return UNKNOWN
    return ADMITTED


async def test_every_method_of_every_actor_is_for_its_callers_only() -> None:
    async with cluster() as c:
        networks = {role: GrpcNetwork(shown) for role, shown in roles(c.secrets.authority).items()}
        wrong, named = [], set()
        for port, address in grpc_ports(c):
            for method in await served(networks["admin"], address):
                patterns = [p for p in TABLE if fnmatch.fnmatchcase(method.path, p)]
                assert len(patterns) == 1, f"{method.path} must be in the table once"
                named.add(patterns[0])
                found = {role: await verdict(network, address, method) for role, network in networks.items()}
                if set(found.values()) == {UNKNOWN}:
                    continue
                wanted = {role: ADMITTED if role in TABLE[patterns[0]] else REFUSED for role in networks}
                wrong += [(port, method.path, r, found[r]) for r in wanted if found[r] != wanted[r]]
        assert wrong == []
        assert named == TABLE.keys(), "the table names what nobody serves"
        await check_strangers(c)
        await check_gateway(c)
        for network in networks.values():
            await network.close()


async def check_strangers(c: Cluster) -> None:
    """Certificates that say the right thing, but of another authority, or too late; and none at all: that does where
    a token may say who it is.
    """
    names: dict[str, Any] = {"user": "kubernetes-admin", "groups": ("system:masters", "system:etcd-members")}
    authority = c.secrets.authority
    health = methods_of(POOL.FindServiceByName("grpc.health.v1.Health"))[0]
    theirs = Authority.create("rayplane default").issue(names["user"], names["groups"])
    for stranger in (
        Credentials(authority.cert, theirs.cert, theirs.key),
        signed(authority, **names, days=-1),
    ):
        network = GrpcNetwork(stranger)
        for port, address in grpc_ports(c):
            assert (port, await verdict(network, address, health)) == (port, CUT_OFF)
        await network.close()
    network = GrpcNetwork(ca=authority.cert)
    for port, address in grpc_ports(c):
        wanted = ADMITTED if port.startswith("apiserver") else CUT_OFF
        assert (port, await verdict(network, address, health)) == (port, wanted)
    await network.close()


async def check_gateway(c: Cluster) -> None:
    """The JSON gateway on the members' client port asks the same, and who shows no certificate is not listened to."""
    address = c.topology.endpoints(Role.MEMBER, "client")[0]
    shown = roles(c.secrets.authority)
    for role, status in (("node", 403), ("member", 403), ("nameless", 401), ("admin", 200)):
        async with aiohttp.ClientSession() as session:
            *_, context = shown[role].contexts()
            context.set_alpn_protocols(["http/1.1"])
            url = f"https://{address}/v3/kv/range"
            async with session.post(url, json={"key": "YQ=="}, ssl=context, server_hostname="rayplane.internal") as a:
                assert (role, a.status) == (role, status)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"https://{address}/health", ssl=False)
