"""Members that die, lag, come back, join and leave: nothing acknowledged is lost."""

import asyncio
import contextlib
import hashlib
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.etcd.callers import CLIENTS
from rayplane.control_plane.etcd.server import Member, MemberConfig, RefusedToStart, restore_member
from rayplane.control_plane.rpc import Identity, RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.control_plane.rpc.memory import DirectLink, Fabric, MemoryNetwork
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.env import LocalDisk, LockHeld
from rayplane.storage.keyvalue import MemoryBackend
from rayplane.storage.mvcc import BUCKETS, Store
from tests.etcd.harness import EtcdCluster, etcd_cluster


async def contents(cluster: EtcdCluster, endpoint: int = 0) -> dict[bytes, bytes]:
    response = await cluster.get(b"\0", range_end=b"\0", endpoint=endpoint)
    return {k.key: k.value for k in response.kvs}


async def hashes(cluster: EtcdCluster) -> list[int]:
    await cluster.applied_everywhere()
    request = pb.HashKVRequest()
    return [(await cluster.stub("Maintenance", i).HashKV(request)).hash for i in range(len(cluster.members))]


class Writers:
    """Clients that write distinct keys through all members, noting what was acknowledged."""

    def __init__(self, cluster: EtcdCluster, count: int = 4) -> None:
        self.acknowledged: dict[bytes, bytes] = {}
        self._cluster = cluster
        self._tasks = [asyncio.create_task(self._write(i)) for i in range(count)]

    async def _write(self, writer: int) -> None:
        number = 0
        while True:
            number += 1
            key = b"w%d-%d" % (writer, number)
            endpoints = self._cluster.endpoints
            try:
                await self._cluster.put(key, b"v", endpoint=endpoints[(writer + number) % len(endpoints)])
            except (RpcError, ZeroDivisionError):
                await asyncio.sleep(0.01)
            else:
                self.acknowledged[key] = b"v"

    async def acknowledge(self, more: int) -> None:
        """Wait for that many further writes."""
        target = len(self.acknowledged) + more
        async with asyncio.timeout(20):
            while len(self.acknowledged) < target:
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        await cancel_and_wait(*self._tasks)


async def test_the_leader_dies_again_and_again() -> None:
    async with etcd_cluster(3) as cluster:
        writers = Writers(cluster)
        for _ in range(3):
            await writers.acknowledge(50)
            name = (await cluster.wait_leader()).config.name
            await cluster.kill(name)
            await writers.acknowledge(50)
            await cluster.start(name)
        await writers.stop()
        held = await contents(cluster)
        assert writers.acknowledged.items() <= held.items()
        assert len(set(await hashes(cluster))) == 1


@pytest.mark.parametrize("seed", range(5))
async def test_all_machines_crash_at_once(seed: int) -> None:
    rng = random.Random(seed)
    async with etcd_cluster(3, seed=seed, snapshot_count=100, catch_up_entries=20) as cluster:
        writers = Writers(cluster)
        for _ in range(2):
            await writers.acknowledge(rng.randrange(1, 300))
            for name in list(cluster.nodes):
                await cluster.kill(name, crash=rng)
            await asyncio.gather(*(cluster.start(name) for name in cluster.nodes))
            await cluster.wait_leader()
        await writers.acknowledge(10)
        await writers.stop()
        assert writers.acknowledged.items() <= (await contents(cluster)).items()
        assert len(set(await hashes(cluster))) == 1


async def test_a_member_that_lags_behind_the_log_gets_a_snapshot() -> None:
    async with etcd_cluster(3, snapshot_count=50, catch_up_entries=10) as cluster:
        leader = await cluster.wait_leader()
        lagging, other = (n for n in cluster.nodes if n != leader.config.name)
        await cluster.put(b"before", b"1")
        await cluster.kill(lagging)
        for number in range(300):
            await cluster.put_retrying(b"k%d" % (number % 20), b"%d" % number)
        restarted = await cluster.start(lagging)
        await restarted.ready()
        assert len(set(await hashes(cluster))) == 1
        # It goes on as an equal: with it, one of the others may go.
        await cluster.kill(other)
        await cluster.put_retrying(b"after", b"2")
        await cluster.applied_everywhere()
        found = await cluster.get(b"after", endpoint=restarted.client_address, serializable=True)
        assert found.kvs[0].value == b"2"


