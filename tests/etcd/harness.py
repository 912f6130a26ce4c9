"""Members in one process, for tests: over an in-memory network and simulated disks unless told otherwise."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from rayplane.control_plane.etcd.server import Member, MemberConfig
from rayplane.control_plane.identities import MEMBERS
from rayplane.control_plane.rpc import EVERYONE, Identity, Network, RpcError, Stub
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.env import Env, SystemClock
from rayplane.storage.env.simulated import SimulatedDisk

SERVICES = pb.DESCRIPTOR.services_by_name
#: Fast enough for tests, slow enough for a busy machine.
TICK_S = 0.02
SYNC_S = 0.0005
SETTLE_S = 20.0


@dataclass
class Node:
    """One member's surroundings, which outlive it."""

    config: MemberConfig
    env: Env
    network: Network
    member: Member | None = None

    @property
    def disk(self) -> Any:
        return self.env.disk

    @property
    def alive(self) -> Member:
        assert self.member is not None, f"{self.config.name} does not run"
        return self.member


@dataclass
class EtcdCluster:
    """Some members and a client's network. Addresses are fixed at the first start."""

    network: Network
    fabric: Fabric
    nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def endpoints(self) -> list[str]:
        """Client addresses of the members that run."""
        return [m.client_address for m in self.members]

    @property
    def members(self) -> list[Member]:
        return [n.member for n in self.nodes.values() if n.member is not None]

    def stub(self, service: str, endpoint: str | int = 0) -> Any:
        """A service ("KV", "Watch"...) of an endpoint, or of the n-th running member."""
        address = self.endpoints[endpoint] if isinstance(endpoint, int) else endpoint
        return Stub(self.network.channel(address), SERVICES[service])

    def add_node(self, name: str, peers: dict[str, str], **options: Any) -> None:
        """A member to be started into the existing cluster, on a new disk."""
        settings = {"tick_s": self.members[0].config.tick_s, "cluster_state": "existing"} | options
        env = Env(SystemClock(), random.Random(name), simulated_disk())
        network = MemoryNetwork(self.fabric, name, Identity(name, (MEMBERS,)))
        self.nodes[name] = Node(member_config(name, peers, **settings), env, network)

    async def start(self, name: str) -> Member:
        node = self.nodes[name]
        member = Member(node.config, node.env, node.network)
        await member.start()
        node.member = member
        node.config = replace(node.config, client_address=member.client_address)
        return member

    async def start_all(self) -> None:
        """Start all members and wait until they have a leader and know each other."""
        for name in self.nodes:
            await self.start(name)
        async with asyncio.timeout(SETTLE_S):
            await asyncio.gather(*(m.ready() for m in self.members))

    async def stop(self, name: str) -> None:
        member, self.nodes[name].member = self.nodes[name].member, None
        if member is not None:
            await member.stop()

    async def kill(self, name: str, *, crash: random.Random | None = None) -> None:
        """End a member as SIGKILL does, or, with `crash`, with its machine: what was not synced is torn."""
        node = self.nodes[name]
        member, node.member = node.alive, None
        if isinstance(node.network, MemoryNetwork):
            node.network.detach()
        if crash is not None:
            node.disk.crash(crash)
        else:
            node.disk.kill()
        await member.abort()

    def leader(self) -> Member | None:
        """The member that leads and is known to by a majority."""
        for member in self.members:
            followers = sum(m.leader_id == member.member_id for m in self.members)
            if member.is_leader and followers > len(self.nodes) // 2:
                return member
        return None

    async def wait_leader(self) -> Member:
        async with asyncio.timeout(SETTLE_S):
            while (leader := self.leader()) is None:
                await asyncio.sleep(TICK_S)
            return leader

    def name_of(self, member: Member) -> str:
        return member.config.name

    async def put(self, key: bytes, value: bytes, *, endpoint: str | int = 0) -> pb.PutResponse:
        return await self.stub("KV", endpoint).Put(pb.PutRequest(key=key, value=value))

    async def put_retrying(self, key: bytes, value: bytes) -> pb.PutResponse:
        """Put through any member, until one acknowledges."""
        async with asyncio.timeout(SETTLE_S):
            while True:
                for endpoint in self.endpoints:
                    with contextlib.suppress(RpcError):
                        return await self.put(key, value, endpoint=endpoint)
                await asyncio.sleep(TICK_S)

    async def get(self, key: bytes, *, endpoint: str | int = 0, **options: Any) -> pb.RangeResponse:
        return await self.stub("KV", endpoint).Range(pb.RangeRequest(key=key, **options))

    async def applied_everywhere(self) -> None:
        """Wait until all running members have applied what the leader has."""
        leader = await self.wait_leader()
        async with asyncio.timeout(SETTLE_S):
            while any(m.applied < leader.applied for m in self.members):
                await asyncio.sleep(TICK_S)


def member_config(name: str, peers: dict[str, str], **options: Any) -> MemberConfig:
    settings: dict[str, Any] = {
        "tick_s": TICK_S,
        "wal_segment_bytes": 256 * 1024,
        "client_address": f"{name}:2379",
        "peer_address": peers[name].partition("://")[2],
        "client_callers": EVERYONE,
    }
    return MemberConfig(name=name, initial_cluster=peers, **(settings | options))


def simulated_disk() -> SimulatedDisk:
    """A disk whose syncs take time: in virtual time nothing else would keep a busy writer from stopping the clock."""
    return SimulatedDisk(sync_seconds=lambda: SYNC_S)


@contextlib.asynccontextmanager
async def etcd_cluster(
    n: int,
    *,
    seed: int = 1,
    fabric: Fabric | None = None,
    disk: Callable[[], Any] = simulated_disk,
    start: bool = True,
    **options: Any,
) -> AsyncIterator[EtcdCluster]:
    """`n` members named m0, m1... over memory network and simulated disks; `options` go to each MemberConfig."""
    fabric = fabric or Fabric()
    rng = random.Random(seed)
    peers = {f"m{i}": f"http://m{i}:2380" for i in range(n)}
    cluster = EtcdCluster(MemoryNetwork(fabric, "client"), fabric)
    for name in peers:
        env = Env(SystemClock(), random.Random(rng.getrandbits(64)), disk())
        network = MemoryNetwork(fabric, name, Identity(name, (MEMBERS,)))
        cluster.nodes[name] = Node(member_config(name, peers, **options), env, network)
    try:
        if start:
            await cluster.start_all()
        yield cluster
    finally:
        for name in list(cluster.nodes):
            await cluster.stop(name)
