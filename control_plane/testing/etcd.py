"""etcd members in this process and in memory, for tests of what speaks to etcd: with a port for clients or none."""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.client.on_thread import OnThread
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.durations import parse_span
from rayplane.control_plane.etcd.callers import CLIENTS
from rayplane.control_plane.etcd.server import Member, MemberConfig
from rayplane.control_plane.identities import ADMINISTRATOR, MASTERS, MEMBERS
from rayplane.control_plane.rpc import EVERYONE, Identity
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.control_plane.rpc.network import Network
from rayplane.storage.env import Env, SimulatedDisk
from rayplane.storage.env.leaps import LeapingLoop, clock_of

T = TypeVar("T")
_WHO = Identity(ADMINISTRATOR, (MASTERS, MEMBERS))


class Etcd(OnThread):
    """An etcd of `members` members. Use it in a `with` block.

        with rayplane.testing.etcd() as etcd:
            etcd.do(lambda client: client.put(b"greeting", b"hello"))

    With `listen` each serves etcd's gRPC and its JSON gateway, in the clear and without passwords, on a port of this
    machine's loopback: for clients of any language, and for every user of the machine.
    """

    def __init__(self, *, members: int = 1, listen: bool = False) -> None:
        if members < 1:
            raise UsageError(f"members={members}: use 1 or more")
        loop = LeapingLoop()
        super().__init__(loop)
        self._clock = clock_of(loop)
        self.endpoints: list[str] = []
        """host:port of each, for clients."""
        self._members: list[Member] = []
        fabric = Fabric()
        self._peers = [MemoryNetwork(fabric, f"m{number}", _WHO) for number in range(members)]
        self._network: Network = GrpcNetwork(None) if listen else MemoryNetwork(fabric, "tester", _WHO)
        try:
            self._do(self._start(loop, listen=listen))
        except BaseException:
            self.close()
            raise

    async def _start(self, loop: LeapingLoop, *, listen: bool) -> None:
        cluster = {network.host: f"http://{network.host}:2380" for network in self._peers}
        for network in self._peers:
            config = MemberConfig(
                name=network.host,
                client_address="127.0.0.1:0" if listen else f"{network.host}:2379",
                peer_address=f"{network.host}:2380",
                initial_cluster=cluster,
                client_callers=EVERYONE if listen else CLIENTS,
            )
            env = Env(self._clock, random.Random(), SimulatedDisk())
            member = Member(config, env, self._network if listen else network, peer_network=network)
            self._members.append(member)
        with loop.leaps():
            for member in self._members:
                await member.start()
            for member in self._members:
                await member.ready()
        self.endpoints = [member.client_url.partition("://")[2] for member in self._members]
        self._client = EtcdClient(self._network, self.endpoints)

    def do(self, ask: Callable[[EtcdClient], Awaitable[T]]) -> T:
        """What a client of it answers: `do(lambda client: client.range(b"greeting"))`."""

        async def asked() -> T:
            return await ask(self._client)

        return self._do(asked())

    def advance(self, span: str | float) -> None:
        """Let time pass: "2h", or seconds. Leases that nobody keeps alive end."""
        loop = self._loop
        assert isinstance(loop, LeapingLoop)
        self._do(loop.advance(parse_span(str(span))))

    async def _end(self) -> None:
        for member in reversed(self._members):
            await member.stop()
        await super()._end()
        for network in (self._network, *self._peers):
            await network.close()


def etcd(*, members: int = 1, listen: bool = False) -> Etcd:
    """An etcd in memory, empty."""
    return Etcd(members=members, listen=listen)
