"""What a failing disk does: found, refused with an error that says what to do, or survived; never served."""

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from rayplane.control_plane.etcd.server import RefusedToStart
from rayplane.control_plane.etcd.server.upkeep.corruption_check import minority
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.env import LocalDisk, failpoints
from rayplane.storage.env.failpoints import POINTS
from rayplane.storage.errors import StorageError
from rayplane.storage.keyvalue import LmdbBackend
from rayplane.storage.mvcc import BUCKETS, Store
from scripts.benchmarks.members import REPOSITORY, MemberFailed, new_members
from tests.etcd.harness import SETTLE_S, TICK_S, EtcdCluster, etcd_cluster

TYPED = (RefusedToStart, StorageError)
#: Small enough that a short life fills several segments and snapshots.
SMALL: dict[str, Any] = {"snapshot_count": 40, "catch_up_entries": 20, "wal_segment_bytes": 16 * 1024}


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.disarm()


@contextlib.asynccontextmanager
async def on_disk(root: Path, n: int = 1, *, start: bool = True, **options: Any) -> AsyncIterator[EtcdCluster]:
    """Members with real directories `d0`, `d1`... below `root`."""
    made = iter(range(100))
    settings = SMALL | options
    async with etcd_cluster(n, disk=lambda: LocalDisk(root / f"d{next(made)}"), start=start, **settings) as cluster:
        yield cluster


async def live(cluster: EtcdCluster, rng: random.Random, writes: int = 300) -> dict[bytes, bytes]:
    """Puts, deletes and a compaction; what is left of the keys."""
    state: dict[bytes, bytes] = {}
    for n in range(writes):
        key = b"key-%02d" % rng.randrange(30)
        if state and rng.random() < 0.1:
            key = rng.choice(sorted(state))
            await cluster.stub("KV").DeleteRange(pb.DeleteRangeRequest(key=key))
            del state[key]
        else:
            state[key] = b"%d " % n + rng.randbytes(rng.choice((10, 300, 5000)))
            answer = await cluster.put(key, state[key])
            if n % 50 == 49:
                await cluster.stub("KV").Compact(pb.CompactionRequest(revision=answer.header.revision - 10))
    return state


async def content(cluster: EtcdCluster, endpoint: str | int = 0, **options: Any) -> dict[bytes, bytes]:
    read = await cluster.get(b"\0", endpoint=endpoint, range_end=b"\0", **options)
    return {kv.key: kv.value for kv in read.kvs}


async def serves_or_refuses(root: Path, state: dict[bytes, bytes]) -> str:
    """Start the member of a directory: it holds `state` and takes a write, or its refusal is returned."""
    async with on_disk(root, start=False) as cluster:
        try:
            await cluster.start("m0")
        except TYPED as e:
            return str(e)
        assert await content(cluster) == state
        await cluster.put(b"another", b"write")
    return ""


async def one_life(root: Path, *, clean: bool) -> dict[bytes, bytes]:
    """A directory `d0` that was used, and how it was left."""
    async with on_disk(root) as cluster:
        state = await live(cluster, random.Random(5))
        if not clean:
            await cluster.nodes["m0"].alive.abort()
            cluster.nodes["m0"].member = None
    return state


def files_of(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file() and p.stat().st_size)


@pytest.mark.parametrize("clean", [True, False], ids=["stopped", "killed"])
async def test_a_flipped_bit_anywhere_is_refused_or_does_no_harm(tmp_path: Path, clean: bool) -> None:
    state = await one_life(tmp_path / "life", clean=clean)
    files = files_of(tmp_path / "life")
    assert {p.parent.name for p in files} >= {"wal", "snap", "mvcc"}
    rng = random.Random(clean)
    outcomes = set()
    for number in range(60):
        copy = tmp_path / str(number)
        shutil.copytree(tmp_path / "life", copy)
        victim = copy / files[number % len(files)].relative_to(tmp_path / "life")
        data = bytearray(victim.read_bytes())
        at = rng.randrange(len(data))
        if rng.random() < 0.5:
            # Where the structure is: the beginning of the file or of a page.
            at = min(at - at % 4096 + rng.randrange(160), len(data) - 1)
        data[at] ^= 1 << rng.randrange(8)
        victim.write_bytes(data)
        refusal = await serves_or_refuses(copy, state)
        told = ("remove this member", "restart", "restore a snapshot")
        assert not refusal or any(way in refusal for way in told), refusal
        outcomes.add((victim.parent.name, bool(refusal)))
        shutil.rmtree(copy)
    # The log is the truth and is never repaired; a store is made anew.
    assert {("wal", True), ("mvcc", False)} <= outcomes and ("mvcc", True) not in outcomes


