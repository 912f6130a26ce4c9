"""Three members in virtual time under kills, machine crashes, partitions and delays: deterministic by seed.

Checked all along: a linearizable read never misses an acknowledged write of its key; a watch shows every revision of
a key once and in order. Checked at the end: nothing acknowledged is lost, and all members hold the same history.
"""

import asyncio
import contextlib
import hashlib
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from control_plane.rpc import RpcError
from control_plane.rpc.memory import Fabric
from proto.etcd import rpc_pb2 as pb
from storage.env.simulated import SimulatedDisk
from tests.etcd.harness import EtcdCluster, etcd_cluster
from tests.etcd.virtual import VirtualLoop

KEYS = [b"k%d" % i for i in range(4)]
STEPS = 25
ACTS = ["kill", "crash", "crash all", "cut", "heal", "slow", "start", "start", "move", "compact"]


def run_virtually(make: Callable[[], Coroutine[Any, Any, str]]) -> str:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(make())


class Weather:
    """Cuts and delays between members; clients reach everyone at once."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.cut = ""
        self.delay_max = 0.0

    def delay(self, source: str, target: str) -> float | None:
        if "client" in (source, target):
            return 0.0
        if source != target and self.cut in (source, target):
            return None
        return self._rng.random() * self.delay_max


class Chaos:
    """One run."""

    def __init__(self, cluster: EtcdCluster, weather: Weather, rng: random.Random, acts: Sequence[str] = ACTS) -> None:
        self.cluster, self.weather, self.rng, self.acts = cluster, weather, rng, acts
        self.acknowledged: dict[bytes, int] = {}
        self.trace = hashlib.sha256()
        self.reads = 0

    async def write(self, number: int) -> None:
        for count in range(10**6):
            # Keys of their own show every lost write, shared ones every stale read.
            key = self.rng.choice([*KEYS, *[b"%d-%d" % (number, count)] * len(KEYS)])
            if endpoint := self._endpoint():
                with contextlib.suppress(RpcError):
                    response = await self.cluster.put(key, b"%d-%d" % (number, count), endpoint=endpoint)
                    revision = response.header.revision
                    self.acknowledged[key] = max(revision, self.acknowledged.get(key, 0))
                    self.trace.update(b"%s %d %d\n" % (key, revision, response.header.raft_term))
            await asyncio.sleep(self.rng.uniform(0.0, 0.05))

    async def read(self) -> None:
        while True:
            key = self.rng.choice(KEYS)
            known = self.acknowledged.get(key, 0)
            if endpoint := self._endpoint():
                with contextlib.suppress(RpcError):
                    response = await self.cluster.get(key, endpoint=endpoint)
                    found = response.kvs[0].mod_revision if response.kvs else 0
                    assert found >= known, f"a stale read of {key!r}: {found} after {known}"
                    self.reads += 1
            await asyncio.sleep(self.rng.uniform(0.0, 0.05))

    def _endpoint(self) -> str:
        return self.rng.choice(self.cluster.endpoints or [""])

    async def step(self) -> None:
        cluster, rng = self.cluster, self.rng
        assert not [m.failure for m in cluster.members if m.failure], "a member found its log impossible"
        running = [n for n, node in cluster.nodes.items() if node.member is not None]
        stopped = [n for n in cluster.nodes if n not in running]
        act = rng.choice(self.acts)
        if act in ("kill", "crash") and running:
            await cluster.kill(rng.choice(running), crash=rng if act == "crash" else None)
        elif act == "crash all":
            for name in running:
                await cluster.kill(name, crash=rng)
            stopped = list(cluster.nodes)
        elif act == "cut":
            self.weather.cut = rng.choice(list(cluster.nodes))
        elif act == "heal":
            self.weather.cut = ""
        elif act == "slow":
            self.weather.delay_max = rng.choice([0.0, 0.005, 0.05])
        elif act == "move" and (leader := cluster.leader()):
            leader.node.transfer_leader(rng.choice(leader.machine.conf_state.voters))
            leader.wake()
        elif act == "compact" and (leader := cluster.leader()) and leader.store.revision > 50:
            with contextlib.suppress(RpcError):
                request = pb.CompactionRequest(revision=leader.store.revision - 40)
                await cluster.stub("KV", leader.client_address).Compact(request)
        if act in ("start", "crash all"):
            for name in stopped:
                await cluster.start(name)
        await asyncio.sleep(rng.uniform(0.1, 1.0 if len(self.acts) > 1 else 3.0))

    async def settle(self) -> None:
        self.weather.cut, self.weather.delay_max = "", 0.0
        for name, node in self.cluster.nodes.items():
            if node.member is None:
                await self.cluster.start(name)
        await self.cluster.wait_leader()
        await self.cluster.put_retrying(b"end", b"")
        await self.cluster.applied_everywhere()


async def chaos(seed: int, acts: Sequence[str] = ACTS, *, sync_seconds: float | None = None) -> str:
    rng = random.Random(seed)
    weather = Weather(rng)
    options = {"snapshot_count": rng.choice([20, 200]), "catch_up_entries": rng.choice([5, 50])}
    slowness = rng.choice([0.0, 0.002, 0.05]) if sync_seconds is None else sync_seconds

    def disk() -> SimulatedDisk:
        return SimulatedDisk(sync_seconds=lambda: rng.random() * slowness)

    async with etcd_cluster(
        3, seed=seed, fabric=Fabric(weather), disk=disk, tick_s=0.1, request_timeout_s=1.0, **options
    ) as cluster:
        run = Chaos(cluster, weather, rng, acts)
        async with asyncio.TaskGroup() as tasks:
            clients = [tasks.create_task(run.write(i)) for i in range(3)]
            clients += [tasks.create_task(run.read()) for _ in range(2)]
            for _ in range(STEPS):
                await run.step()
            await run.settle()
            for client in clients:
                client.cancel()
        # What the clients left behind on its way runs out.
        await asyncio.sleep(5.0)
        await cluster.applied_everywhere()
        response = await cluster.get(b"\0", range_end=b"\0")
        held = {kv.key: kv.mod_revision for kv in response.kvs}
        lost = {k: r for k, r in run.acknowledged.items() if held.get(k, 0) < r}
        assert not lost, f"acknowledged but not held: {lost}"
        assert run.reads and len(run.acknowledged) > len(KEYS)
        hashes = {m.store.hash_kv() for m in cluster.members}
        assert len(hashes) == 1
        run.trace.update(repr((hashes, asyncio.get_running_loop().time())).encode())
        return run.trace.hexdigest()


@pytest.mark.parametrize("seed", range(8))
def test_nothing_acknowledged_is_lost_or_read_stale(seed: int) -> None:
    run_virtually(lambda: chaos(seed))


@pytest.mark.parametrize("seed", range(4))
def test_an_acknowledged_write_is_on_the_disks_of_a_majority(seed: int) -> None:
    """All machines lose power again and again, in the middle of slow syncs."""
    run_virtually(lambda: chaos(seed, ["crash all"], sync_seconds=0.1))


def test_the_same_seed_gives_the_same_run() -> None:
    assert run_virtually(lambda: chaos(99)) == run_virtually(lambda: chaos(99))


async def replace_members(seed: int) -> str:
    """Every member's machine is lost and replaced (remove, add as learner, promote) while clients write."""
    rng = random.Random(seed)
    weather = Weather(rng)
    weather.delay_max = rng.choice([0.0, 0.02])
    async with etcd_cluster(
        3, seed=seed, fabric=Fabric(weather), tick_s=0.1, request_timeout_s=2.0, snapshot_count=50, catch_up_entries=10
    ) as cluster:
        run = Chaos(cluster, weather, rng)
        async with asyncio.TaskGroup() as tasks:
            clients = [tasks.create_task(run.write(i)) for i in range(2)] + [tasks.create_task(run.read())]
            for number, lost in enumerate(["m0", "m1", "m2"]):
                await asyncio.sleep(rng.uniform(0.5, 3.0))
                await replace_member(cluster, lost, f"n{number}")
            for client in clients:
                client.cancel()
        await asyncio.sleep(5.0)
        await cluster.applied_everywhere()
        held = {kv.key: kv.mod_revision for kv in (await cluster.get(b"\0", range_end=b"\0")).kvs}
        assert not {k: r for k, r in run.acknowledged.items() if held.get(k, 0) < r}
        assert len({m.store.hash_kv() for m in cluster.members}) == 1
        assert sorted(cluster.nodes) == ["n0", "n1", "n2"]
        return ""


