"""Three members as real processes, killed and stopped (SIGSTOP) under clients whose histories are then judged."""

import asyncio
import contextlib
import random
import signal
from pathlib import Path

import pytest

from rayplane.control_plane.invariants.kv_model import Get, KvModel, Request
from rayplane.control_plane.invariants.linearizable import assert_linearizable
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd import rpc_pb2 as pb
from scripts.benchmarks.members import MemberProcess, end_members, new_members
from tests.linearizability.clients import KvClient
from tests.linearizability.guarantees import check_answers, check_past_reads, check_revisions
from tests.linearizability.history import Recorder, Truth, resolved
from tests.linearizability.observers import WatchClient
from tests.linearizability.watching import Batch, Wanted, check_watch

ACTS = ("stop leader", "kill leader", "stop two", "kill all", "stop leader", "kill follower")
EVERYTHING = Wanted(b"", b"\xff", prev_kv=True)
SETTLE_S = 40.0


class RealStorm:
    """The storm of `tests.linearizability.storm` in real time."""

    def __init__(self, members: list[MemberProcess], seed: int) -> None:
        self.members, self.rng = members, random.Random(seed)
        self.recorder, self.network = Recorder(), GrpcNetwork()
        self.kv = [
            KvClient(
                f"c{n}",
                self.network,
                self.endpoints,
                self.recorder,
                random.Random(f"{seed}-{n}"),
                life_of=self._life_of,
            )
            for n in range(4)
        ]
        self.watches = [
            WatchClient(self.network, self.endpoints, random.Random(f"{seed}-w{n}"), *wanted, slow_s=slow_s)
            for n, (wanted, slow_s) in enumerate([([EVERYTHING, Wanted(b"p0")], 0.0), ([Wanted(b"k", b"l")], 0.5)])
        ]

    def endpoints(self) -> list[str]:
        return [member.client for member in self.members]

    def _life_of(self, endpoint: str) -> str:
        return next(f"{m.name}#{m.pid}" for m in self.members if m.client == endpoint)

    async def leader(self) -> MemberProcess:
        async with asyncio.timeout(SETTLE_S):
            while True:
                for member in self.members:
                    stub = Stub(self.network.channel(member.client), pb.DESCRIPTOR.services_by_name["Maintenance"])
                    with contextlib.suppress(RpcError):
                        status = await stub.Status(pb.StatusRequest(), timeout=1.0)
                        if status.leader == status.header.member_id:
                            return member
                await asyncio.sleep(0.1)

    async def act(self, what: str) -> None:
        leader = await self.leader()
        others = [m for m in self.members if m is not leader]
        chosen = {"leader": [leader], "two": [leader, others[0]], "all": self.members, "follower": others[:1]}
        how, whom = what.split()
        for member in chosen[whom]:
            member.kill(signal.SIGSTOP if how == "stop" else signal.SIGKILL)
        # Long enough for the others to elect another.
        await asyncio.sleep(self.rng.uniform(1.5, 2.5))
        for member in chosen[whom]:
            if how == "stop":
                member.kill(signal.SIGCONT)
            else:
                await member.wait()
                await member.start()
        await asyncio.sleep(self.rng.uniform(0.2, 1.0))

    async def run(self) -> None:
        await asyncio.gather(*(member.start() for member in self.members))
        async with asyncio.TaskGroup() as tasks:
            writers = [tasks.create_task(client.run()) for client in self.kv]
            watchers = [tasks.create_task(watch.run()) for watch in self.watches]
            for what in ACTS:
                await self.act(what)
            for task in writers:
                task.cancel()
            # What was under way may still have its effect: not before its time-out is the end the end.
            await asyncio.sleep(3.0)
            async with asyncio.timeout(SETTLE_S):
                last = 0
                for endpoint in self.endpoints():
                    while (
                        answer := await self.kv[0].ask(Request((Get(b"p0"), Get(b"p1"))), endpoint=endpoint)
                    ) is None:
                        await asyncio.sleep(0.2)
                    last = max(last, answer.revision)
                while any(watch.position <= last for watch in self.watches):
                    await asyncio.sleep(0.1)
            for task in watchers:
                task.cancel()
        self.check(await self.whole_history(last))
        await self.network.close()

    async def whole_history(self, last: int) -> Truth:
        """By a watch of its own, from the first revision on, after all is over."""
        historian = WatchClient(self.network, self.endpoints, random.Random(0), EVERYTHING, restless=False)
        task = asyncio.create_task(historian.run())
        async with asyncio.timeout(SETTLE_S):
            while historian.position <= last:
                await asyncio.sleep(0.1)
        await cancel_and_wait(task)
        truth = Truth()
        for item in historian.segments[0].seen:
            events = item.events if isinstance(item, Batch) else ()
            for revision in sorted({r for r, _ in events}):
                truth.learn(revision, tuple(change for r, change in events if r == revision))
        truth.seal()
        return truth

    def check(self, truth: Truth) -> None:
        history = self.recorder.all
        assert_linearizable(KvModel(), resolved(history, truth))
        check_revisions(history)
        check_answers(history, truth)
        for client in self.kv:
            check_past_reads(client.past_reads, truth)
        for watch in self.watches:
            watch.complete()
            for segment in watch.segments:
                check_watch(segment, truth)
        assert sum(op.known for op in history) > 100, "hardly anything was answered"


@pytest.mark.turn(1, of=2)
@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_processes_that_are_killed_and_stopped(tmp_path: Path) -> None:
    async def storm() -> None:
        members = new_members(3, tmp_path, rng=random.Random(1))
        try:
            await RealStorm(members, 1).run()
        finally:
            for member in members:
                member.kill(signal.SIGCONT)
            await end_members(members)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(storm())
