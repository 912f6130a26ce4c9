"""Trials that the supervisor puts its own cluster to, for callers of API servers: one at a time, and healed.

A trial lives no longer than its call, nor than its supervisor, which ends it first. One that was given an id lives on
for a moment without its call: an API server may be killed, and another one asked for the same trial. What one has
broken, and what it made, whose supervisor was killed stands in the notes of standing faults: the next supervisor ends
the one and deletes the other, wherever it is.
"""

import asyncio
import contextlib
import importlib
import json
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

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
    from rayplane.control_plane.cluster.trial.trial import Say
    from rayplane.control_plane.cluster.trial.workload import Caller, Made

log = logging.getLogger(__name__)

LINES_MAX = 1000
"""Of what happened and was not taken yet: who reads slowly misses the oldest."""
MADE_MAX = 200
"""Objects that one trial makes and deletes: all are noted at once, in one value of etcd, whenever one is added."""
ATTACH_S = 10.0
"""For another call to come for a trial whose call was cut off; and for its verdict."""
PART_BYTES = 1 << 18
"""Of a recording, in one response."""
END_S = 15.0
"""For a trial to heal and to clean up when its supervisor stops; the next one does what is left."""
ENDED = "the supervisor ends, and its trial with it: ask the next one"
HEAL_TRIES, HEAL_AGAIN_S = 60, 5.0


class AnotherTrial(ClusterError):
    """A trial goes on; there is one at a time."""


class Ended(ClusterError):
    """A trial that ended with its supervisor."""

    code = "UNAVAILABLE"


class GivenUp(ClusterError):
    """A trial that ended before its time: its caller wanted that, or was away for long."""


class NoSuchTrial(ClusterError):
    """No trial of that id is known, or not to that caller; it may be over, or have ended with its supervisor."""

    code = "NOT_FOUND"


class _Going:
    """A trial that goes on, or just did, and what it says to calls that listen.

    Responses have numbers: those that nobody took in time are dropped, the oldest first.
    """

    def __init__(self, request: pb.TrialRequest) -> None:
        self.id, self._by = request.id, request.by
        self.listeners = 0
        self.lapse: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[list[pb.TrialResponse]]
        """It has what comes last, when it is done."""
        self.cancelled_for: ClusterError = Ended(ENDED)
        self._lines = deque[str](maxlen=LINES_MAX)
        self._said = 0
        self._news = asyncio.Event()

    def is_of(self, request: pb.TrialRequest) -> bool:
        return bool(request.id) and (self.id, self._by) == (request.id, request.by)

    def say(self, line: str) -> None:
        self._lines.append(line)
        self._said += 1
        self.wake()

    def wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def told(self, after: int) -> AsyncGenerator[pb.TrialResponse, None]:
        """Raises Ended, GivenUp, and what the trial does."""
        at = after
        if after:
            yield pb.TrialResponse(number=after)
        while True:
            news, is_over = self._news, self.task.done()
            while at < self._said:
                at = max(at, self._said - len(self._lines))
                at += 1
                yield pb.TrialResponse(event=self._lines[at - 1 - self._said], number=at)
            if is_over:
                break
            await news.wait()
        if self.task.cancelled():
            raise self.cancelled_for
        for number, last in enumerate(self.task.result()[at - self._said :], at + 1):
            last.number = number
            yield last