class Partition(DirectLink):
    """A link that cuts hosts off from the other members; clients reach everyone."""

    def __init__(self) -> None:
        self.cut: set[str] = set()

    def delay(self, source: str, target: str) -> float | None:
        return None if "client" not in (source, target) and self.cut & {source, target} else 0.0


async def test_watches_of_a_member_that_was_cut_off_miss_nothing() -> None:
    link = Partition()
    options: dict[str, Any] = {"snapshot_count": 50, "catch_up_entries": 10}
    async with etcd_cluster(3, fabric=Fabric(link), **options) as cluster:
        leader = await cluster.wait_leader()
        lagging = next(m for m in cluster.members if m is not leader)
        await cluster.put(b"k", b"first")
        await cluster.applied_everywhere()
        stream = lagging.watches.open()
        stream.create(pb.WatchCreateRequest(key=b"k"))
        link.cut = {lagging.config.name}
        for number in range(200):
            await cluster.put(b"k", b"%d" % number, endpoint=leader.client_address)
        assert lagging.applied < leader.applied
        link.cut = set()
        got: list[int] = []
        async with asyncio.timeout(20):
            while len(got) < 200:
                got.extend(e.kv.mod_revision for r in await stream.next() for e in r.events)
        assert got == list(range(3, 203))
        stream.close()


async def test_a_snapshot_to_keep_is_taken_where_all_that_was_acknowledged_is() -> None:
    link = Partition()
    async with etcd_cluster(3, fabric=Fabric(link)) as cluster:
        leader = await cluster.wait_leader()
        lagging = next(m for m in cluster.members if m is not leader)
        link.cut = {lagging.config.name}
        acknowledged = await cluster.put(b"k", b"v", endpoint=leader.client_address)
        etcd = EtcdClient(cluster.network, [lagging.client_address])
        asking = asyncio.create_task(etcd.caught_up())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not asking.done() and lagging.store.revision < acknowledged.header.revision
        link.cut = set()
        address, revision = await asking
        assert (address, revision >= acknowledged.header.revision) == (lagging.client_address, True)
        store = Store(MemoryBackend(BUCKETS))
        store.restore([part.blob async for part in etcd.snapshot(address) if part.remaining_bytes])
        assert store.revision >= revision and store.range(b"k").kvs[0].value == b"v"


async def test_a_leader_cut_off_is_replaced_and_its_unconfirmed_writes_are_not_read() -> None:
    link = Partition()
    async with etcd_cluster(3, fabric=Fabric(link), request_timeout_s=1.0) as cluster:
        leader = await cluster.wait_leader()
        others = [m for m in cluster.members if m is not leader]
        link.cut = {leader.config.name}
        with pytest.raises(RpcError, match="etcdserver: "):
            await cluster.put(b"k", b"lost", endpoint=leader.client_address)
        with pytest.raises(RpcError, match="etcdserver: "):
            await cluster.get(b"k", endpoint=leader.client_address)
        await cluster.put(b"k", b"kept", endpoint=others[0].client_address)
        link.cut = set()
        await cluster.applied_everywhere()
        for endpoint in cluster.endpoints:
            assert (await cluster.get(b"k", endpoint=endpoint)).kvs[0].value == b"kept"


async def test_a_restart_replays_what_the_store_lost() -> None:
    async with etcd_cluster(1, snapshot_count=40, catch_up_entries=5) as cluster:
        for round_ in range(5):
            for number in range(30):
                await cluster.put(b"k%d" % number, b"%d" % round_)
            before = await hashes(cluster)
            await cluster.kill("m0")
            await cluster.start("m0")
            assert await hashes(cluster) == before
        assert (await cluster.get(b"k1")).kvs[0].version == 5


def test_a_lost_or_older_log_is_refused_and_nothing_stays_open(tmp_path: Path) -> None:
    log, aside, older = tmp_path / "wal", tmp_path / "aside", tmp_path / "older"

    async def main() -> None:
        async with etcd_cluster(1, disk=lambda: LocalDisk(tmp_path)) as cluster:
            await cluster.stop("m0")
            shutil.copytree(log, older)
            await cluster.start("m0")
            await cluster.put_retrying(b"k", b"v")
            await cluster.stop("m0")
            log.rename(aside)
            with pytest.raises(RefusedToStart, match="a store in this data directory but no log"):
                await cluster.start("m0")
            older.rename(log)
            with pytest.raises(RefusedToStart, match="the log was lost or replaced") as refusal:
                await cluster.start("m0")
            shutil.rmtree(log)
            aside.rename(log)
            await cluster.start("m0")
            await cluster.wait_leader()
            assert (await cluster.get(b"k")).kvs, refusal

    asyncio.run(main())


