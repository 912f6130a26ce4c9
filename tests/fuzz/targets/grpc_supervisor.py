"""Bodies of the supervisor's service, by an administrator and by an actor that renews its certificate."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from rayplane.control_plane.cluster.pki import identity_of_actor
from rayplane.control_plane.cluster.supervisor import reconciler
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.identities import MASTERS
from rayplane.control_plane.rpc import Identity
from rayplane.control_plane.rpc.grpc_server import Registry, Route
from rayplane.control_plane.rpc.service import MESSAGE_BYTES_MAX
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from tests.cluster.fake_host import World as FakeCluster
from tests.fuzz import mutate
from tests.fuzz.targets._grpc import Call, Served, make_calls
from tests.fuzz.targets._wire import calling

CASES = 60
CASES_PER_WORLD = 500
_WORDS = ("member-0", "lb", "supervisor", "KILL", "STOP", "CONT", "TERM", "no-such", "..", "node-host-0")
#: Those start and end actors; the supervisor's own tests do.
_CHANGES = ("Add", "Remove", "Kill")

Case = tuple[bool, list[Call]]
"""Whether the administrator calls, and the calls."""


def make(rng: random.Random) -> Case:
    calls = make_calls(rng, [pb.DESCRIPTOR.services_by_name["Supervisor"]], _WORDS, _CHANGES)
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, None)
    csr = made.public_bytes(rng.choice((serialization.Encoding.PEM, serialization.Encoding.DER)))
    csr = mutate.of_bytes(rng, csr, [csr]) if rng.random() < 0.8 else csr
    name = rng.choice(("member-0", "member-0", "member-1"))
    calls.append(("/rayplane.v1.Supervisor/Renew", (pb.RenewRequest(name=name, csr=csr).SerializeToString(),), True))
    return rng.random() < 0.3, calls


class OneSupervisor(Served):
    def __init__(self, cluster: FakeCluster) -> None:
        super().__init__([], Identity("admin", (MASTERS,)))
        self._actor = identity_of_actor(cluster.topology.of(Role.MEMBER)[0])
        self._admin = self.identity
        server = cluster.host.fabric.servers[cluster.topology.of(Role.SUPERVISOR)[0].endpoint("grpc")]
        self.registry: Registry = self.registry
        self.registry.routes |= {
            path.encode(): Route(method, function, server.callers[path], MESSAGE_BYTES_MAX)
            for path, (method, function) in server.handlers.items()
        }

    async def run(self, case: Case) -> None:  # type: ignore[override]
        by_admin, calls = case
        self.identity = self._admin if by_admin else self._actor
        await super().run(calls)

    async def good(self) -> None:
        async with calling(self.registry, self._admin) as caller:
            request = pb.TopologyRequest().SerializeToString()
            status = await caller.call("/rayplane.v1.Supervisor/Topology", [request], limit=b"60S")
        assert status == "0 ", status

    def sizes(self) -> dict[str, int]:
        """Tasks come and go with the rounds of the supervisor."""
        return super().sizes() | {"tasks": 0}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[OneSupervisor]:
    with mock.patch.object(reconciler, "LEARN_S", 0.0):
        cluster = FakeCluster(members=1)
        try:
            await cluster.start_members()
            await cluster.supervise()
            yield OneSupervisor(cluster)
        finally:
            await cluster.close()
