"""Trials that the supervisor puts its own cluster to, for callers of API servers: one at a time, and healed.

A trial lives no longer than its call, nor than its supervisor, which ends it first. What one has broken whose
supervisor was killed stands among the standing faults: the next supervisor ends it, wherever it is. What it made stands
in a file of that machine: the next supervisor there deletes it, one on another machine does not know.
"""

import asyncio
import contextlib
import importlib
import json
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator
from functools import partial
from typing import TYPE_CHECKING

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.chaos import LiveInjector
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.state import BROKEN, MADE
from rayplane.control_plane.cluster.supervisor.standing import StandingFaults
from rayplane.control_plane.cluster.trial.journal import Broken
from rayplane.control_plane.faults.form import as_step
from rayplane.control_plane.faults.vocabulary import SUPERVISOR, Cut, Fault, Partition, Target
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import chaos_pb2 as pb

if TYPE_CHECKING:
    from rayplane.control_plane.cluster.trial.verdict import Verdict
    from rayplane.control_plane.cluster.trial.workload import Caller, Made

log = logging.getLogger(__name__)

LINES_MAX = 1000
"""Of what happened and was not taken yet: who reads slowly misses the oldest."""
END_S = 15.0
"""For a trial to heal and to clean up when its supervisor stops; the next one does what is left."""
ENDED = "the supervisor ends, and its trial with it: ask the next one"
HEAL_TRIES, HEAL_AGAIN_S = 60, 5.0


class AnotherTrial(ClusterError):
    """A trial goes on; there is one at a time."""


class Ended(ClusterError):
    """A trial that ended with its supervisor."""

    code = "UNAVAILABLE"


class _FromInside(LiveInjector):
    """An injector that spares the supervisor, in which the trial runs, and notes what lasts for the next one."""

    def __init__(self, admin: Access, rng: random.Random, standing: StandingFaults, by: str) -> None:
        super().__init__(admin, rng)
        self._standing, self._by = standing, by

    async def breaks(self, fault: Fault, hit: tuple[str, ...]) -> None:
        await self._standing.note(Broken(fault, hit), self._by)

    async def healed(self, fault: Fault, hit: tuple[str, ...]) -> None:
        await self._standing.forget(Broken(fault, hit))

    def refusal(self, fault: Fault) -> str:
        target = getattr(fault, "target", Target())
        match fault:
            case Partition(groups):
                named = [host for group in groups for host in group]
            case Cut(sources, sinks):
                named = [*sources, *sinks]
            case _:
                named = [target.name]
        if SUPERVISOR in named:
            return f"{as_step(fault)}: a trial in the supervisor would end with it; use `rayplane chaos run`"
        return super().refusal(fault)


class Trials:
    """The trials of one cluster. `admin`: the supervisor's own way to all of it; `standing`: its standing faults."""

    def __init__(self, admin: Access, standing: StandingFaults) -> None:
        self._admin = admin
        self._standing = standing
        self._goes_on = False
        self._stopped = False
        self._task: asyncio.Task[Verdict] | None = None
        self._healing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Heal what a trial has left that ended without its own end."""
        if self._is_left():
            self._healing = asyncio.get_running_loop().create_task(self._heal(), name="healing after a trial")

    async def stop(self) -> None:
        self._stopped = True
        await cancel_and_wait(self._healing)
        if self._task is not None:
            self._task.cancel()
            if (await asyncio.wait([self._task], timeout=END_S))[1]:
                log.warning("a trial is not healed within %g s: the next supervisor goes on with that", END_S)

    async def run(self, request: pb.TrialRequest) -> AsyncGenerator[pb.TrialResponse, None]:
        """What happens, line by line, then the verdict. Raises ClusterError. Who stops listening ends the trial."""
        if self._goes_on:
            raise AnotherTrial("another trial goes on: wait for its end")
        self._goes_on = True
        try:
            async with contextlib.aclosing(self._run(request)) as told:
                async for one in told:
                    yield one
        finally:
            self._goes_on = False

    async def _run(self, request: pb.TrialRequest) -> AsyncGenerator[pb.TrialResponse, None]:
        # With it come the clients of a trial and all that must hold, which a supervisor seldom needs. On a busy machine
        # that takes longer than those who wait for the supervisor's other answers would.
        await asyncio.to_thread(importlib.import_module, "rayplane.control_plane.cluster.trial.trial")
        from rayplane.control_plane.cluster.scenario import parse_foreign
        from rayplane.control_plane.cluster.trial.trial import Trial
        from rayplane.control_plane.cluster.trial.verdict import table

        caller = _caller(request) if request.by else None
        scenario = await asyncio.to_thread(parse_foreign, request.scenario)
        if self._stopped:
            raise Ended(ENDED)
        lines, news = deque[str](maxlen=LINES_MAX), asyncio.Event()

        def say(line: str) -> None:
            lines.append(line)
            news.set()

        seed = request.seed if request.HasField("seed") else scenario.seed
        breaks = partial(_FromInside, standing=self._standing, by=request.by)
        trial = Trial(self._admin, scenario, seed, say, breaks=breaks, keep=request.keep, caller=caller)
        log.info("%s puts the cluster to the trial %.80r, seed %d", request.by or "somebody", scenario.name, seed)
        self._task = task = asyncio.ensure_future(trial.run())
        task.add_done_callback(lambda _: news.set())
        try:
            is_over = False
            while not is_over:
                await news.wait()
                news.clear()
                is_over = task.done()
                while lines:
                    yield pb.TrialResponse(event=lines.popleft())
            if task.cancelled():
                raise Ended(ENDED)
            verdict = task.result()
            for line in table(verdict):
                yield pb.TrialResponse(event=line)
            yield pb.TrialResponse(verdict=json.dumps(verdict.to_json()))
        finally:
            await cancel_and_wait(task)
            self._standing.release()

    def _is_left(self) -> bool:
        return any((self._admin.directory.path / name).exists() for name in (BROKEN, MADE))

    async def _heal(self) -> None:
        """Not what is of a command's trial that goes on: that one has the lock, which others get between two tries.

        What somebody may not delete is told once, and stays.
        """
        from rayplane.control_plane.cluster.trial.trial import heal

        refused: set[Made] = set()
        for _ in range(HEAL_TRIES):
            await asyncio.sleep(HEAL_AGAIN_S)
            if not self._is_left():
                return
            with contextlib.suppress(ClusterError, ApiError, RpcError):
                left, failed = await heal(self._admin, refused, within_s=0, turn_s=0, patience_s=0)
                if left or failed:
                    log.warning("an earlier trial has left broken: %s; not healed: %s", left, failed)
                if not failed:
                    return


def _caller(request: pb.TrialRequest) -> "Caller":
    """Raises UsageError when nobody can act as who asks: calls say it in text that has limits."""
    from rayplane.control_plane.cluster.trial.workload import Caller

    if any("," in group for group in request.groups):
        raise UsageError("nobody can act as a group whose name has a comma")
    if not all(text.isascii() and text.isprintable() for text in (request.by, request.uid, *request.groups)):
        raise UsageError("nobody can act as whose name, uid or groups are not printable ASCII")
    extra = tuple((key, tuple(one.values)) for key, one in request.extra.items())
    return Caller(request.by, tuple(request.groups), request.uid, extra)
