"""Where one task works for many: when it fails or is cancelled, the others are not left waiting for ever."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from rayplane.control_plane.etcd.server.replication.transport import PeerTransport
from rayplane.control_plane.rpc import RpcError
from tests.etcd.harness import TICK_S, EtcdCluster, etcd_cluster

LIMIT_S = 20


async def until(ask: Any) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not ask():
            await asyncio.sleep(TICK_S)


async def lagging(cluster: EtcdCluster) -> str:
    """A follower that needs a snapshot when it comes back."""
    leader = await cluster.wait_leader()
    name = next(cluster.name_of(m) for m in cluster.members if m is not leader)
    await cluster.stop(name)
    for number in range(200):
        await cluster.put_retrying(b"k%d" % number, b"v")
    return name


async def test_a_snapshot_that_cannot_be_read_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with etcd_cluster(3, snapshot_count=50, catch_up_entries=10) as cluster:
        name = await lagging(cluster)
        leader = await cluster.wait_leader()
        whole, failures = leader.store.snapshot, []

        def torn() -> Iterator[bytes]:
            yield b""
            failures.append(True)
            raise OSError("the disk does not answer")

        monkeypatch.setattr(leader.store, "snapshot", lambda: torn() if len(failures) < 2 else whole())
        await cluster.start(name)
        await until(lambda: cluster.nodes[name].alive.applied >= leader.applied)
        assert len(failures) == 2


async def test_a_link_that_broke_by_a_fault_of_ours_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with etcd_cluster(3) as cluster:
        leader = await cluster.wait_leader()
        whole = PeerTransport.stub
        failures: list[str] = []

        def broken(self: PeerTransport, address: str) -> Any:
            if self is leader.transport and len(failures) < 4:
                failures.append(address)
                raise ValueError("a bug")
            return whole(self, address)

        monkeypatch.setattr(PeerTransport, "stub", broken)
        link = next(iter(leader.transport._links.values()))
        connection = link._connection
        assert connection is not None
        connection.close()
        await until(
            lambda: len(failures) == 4 and all(leader.transport.is_connected(p) for p in leader.transport.peers)
        )
        await cluster.put_retrying(b"k", b"v")
        await cluster.applied_everywhere()


async def test_writers_and_readers_that_are_cancelled_leave_nobody_waiting() -> None:
    """All that share a sync or a round of reads with somebody who gives up get their answers."""
    async with etcd_cluster(3) as cluster:
        await cluster.wait_leader()
        for round_ in range(5):
            writes = [asyncio.create_task(cluster.put(b"k%d" % n, b"v")) for n in range(20)]
            reads = [asyncio.create_task(cluster.get(b"k0")) for _ in range(20)]
            for _ in range(round_):
                await asyncio.sleep(0)
            for task in (*writes[:10], *reads[:10]):
                task.cancel()
            async with asyncio.timeout(LIMIT_S):
                await asyncio.gather(*writes[10:], *reads[10:])
            for task in (*writes[:10], *reads[:10]):
                with contextlib.suppress(asyncio.CancelledError, RpcError):
                    await task


async def test_a_member_whose_own_task_failed_does_not_look_alive() -> None:
    async with etcd_cluster(1) as cluster:
        member = await cluster.wait_leader()

        async def broken() -> None:
            raise RuntimeError("a bug")

        member._spawn(broken())
        async with asyncio.timeout(LIMIT_S):
            await member.wait_stopped()
        assert "a bug" in str(member.failure)
        cluster.nodes["m0"].member = None
        await cluster.start("m0")
