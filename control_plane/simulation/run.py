"""Runs of a scenario with one seed."""

import asyncio
import contextlib
import gc
import logging
import sys
import time
import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rayplane.control_plane.invariants import Judge
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.simulation import guard
from rayplane.control_plane.simulation.cell import Cell, derived_rng, run_rng
from rayplane.control_plane.simulation.changes import Striker
from rayplane.control_plane.simulation.checks import Client, InsideChecks, Violations
from rayplane.control_plane.simulation.cluster import Planted, SimulatedCluster
from rayplane.control_plane.simulation.coverage import as_facts, transitions
from rayplane.control_plane.simulation.loop import LIFE, RESOLUTION_S, Deadlock, Halted, Livelock, VirtualLoop
from rayplane.control_plane.simulation.plan import Plan, Strike
from rayplane.control_plane.simulation.rest import RestClient
from rayplane.control_plane.simulation.result import SimulationResult
from rayplane.control_plane.simulation.scenario import Scenario
from rayplane.control_plane.simulation.script import Progress, Script, StepFailed
from rayplane.control_plane.simulation.trace import Trace
from rayplane.control_plane.simulation.user_code import UserCode, UserFile, UserProcess
from rayplane.control_plane.simulation.watching import Tracer, halt_at

FINAL_TIMEOUT_S = 60.0
LOG_LINES = 40
BURIALS_MAX = 5


@dataclass(frozen=True, slots=True)
class Fork:
    """Another future: from `at_s` on chance is that of `number`."""

    at_s: float
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Settings of a run besides its scenario and seed; of the same for all seeds of a sweep."""

    plan: Plan | None = None
    """The faults that strike, in place of the scenario's own."""
    load: UserFile | None = None
    """Operators that run beside the cluster, and invariants that must hold."""
    until: str = ""
    """When the run ends before its time (see `watching.Until`)."""
    trace: str = ""
    """Whose doings are all told as progress."""
    coverage: bool = False
    """Whether failpoints and transitions are counted (see `coverage`)."""
    fork: Fork | None = None
    beside: tuple[Strike, ...] = ()
    """What strikes besides."""
    options: tuple[str, ...] = ()
    """How the command line says all this."""


class Control(Protocol):
    """Somebody who looks at a run while it goes on."""

    def begin(self, parts: "Run") -> None:
        """Everything is there, nothing has happened yet."""

    def end(self) -> None:
        """The run is over: let go of it."""


def simulate(
    scenario: Scenario,
    seed: int,
    progress: Progress | None = None,
    *,
    planted: Planted | None = None,
    setup: Setup | None = None,
    control: Control | None = None,
) -> SimulationResult:
    """Run a scenario in virtual time. Raises UsageError when the scenario names what the cluster has not."""
    with _apart():
        return _simulate(scenario, seed, progress, planted, setup or Setup(), control)


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """A run's own garbage is all that is looked for in it and after it.

    To look at all that was there before, modules above all, takes as long as the start of a cluster.
    """
    settled = gc.get_freeze_count() > 0
    if settled:
        # What an earlier run left must not be cleaned up in the midst of this one.
        bury()
    else:
        gc.freeze()
    try:
        yield
    finally:
        bury()
        if not settled:
            gc.unfreeze()


def _simulate(
    scenario: Scenario,
    seed: int,
    progress: Progress | None,
    planted: Planted | None,
    setup: Setup,
    control: Control | None,
) -> SimulationResult:
    loop = VirtualLoop()
    run = Run(scenario, seed, loop, progress or (lambda _: None), planted, setup)
    logs = _LogTail(loop)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers, root.level = [logs], logging.WARNING
    if setup.trace:
        root.handlers, root.level = [logs, Tracer(setup.trace, loop, run.trace, run.progress)], logging.DEBUG
    began = time.perf_counter()
    watched = transitions() if setup.coverage else contextlib.nullcontext()
    bounded = guard.bounded() if setup.load is not None else contextlib.nullcontext()
    try:
        with watched as seen, bounded:
            loop.run(run.main(control))
    except (Deadlock, Livelock) as e:
        run.failures.append(f"{loop.time():.3f} s: {type(e).__name__}: {e}")
    except Halted:
        pass
    finally:
        run.close()
        if control is not None:
            control.end()
        root.handlers, root.level = handlers, level
        real_s = time.perf_counter() - began
    facts = as_facts(run.points, seen) if seen is not None else {}
    return run.result(real_s, logs.lines, facts)