async def test_two_members_cannot_share_a_data_directory() -> None:
    async with etcd_cluster(1) as cluster:
        node = cluster.nodes["m0"]
        with pytest.raises(LockHeld):
            await Member(node.config, node.env, node.network).start()


@pytest.mark.parametrize("state", ["new", "existing"])
async def test_a_member_that_lost_its_directory_is_refused_under_its_old_id(state: str) -> None:
    async with etcd_cluster(3) as cluster:
        await cluster.kill("m1")
        cluster.nodes["m1"].disk.wipe()
        cluster.nodes["m1"].config = replace(cluster.nodes["m1"].config, cluster_state=state)
        with pytest.raises(RefusedToStart, match="remove it from the cluster"):
            await cluster.start("m1")


async def test_a_learner_joins_catches_up_by_snapshot_and_is_promoted() -> None:
    async with etcd_cluster(3, snapshot_count=30, catch_up_entries=5) as cluster:
        for number in range(100):
            await cluster.put(b"k%d" % number, b"v")
        peers = dict(cluster.nodes["m0"].config.initial_cluster) | {"m3": "http://m3:2380"}
        stub = cluster.stub("Cluster", 1)
        added = await stub.MemberAdd(pb.MemberAddRequest(peerURLs=["http://m3:2380"], isLearner=True))
        cluster.add_node("m3", peers)
        member = await cluster.start("m3")
        await member.ready()
        assert member.member_id == added.member.ID
        await cluster.applied_everywhere()
        with pytest.raises(RpcError, match="rpc not supported for learner"):
            await cluster.put(b"x", b"", endpoint=member.client_address)
        assert (await cluster.get(b"k7", endpoint=member.client_address, serializable=True)).count == 1
        await promote(cluster, added.member.ID)
        await cluster.put(b"x", b"1", endpoint=member.client_address)
        listed = await stub.MemberList(pb.MemberListRequest(linearizable=True))
        assert [(m.name, m.isLearner) for m in listed.members if m.ID == added.member.ID] == [("m3", False)]
        assert len(set(await hashes(cluster))) == 1


