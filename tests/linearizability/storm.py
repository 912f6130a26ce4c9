"""One storm: members, clients and faults in virtual time, and everything that is checked of it."""

import asyncio
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from rayplane.control_plane.etcd.server.state_machine import watchable_store
from rayplane.control_plane.invariants.kv_model import Get, KvModel, Request
from rayplane.control_plane.invariants.lease_model import LeaseModel
from rayplane.control_plane.invariants.linearizable import assert_linearizable
from rayplane.control_plane.rpc import Identity
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.control_plane.rpc.weather import Weather
from rayplane.control_plane.simulation.run import bury
from rayplane.proto.etcd.kv_pb2 import Event
from tests.linearizability.clients import KvClient, RevisionClient
from tests.linearizability.faults import Faults
from tests.linearizability.guarantees import check_answers, check_past_reads, check_revisions
from tests.linearizability.history import Recorder, Truth, resolved
from tests.linearizability.leasing import check_leases
from tests.linearizability.observers import LeaseClient, WatchClient
from tests.linearizability.processes import ObservedLoop, ObservedMember, Processes
from tests.linearizability.watching import Wanted, check_watch

#: Acts and how often they come, relative to each other.
MIXED = {
    "kill": 2, "kill_leader": 2, "power_loss": 2, "power_loss_of_all": 1, "start": 6, "start_all": 3,
    "pause": 3, "pause_leader": 4, "stall_disk": 2,
    "isolate": 2, "isolate_leader": 3, "one_way": 3, "cut_some": 3, "split": 2, "sever": 2, "heal": 7,
    "slow": 2, "move_leader": 3, "move_leader_and_isolate": 2, "compact": 2,
}  # fmt: skip
_SETTLE_S = 300.0


@dataclass(frozen=True)
class Plan:
    """What a storm is made of."""

    seed: int
    members: int = 3
    steps: int = 25
    step_s: tuple[float, float] = (0.1, 1.5)
    acts: dict[str, int] = field(default_factory=lambda: MIXED)
    writers: int = 4
    leases: int = 2
    options: dict[str, Any] = field(default_factory=dict)
    member_type: type[ObservedMember] = ObservedMember
    events_buffered: int = watchable_store.EVENTS_BUFFERED_MAX
    """Events that wait for one client before it must read the store; few let clients fall behind soon."""


def run_storm(plan: Plan) -> str:
    """Raises AssertionError with what was violated; a digest of everything that happened."""
    # What another left must not be cleaned up in the midst of this one.
    bury()
    try:
        return _run(plan)
    except BaseException as e:
        # The frames of a failed run hold everything that died in it.
        error = e
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error.with_traceback(None) from None
    finally:
        bury()


def _run(plan: Plan) -> str:
    loop = ObservedLoop()
    few = plan.events_buffered
    with mock.patch.multiple(watchable_store, EVENTS_BUFFERED_MAX=few, CATCH_UP_EVENTS_MAX=few):
        digest: str = loop.run(Storm(plan, loop).run())
    return digest


