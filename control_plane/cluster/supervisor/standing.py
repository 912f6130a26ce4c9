"""Standing faults: begun for others, each with an end that comes whoever dies meanwhile.

The supervisor owns them. What lasts is written down before it begins; a supervisor that comes after another, wherever
it is, reads that and ends each at its time. The wall clock tells the time, as spans do not outlive a process.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Any, Protocol

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.supervisor.notes import Notes, Page, Standing, TooLarge
from rayplane.control_plane.cluster.trial.journal import Broken
from rayplane.control_plane.cluster.weather import OF_MACHINES
from rayplane.control_plane.faults.form import as_step
from rayplane.control_plane.faults.vocabulary import Continue, Cut, Fault, Flood, Heal, Partition, SlowNetwork, lasts
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.env import Clock, DiskError

log = logging.getLogger(__name__)

FOR_MAX_S = 3600.0
STANDING_MAX = 100
AGAIN = Backoff(0.5, 30.0)
OF_TRIALS = "trial-"
"""Begins the ids of what trials have broken, which end it themselves."""
ITS_TRIAL = "its trial ends it"
# The wall clock may be set while somebody sleeps.
LOOK_S = 5.0
_WEATHER = (Partition, Cut, SlowNetwork, *OF_MACHINES)


class NoSuchFault(ClusterError):
    """No fault of that id stands; it may be over."""

    code = "NOT_FOUND"


class TooMany(ClusterError):
    """The limit of faults that may stand at once is reached."""

    code = "RESOURCE_EXHAUSTED"


class Striker(Protocol):
    """Whoever carries faults out, as `LiveInjector`. Calls raise ClusterError, and UsageError when they never will."""

    def refusal(self, fault: Fault) -> str: ...

    async def chosen(self, fault: Fault) -> tuple[str, ...]: ...

    async def inflict(self, fault: Fault, names: Sequence[str]) -> Any: ...

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None: ...


class StandingFaults:
    """The standing faults of one cluster; never more than `STANDING_MAX` begin. `run`: of the `up` that it comes from;
    what an earlier one has left is ended at once."""

    def __init__(self, striker: Striker, notes: Notes, clock: Clock, rng: random.Random, *, run: str = "") -> None:
        self._striker = striker
        self._notes = notes
        self._clock = clock
        self._rng = rng
        self._of_run = run
        self._standing: dict[str, Standing] = {}
        self._made: tuple[Any, ...] = ()
        self.on_made: Callable[[Sequence[Any]], None] = lambda made: None
        """Told what trials of an earlier supervisor have made."""
        self._ending = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._stopped = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def refusal(self, fault: Fault) -> str:
        """Why such a fault can never be here; empty when it can."""
        if isinstance(fault, Continue | Heal) or (isinstance(fault, SlowNetwork) and not fault.delay_s):
            return f"{as_step(fault)}: it ends what others have begun; end a fault by its id"
        return self._striker.refusal(fault)

    def all(self) -> list[Standing]:
        """The first to end first."""
        return sorted(self._standing.values(), key=lambda one: (one.ends_s, one.id))

    def start(self) -> None:
        """Go on with what an earlier supervisor has left standing."""
        if recalled := self._notes.start(self._adopt):
            self._adopt(recalled, resume=True)

    async def stop(self) -> None:
        self._stopped = True
        await self._notes.stop()
        await cancel_and_wait(self._task)

    async def begin(self, fault: Fault, by: str) -> Standing:
        """Let it happen; its end comes by itself. Raises ClusterError."""
        if refused := self.refusal(fault):
            raise UsageError(refused)
        for_s: float = getattr(fault, "for_s", 0.0)
        if not lasts(fault):
            hit, now = await self._striker.chosen(fault), self._now()
            await self._striker.inflict(fault, hit)
            return Standing(id="", broken=Broken(fault, hit), by=by, began_s=now, ends_s=now)
        if not 0 < for_s <= FOR_MAX_S:
            raise UsageError(f"{as_step(fault)}: say `for` how long, at most {FOR_MAX_S / 3600:g}h")
        hit, now = await self._striker.chosen(fault), self._now()
        if len(self._standing) >= STANDING_MAX:
            raise TooMany(f"{STANDING_MAX} faults stand already: end some, or wait")
        made = Standing(id=self._new_id(), broken=Broken(fault, hit), by=by, began_s=now, ends_s=now + for_s)
        try:
            await self._put(made)
            now = self._now()
            made = self._standing[made.id] = replace(made, began_s=now, ends_s=now + for_s)
            await self._striker.inflict(fault, hit)
        except (ClusterError, asyncio.CancelledError):
            # It may have happened all the same, or to some of them.
            if made.id in self._standing:
                self._standing[made.id] = replace(made, ends_s=now)
            raise
        finally:
            self._tend()
        return made

    async def end(self, id: str) -> Standing:
        """End it now; what it was. Raises NoSuchFault, and ClusterError when it cannot be ended yet or is a trial's."""
        if id not in self._standing:
            raise NoSuchFault(f"no fault {id!r:.80} stands; `list` tells which do")
        one = self._standing[id]
        if one.is_of_trial:
            raise ClusterError(f"{one.broken}: {one.why}: wait for that, or end the trial")
        await self._end(id)
        if left := self._standing.get(id):
            raise ClusterError(f"{left.broken}: {left.why}; it is tried again")
        return one

    async def heal(self) -> tuple[list[Standing], list[Standing]]:
        """End all but a trial's; what is over, and what is not yet."""
        before = self.all()
        for one in before:
            if not one.is_of_trial:
                await self._end(one.id)
        return [one for one in before if one.id not in self._standing], self.all()

    async def note(self, broken: Broken, by: str) -> None:
        """A trial is about to break it, and ends it; a supervisor that comes after this one does at once.

        Raises ClusterError.
        """
        if len(self._standing) >= STANDING_MAX:
            raise TooMany(f"{STANDING_MAX} faults stand already: end some, or wait")
        id, now = f"{OF_TRIALS}{self._new_id()}", self._now()
        await self._put(Standing(id=id, broken=broken, by=by, began_s=now, ends_s=inf, why=ITS_TRIAL))
        self._tend()

    async def note_made(self, made: Sequence[Any]) -> None:
        """Trials have made, or are about to make, these; whoever comes after this supervisor deletes them.

        Raises ClusterError.
        """
        before, self._made = self._made, tuple(made)
        try:
            await self._save()
            await self._notes.told()
        except (DiskError, TooLarge) as e:
            self._made = before  # lest faults cannot be told either
            with contextlib.suppress(DiskError):
                await self._save()
            raise ClusterError(f"nothing is made, as it cannot be written down: {e}") from e

    async def forget(self, broken: Broken) -> None:
        """The trial has ended it."""
        over = [one.id for one in self._of_trials() if one.broken == broken]
        for id in over:
            del self._standing[id]
        if over:
            await self._save_end(str(broken))

    def release(self) -> None:
        """The trial is over: what it has not ended is ended."""
        for one in self._of_trials():
            self._standing[one.id] = replace(one, ends_s=self._now(), why="")
        self._tend()

    def _of_trials(self) -> list[Standing]:
        return [one for one in self.all() if one.id.startswith(OF_TRIALS)]

    # --- what comes by itself -------------------------------------------------------------------

    def _adopt(self, page: Page, *, resume: bool = False) -> None:
        """Go on with what another supervisor has written down. A flood has ended with its process."""
        if page.made:
            self._made = page.made
            self.on_made(page.made)
        for one in page.faults:
            if not isinstance(one.broken.fault, Flood):
                ours = page.run == self._of_run and not one.id.startswith(OF_TRIALS)
                self._standing.setdefault(one.id, one if ours else replace(one, ends_s=self._now()))
        if self._standing:
            self._tend(resume=resume)

    def _tend(self, *, resume: bool = False) -> None:
        self._changed.set()
        if self._stopped:
            return
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(resume), name="standing faults")

    async def _run(self, resume: bool) -> None:
        if resume:
            await self._resume()
        while self._standing:
            self._changed.clear()
            for one in [one for one in self.all() if one.ends_s <= self._now()]:
                await self._end(one.id)
            if self._standing:
                wait_s = min(one.ends_s for one in self._standing.values()) - self._now()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), min(max(wait_s, 0.0), LOOK_S))

    async def _resume(self) -> None:
        """Whoever carries faults out knows no more of the weather than it was told since it is there."""
        for one in self.all():
            if isinstance(one.broken.fault, _WEATHER) and one.ends_s > self._now():
                with contextlib.suppress(ClusterError):
                    await self._striker.inflict(one.broken.fault, one.broken.hit)

    async def _end(self, id: str) -> None:
        """Try to end it; what cannot be ended stays, to be tried again."""
        async with self._ending:
            one = self._standing.get(id)
            if one is None:
                return
            why = await self._tried(one.broken)
            if id not in self._standing:
                return  # a trial has ended the same meanwhile
            if why:
                failures = one.failures + 1
                again_s = self._now() + AGAIN.pause_s(failures)
                self._standing[id] = replace(one, failures=failures, why=why, ends_s=again_s)
                log.warning("%s cannot be ended yet: %s", one.broken, why)
                return
            del self._standing[id]
            await self._save_end(str(one.broken))

    async def _tried(self, broken: Broken) -> str:
        """Why it cannot be ended yet; empty when it is over."""
        try:
            await self._striker.end(broken.fault, broken.hit)
        except UsageError as e:
            log.info("%s: over, as %s", broken, e)  # whom it hit is gone
        except ClusterError as e:
            return str(e)
        return ""

    # --- what is written down -------------------------------------------------------------------

    async def _put(self, made: Standing) -> None:
        self._standing[made.id] = made
        try:
            await self._save()
            await self._notes.told()
        except (DiskError, TooLarge) as e:
            del self._standing[made.id]
            raise ClusterError(f"{made.broken.fault}: not begun, as it cannot be written down: {e}") from e

    async def _save_end(self, what: str) -> None:
        try:
            await self._save()
        except DiskError as e:
            # Whoever reads it later ends it once more, which does no harm.
            log.warning("%s is over, which cannot be written down: %s", what, e)

    async def _save(self) -> None:
        async with self._writing:
            await self._notes.write(Page(self._of_run, self._now(), tuple(self.all()), self._made))

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _new_id(self) -> str:
        while (id := f"{self._rng.getrandbits(40):010x}") in self._standing:
            pass
        return id