async def replace_member(cluster: EtcdCluster, lost: str, name: str) -> None:
    old = cluster.nodes[lost].alive.member_id
    await cluster.kill(lost)
    del cluster.nodes[lost]

    async def insist(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async with asyncio.timeout(60):
            while True:
                try:
                    return await call()
                except RpcError as e:
                    if "member not found" in e.message or "already exist" in e.message:
                        return None  # an attempt before has come through
                    await asyncio.sleep(0.2)

    await insist(lambda: cluster.stub("Cluster").MemberRemove(pb.MemberRemoveRequest(ID=old)))
    url = f"http://{name}:2380"
    await insist(lambda: cluster.stub("Cluster").MemberAdd(pb.MemberAddRequest(peerURLs=[url], isLearner=True)))
    peers = {n: node.config.peer_url for n, node in cluster.nodes.items()} | {name: url}
    cluster.add_node(name, peers)
    member = await cluster.start(name)
    promote = pb.MemberPromoteRequest(ID=member.member_id)
    await insist(lambda: cluster.stub("Cluster", cluster.endpoints[0]).MemberPromote(promote))


@pytest.mark.parametrize("seed", range(3))
def test_every_member_is_replaced_under_load(seed: int) -> None:
    run_virtually(lambda: replace_members(seed))


def test_a_watch_survives_every_failover_without_a_gap() -> None:
    async def watched() -> str:
        rng = random.Random(5)
        async with etcd_cluster(3, tick_s=0.1) as cluster:
            seen: list[int] = []
            stop = asyncio.Event()

            async def watch() -> None:
                while not stop.is_set():
                    with contextlib.suppress(RpcError, StopAsyncIteration, IndexError):
                        await _watch_from(cluster, seen, rng.choice(cluster.endpoints))
                    await asyncio.sleep(0.05)

            watcher = asyncio.create_task(watch())
            for number in range(300):
                await cluster.put_retrying(b"k", b"%d" % number)
                if number % 60 == 30:
                    name = (await cluster.wait_leader()).config.name
                    await cluster.kill(name)
                    await cluster.put_retrying(b"other", b"")
                    await cluster.start(name)
            final = (await cluster.get(b"k")).kvs[0]
            async with asyncio.timeout(30):
                while len(seen) < final.version:
                    await asyncio.sleep(0.1)
            stop.set()
            watcher.cancel()
            assert seen == sorted(set(seen))
            assert len(seen) == final.version
            return ""

    run_virtually(watched)


async def _watch_from(cluster: EtcdCluster, seen: list[int], endpoint: str) -> None:
    async def requests() -> Any:
        start = seen[-1] + 1 if seen else 2
        create = pb.WatchCreateRequest(key=b"k", start_revision=start)
        yield pb.WatchRequest(create_request=create)
        await asyncio.Event().wait()

    stub = cluster.stub("Watch", endpoint)
    async with contextlib.aclosing(stub.Watch(requests(), metadata={"hasleader": "true"})) as responses:
        async for response in responses:
            seen.extend(event.kv.mod_revision for event in response.events)
