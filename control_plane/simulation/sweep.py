"""Sweeps: many seeds of one scenario, over all cores or a Ray cluster, ended early by the first that fails.

Each worker is a process of its own (`worker`) that is given one seed after another; it ends when this process does,
however that ends. Results come in the order in which runs end, so only what each says is the same again.
"""

import contextlib
import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.simulation.plan import Plan, Strike
from rayplane.control_plane.simulation.result import SimulationResult
from rayplane.control_plane.simulation.run import Control, Fork, Setup, simulate
from rayplane.control_plane.simulation.scenario import Scenario
from rayplane.control_plane.simulation.script import Progress
from rayplane.control_plane.simulation.shrink import Shrinker, same_failure

LENGTH = struct.Struct(">I")
ENDING_S = 10.0


class SweepFailed(ClusterError):
    """A worker ended without a result."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order for runs: what all of a sweep have in common. Can be pickled."""

    scenario: Scenario
    setup: Setup = field(default_factory=Setup)

    def run(self, seed: int, progress: Progress | None = None, control: Control | None = None) -> SimulationResult:
        """Raises UsageError when the scenario does not fit its cluster."""
        return simulate(self.scenario, seed, progress, setup=self.setup, control=control)

    def run_apart(self, seed: int, environment: Mapping[str, str] | None = None) -> SimulationResult:
        """The same in a process of its own, with some variables of its environment set."""
        with contextlib.closing(_Crew(self, [seed], 1, environment)) as crew:
            return next(crew.results())

    def by(self, plan: Plan) -> "Order":
        """With the faults of a plan."""
        return replace(self, setup=replace(self.setup, plan=plan))

    def forked(self, by_hand: tuple[Strike, ...], fork: Fork) -> "Order":
        """The same up to a moment, with what a person has let happen too, and from then on with another chance."""
        return replace(self, setup=replace(self.setup, fork=fork, beside=by_hand))


@dataclass(slots=True)
class Tally:
    """A count of runs and of what failed."""

    done: int = 0
    failed: int = 0
    cluster_s: float = 0.0
    real_s: float = 0.0

    def add(self, result: SimulationResult) -> None:
        self.done += 1
        self.failed += not result.ok
        self.cluster_s += result.cluster_s
        self.real_s += result.real_s


def cores() -> int:
    """How many runs this machine takes at once."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Ways:
    """The place of runs: they go to so many processes here, or to the Ray cluster at an address."""

    jobs: int = 1
    ray: str = ""


def sweep(
    order: Order, seeds: Iterable[int], ways: Ways | None = None, *, keep_going: bool = False
) -> Generator[SimulationResult]:
    """Results as runs end; after a failed one no more are begun, unless it is to keep going.

    Close it, or come to its end: no worker is left then. Raises SweepFailed, UsageError.
    """
    with contextlib.closing(_all(order, seeds, ways or Ways())) as results:
        for result in results:
            yield result
            if not result.ok and not keep_going:
                return


def _all(order: Order, seeds: Iterable[int], ways: Ways) -> Generator[SimulationResult]:
    if ways.ray:
        yield from _spread(order, seeds, ways.ray)
    elif ways.jobs <= 1:
        for seed in seeds:
            yield order.run(seed)
    else:
        with contextlib.closing(_Crew(order, seeds, ways.jobs)) as crew:
            yield from crew.results()


def _spread(order: Order, seeds: Iterable[int], address: str) -> Generator[SimulationResult]:
    from rayplane.control_plane.cluster.ray_tasks import spread

    with contextlib.closing(spread(answer_of, order, seeds, address=address)) as answers:
        for answered in answers:
            yield _result(answered)


class _Crew:
    """The workers of one sweep, each with a thread that hands it seeds."""

    def __init__(
        self, order: Order, seeds: Iterable[int], jobs: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self._seeds = iter(seeds)
        self._taking = threading.Lock()
        self._dismissed = False
        self._environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(environment or {})}
        # Each worker waits until its last result was taken.
        self._found: queue.Queue[bytes | Exception | None] = queue.Queue(maxsize=jobs)
        self._workers: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []
        data = pickle.dumps(order)
        try:
            for _ in range(jobs):
                self._hire(data)
        except BaseException:
            self.close()
            raise

    def _hire(self, order: bytes) -> None:
        worker = subprocess.Popen(
            [sys.executable, "-m", "rayplane.control_plane.simulation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process, which ends them
            env=self._environment,
        )
        self._workers.append(worker)
        thread = threading.Thread(target=self._serve, args=(worker, order), daemon=True)
        self._threads.append(thread)
        thread.start()

    def results(self) -> Generator[SimulationResult]:
        working = len(self._workers)
        while working:
            found = self._found.get()
            if found is None:
                working -= 1
            elif isinstance(found, Exception):
                raise found
            else:
                yield _result(found)

    def _serve(self, worker: "subprocess.Popen[bytes]", order: bytes) -> None:
        """Give seeds to one worker as long as there are any."""
        seed: int | None = None
        try:
            assert worker.stdin is not None and worker.stdout is not None
            send(worker.stdin, order)
            while not self._dismissed and (seed := self._next()) is not None:
                worker.stdin.write(b"%d\n" % seed)
                worker.stdin.flush()
                self._put(receive(worker.stdout))
            worker.stdin.close()
        except (OSError, EOFError) as e:
            code = worker.wait()
            self._put(SweepFailed(f"the process that ran seed {seed} ended with {code}: {e or 'no result'}"))
        self._put(None)

    def _next(self) -> int | None:
        with self._taking:
            return next(self._seeds, None)

    def _put(self, what: bytes | Exception | None) -> None:
        while not self._dismissed:
            try:
                self._found.put(what, timeout=1.0)
                return
            except queue.Full:
                continue

    def close(self) -> None:
        """Nobody works any more, in the midst of a run too."""
        self._dismissed = True
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.wait()
        for thread in self._threads:
            thread.join(ENDING_S)
        for worker in self._workers:
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    _close(pipe)


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except OSError:
        return  # what was not sent any more


def send(pipe: Any, data: bytes) -> None:
    """One message of any length."""
    pipe.write(LENGTH.pack(len(data)) + data)
    pipe.flush()


def receive(pipe: Any) -> bytes:
    """The next message. EOFError when the other side has ended."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return bytes(data)


def answer_of(order: Order, seed: int) -> bytes:
    """What a worker sends for one seed: its result, or why there is none."""
    try:
        return pickle.dumps(order.run(seed))
    except UsageError as e:
        return pickle.dumps(UsageError(str(e)))
    except Exception as e:
        return pickle.dumps(SweepFailed(f"seed {seed}: the simulation failed: {type(e).__name__}: {e}"))


def _result(answered: bytes) -> SimulationResult:
    found = pickle.loads(answered)
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, SimulationResult)
    return found


def shrunk(order: Order, failed: SimulationResult, tell: Callable[[str], None]) -> SimulationResult | None:
    """The run of the smallest plan that was found to fail as a run has; None when its own plan does not."""
    wanted = failed.failures[0]
    runs: dict[Plan, SimulationResult] = {}

    def fails(plan: Plan) -> bool:
        result = order.by(plan).run(failed.seed)
        if same_failure(wanted, result.failures):
            runs[plan] = result
        return plan in runs

    if not fails(failed.plan):
        return None
    return runs[Shrinker(fails, tell).shrink(failed.plan, failed.last_step)]