def bury() -> None:
    """Free what died in the run. Its coroutines are closed without a loop, and complain; nobody needs to hear."""
    # What they still begin would wait for ever in this thread's own loop, which nobody runs, and keep the run alive.
    asyncio.set_event_loop(None)
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.simplefilter("ignore", ResourceWarning)
            # What their clean-up fails with holds what it had begun, until the next collection.
            for _ in range(BURIALS_MAX):
                if not gc.collect():
                    break
    finally:
        sys.unraisablehook = hook
        logging.disable(disabled)


class _LogTail(logging.Handler):
    """The last warnings of the components, with virtual time and cell."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__(logging.WARNING)
        self.lines: deque[str] = deque(maxlen=LOG_LINES)
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        life = LIFE.get()
        error = record.exc_info[1] if record.exc_info else None
        because = f" ({type(error).__name__}: {error})" if error is not None else ""
        who = life.name if life is not None else "-"
        self.lines.append(f"{self._loop.time():12.6f} {who} {record.name}: {record.getMessage()[:300]}{because}")


class Run:
    """One run: the cluster, its clients, its script, and who watches that nothing goes wrong."""

    cluster: SimulatedCluster

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        loop: VirtualLoop,
        progress: Progress,
        planted: Planted | None,
        setup: Setup,
    ) -> None:
        self.loop = loop
        self.trace = Trace(loop.time)
        self.progress = progress
        self.failures: list[str] = []
        self._scenario = scenario
        self._seed = seed
        self._planted = planted
        self._setup = setup
        self._script: Script | None = None
        self._client: Client | None = None
        self._rest: RestClient | None = None
        self._told: dict[str, None] = {}
        self._code = UserCode(setup.load) if setup.load is not None else None
        self._violations = Violations(self.trace, self._code.checks if self._code is not None else ())

    @property
    def plan(self) -> Plan:
        """What has struck so far."""
        done = self._script.striker.done if self._script is not None else ()
        steps = self._setup.plan.steps if self._setup.plan is not None else None
        return Plan(scenario=self._scenario.source, seed=self._seed, steps=steps, strikes=tuple(done))

    @property
    def judge(self) -> Judge:
        """What it is told is all that is recorded of objects."""
        return self._violations.judge

    @property
    def wrong(self) -> tuple[str, ...]:
        """All that went wrong so far."""
        return (*self._violations.found, *self.failures, *self.loop.faults)

    @property
    def struck(self) -> list[tuple[float, Strike]]:
        """What has struck so far, and when."""
        return [*zip(self._script.striker.times, self._script.striker.done, strict=True)] if self._script else []

    @property
    def striker(self) -> Striker:
        assert self._script is not None
        return self._script.striker

    def close(self) -> None:
        """What others share is as it was before."""
        if self._script is not None:
            self._script.points.disarm()
        if self._code is not None:
            self._code.forget()

    @property
    def points(self) -> Mapping[str, int]:
        """How often failpoints were come to."""
        return self._script.points.hits if self._script is not None else {}

    def result(self, real_s: float, log: Iterable[str], facts: dict[str, Any]) -> SimulationResult:
        """How it went."""
        acknowledged = self._client.acknowledged if self._client is not None else 0
        if self._rest is not None:
            acknowledged += self._rest.ledger.acknowledged
        return SimulationResult(
            scenario=self._scenario.name,
            source=self._scenario.source,
            seed=self._seed,
            cluster_s=self.loop.time(),
            real_s=real_s,
            events=self.trace.events,
            messages=self.trace.messages,
            acknowledged=acknowledged,
            trace_hash=self.trace.hash,
            failures=self.wrong,
            plan=self.plan,
            story=tuple(self.trace.story),
            last_events=tuple(self.trace.at_fault or self.trace.last),
            log=tuple(log),
            options=self._setup.options,
            ended_at=self.loop.halted,
            facts=facts,
        )

    async def main(self, control: Control | None) -> None:
        """From the start of the cluster to its end."""
        scenario, seed, loop, setup = self._scenario, self._seed, self.loop, self._setup
        cluster = self.cluster = SimulatedCluster(
            scenario.cluster, seed, self.trace, climate=scenario.climate, planted=self._planted
        )
        client = self._client = Client(cluster, self._violations, write_every_s=scenario.write_every_s)
        script = self._script = Script(scenario, cluster, client, seed=seed, plan=setup.plan, beside=setup.beside)
        operator = self._operator()
        script.check()
        if setup.trace:
            script.check_process(setup.trace)
        if setup.coverage:
            script.points.arm()
        self._settle(control)
        rest = self._rest = RestClient(lambda: cluster.balancer, run_rng(seed, "rest"), self.trace, self._violations)
        works = [
            InsideChecks(cluster, self._violations).run(),
            cluster.client.run(client.run),
            cluster.kubectl.run(lambda env, network, sockets: self._ask(rest, sockets)),
            *([operator.keep()] if operator is not None else []),
        ]
        tasks = [loop.create_task(work) for work in works]
        await cluster.start()
        try:
            await client.up.wait()
            await script.run(self.progress)
            await self._finish(script, client, rest)
        except StepFailed as e:
            self.trace.event("failed", e)
            self.failures.append(f"{loop.time():.3f} s: {e}")
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                self.failures.append(f"the simulation itself failed: {type(error).__name__}: {error}")
            task.cancel()
        await cluster.stop()

    def _operator(self) -> UserProcess | None:
        """What a user's file runs beside the cluster."""
        if self._code is None or not self._code.operates:
            return None
        return UserProcess(self._code, self.cluster, self._seed, self._tell)

    def _settle(self, control: Control | None) -> None:
        """Who looks at the run, and when it ends or takes another way."""
        if control is not None:
            control.begin(self)
        if self._setup.until:
            halt_at(self.loop, self.trace, self._setup.until)
        fork = self._setup.fork
        if fork is not None:
            # When all of that instant has happened.
            self.loop.call_at(fork.at_s + 2 * RESOLUTION_S, self._fork, fork.number)

    def _fork(self, number: int) -> None:
        for place, rng in enumerate(self.loop.chances):
            rng.seed(derived_rng(self._seed, "fork", number, place).getrandbits(128))

    def _tell(self, failure: str) -> None:
        """A failure of a user's program; the same again is not told again."""
        if failure not in self._told:
            self._told[failure] = None
            self.trace.event("refused", failure)
            self.failures.append(f"{self.loop.time():.3f} s: {failure}")

    async def _ask(self, rest: RestClient, sockets: Sockets) -> None:
        rest.open(sockets, self._scenario.ask_every_s)
        await rest.run(self._scenario.ask_every_s)

    async def _finish(self, script: Script, client: Client, rest: RestClient) -> None:
        """What the scenario expects, and nothing lost; after the faults are over."""
        script.calm()
        for condition in self._scenario.expect:
            await script.wait(condition, FINAL_TIMEOUT_S)
        await self._insist(self.cluster.client, client.verify, "etcd does not answer at the end")
        await self._insist(self.cluster.client, script.volumes_are_whole, "a volume has not got its lost replica again")
        # What is wrong already will not come right.
        await client.settle(0.0 if self._violations.found else FINAL_TIMEOUT_S)
        await self._insist(self.cluster.kubectl, rest.finish, "the REST face does not answer at the end")
        with self.cluster.kubectl.inside():
            await rest.close()

    async def _insist(self, cell: Cell, ask: Callable[[], Awaitable[bool]], otherwise: str) -> None:
        """Ask, in a client's cell, until it is answered. Raises StepFailed."""
        deadline = self.loop.time() + FINAL_TIMEOUT_S
        while True:
            with cell.inside():
                if await ask():
                    return
            if self.loop.time() > deadline:
                raise StepFailed(otherwise)
            await asyncio.sleep(1.0)
