"""An asyncio event loop in virtual time: when nothing is ready, the clock jumps to the next timer.

Single-threaded and without sockets: whatever would bring in real time or another thread raises `NotSimulated` at the
place that asks for it. Callbacks run in the order asyncio gives them, so that a run depends on its seed only.

Every callback belongs to the *cell* (a simulated operating system process) whose context it was made in. What belongs
to a dead cell never runs again: that is what SIGKILL means. What belongs to a paused cell waits.
"""

import asyncio
import contextvars
import gc
import heapq
import inspect
import math
import platform
import random
from asyncio import base_events, events
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

from rayplane.control_plane.cluster.errors import ClusterError

# Collecting at fixed virtual times keeps finalizers out of the order of events.
COLLECT_EVERY_S = 300.0
ALL_EVERY = 48
CANCELLED_MAX = 100
# Timers that are due within this of each other go off together.
RESOLUTION_S = 1e-9
# An instant of this many rounds is busy waiting.
ROUNDS_WITHOUT_TIME_MAX = 200_000


# Of asyncio's own, not of its documented interface: the same in CPython 3.11 to 3.14.
LOOP_PARTS = ("_ready", "_stopping", "_timer_cancelled_count")
LOOP_STEPS = ("_run_once", "_write_to_self", "_process_events")
HANDLE_PARTS = ("_args", "_callback", "_cancelled", "_context", "_loop", "_repr", "_source_traceback")
TIMER_PARTS = ("_scheduled", "_when")


class NotSimulated(RuntimeError):
    """A component asked for a thread, a socket or a process: those are not deterministic."""


class UnknownAsyncio(ClusterError):
    """This Python's asyncio is made in another way: the simulation cannot drive it."""


class Deadlock(RuntimeError):
    """Nothing is ready and nothing is scheduled, but the simulation is not over."""


class Livelock(RuntimeError):
    """Callbacks go on for ever without time passing."""


class Halted(RuntimeError):
    """The run was to end here."""


class Life:
    """The life of a cell: whether its callbacks run. `paused` ones are kept in `held`."""

    __slots__ = ("dead", "guard", "held", "name", "paused", "turns")

    def __init__(self, name: str, guard: Callable[[str], None] | None = None) -> None:
        """`guard`: told of what code of others asks for that cannot be simulated."""
        self.name = name
        self.guard = guard
        self.dead = False
        self.paused = False
        self.held: list[events.Handle] = []
        self.turns = 0
        """Callbacks that ran: while it stays, nothing in the cell has changed."""


# Set in the context of every task and callback of a cell.
LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)