class _FromInside(LiveInjector):
    """An injector that spares the supervisor, in which the trial runs, and notes what lasts for the next one."""

    def __init__(self, admin: Access, rng: random.Random, standing: StandingFaults, by: str) -> None:
        super().__init__(admin, rng)
        self._standing, self._by = standing, by

    async def breaks(self, fault: Fault, hit: tuple[str, ...]) -> None:
        await self._standing.note(Broken(fault, hit), self._by)

    async def healed(self, fault: Fault, hit: tuple[str, ...]) -> None:
        await self._standing.forget(Broken(fault, hit))

    async def makes(self, made: Sequence[Any]) -> None:
        await self._standing.note_made(made)

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
        standing.on_made = self._adopt
        self._stopped = False
        self._going: _Going | None = None
        self._healing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Heal what a trial has left that ended without its own end."""
        if self._is_left() and (self._healing is None or self._healing.done()):
            self._healing = asyncio.get_running_loop().create_task(self._heal(), name="healing after a trial")

    def _adopt(self, made: Sequence[Any]) -> None:
        """Trials of a supervisor on another machine have made these."""
        from rayplane.control_plane.cluster.trial.workload import Workload

        with contextlib.suppress(ClusterError):  # the file of this machine is damaged, which healing tells
            Workload(self._admin.directory).adopt(made)
        self.start()

    async def stop(self) -> None:
        self._stopped = True
        await cancel_and_wait(self._healing)
        if self._going is not None:
            self._going.task.cancel()
            if (await asyncio.wait([self._going.task], timeout=END_S))[1]:
                log.warning("a trial is not healed within %g s: the next supervisor goes on with that", END_S)

    async def run(self, request: pb.TrialRequest) -> AsyncGenerator[pb.TrialResponse, None]:
        """What happens, line by line, then the verdict. Raises ClusterError. Who stops listening ends the trial."""
        going = self._going_of(request)
        if request.end:
            going.cancelled_for = GivenUp("the trial was ended by its caller")
            await cancel_and_wait(going.task)
            return
        going.listeners += 1
        if going.lapse is not None:
            going.lapse.cancel()
        try:
            async with contextlib.aclosing(going.told(request.after)) as told:
                async for one in told:
                    yield one
        finally:
            going.listeners -= 1
            if not going.listeners:
                await self._leave(going)

    def _going_of(self, request: pb.TrialRequest) -> _Going:
        """The trial that was cut off from its caller, or a new one."""
        going = self._going
        if going is not None and going.is_of(request):
            return going
        if request.after or request.end:
            raise NoSuchTrial("that trial is over, or has ended with its supervisor")
        if going is not None and not going.task.done():
            raise AnotherTrial("another trial goes on: wait for its end")
        if going is not None and going.lapse is not None:
            going.lapse.cancel()
        going = self._going = _Going(request)
        going.task = asyncio.ensure_future(self._carry_out(request, going.say))
        going.task.add_done_callback(lambda _: going.wake())
        return going

    async def _leave(self, going: _Going) -> None:
        """Nobody listens any more."""
        if going.id:
            going.lapse = asyncio.get_running_loop().call_later(ATTACH_S, self._end, going)
        else:
            await cancel_and_wait(going.task)
            if self._going is going:
                self._going = None

    def _end(self, going: _Going) -> None:
        going.cancelled_for = GivenUp(f"the trial has ended, as nobody heard it for {ATTACH_S:g} s")
        going.task.cancel()
        if going.task.done() and self._going is going:
            self._going = None  # a verdict that nobody has come for

    async def _carry_out(self, request: pb.TrialRequest, say: "Say") -> list[pb.TrialResponse]:
        """Its verdict, and its recording before that."""
        # With it come the clients of a trial and all that must hold, which a supervisor seldom needs. On a busy machine
        # that takes longer than those who wait for the supervisor's other answers would.
        await asyncio.to_thread(importlib.import_module, "rayplane.control_plane.cluster.trial.taping")
        from rayplane.control_plane.cluster.scenario import parse_foreign
        from rayplane.control_plane.cluster.trial.taping import recorded
        from rayplane.control_plane.cluster.trial.trial import Trial
        from rayplane.control_plane.cluster.trial.verdict import table

        caller = _caller(request) if request.by else None
        scenario = await asyncio.to_thread(parse_foreign, request.scenario)
        if not request.keep and (count := len(scenario.all_objects())) > MADE_MAX:
            raise UsageError(
                f"the scenario has {count} objects to make: inside, a trial makes at most {MADE_MAX}; give fewer, keep "
                "them, or use `rayplane chaos run` without `--inside`"
            )
        if self._stopped:
            raise Ended(ENDED)
        seed = request.seed if request.HasField("seed") else scenario.seed
        breaks = partial(_FromInside, standing=self._standing, by=request.by)
        try:
            trial = Trial(self._admin, scenario, seed, say, breaks=breaks, keep=request.keep, caller=caller)
            log.info("%s puts the cluster to the trial %.80r, seed %d", request.by or "somebody", scenario.name, seed)
            if request.record:
                verdict, tape = await recorded(trial, self._admin, scenario, seed)
            else:
                verdict, tape = await trial.run(), b""
        finally:
            self._standing.release()
        for line in table(verdict):
            say(line)
        parts = [tape[at : at + PART_BYTES] for at in range(0, len(tape), PART_BYTES)]
        last = pb.TrialResponse(verdict=json.dumps(verdict.to_json()))
        return [*(pb.TrialResponse(recording=part) for part in parts), last]

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
                return await self._note_left()
            with contextlib.suppress(ClusterError, ApiError, RpcError):
                left, failed = await heal(self._admin, refused, within_s=0, turn_s=0, patience_s=0)
                if left or failed:
                    log.warning("an earlier trial has left broken: %s; not healed: %s", left, failed)
                if not failed:
                    return await self._note_left()

    async def _note_left(self) -> None:
        """Who comes next need not look for what is gone."""
        from rayplane.control_plane.cluster.trial.workload import Workload

        with contextlib.suppress(ClusterError):
            await self._standing.note_made(Workload(self._admin.directory).rows())


def _caller(request: pb.TrialRequest) -> "Caller":
    """Raises UsageError when nobody can act as who asks: calls say it in text that has limits."""
    from rayplane.control_plane.cluster.trial.workload import Caller

    if any("," in group for group in request.groups):
        raise UsageError("nobody can act as a group whose name has a comma")
    if not all(text.isascii() and text.isprintable() for text in (request.by, request.uid, *request.groups)):
        raise UsageError("nobody can act as whose name, uid or groups are not printable ASCII")
    extra = tuple((key, tuple(one.values)) for key, one in request.extra.items())
    return Caller(request.by, tuple(request.groups), request.uid, extra)
