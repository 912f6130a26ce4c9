"""Locks and elections: one owner at a time, in order of arrival, whatever becomes of leases and calls."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd import v3election_pb2 as election_pb
from rayplane.proto.etcd import v3lock_pb2 as lock_pb
from tests.etcd.harness import EtcdCluster, etcd_cluster

LOCK = lock_pb.DESCRIPTOR.services_by_name["Lock"]
ELECTION = election_pb.DESCRIPTOR.services_by_name["Election"]


class Contestants:
    """Callers with leases, on any member."""

    def __init__(self, cluster: EtcdCluster) -> None:
        self.cluster = cluster

    def _stub(self, descriptor: Any, endpoint: int) -> Any:
        return Stub(self.cluster.network.channel(self.cluster.endpoints[endpoint]), descriptor)

    async def lease(self, ttl_s: int = 600) -> int:
        return int((await self.cluster.stub("Lease").LeaseGrant(pb.LeaseGrantRequest(TTL=ttl_s))).ID)

    async def revoke(self, lease: int) -> None:
        await self.cluster.stub("Lease").LeaseRevoke(pb.LeaseRevokeRequest(ID=lease))

    async def lock(self, name: bytes, lease: int, endpoint: int = 0) -> lock_pb.LockResponse:
        request = lock_pb.LockRequest(name=name, lease=lease)
        return await self._stub(LOCK, endpoint).Lock(request, timeout=60)

    async def unlock(self, key: bytes) -> None:
        await self._stub(LOCK, 0).Unlock(lock_pb.UnlockRequest(key=key))

    async def campaign(self, name: bytes, lease: int, value: bytes, endpoint: int = 0) -> election_pb.LeaderKey:
        request = election_pb.CampaignRequest(name=name, lease=lease, value=value)
        return (await self._stub(ELECTION, endpoint).Campaign(request, timeout=60)).leader

    async def proclaim(self, leader: election_pb.LeaderKey, value: bytes) -> None:
        await self._stub(ELECTION, 0).Proclaim(election_pb.ProclaimRequest(leader=leader, value=value))

    async def resign(self, leader: election_pb.LeaderKey) -> None:
        await self._stub(ELECTION, 0).Resign(election_pb.ResignRequest(leader=leader))

    async def leader(self, name: bytes) -> bytes:
        return bytes((await self._stub(ELECTION, 0).Leader(election_pb.LeaderRequest(name=name))).kv.value)

    def observe(self, name: bytes, endpoint: int = 0) -> Any:
        return self._stub(ELECTION, endpoint).Observe(election_pb.LeaderRequest(name=name))

    async def keys(self, name: bytes) -> list[bytes]:
        """The contestants' keys, oldest first."""
        request = pb.RangeRequest(
            key=name + b"/",
            range_end=name + b"0",
            sort_order=pb.RangeRequest.ASCEND,
            sort_target=pb.RangeRequest.CREATE,
        )
        return [kv.key for kv in (await self.cluster.stub("KV").Range(request)).kvs]

    async def entered(self, name: bytes, count: int) -> None:
        """Wait until there are so many contestants."""
        async with asyncio.timeout(20):
            while len(await self.keys(name)) != count:
                await asyncio.sleep(0.02)

    async def nothing_waits(self) -> None:
        """Wait until no member watches anything for anybody."""
        async with asyncio.timeout(20):
            while any(m.watches.counts().streams for m in self.cluster.members):
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def contest(members: int = 1, **options: Any) -> AsyncIterator[Contestants]:
    async with etcd_cluster(members, **options) as cluster:
        yield Contestants(cluster)


def begin(call: Any) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(call)


async def refused(call: Any) -> str:
    with pytest.raises(RpcError) as error:
        await call
    assert error.value.code is grpc.StatusCode.UNKNOWN
    return error.value.message