class _Task(asyncio.Task[Any]):
    """A task that knows its cell, and whose place in sets does not depend on where it lies in memory."""

    def __init__(
        self, coro: Any, loop: "VirtualLoop", *, name: str | None = None, context: contextvars.Context | None = None
    ) -> None:
        loop.tasks_made += 1
        self._number = loop.tasks_made
        self.life = LIFE.get() if context is None else context.get(LIFE)
        super().__init__(coro, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self._number


class _Handle(asyncio.Handle):
    """A handle made without the questions for debugging, which asyncio's own asks each time."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop, self._callback, self._args = loop, callback, args
        self._cancelled = False
        self._repr = self._source_traceback = None


class _TimerHandle(asyncio.TimerHandle):
    """The same for timers."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop, self._callback, self._args = loop, callback, args
        self._cancelled = False
        self._repr = self._source_traceback = None
        self._when, self._scheduled = when, True


class VirtualLoop(base_events.BaseEventLoop):
    """A loop in virtual time, see the module. Time starts at 0.0 and passes only when nothing is ready."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []  # a heap
        self._timers_made = 0
        self._next_collect = COLLECT_EVERY_S
        self._collections = 0
        self.faults: list[str] = []
        """What went wrong in callbacks and was looked at by nobody."""
        self.tasks_made = 0
        self.halted = ""
        """Set from inside, it ends the run with `Halted` as soon as its instant is over."""
        self.halt_s = math.inf
        """When the run is to end."""
        self.chances: list[random.Random] = []
        """All generators of this run, in the order in which they were made."""
        self.before_time: Callable[[float], None] | None = None
        """Called when all that is to happen now has happened, with the time that comes next."""
        self.set_exception_handler(_record_fault)
        self.set_task_factory(_make_task)  # type: ignore[arg-type]
        try:
            check_asyncio(self)
        except UnknownAsyncio:
            self.close()
            raise

    def time(self) -> float:
        return self._now

    # asyncio's own do the same after checks that cost as much as the work: of threads, of debugging, of a closed loop.

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Timers of the same time go off in the order in which they were set."""
        handle = _TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, handle))
        return handle

    def revive(self, life: Life) -> None:
        """Run what was held while a cell was paused."""
        life.paused = False
        self._ready.extend(life.held)  # type: ignore[attr-defined]
        life.held.clear()

    def tasks_of(self, life: Life) -> list[asyncio.Task[Any]]:
        """A cell's tasks that are not done."""
        return [t for t in asyncio.all_tasks(self) if isinstance(t, _Task) and t.life is life]

    def _run_once(self) -> None:
        """One instant, or the beginning of one that does not end by itself: as many of asyncio's rounds as it takes,
        without a selector, and for living cells only.
        """
        ready, timers = self._ready, self._timers  # type: ignore[attr-defined]
        if self._timer_cancelled_count > CANCELLED_MAX:  # type: ignore[has-type]
            self._forget_cancelled()
        while timers and timers[0][2]._cancelled:  # type: ignore[attr-defined]
            self._pop_timer()
            self._timer_cancelled_count -= 1
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not timers:
                raise Deadlock("nothing is ready and no timer is set: the simulation waits for ever")
            self._pass_time(timers[0][0])
        due = self._now + RESOLUTION_S
        for _ in range(ROUNDS_WITHOUT_TIME_MAX):
            while timers and timers[0][0] < due:
                handle = self._pop_timer()
                if handle._cancelled:
                    self._timer_cancelled_count -= 1
                else:
                    ready.append(handle)
            self._run_ready(ready)
            if not ready or self._stopping:  # type: ignore[attr-defined]
                return
        raise Livelock(f"time stands still at {self._now:.6f} s: last ran {ready[0]!r}")

    @staticmethod
    def _run_ready(ready: "deque[Any]") -> None:
        """What is ready now, of living cells."""
        popleft, get = ready.popleft, LIFE
        for _ in range(len(ready)):
            handle = popleft()
            if handle._cancelled:
                continue
            life = handle._context.get(get)
            if life is not None:
                if life.dead or life.paused:
                    if not life.dead:
                        life.held.append(handle)
                    continue
                life.turns += 1
            try:
                # As a handle's own `_run`, which costs a call more.
                handle._context.run(handle._callback, *handle._args)
            except SystemExit:
                # Code of others ends its own process with it, which who awaits it sees.
                if life is None or life.guard is None:
                    raise
            except KeyboardInterrupt:
                raise
            except BaseException as e:
                what = f"Exception in callback {getattr(handle._callback, '__qualname__', handle._callback)}"
                handle._loop.call_exception_handler({"message": what, "exception": e, "handle": handle})

    def _pop_timer(self) -> Any:
        handle: Any = heapq.heappop(self._timers)[2]
        handle._scheduled = False
        return handle

    def _forget_cancelled(self) -> None:
        """Timers that were cancelled long before their time: most time-outs are."""
        timers: list[tuple[float, int, Any]] = self._timers
        for _, _, handle in timers:
            if handle._cancelled:
                handle._scheduled = False
        timers[:] = [timer for timer in timers if not timer[2]._cancelled]
        heapq.heapify(timers)
        self._timer_cancelled_count = 0

    def _pass_time(self, when: float) -> None:
        if self.before_time is not None:
            self.before_time(when)
        if when > self.halt_s and not self.halted:
            self._now = max(self._now, self.halt_s)
            self.halted = f"{self._now:.6f} s"
        if self.halted:
            raise Halted(self.halted)
        self._now = max(self._now, when)
        if self._now >= self._next_collect:
            self._next_collect = self._now + COLLECT_EVERY_S
            # What is old stays: to look at all of it costs as much as minutes of an idle cluster.
            self._collections += 1
            gc.collect(2 if self._collections % ALL_EVERY == 0 else 1)

    def run(self, main: Any) -> Any:
        """Run a coroutine to its end, without the garbage collector's own timing. Leaves the loop closed.

        What is garbage already is not cleaned up meanwhile, unless a caller froze what there was before.
        """
        automatic = gc.isenabled()
        gc.disable()
        # What is here already, modules above all, need not be looked at again and again; a caller may have seen to it.
        settled = gc.get_freeze_count() > 0
        if not settled:
            gc.freeze()
        try:
            return self.run_until_complete(main)
        finally:
            self._ready.clear()  # type: ignore[attr-defined]
            self._timers.clear()
            self._forget_unborn()
            self.close()
            if not settled:
                gc.unfreeze()
            if automatic:
                gc.enable()

    def _forget_unborn(self) -> None:
        """Coroutines that their cell's death kept from beginning: Python would blame whoever made them."""
        for task in asyncio.all_tasks(self):
            coroutine: Any = task.get_coro()
            if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()

    # What asyncio's base class leaves to selectors

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector: nothing to wake."""

    def _process_events(self, event_list: Any) -> None:
        """No sockets, no events."""

    # What would not be deterministic

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> NoReturn:  # type: ignore[override]
        refuse(f"a thread for {getattr(func, '__qualname__', func)!r}: use the injected disk or network")

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> NoReturn:
        refuse("a name look-up: use the injected network")

    async def create_connection(self, *args: Any, **kwargs: Any) -> NoReturn:
        refuse("a socket: use the injected network")

    async def create_server(self, *args: Any, **kwargs: Any) -> NoReturn:
        refuse("a listening socket: use the injected network")

    async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> NoReturn:
        refuse("a socket: use the injected network")

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> NoReturn:
        refuse("a process: nodes of a simulation use the simulated runtime")

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> NoReturn:
        refuse("a process: nodes of a simulation use the simulated runtime")

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        refuse("a signal handler")


def refuse(what: str) -> NoReturn:
    """Say so to the guard too: code of others may swallow it."""
    life = LIFE.get()
    if life is not None and life.guard is not None:
        life.guard(f"{life.name} asks for {what}")
    raise NotSimulated(what)


async def sleep_until(when: float) -> None:
    """Sleep until this very time of the loop; `asyncio.sleep` of a span can miss it by a rounding."""
    loop = asyncio.get_running_loop()
    reached = loop.create_future()
    timer = loop.call_at(when, reached.set_result, None)
    try:
        await reached
    finally:
        timer.cancel()


def _make_task(
    loop: VirtualLoop,
    coro: Any,
    *,
    name: str | None = None,
    context: contextvars.Context | None = None,
    eager_start: bool | None = None,
) -> _Task:
    """Since 3.14 (and in 3.13.3) asyncio gives the factory all of create_task's arguments, before only `context`.

    `eager_start` is left out: when a task first runs must not depend on the version.
    """
    return _Task(coro, loop, name=name, context=context)


def check_asyncio(loop: asyncio.AbstractEventLoop) -> None:
    """Raises UnknownAsyncio that names what is missing of what this module uses."""
    parts: dict[object, tuple[str, ...]] = {
        loop: LOOP_PARTS,
        base_events.BaseEventLoop: LOOP_STEPS,
        events.Handle: HANDLE_PARTS,
        events.TimerHandle: TIMER_PARTS,
    }
    missing = [
        f"{getattr(owner, '__name__', 'BaseEventLoop')}.{part}"
        for owner, names in parts.items()
        for part in names
        if not hasattr(owner, part)
    ]
    if missing:
        version, lacks = platform.python_version(), ", ".join(missing)
        raise UnknownAsyncio(f"asyncio of Python {version} has no {lacks}: simulate with CPython 3.11 to 3.14")


def _record_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, VirtualLoop)
    # Python 3.11 calls this outside of a callback's context.
    handle = context.get("handle")
    life = LIFE.get() if handle is None else handle._context.get(LIFE)
    if life is not None and life.dead:
        return
    error = context.get("exception")
    what = f"{type(error).__name__}: {error}" if error is not None else ""
    task = context.get("future")
    where = getattr(task.get_coro(), "__qualname__", "") if isinstance(task, _Task) else ""
    loop.faults.append(f"{loop.time():.6f} s: {context.get('message', '')} {where} {what}".rstrip())
