"""Members as processes in virtual time: they can be killed, lose power, stand still and be started again.

What belongs to a process (its tasks, timers, servers) runs in the context of its life. A dead life's callbacks never
run again, a paused one's wait: SIGKILL and SIGSTOP. Connections to a paused process stay open and silent.
"""

import asyncio
import contextvars
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from rayplane.control_plane.etcd.server import Member, MemberConfig
from rayplane.control_plane.etcd.server.bootstrap.recovery import Recovery
from rayplane.control_plane.identities import MEMBERS
from rayplane.control_plane.rpc import EVERYONE, Identity
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.control_plane.simulation.loop import LIFE, Life, VirtualLoop
from rayplane.proto.etcd.kv_pb2 import Event
from rayplane.storage.env import Env
from rayplane.storage.env.simulated import SimulatedDisk
from rayplane.storage.mvcc import Change


class JumpingClock:
    """A wall clock that nobody should rely on: it may be set by years, forth and back."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        if self._rng.random() < 0.2:
            self._time += timedelta(seconds=self._rng.uniform(-3e7, 3e7))
        return self._time


class ObservedLoop(VirtualLoop):
    """A loop that calls `observer` after each round of callbacks: nothing can happen unseen between two calls."""

    observer: Callable[[], None] | None = None

    def _run_once(self) -> None:
        super()._run_once()
        if self.observer is not None:
            self.observer()


class ObservedMember(Member):
    """A member that tells of every revision that it applies."""

    observer: Callable[[int, Sequence[Event]], None]

    def _replicate(self, recovery: Recovery, first_request: int) -> None:
        super()._replicate(recovery, first_request)
        told = self.machine.notify

        def notify(revision: int, changes: list[Change]) -> None:
            self.observer(revision, [change.message(prev_kv=True) for change in changes])
            told(revision, changes)

        self.machine.notify = notify


@dataclass
class Process:
    """One member's machine. It outlives its member; `lives` counts its starts."""

    name: str
    config: MemberConfig
    env: Env
    disk: SimulatedDisk
    life: Life | None = None
    member: Member | None = None
    network: MemoryNetwork | None = None
    lives: int = 0

    @property
    def running(self) -> bool:
        return self.life is not None

    @property
    def paused(self) -> bool:
        return self.life is not None and self.life.paused


@dataclass
class Processes:
    """All machines of one fabric."""

    fabric: Fabric
    rng: random.Random
    options: dict[str, Any]
    on_applied: Callable[[int, Sequence[Event]], None]
    member_type: type[ObservedMember] = ObservedMember
    all: dict[str, Process] = field(default_factory=dict)
    leaders: dict[int, int] = field(default_factory=dict)
    """Term to the member that led in it."""
    faults: list[str] = field(default_factory=list)
    stall: dict[str, float] = field(default_factory=dict)
    """Until when a machine's disk does not answer."""
    # What is dead must not be collected: that would run its clean-up.
    _graveyard: list[Any] = field(default_factory=list)

    def add(self, name: str, peers: dict[str, str], *, joins: bool = False) -> Process:
        rng = random.Random(self.rng.getrandbits(64))
        slowness = self.options.get("sync_seconds", 0.002)

        def sync_seconds() -> float:
            now = asyncio.get_running_loop().time()
            return max(rng.random() * slowness, self.stall.get(name, 0.0) - now)

        disk = SimulatedDisk(sync_seconds=sync_seconds)
        config = MemberConfig(
            name=name,
            initial_cluster=peers,
            client_address=f"{name}:2379",
            peer_address=f"{name}:2380",
            cluster_state="existing" if joins else "new",
            wal_segment_bytes=256 * 1024,
            client_callers=EVERYONE,
            **{key: value for key, value in self.options.items() if key != "sync_seconds"},
        )
        # The clock draws from a generator of its own: what it says may change nothing.
        env = Env(JumpingClock(random.Random(name)), random.Random(rng.getrandbits(64)), disk)
        process = self.all[name] = Process(name, config, env, disk)
        return process

    async def start(self, name: str) -> None:
        """Raises what the member's start raises, and CancelledError when it is killed meanwhile."""
        process = self.all[name]
        assert not process.running, f"{name} runs already"
        process.lives += 1
        life = process.life = Life(f"{name}#{process.lives}")
        network = process.network = MemoryNetwork(self.fabric, name, Identity(name, (MEMBERS,)))
        member = self.member_type(process.config, process.env, network)
        member.observer = self.on_applied
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def begin() -> None:
            try:
                await member.start()
            except Exception as e:
                if not ended.done():
                    ended.set_exception(e)
            else:
                if process.life is life:
                    process.member = member
                if not ended.done():
                    ended.set_result(None)

        context = contextvars.copy_context()
        context.run(LIFE.set, life)
        task = asyncio.get_running_loop().create_task(begin(), context=context)
        self._graveyard.append((member, task))
        try:
            async with asyncio.timeout(60):
                await ended
        except TimeoutError:
            return  # it was killed or paused meanwhile

    def kill(self, name: str, *, power_loss: bool = False) -> None:
        """SIGKILL, or the end of the whole machine: what was not synced is torn."""
        process = self.all[name]
        life, network = process.life, process.network
        assert life is not None and network is not None
        process.life = process.member = process.network = None
        life.dead = True
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._graveyard.append((life.held, loop.tasks_of(life)))
        network.detach()
        if power_loss:
            process.disk.crash(self.rng)
        else:
            process.disk.kill()

    def pause(self, name: str) -> None:
        life = self.all[name].life
        assert life is not None
        life.paused = True

    def resume(self, name: str) -> None:
        life = self.all[name].life
        loop = asyncio.get_running_loop()
        assert life is not None and isinstance(loop, VirtualLoop)
        loop.revive(life)

    @property
    def members(self) -> list[Member]:
        """Those that run and have started."""
        return [p.member for p in self.all.values() if p.member is not None]

    def named(self, *, running: bool = True, paused: bool | None = None) -> list[str]:
        return [n for n, p in self.all.items() if p.running == running and paused in (None, p.paused)]

    def leader(self) -> str | None:
        """The one that leads in the newest term."""
        leading = [(p.member.term, n) for n, p in self.all.items() if p.member is not None and p.member.is_leader]
        return max(leading)[1] if leading else None

    def observe(self) -> None:
        """At every moment: one leader in a term, and no member that gave up."""
        for process in self.all.values():
            member = process.member
            if member is None:
                continue
            if member.is_leader and self.leaders.setdefault(member.term, member.member_id) != member.member_id:
                self.faults.append(f"two leaders in term {member.term}")
            if member.failure is not None:
                self.faults.append(f"{process.name} gave up: {member.failure!r}")
                process.member = None