async def test_one_holder_at_a_time_in_order_of_arrival() -> None:
    async with contest(3) as c:
        holders: list[int] = []
        most = 0
        arrived: list[int] = []

        async def hold(number: int) -> None:
            nonlocal most
            held = await c.lock(b"l", await c.lease(), endpoint=number % 3)
            holders.append(number)
            arrived.append(int(held.header.revision))
            most = max(most, len(await c.keys(b"l")))
            first, *_ = await c.keys(b"l")
            assert first == held.key, "the oldest key owns"
            await asyncio.sleep(random.Random(number).random() / 50)
            assert (await c.keys(b"l"))[0] == held.key
            await c.unlock(held.key)

        waiting = []
        for number in range(9):
            waiting.append(begin(hold(number)))
            await asyncio.sleep(0.05)
        await asyncio.gather(*waiting)
        assert holders == list(range(9)) and arrived == sorted(arrived)
        assert await c.keys(b"l") == []
        await c.nothing_waits()


async def test_a_lease_holds_its_lock_again_and_others_keep_out() -> None:
    async with contest() as c:
        mine, other = await c.lease(), await c.lease()
        first = await c.lock(b"l", mine)
        assert first.key == b"l/%x" % mine
        assert (await c.lock(b"l", mine)).key == first.key
        assert (await c.lock(b"l2", other)).key == b"l2/%x" % other, "another name is another lock"
        waiting = begin(c.lock(b"l", other))
        await c.entered(b"l", 2)
        assert not waiting.done()
        await c.revoke(mine)
        assert (await waiting).key == b"l/%x" % other


async def test_the_lock_passes_on_when_a_lease_runs_out() -> None:
    async with contest() as c:
        await c.lock(b"l", await c.lease(ttl_s=2))
        assert (await c.lock(b"l", await c.lease())).key == (await c.keys(b"l"))[0]


async def test_whose_lease_ran_out_while_waiting_does_not_get_the_lock() -> None:
    async with contest() as c:
        held = await c.lock(b"l", await c.lease())
        lease = await c.lease()
        waiting = begin(c.lock(b"l", lease))
        await c.entered(b"l", 2)
        await c.revoke(lease)
        await c.unlock(held.key)
        assert await refused(waiting) == "mutex: session is expired"
        await c.nothing_waits()


async def test_who_stops_waiting_leaves_the_queue() -> None:
    async with contest() as c:
        held = await c.lock(b"l", await c.lease())
        waiting = [begin(c.lock(b"l", await c.lease())) for _ in range(3)]
        await c.entered(b"l", 4)
        waiting[0].cancel()
        waiting[1].cancel()
        await c.entered(b"l", 2)
        await c.unlock(held.key)
        await waiting[2]
        with pytest.raises(RpcError) as late:
            request = lock_pb.LockRequest(name=b"l", lease=await c.lease())
            await c._stub(LOCK, 0).Lock(request, timeout=1)
        assert late.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        await c.entered(b"l", 1)
        await c.nothing_waits()


async def test_a_call_that_ends_at_any_moment_leaves_no_key_of_its_own() -> None:
    async with contest() as c:
        held = await c.lock(b"l", await c.lease())
        for steps in range(1, 25):
            call = begin(c.lock(b"l", await c.lease()))
            for _ in range(steps):
                await asyncio.sleep(0)
            await cancel_and_wait(call)
            await c.lease()  # by now the log has what the call began
            await c.entered(b"l", 1)
        assert await c.keys(b"l") == [held.key]
        await c.nothing_waits()


async def test_a_caller_without_a_lease_gets_one_that_runs_out() -> None:
    async with contest() as c:
        held = await c.lock(b"l", 0)
        lease = int(held.key.removeprefix(b"l/"), 16)
        left = await c.cluster.stub("Lease").LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease))
        assert 55 <= left.TTL <= 60


async def test_refusals_have_the_code_that_etcd_gives_them() -> None:
    async with contest() as c:
        assert await refused(c.lock(b"l", 77)) == "etcdserver: requested lease not found"
        assert await refused(c.unlock(b"")) == "etcdserver: key is not provided"
        assert await refused(c.campaign(b"e", 77, b"v")) == "etcdserver: requested lease not found"
        assert await refused(c.leader(b"e")) == "election: no leader"
        stranger = election_pb.LeaderKey(name=b"e", key=b"e/1", rev=4, lease=await c.lease())
        assert await refused(c.proclaim(stranger, b"v")) == "election: not leader"
        await c.resign(stranger)
        election = c._stub(ELECTION, 0)
        for call in (election.Proclaim(election_pb.ProclaimRequest()), election.Resign(election_pb.ResignRequest())):
            assert await refused(call) == '"leader" field must be provided'


