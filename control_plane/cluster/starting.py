"""Starting actors for the supervisor: each in a task of its own, so that one that hangs holds up no other.

What fails is tried again ever more rarely, and what failed last is remembered, for `status` to show.
"""

import asyncio
import logging
from collections.abc import Collection

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.errors import DataLost, StartFailed
from rayplane.control_plane.cluster.host import Host
from rayplane.control_plane.tasks import cancel_and_wait

log = logging.getLogger(__name__)

RESTARTS = Backoff(1.0, 30.0)
# What ends sooner after its start has failed too; the first time may be a mere accident.
LIFE_S = 10.0
# How long the others wait for those that are being started now.
ROUND_S = 10.0


class Starter:
    """`starts`, `failures` and `reasons` are by actor name: how often it was started, how many starts in a row have
    failed, and why the last did.
    """

    def __init__(self, host: Host) -> None:
        self.starts: dict[str, int] = {}
        self.failures: dict[str, int] = {}
        self.reasons: dict[str, str] = {}
        self.lost: set[str] = set()
        """Members that cannot come back: their data is not what they acknowledged."""
        self._host = host
        self._not_before: dict[str, float] = {}
        self._started_at: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def may_start(self, name: str) -> bool:
        """Whether an actor that does not run may be started: nobody does so, and it has not failed too lately."""
        if name in self._tasks:
            return False
        now = asyncio.get_running_loop().time()
        started_at = self._started_at.pop(name, None)
        if started_at is not None:
            if now - started_at < LIFE_S:
                self._failed(name, "it ended soon after its start; see its log", free=1)
            else:
                self.forgive(name)
        return self._not_before.get(name, 0.0) <= now

    def forgive(self, name: str) -> None:
        """It runs well, or its end was wanted: nothing of before counts."""
        for kept in (self.failures, self.reasons, self._not_before, self._started_at):
            kept.pop(name, None)

    def settle(self, running: Collection[str]) -> None:
        """These run now: those that have for a while are forgiven their failures."""
        now = asyncio.get_running_loop().time()
        for name in [n for n in self.failures if n in running and now - self._started_at.get(n, now) >= LIFE_S]:
            self.forgive(name)

    async def start(self, specs: Collection[Spec]) -> None:
        """Begin to start these, and wait a while for them: what needs longer goes on by itself."""
        loop = asyncio.get_running_loop()
        for spec in specs:
            name = spec.instance.name
            task = self._tasks[name] = loop.create_task(self._start(spec), name=name)
            task.add_done_callback(self._ended)
        tasks = [self._tasks[s.instance.name] for s in specs]
        if tasks:
            await asyncio.wait(tasks, timeout=ROUND_S)

    async def settled(self, name: str) -> None:
        """Return when nobody is starting it any more, or after a while."""
        task = self._tasks.get(name)
        if task is not None:
            await asyncio.wait([task], timeout=ROUND_S)

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        await cancel_and_wait(*tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task.get_name(), None)

    async def _start(self, spec: Spec) -> None:
        name = spec.instance.name
        log.info("starting %s", name)
        self.starts[name] = self.starts.get(name, 0) + 1
        try:
            await self._host.start(spec)
        except StartFailed as e:
            if isinstance(e, DataLost):
                self.lost.add(name)
            self._failed(name, str(e))
        except Exception as e:
            log.exception("starting %s failed", name)
            self._failed(name, f"{type(e).__name__}: {e}")
        else:
            self.lost.discard(name)
            self._started_at[name] = asyncio.get_running_loop().time()

    def _failed(self, name: str, reason: str, *, free: int = 0) -> None:
        """`free`: so many failures in a row cost no pause."""
        failures = self.failures[name] = self.failures.get(name, 0) + 1
        self.reasons[name] = reason
        if failures <= free:
            return
        pause = RESTARTS.pause_s(failures)
        self._not_before[name] = asyncio.get_running_loop().time() + pause
        log.warning("%s failed (%s); trying again in %.1f s", name, reason, pause)