async def test_a_missing_or_shortened_file_is_refused_or_does_no_harm(tmp_path: Path) -> None:
    state = await one_life(tmp_path / "life", clean=False)
    rng = random.Random(3)
    for number, path in enumerate(files_of(tmp_path / "life")):
        for how in ("missing", "empty", "half", "less"):
            copy = tmp_path / f"{number}-{how}"
            shutil.copytree(tmp_path / "life", copy)
            victim = copy / path.relative_to(tmp_path / "life")
            size = victim.stat().st_size
            if how == "missing":
                victim.unlink()
            else:
                os.truncate(victim, {"empty": 0, "half": size // 2, "less": rng.randrange(size)}[how])
            refusal = await serves_or_refuses(copy, state)
            assert not refusal or "remove this member" in refusal or "restore" in refusal, refusal
            shutil.rmtree(copy)


async def test_without_its_log_a_directory_is_refused(tmp_path: Path) -> None:
    await one_life(tmp_path, clean=True)
    shutil.rmtree(tmp_path / "d0" / "wal")
    assert "remove it from the cluster" in await serves_or_refuses(tmp_path, {})
    shutil.rmtree(tmp_path / "d0" / "mvcc")
    assert "empty" in await serves_or_refuses(tmp_path, {})


async def test_damage_while_it_runs_is_not_served_and_is_healed_by_a_restart(tmp_path: Path) -> None:
    value = b"a value that stands in the file as it is" * 20
    async with on_disk(tmp_path) as cluster:
        member = await cluster.wait_leader()
        await cluster.put(b"k", value)
        member.store.commit()
        damage(tmp_path / "d0" / "mvcc" / "data.mdb", value)
        with pytest.raises(RpcError) as caught:
            await cluster.get(b"k")
        assert caught.value.code is not grpc.StatusCode.OK
        async with asyncio.timeout(SETTLE_S):
            await member.wait_stopped()
        assert "damaged" in str(member.failure) and "restart its process" in str(member.failure)
        cluster.nodes["m0"].member = None
        await cluster.start("m0")
        assert (await cluster.get(b"k")).kvs[0].value == value


def damage(path: Path, part: bytes) -> None:
    """Change a byte of every occurrence of some bytes in a file."""
    data = path.read_bytes()
    at = data.find(part)
    assert at >= 0
    with open(path, "r+b") as f:
        while at >= 0:
            f.seek(at + len(part) // 2)
            f.write(b"X")
            at = data.find(part, at + 1)


# Errors of the disk

#: Points of a life without joining, whose error a member must survive or fail from.
FAILING = [p for p in POINTS if p.split(".")[0] in ("wal", "snapshot", "store") and "replace" not in p]


@pytest.mark.parametrize("point", FAILING)
async def test_an_error_at_any_step_loses_nothing(tmp_path: Path, point: str) -> None:
    acknowledged: dict[bytes, bytes] = {}
    async with on_disk(tmp_path) as cluster:
        member = await cluster.wait_leader()
        failpoints.arm(f"{point}=error(ENOSPC)@2")
        with contextlib.suppress(RpcError, KeyError):
            for n in range(120):
                key, value = b"k%d" % (n % 7), b"%d " % n + bytes(1000)
                await cluster.put(key, value)
                acknowledged[key] = value
                if n % 20 == 19:
                    await cluster.stub("Maintenance").Defragment(pb.DefragmentRequest())
        if member.failure is not None:
            assert "No space left on device" in str(member.failure)
            assert not point.startswith("wal.") or "restart this member" in str(member.failure)
            await member.wait_stopped()
        else:
            with contextlib.suppress(*TYPED):
                await member.stop()
        cluster.nodes["m0"].member = None
        failpoints.disarm()
        await cluster.start("m0")
        held = await content(cluster)
        for key, value in acknowledged.items():
            # What was written after the last acknowledgement may be there or not.
            assert int(held[key].split()[0]) >= int(value.split()[0])
        await cluster.put(b"another", b"write")


async def test_a_failed_sync_ends_the_member_with_what_to_do(tmp_path: Path) -> None:
    async with on_disk(tmp_path) as cluster:
        member = await cluster.wait_leader()
        await cluster.put(b"k", b"1")
        failpoints.arm("wal.before_sync=error(EIO)")
        with pytest.raises(RpcError):
            await cluster.put(b"k", b"2")
        async with asyncio.timeout(SETTLE_S):
            await member.wait_stopped()
        assert "Input/output error; repair the disk, then restart this member" in str(member.failure)
        cluster.nodes["m0"].member = None


@pytest.mark.processes
async def test_a_full_disk_ends_a_process_in_one_line_and_loses_nothing(tmp_path: Path) -> None:
    (member,) = new_members(1, tmp_path)
    member.flags += ["--wal-segment-bytes=65536"]
    limited = ["bash", "-c", f"ulimit -f 48; exec {' '.join(member.command())}"]
    process = await asyncio.create_subprocess_exec(
        *limited, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY
    )
    _, said = await process.communicate()
    line = said.decode().strip().splitlines()[-1]
    assert process.returncode == 1 and line.startswith("etcd: cannot") and "File too large" in line
    await member.start()
    assert await member.stop() == 0


@pytest.mark.processes
async def test_a_directory_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "m0").write_text("a file")
    (member,) = new_members(1, tmp_path)
    with pytest.raises(MemberFailed, match=r"ended with 1: etcd: cannot create .*m0: .*choose a writable directory"):
        await member.start()
    (tmp_path / "m0").unlink()
    (tmp_path / "m0").mkdir()
    (tmp_path / "m0" / "wal.new").write_text("a file where a directory is to be")
    (tmp_path / "m0" / "wal").write_text("another")
    with pytest.raises(MemberFailed, match=r"ended with 1: etcd: cannot (list|create) .*m0/wal"):
        await member.start()


@pytest.mark.processes
def test_an_unknown_failpoint_is_wrong_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rayplane.control_plane.etcd"],
        env={failpoints.ENVIRONMENT: "wal.never=kill"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.startswith("etcd: RAYPLANE_FAILPOINTS: there is no failpoint")


# Members that differ


async def tamper(store: Store) -> None:
    """Give a member another value than the others have, as a fault that no checksum sees would."""
    key, sealed = next(iter(store.backend.scan("key")))
    store.backend.put("key", key, sealed[:-1] + bytes([sealed[-1] ^ 1]))
    store.commit()


async def test_the_leader_finds_a_member_that_differs_and_raises_an_alarm(tmp_path: Path) -> None:
    async with on_disk(tmp_path, 3, corrupt_check_s=10 * TICK_S, snapshot_count=10_000) as cluster:
        leader = await cluster.wait_leader()
        for n in range(20):
            await cluster.put(b"k%d" % n, b"v")
        await cluster.applied_everywhere()
        bad = next(m for m in cluster.members if m is not leader)
        await tamper(bad.store)
        async with asyncio.timeout(SETTLE_S):
            while not all(m.machine.alarms.is_corrupt(bad.member_id) for m in cluster.members):
                await asyncio.sleep(TICK_S)
        assert [a.memberID for a in leader.machine.alarms.all()] == [bad.member_id]
        for member in cluster.members:
            with pytest.raises(RpcError, match="etcdserver: corrupt cluster") as caught:
                await cluster.put(b"k1", b"w", endpoint=member.client_address)
            assert caught.value.code is grpc.StatusCode.DATA_LOSS
            if member is bad:
                with pytest.raises(RpcError, match="etcdserver: corrupt cluster"):
                    await content(cluster, member.client_address, serializable=True)
            else:
                assert len(await content(cluster, member.client_address)) == 20


async def test_a_member_that_differs_refuses_to_start_when_asked_to_compare(tmp_path: Path) -> None:
    async with on_disk(tmp_path, 3, initial_corrupt_check=True) as cluster:
        for n in range(20):
            await cluster.put(b"k%d" % n, b"v")
        await cluster.applied_everywhere()
        follower = next(m for m in cluster.members if not m.is_leader)
        name = cluster.name_of(follower)
        await cluster.stop(name)
        await cluster.start(name)  # it is as the others
        await cluster.stop(name)
        backend = LmdbBackend(tmp_path / f"d{name[1:]}" / "mvcc", BUCKETS)
        store = Store(backend)
        await tamper(store)
        store.close()
        with pytest.raises(RefusedToStart, match=r"differs from that of .* remove this member"):
            await cluster.start(name)


def test_who_is_mistrusted() -> None:
    assert minority({1: 7, 2: 7, 3: 8}, 1) == [3]
    assert minority({1: 8, 2: 7, 3: 7}, 1) == [1]
    assert minority({1: 7, 2: 8}, 1) == [2]
    assert minority({1: 7, 2: 7, 3: 7}, 3) == []


# Every point is on the way of an ordinary member


async def test_an_ordinary_life_comes_to_every_point(tmp_path: Path) -> None:
    failpoints.arm("; ".join(f"{point}=count" for point in POINTS))
    async with on_disk(tmp_path, 3) as cluster:
        await cluster.wait_leader()
        await live(cluster, random.Random(1))
        for name in ("m1", "m2"):
            await cluster.stub("Maintenance", cluster.nodes[name].alive.client_address).Defragment(
                pb.DefragmentRequest()
            )
        # One misses so much that it gets a snapshot.
        await cluster.stop("m2")
        await live(cluster, random.Random(2), writes=200)
        await cluster.start("m2")
        await cluster.applied_everywhere()
        # One joins.
        peers = {n: f"http://{n}:2380" for n in ("m0", "m1", "m2", "m3")}
        cluster.add_node("m3", peers, **SMALL)
        cluster.nodes["m3"].env = replace(cluster.nodes["m3"].env, disk=LocalDisk(tmp_path / "d3"))
        await cluster.stub("Cluster").MemberAdd(pb.MemberAddRequest(peerURLs=[peers["m3"]], isLearner=True))
        await cluster.start("m3")
        await cluster.applied_everywhere()
        await live(cluster, random.Random(3))
        # One is far behind with many segments on its disk: they go at once.
        held = failpoints.hits()["wal.in_release"]
        if not held:
            leader = await cluster.wait_leader()
            for n in range(60):
                await cluster.put(b"long", bytes([n]) * 100_000, endpoint=leader.client_address)
    never = [name for name, hits in failpoints.hits().items() if not hits]
    assert not never
