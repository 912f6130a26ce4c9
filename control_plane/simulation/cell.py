"""One simulated operating system process: a component, its outside world, and its death.

A cell outlives its component: killed, it may be started again on the same disk, with a new network end and with
random numbers of its own. `kill` is SIGKILL on a machine that loses power: ports and connections are gone at once,
what was not synced is lost, and nothing of the component ever runs again, not even its clean-up.
"""

import asyncio
import contextlib
import contextvars
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rayplane.control_plane.cluster.components import Component, Leaves, leave_s
from rayplane.control_plane.rpc import Identity, Network
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.control_plane.rpc.memory_sockets import MemorySockets, Wires
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.simulation.loop import LIFE, Life, VirtualLoop
from rayplane.storage.env import Disk, Env, SimulatedDisk

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
CLOCK_SKEW_MAX_S = 0.1
#: A throttled process runs, and stands still, once in so long.
SLICE_S, SLICE_MIN_S = 0.05, 0.001
_SYNC_MIN_S, _SYNC_MEAN_S = 0.0002, 0.0005

Make = Callable[[Env, Network, Sockets], Component]


class Killed(Exception):
    """The cell died while something waited for it."""


def derived_rng(seed: int, *names: object) -> random.Random:
    """A generator of its own for each purpose, so that drawing from one changes no other."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return random.Random(int.from_bytes(digest[:16], "big"))


def run_rng(seed: int, *names: object) -> random.Random:
    """The same, of the run whose loop this is: a fork of the run gives it another future."""
    loop, rng = asyncio.get_running_loop(), derived_rng(seed, *names)
    assert isinstance(loop, VirtualLoop)
    loop.chances.append(rng)
    return rng


class VirtualClock:
    """The wall clock of one machine: virtual time since a fixed date, off by a little."""

    def __init__(self, loop: VirtualLoop, skew_s: float) -> None:
        self._loop = loop
        self._start = EPOCH + timedelta(seconds=skew_s)

    def jump(self, by_s: float) -> None:
        """Forward at once, or back."""
        self._start += timedelta(seconds=by_s)

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._loop.time())


@dataclass(slots=True)
class _Incarnation:
    """One life of a cell: from a start to the next death."""

    life: Life
    network: MemoryNetwork
    sockets: MemorySockets
    component: Component | None = None
    ended: "asyncio.Future[None] | None" = None


class Cell:
    """One simulated process. `disk` may be given in place of an honest one."""

    def __init__(
        self,
        name: str,
        fabric: Fabric,
        wires: Wires,
        identity: Identity,
        *,
        seed: int,
        disk: Disk | None = None,
        guard: Callable[[str], None] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.name = name
        self.starts = 0
        self._loop = loop
        self._fabric = fabric
        self._wires = wires
        self._identity = identity
        self._seed = seed
        self._guard = guard
        self._rng = run_rng(seed, "cell", name)
        self._clock = VirtualClock(loop, self._rng.uniform(-CLOCK_SKEW_MAX_S, CLOCK_SKEW_MAX_S))
        self.disk = disk if disk is not None else SimulatedDisk(sync_seconds=self._sync_seconds)
        self._stalled_until = 0.0
        self._sync_least_s = 0.0
        self._capacity = 0  # of a disk that was filled
        self._stopped = self._throttled = False
        self._throttle_share, self._throttle_until = 1.0, 0.0
        self._now: _Incarnation | None = None
        # What is dead must not be collected: that would run its clean-up.
        self._graveyard: list[Any] = []

    def _sync_seconds(self) -> float:
        usual = _SYNC_MIN_S + self._rng.expovariate(1 / (_SYNC_MEAN_S - _SYNC_MIN_S))
        return max(usual, self._sync_least_s, self._stalled_until - self._loop.time())

    def stall(self, until: float) -> None:
        """A sync of the honest disk that begins before this time ends only then."""
        self._stalled_until = until

    def slow_disk(self, least_s: float) -> None:
        """A sync of the honest disk takes so long at least."""
        self._sync_least_s = least_s

    def fill_disk(self) -> None:
        """Nothing more can be written to the honest disk."""
        if isinstance(self.disk, SimulatedDisk):
            self._capacity = self._capacity or self.disk.capacity
            self.disk.capacity -= self.disk.room()

    def free_disk(self) -> None:
        """There is room again."""
        if isinstance(self.disk, SimulatedDisk) and self._capacity:
            self.disk.capacity, self._capacity = self._capacity, 0

    def corrupt_disk(self) -> str:
        """One bit on the honest disk becomes another; in which file. Only while it is dead."""
        assert self._now is None
        return self.disk.corrupt(self._rng) if isinstance(self.disk, SimulatedDisk) else ""

    def expire(self, expired: bool) -> None:
        """Whether nobody accepts the certificate of the process that runs now; the next one has another."""
        if self._now is not None:
            self._now.network.is_expired = expired

    def jump(self, by_s: float) -> None:
        """The machine's clock goes forward at once, or back."""
        self._clock.jump(by_s)

    @property
    def component(self) -> Component | None:
        """What runs here; None while dead or starting."""
        return self._now.component if self._now is not None else None

    @property
    def alive(self) -> bool:
        return self._now is not None

    @property
    def turns(self) -> tuple[int, int]:
        """While it stays the same, nothing in it has changed: its starts, and the callbacks of this one."""
        return self.starts, self._now.life.turns if self._now is not None else -1

    @property
    def paused(self) -> bool:
        return self._now is not None and self._now.life.paused

    @property
    def clock(self) -> datetime:
        """What its machine's clock shows."""
        return self._clock.now()

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Its tasks that are not done."""
        return [] if self._now is None else self._loop.tasks_of(self._now.life)

    async def start(self, make: Make) -> None:
        """Build a component and start it as a process of its own. Raises what its start raises, or Killed."""
        assert self._now is None, f"{self.name} runs already"
        self.starts += 1
        now = self._begin()
        env = Env(self._clock, run_rng(self._seed, "env", self.name, self.starts), self.disk)
        try:
            await self._within(now, lambda: self._bring_up(now, make, env))
        except Killed:
            raise
        except BaseException:
            self.kill()
            raise

    async def run(self, work: Callable[[Env, Network, Sockets], Awaitable[None]]) -> None:
        """Run a coroutine as a process of its own until it ends. Raises what it raises, or Killed."""
        self.starts += 1
        now = self._begin()
        env = Env(self._clock, run_rng(self._seed, "env", self.name, self.starts), self.disk)
        await self._within(now, lambda: work(env, now.network, now.sockets))

    def _begin(self) -> _Incarnation:
        network = MemoryNetwork(self._fabric, self.name, self._identity)
        self._now = _Incarnation(Life(self.name, self._guard), network, MemorySockets(self._wires, self.name))
        return self._now

    async def _bring_up(self, now: _Incarnation, make: Make, env: Env) -> None:
        component = make(env, now.network, now.sockets)
        await component.start()
        now.component = component

    async def _within(self, now: _Incarnation, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for work done in the cell's context; also when the cell dies of it."""
        ended = now.ended = self._loop.create_future()
        context = contextvars.copy_context()
        context.run(LIFE.set, now.life)

        async def carry() -> None:
            try:
                await work()
            except Exception as e:
                if not ended.done():
                    ended.set_exception(e)
            else:
                if not ended.done():
                    ended.set_result(None)

        task = self._loop.create_task(carry(), name=self.name, context=context)
        try:
            await ended
        finally:
            self._graveyard.append(task)

    def kill(self) -> None:
        """See the module. Nothing when it is dead already."""
        now, self._now = self._now, None
        self._stopped = False
        if now is None:
            return
        now.life.dead = True
        self._graveyard.append((now, now.life.held, self._loop.tasks_of(now.life)))
        now.network.detach()
        now.sockets.detach()
        if isinstance(self.disk, SimulatedDisk):
            self.disk.crash(self._rng)
        if now.ended is not None and not now.ended.done():
            now.ended.set_exception(Killed(self.name))

    async def stop(self, within_s: float) -> None:
        """SIGTERM: the component stops by itself; what has not within this span is killed."""
        now = self._now
        if now is None:
            return
        if now.component is not None:
            component, leaving_s = now.component, leave_s(now.component, for_good=True)
            with contextlib.suppress(Killed, TimeoutError):
                async with asyncio.timeout(within_s + leaving_s):
                    if isinstance(component, Leaves):
                        await self._within(now, lambda: component.leave(for_good=True))
                    await self._within(now, component.stop)
        if self._now is now:
            self.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing runs."""
        if self._now is not None:
            self._stopped = True
            self._hold()

    def resume(self) -> None:
        """SIGCONT; nothing when it runs."""
        self._stopped = False
        self._hold()

    def throttle(self, share: float, until: float) -> None:
        """Up to this time it runs in slices that make up no more than a share of it; now or earlier ends that."""
        sliced = self._loop.time() < self._throttle_until
        self._throttle_share, self._throttle_until = share, until
        if not sliced:
            self._slice()

    def _slice(self) -> None:
        over = self._loop.time() >= self._throttle_until
        self._throttled = not over and not self._throttled
        self._hold()
        if not over:
            part = 1 - self._throttle_share if self._throttled else self._throttle_share
            # In nobody's life: what belongs to a cell that stands still does not run.
            self._loop.call_later(max(SLICE_S * part, SLICE_MIN_S), self._slice, context=contextvars.Context())

    def _hold(self) -> None:
        """Stand still, or go on."""
        if self._now is None:
            return
        held = self._stopped or self._throttled
        if held:
            self._now.life.paused = True
        elif self._now.life.paused:
            self._loop.revive(self._now.life)

    @contextlib.contextmanager
    def inside(self) -> Any:
        """Make tasks here belong to this cell."""
        assert self._now is not None
        token = LIFE.set(self._now.life)
        try:
            yield self._now.network
        finally:
            LIFE.reset(token)
