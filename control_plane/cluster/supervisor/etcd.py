"""The supervisor's ports on etcd and the API, over their clients."""

import asyncio
from collections.abc import Collection, Sequence

import orjson

from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.client import ApiClient, EtcdClient
from rayplane.control_plane.client.endpoints import PLACES_KEY
from rayplane.control_plane.cluster.supervisor.observed import MemberStatus
from rayplane.control_plane.cluster.supervisor.ports import TopologyChanged
from rayplane.control_plane.cluster.topology import RETIRED_PREFIX, TOPOLOGY_KEY, Role, Topology, newest_of, spared
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.env import Disk
from rayplane.storage.key_ranges import prefix_end

LOAD_TIMEOUT_S = 3.0
# Of a member that is asked whether it is well.
HEALTH_TIMEOUT_S = 1.0

# So many names that another stands for are forgotten at a time: etcd takes 128 operations in a transaction.
FORGOTTEN_MAX = 64

REMEMBERED = "topology.json"


class EtcdTopologyStore:
    """A `TopologyStore`."""

    def __init__(self, etcd: EtcdClient) -> None:
        self._etcd = etcd

    async def load(self) -> tuple[Topology | None, int]:
        found = await self._etcd.range(TOPOLOGY_KEY, timeout=LOAD_TIMEOUT_S)
        if not found.kvs:
            return None, 0
        return Topology.from_json(orjson.loads(found.kvs[0].value)), int(found.kvs[0].mod_revision)

    async def save(self, topology: Topology, *, revision: int, retire: Collection[str]) -> int:
        unchanged = pb.Compare(key=TOPOLOGY_KEY, target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=revision)
        held = await self.retired() if retire else frozenset()
        needless = spared(held.union(retire))
        kept = [name for name in retire if name not in needless]
        places = {"supervisors": topology.endpoints(Role.SUPERVISOR, "grpc"), "machines": topology.addresses}
        puts = [
            (TOPOLOGY_KEY, orjson.dumps(topology.to_json())),
            (PLACES_KEY, orjson.dumps(places)),
            *((RETIRED_PREFIX + n.encode(), b"") for n in kept),
        ]
        gone = sorted(held & needless)[:FORGOTTEN_MAX]
        requests = [pb.RequestOp(request_put=pb.PutRequest(key=k, value=v)) for k, v in puts]
        requests += [
            pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=RETIRED_PREFIX + n.encode())) for n in gone
        ]
        done = await self._etcd.txn([unchanged], requests)
        if not done.succeeded:
            raise TopologyChanged(revision)
        return int(done.header.revision)

    async def retired(self) -> frozenset[str]:
        found = await self._etcd.range(RETIRED_PREFIX, prefix_end(RETIRED_PREFIX), keys_only=True)
        return frozenset(kv.key.removeprefix(RETIRED_PREFIX).decode() for kv in found.kvs)


class EtcdMembers:
    """A `MemberAdmin`. `scheme` is that of the peer URLs."""

    def __init__(self, etcd: EtcdClient, scheme: str) -> None:
        self._etcd = etcd
        self._scheme = scheme

    async def members(self) -> tuple[MemberStatus, ...]:
        listed: Sequence[pb.Member] = (await self._etcd.member_list()).members
        well = await asyncio.gather(*(self._is_healthy(m) for m in listed))
        return tuple(
            MemberStatus(m.ID, tuple(map(_address, m.peerURLs)), m.isLearner, healthy, m.name)
            for m, healthy in zip(listed, well, strict=True)
        )

    async def add_learner(self, peer: str) -> None:
        await self._etcd.member_add(f"{self._scheme}://{peer}", learner=True)

    async def promote(self, member_id: int) -> None:
        await self._etcd.member_promote(member_id)

    async def remove(self, member_id: int) -> None:
        await self._etcd.member_remove(member_id)

    async def _is_healthy(self, member: pb.Member) -> bool:
        if not member.clientURLs:
            # It has never started.
            return False
        try:
            status = await self._etcd.status(_address(member.clientURLs[0]), timeout=HEALTH_TIMEOUT_S)
        except RpcError:
            return False
        return bool(status.leader) and status.header.member_id == member.ID


class ApiNodes:
    """A `NodeRegistry`."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def delete(self, node: str) -> None:
        try:
            await self._api.delete("nodes", node)
        except NotFound:
            # It was never registered, or is deleted already.
            return


class Clients:
    """A `Directory`: clients that call who is wanted now, and a disk that remembers who that was."""

    def __init__(self, etcd: EtcdClient, api: ApiClient, disk: Disk | None) -> None:
        self._etcd = etcd
        self._api = api
        self._disk = disk

    async def adopt(self, topology: Topology) -> None:
        self._call(topology)
        if self._disk is not None:
            await self._disk.write_atomic(REMEMBERED, orjson.dumps(topology.to_json()))

    def recall(self, given: Topology) -> Topology:
        """The last topology that was adopted in the same `up`, or the one that is given.

        By now every member of the given one may have been replaced.
        """
        if self._disk is not None and self._disk.exists(REMEMBERED):
            last = Topology.from_json(orjson.loads(self._disk.read(REMEMBERED)))
            if last.run == given.run:
                given = newest_of((last, given))
        self._call(given)
        return given

    def _call(self, topology: Topology) -> None:
        self._etcd.endpoints.replace(topology.endpoints(Role.MEMBER, "client"))
        self._api.endpoints.replace(topology.endpoints(Role.APISERVER, "grpc"))


def _address(url: str) -> str:
    return url.partition("://")[2]