async def promote(cluster: EtcdCluster, member_id: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                await cluster.stub("Cluster", 2).MemberPromote(pb.MemberPromoteRequest(ID=member_id))
                return
            except RpcError as e:
                assert "in sync with leader" in e.message, e
                await asyncio.sleep(0.05)


async def test_a_dead_member_is_replaced_and_the_old_id_never_returns() -> None:
    async with etcd_cluster(3) as cluster:
        await cluster.put(b"k", b"v")
        doomed = cluster.nodes["m2"].alive.member_id
        await cluster.kill("m2")
        await cluster.wait_leader()
        stub = cluster.stub("Cluster")
        await stub.MemberRemove(pb.MemberRemoveRequest(ID=doomed))
        with pytest.raises(RpcError, match="member not found"):
            await stub.MemberRemove(pb.MemberRemoveRequest(ID=doomed))
        peers = dict(cluster.nodes["m0"].config.initial_cluster)
        added = await stub.MemberAdd(pb.MemberAddRequest(peerURLs=["http://m2:2380"]))
        assert doomed != added.member.ID
        # Back with the old directory it learns that it was removed, and stops.
        returned = await cluster.start("m2")
        async with asyncio.timeout(10):
            await returned.wait_stopped()
        assert returned.removed
        cluster.add_node("m2", peers)
        member = await cluster.start("m2")
        await member.ready()
        assert (member.member_id, (await cluster.get(b"k", endpoint=member.client_address)).count) == (
            added.member.ID,
            1,
        )


async def test_a_removed_member_stops_and_the_rest_goes_on() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await cluster.wait_leader()
        await cluster.stub("Cluster").MemberRemove(pb.MemberRemoveRequest(ID=leader.member_id))
        async with asyncio.timeout(10):
            await leader.wait_stopped()
        assert leader.removed
        await cluster.stop(leader.config.name)
        del cluster.nodes[leader.config.name]
        await cluster.put_retrying(b"k", b"v")
        members = (await cluster.stub("Cluster").MemberList(pb.MemberListRequest())).members
        assert len(members) == 2


async def test_bad_membership_requests_are_refused() -> None:
    async with etcd_cluster(3) as cluster:
        stub = cluster.stub("Cluster")
        known = cluster.members[0].member_id
        for request, text in (
            (stub.MemberAdd(pb.MemberAddRequest(peerURLs=["nonsense"])), "given member URLs are invalid"),
            (stub.MemberAdd(pb.MemberAddRequest(peerURLs=["http://m1:2380"])), "Peer URLs already exists"),
            (stub.MemberPromote(pb.MemberPromoteRequest(ID=5)), "member not found"),
            (stub.MemberPromote(pb.MemberPromoteRequest(ID=known)), "can only promote a learner member"),
            (stub.MemberUpdate(pb.MemberUpdateRequest(ID=5, peerURLs=["http://z:1"])), "member not found"),
        ):
            with pytest.raises(RpcError, match=text):
                await request
        await stub.MemberAdd(pb.MemberAddRequest(peerURLs=["http://m4:2380"], isLearner=True))
        with pytest.raises(RpcError, match="too many learner members"):
            await stub.MemberAdd(pb.MemberAddRequest(peerURLs=["http://m5:2380"], isLearner=True))


async def test_leadership_moves_on_request() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await cluster.wait_leader()
        target = next(m for m in cluster.members if m is not leader)
        request = pb.MoveLeaderRequest(targetID=target.member_id)
        with pytest.raises(RpcError, match="not leader"):
            await cluster.stub("Maintenance", target.client_address).MoveLeader(request)
        await cluster.stub("Maintenance", leader.client_address).MoveLeader(request)
        assert await cluster.wait_leader() is target
        with pytest.raises(RpcError, match="bad leader transferee"):
            await cluster.stub("Maintenance", target.client_address).MoveLeader(pb.MoveLeaderRequest(targetID=5))


async def test_a_leader_that_stops_in_order_hands_over_at_once() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await cluster.wait_leader()
        term = leader.term
        others = [m for m in cluster.members if m is not leader]
        await cluster.stop(leader.config.name)
        assert [m.term for m in others] == [term + 1] * 2, "no election timeout, no second try"
        assert sum(m.is_leader for m in others) == 1


async def test_a_minority_serves_stale_reads_only() -> None:
    async with etcd_cluster(3, request_timeout_s=0.5) as cluster:
        await cluster.put(b"k", b"v")
        await cluster.applied_everywhere()
        for name in ("m1", "m2"):
            await cluster.kill(name)
        assert (await cluster.get(b"k", serializable=True)).kvs[0].value == b"v"
        with pytest.raises(RpcError, match="etcdserver: "):
            await cluster.get(b"k")
        with pytest.raises(RpcError, match="etcdserver: "):
            await cluster.put(b"k", b"w")


async def test_a_stopped_member_fails_what_waits_and_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    async with etcd_cluster(3) as cluster:
        for name in ("m1", "m2"):
            await cluster.kill(name)
        waiting = asyncio.create_task(cluster.put(b"k", b"v"))
        await asyncio.sleep(0)
        await cluster.stop("m0")
        with contextlib.suppress(RpcError):
            await waiting
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_full_disk_stops_the_member_with_a_clear_error() -> None:
    async with etcd_cluster(1) as cluster:
        await cluster.put(b"k", b"v")
        member = cluster.members[0]
        cluster.nodes["m0"].disk.capacity = 0
        with pytest.raises(RpcError):
            await cluster.put(b"k", b"w")
        await member.wait_stopped()
        assert "no space left" in str(member.failure)
        cluster.nodes["m0"].disk.capacity = 1 << 30
        await cluster.stop("m0")
        await cluster.start("m0")
        assert (await cluster.get(b"k")).kvs[0].value in (b"v", b"w")


async def test_a_member_that_moved_is_found_again() -> None:
    async with etcd_cluster(3) as cluster:
        await cluster.kill("m1")
        node = cluster.nodes["m1"]
        peers = dict(node.config.initial_cluster) | {"m1": "http://m1:4444"}
        node.config = replace(node.config, peer_address="m1:4444", initial_cluster=peers)
        member = await cluster.start("m1")
        await member.ready()
        members = (await cluster.stub("Cluster").MemberList(pb.MemberListRequest(linearizable=True))).members
        assert [list(m.peerURLs) for m in members if m.name == "m1"] == [["http://m1:4444"]]
        await cluster.kill("m0")
        await cluster.put_retrying(b"k", b"v")


async def test_a_cluster_that_moved_as_a_whole_finds_itself_by_its_configuration() -> None:
    async with etcd_cluster(3) as cluster:
        await cluster.put(b"k", b"v")
        peers = {name: f"http://{name}:5555" for name in cluster.nodes}
        for name, node in cluster.nodes.items():
            await cluster.stop(name)
            node.config = replace(node.config, peer_address=f"{name}:5555", initial_cluster=peers)
        await asyncio.gather(*(cluster.start(name) for name in cluster.nodes))
        async with asyncio.timeout(20):
            await asyncio.gather(*(m.ready() for m in cluster.members))
        assert (await cluster.get(b"k")).kvs[0].value == b"v"


async def test_a_backup_becomes_another_cluster() -> None:
    async with etcd_cluster(3) as cluster:
        lease = await cluster.stub("Lease").LeaseGrant(pb.LeaseGrantRequest(TTL=60))
        for number in range(50):
            await cluster.put(b"k%d" % (number % 7), b"%d" % number)
        await cluster.stub("KV").Put(pb.PutRequest(key=b"leased", lease=lease.ID))
        answers = [r async for r in cluster.stub("Maintenance").Snapshot(pb.SnapshotRequest())]
        blobs = [r.blob for r in answers]
        assert hashlib.sha256(b"".join(blobs[:-1])).digest() == blobs[-1]
        assert sum(map(len, blobs)) % 512 == 32, "what etcdctl checks"
        original, old_id = await cluster.get(b"\0", range_end=b"\0"), cluster.members[0].cluster_id
    chunks = [r.blob for r in answers if r.remaining_bytes]
    async with etcd_cluster(3, start=False, initial_cluster_token="other") as restored:
        for node in restored.nodes.values():
            assert await restore_member(node.config, node.disk, chunks) == original.header.revision
        await restored.start_all()
        assert restored.members[0].cluster_id != old_id
        found = await restored.get(b"\0", range_end=b"\0")
        assert (found.kvs, found.header.revision) == (original.kvs, original.header.revision)
        info = await restored.stub("Lease").LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease.ID, keys=True))
        assert list(info.keys) == [b"leased"]
        await restored.put(b"more", b"")
        assert len(set(await hashes(restored))) == 1
        with pytest.raises(RefusedToStart, match="empty one"):
            await restore_member(restored.nodes["m0"].config, restored.nodes["m0"].disk, chunks)