class Storm:
    """One run."""

    def __init__(self, plan: Plan, loop: ObservedLoop) -> None:
        self.plan, self.loop = plan, loop
        self.rng = random.Random(plan.seed)
        self.recorder, self.truth = Recorder(), Truth()
        self.clients = [f"c{n}" for n in range(plan.writers)]
        self.weather = Weather(random.Random(self.rng.getrandbits(64)), None)
        self.fabric = Fabric(self.weather)
        options = {
            "tick_s": 0.1,
            "request_timeout_s": 2.0,
            "progress_notify_interval_s": 1.0,
            "snapshot_count": self.rng.choice([20, 200]),
            "catch_up_entries": self.rng.choice([5, 50]),
            "sync_seconds": self.rng.choice([0.0005, 0.002, 0.05]),
        } | plan.options
        self.processes = Processes(
            self.fabric, random.Random(self.rng.getrandbits(64)), options, self._applied, plan.member_type
        )
        self.faults = Faults(self.processes, self.weather, self.clients, self.rng)
        self.kv = [
            KvClient(name, self._network(name), self.endpoints, self.recorder, self._rng(), life_of=self._life_of)
            for name in self.clients
        ]
        everything, keys = Wanted(b"", b"\xff", prev_kv=True), Wanted(b"k", b"l")
        self.watches = [
            WatchClient(self._network(f"w{n}"), self.endpoints, self._rng(), *wanted, slow_s=slow_s)
            for n, (wanted, slow_s) in enumerate(
                [
                    ([everything], 0.0),
                    ([keys], 2.0),
                    ([keys, keys._replace(no_put=True), Wanted(b"k1", prev_kv=True, no_delete=True), keys], 0.0),
                    ([Wanted(b"p0"), everything, keys._replace(prev_kv=True)], 0.5),
                ]
            )
        ]
        self.lease_clients = [
            LeaseClient(f"l{n}", self._network(f"l{n}"), self.endpoints, self.recorder, self._rng())
            for n in range(plan.leases)
        ]
        network = self._network("r0")
        names = [f"m{n}:2379" for n in range(plan.members)]
        self.asker = RevisionClient("r0", network, lambda: self.endpoints() or names, self.recorder, self._rng())
        self.log: list[str] = []

    def _rng(self) -> random.Random:
        return random.Random(self.rng.getrandbits(64))

    def _network(self, host: str) -> MemoryNetwork:
        return MemoryNetwork(self.fabric, host, Identity(host, ()))

    def endpoints(self) -> list[str]:
        return [f"{name}:2379" for name in self.processes.all]

    def _life_of(self, endpoint: str) -> str:
        process = self.processes.all.get(endpoint.partition(":")[0])
        return process.life.name if process is not None and process.life is not None else ""

    def _applied(self, revision: int, events: Sequence[Event]) -> None:
        self.truth.add(revision, events, time=self.loop.time(), moment=self.recorder.tick())

    def _healthy(self) -> None:
        faults = self.processes.faults + self.truth.conflicts + self.loop.faults
        assert not faults, f"{faults[0]}\nafter: {self.log}"

    async def run(self) -> str:
        peers = {f"m{n}": f"http://m{n}:2380" for n in range(self.plan.members)}
        for name in peers:
            self.processes.add(name, peers)
        await asyncio.gather(*(self.processes.start(name) for name in peers))
        self.loop.observer = self.processes.observe
        async with asyncio.TaskGroup() as tasks:
            writers = [tasks.create_task(c.run()) for c in self.kv]
            writers += [tasks.create_task(c.run()) for c in self.lease_clients]
            writers.append(tasks.create_task(self.asker.run()))
            watchers = [tasks.create_task(w.run()) for w in self.watches]
            names = list(self.plan.acts)
            for _ in range(self.plan.steps):
                act = self.rng.choices(names, [self.plan.acts[n] for n in names])[0]
                self.log.append(f"{self.loop.time():.3f} {act}")
                await self.faults.acts[act]()
                await asyncio.sleep(self.rng.uniform(*self.plan.step_s))
                self._healthy()
            await self.faults.calm()
            for task in writers:
                task.cancel()
            await self._settle()
            for task in watchers:
                task.cancel()
        self._healthy()
        self.check()
        return self._digest()

    async def _settle(self) -> None:
        """Leases run out, members come to the same state, every member answers, watches come to the end."""
        for watcher in self.watches:
            watcher.hurry()
        await asyncio.sleep(20.0)
        async with asyncio.timeout(_SETTLE_S):
            for endpoint in self.endpoints():
                for request in (Request((Get(b"k0"),)), Request((Get(b"p0"), Get(b"p1")))):
                    while await self.kv[0].ask(request, endpoint=endpoint) is None:
                        self._healthy()
                        await asyncio.sleep(0.5)
            revision = self.truth.revision
            while any(w.position <= revision for w in self.watches):
                self._healthy()
                await asyncio.sleep(0.5)
        for client in self.watches:
            client.complete()

    def check(self) -> None:
        truth, history = self.truth, self.recorder.all
        truth.seal()
        try:
            assert_linearizable(KvModel(), resolved(history, truth))
            check_revisions([*history, *self.asker.told])
            check_answers(history, truth)
            for client in self.kv:
                check_past_reads(client.past_reads, truth)
            for watcher in self.watches:
                for segment in watcher.segments:
                    check_watch(segment, truth, compacted=self.faults.compacted)
            for leases in self.lease_clients:
                assert_linearizable(LeaseModel(), leases.history.all)
            check_leases([story for client in self.lease_clients for story in client.stories], truth)
        except AssertionError as e:
            e.add_note(f"seed {self.plan.seed}, after: {self.log}")
            raise
        hashes = {member.store.hash_kv() for member in self.processes.members}
        assert len(hashes) == 1, f"members differ: {hashes}"

    def _digest(self) -> str:
        state = (self.loop.time(), self.recorder.all, sorted(self.truth.changes.items()), self.log)
        return hashlib.sha256(repr(state).encode()).hexdigest()