async def test_elections_are_won_in_order_and_observed_everywhere() -> None:
    async with contest(3) as c:
        seen: list[list[bytes]] = [[], []]
        enough = asyncio.Event()

        async def observe(number: int) -> None:
            async with contextlib.aclosing(c.observe(b"e", endpoint=number)) as leaders:
                async for response in leaders:
                    seen[number].append(response.kv.value)
                    assert response.header.revision >= response.kv.mod_revision
                    if response.kv.value == b"last":
                        enough.set()
                        return

        observers = [begin(observe(number)) for number in range(2)]
        first = await c.campaign(b"e", await c.lease(), b"a")
        second = begin(c.campaign(b"e", await c.lease(), b"b", endpoint=1))
        await c.entered(b"e", 2)
        assert await c.leader(b"e") == b"a"
        await c.proclaim(first, b"a2")
        assert await c.leader(b"e") == b"a2"
        await _until(lambda: all(s == [b"a", b"a2"] for s in seen))
        await c.resign(first)
        winner = await second
        assert await c.leader(b"e") == b"b"
        assert await refused(c.proclaim(first, b"late")) == "election: not leader"
        await _until(lambda: all(s[-1:] == [b"b"] for s in seen))
        await c.revoke(winner.lease)
        third = await c.campaign(b"e", await c.lease(), b"c")
        await c.proclaim(third, b"last")
        await asyncio.gather(*observers)
        assert seen == [[b"a", b"a2", b"b", b"c", b"last"]] * 2
        await c.nothing_waits()


async def test_observers_see_every_proclamation_of_a_leader_across_compactions() -> None:
    async with contest() as c:
        leader = await c.campaign(b"e", await c.lease(), b"0")
        seen: list[int] = []

        async def observe() -> None:
            async with contextlib.aclosing(c.observe(b"e")) as leaders:
                async for response in leaders:
                    seen.append(int(response.kv.value))

        observer = begin(observe())
        for number in range(1, 40):
            await _until(lambda: bool(seen))
            await c.proclaim(leader, b"%d" % number)
        await _until(lambda: seen[-1:] == [39])
        assert seen == list(range(40))
        revision = (await c.cluster.get(b"x")).header.revision
        await c.cluster.stub("KV").Compact(pb.CompactionRequest(revision=revision))
        await c.proclaim(leader, b"40")
        await _until(lambda: seen[-1:] == [40])
        await cancel_and_wait(observer)
        await c.nothing_waits()


async def test_whose_lease_ran_out_while_campaigning_is_not_elected() -> None:
    async with contest() as c:
        first = await c.campaign(b"e", await c.lease(), b"a")
        lease = await c.lease()
        second = begin(c.campaign(b"e", lease, b"b"))
        await c.entered(b"e", 2)
        await c.revoke(lease)
        await c.resign(first)
        assert await refused(second) == "election: not leader"


async def test_campaigning_again_proclaims_the_new_value() -> None:
    async with contest() as c:
        lease = await c.lease()
        first = await c.campaign(b"e", lease, b"a")
        again = await c.campaign(b"e", lease, b"b")
        assert (again.key, again.rev) == (first.key, first.rev) and await c.leader(b"e") == b"b"


async def test_a_lock_outlives_its_members() -> None:
    async with contest(3) as c:
        leader = await c.cluster.wait_leader()
        others = [n for n, m in enumerate(c.cluster.members) if m is not leader]
        held = await c.lock(b"l", await c.lease())
        waiting = begin(c.lock(b"l", await c.lease(), endpoint=others[0]))
        await c.entered(b"l", 2)
        await c.cluster.kill(c.cluster.name_of(leader))
        await c.cluster.wait_leader()
        assert not waiting.done()
        await c.unlock(held.key)
        assert (await waiting).key == (await c.keys(b"l"))[0]


async def _until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)