async def test_only_permitted_callers_are_answered() -> None:
    async with etcd_cluster(1, client_callers=CLIENTS) as cluster:
        for identity, refusal in (
            (None, Code.UNAUTHENTICATED),
            (Identity("", ("system:masters",)), Code.UNAUTHENTICATED),
            (Identity("system:node:a", ("system:nodes",)), Code.PERMISSION_DENIED),
            (Identity("system:etcd:m1", ("system:etcd-members",)), Code.PERMISSION_DENIED),
            (Identity("x", ("system:masters",)), None),
            (Identity("system:apiserver", ("system:apiservers",)), None),
        ):
            cluster.network = MemoryNetwork(cluster.fabric, "client", identity)
            if refusal is None:
                await cluster.put(b"k", b"v")
                continue
            with pytest.raises(RpcError) as caught:
                await cluster.put(b"k", b"v")
            assert caught.value.code is refusal


def test_configurations_that_cannot_work_are_refused() -> None:
    good = MemberConfig(name="a", client_address="h:1", peer_address="h:2")
    good.validate()
    for change in (
        {"cluster_state": "old"},
        {"cluster_state": "existing"},
        {"initial_cluster": {"b": "http://h:2"}},
        {"initial_cluster": {"a": "http://h:2", "b": "http://h:2"}},
        {"tick_s": 0.0},
    ):
        with pytest.raises(RefusedToStart):
            replace(good, **change).validate()
