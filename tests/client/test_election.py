"""Leader election: never two leaders at once, whatever the network does; a lost one is replaced."""

import asyncio
import contextlib
import contextvars
import random

import pytest

from rayplane.control_plane import timings
from rayplane.control_plane.client import LeaderElector
from rayplane.control_plane.client.election import OVERDUE_S
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.control_plane.simulation.cell import VirtualClock
from rayplane.control_plane.simulation.loop import LIFE, Life
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.control_plane.timings import ElectionTiming
from rayplane.storage.env import Env, SimulatedDisk
from tests.fakes import FakeClient, Store

FAST = timings.FAST.election


class Candidate:
    """A replica that counts who leads."""

    def __init__(
        self, store: Store, name: str, leading: list[str], rng: random.Random, timing: ElectionTiming = FAST
    ) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.name = name
        self.client = FakeClient(store, delay_s=rng.uniform(0, 0.2), timeout_s=rng.uniform(0.3, 10))
        env = Env(VirtualClock(loop, rng.uniform(-60, 60)), random.Random(rng.random()), SimulatedDisk())
        self.elector = LeaderElector(
            self.client,  # type: ignore[arg-type]
            env,
            name="the-lease",
            identity=name,
            timing=timing,
        )
        self._leading = leading
        self.terms = 0
        self.task = asyncio.ensure_future(self.elector.run(self._lead))

    async def _lead(self) -> None:
        self.terms += 1
        self._leading.append(self.name)
        try:
            assert self._leading == [self.name], "two lead at once"
            await asyncio.get_running_loop().create_future()
        finally:
            self._leading.remove(self.name)

    async def stop(self) -> None:
        self.task.cancel()
        [end] = await asyncio.gather(self.task, return_exceptions=True)
        assert isinstance(end, asyncio.CancelledError), end


@pytest.mark.parametrize("seed", range(20))
def test_two_candidates_never_lead_at_once_through_partitions(seed: int) -> None:
    rng = random.Random(seed)

    async def main() -> None:
        store, leading = Store(), []  # type: ignore[var-annotated]
        candidates = [Candidate(store, name, leading, rng) for name in ("a", "b", "c")]
        for _ in range(60):
            await asyncio.sleep(rng.expovariate(0.5))
            victim = rng.choice(candidates)
            victim.client.parted = rng.random() < 0.4
            victim.client.lose_answers = rng.random() < 0.2
        for candidate in candidates:
            candidate.client.parted = candidate.client.lose_answers = False
        await asyncio.sleep(30)
        assert len(leading) == 1
        assert sum(c.terms for c in candidates) > 1
        for candidate in candidates:
            assert not candidate.task.done()
            await candidate.stop()

    VirtualLoop().run(main())


def test_who_gets_no_answer_asks_again_soon_however_long_its_spans_are() -> None:
    async def main() -> None:
        sparse = timings.SPARSE.election
        candidate = Candidate(Store(), "only", leading := [], random.Random(1), sparse)  # type: ignore[var-annotated]
        candidate.client.parted = True
        await asyncio.sleep(40)
        candidate.client.parted = False
        await asyncio.sleep(sparse.retry_s / 3)
        assert leading == ["only"]
        await candidate.stop()

    VirtualLoop().run(main())


def test_a_leader_cut_off_stops_before_another_begins_and_rejoins_later() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        store, leading, rng = Store(), [], random.Random(1)  # type: ignore[var-annotated]
        first = Candidate(store, "first", leading, rng)
        await asyncio.sleep(2)
        second = Candidate(store, "second", leading, rng)
        await asyncio.sleep(2)
        assert leading == ["first"] and first.elector.is_leader
        cut = loop.time()
        first.client.parted = True
        while leading:
            await asyncio.sleep(0.05)
        assert not first.elector.is_leader
        assert loop.time() - cut <= FAST.renew_deadline_s + 0.1
        while not leading:
            await asyncio.sleep(0.05)
        assert leading == ["second"]
        assert loop.time() - cut <= FAST.duration_s + 2 * FAST.retry_s + 1
        first.client.parted = False
        await asyncio.sleep(20)
        assert leading == ["second"]
        await first.stop()
        await second.stop()

    VirtualLoop().run(main())


def test_a_lease_given_back_is_taken_at_once() -> None:
    async def main() -> None:
        store, leading, rng = Store(), [], random.Random(1)  # type: ignore[var-annotated]
        first = Candidate(store, "first", leading, rng)
        await asyncio.sleep(2)
        second = Candidate(store, "second", leading, rng)
        await asyncio.sleep(2)
        await first.stop()
        await first.elector.release()
        await asyncio.sleep(FAST.retry_s * 1.2 + 1)
        assert leading == ["second"]
        await second.stop()

    VirtualLoop().run(main())


def test_a_steady_leader_renews_with_one_call() -> None:
    async def main() -> None:
        store, leading = Store(), []  # type: ignore[var-annotated]
        candidate = Candidate(store, "only", leading, random.Random(1))
        await asyncio.sleep(3)
        candidate.client.calls.clear()
        await asyncio.sleep(10)
        assert set(candidate.client.calls) == {"update"}
        await candidate.stop()

    VirtualLoop().run(main())


def test_work_that_ends_by_itself_is_a_fault_and_gives_up_the_lead() -> None:
    async def main() -> None:
        store = Store()
        candidate = Candidate(store, "x", [], random.Random(1))
        await candidate.stop()

        async def nothing() -> None:
            return

        with pytest.raises(RuntimeError, match="ended by itself"):
            await candidate.elector.run(nothing)
        assert not candidate.elector.is_leader

    VirtualLoop().run(main())


@pytest.mark.parametrize("spans", [(3, 3, 1), (3, 2, 2), (3, 2, 0)])
def test_timing_that_cannot_be_safe_is_refused(spans: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="must rise"):
        ElectionTiming(*spans)


def test_a_term_that_does_not_end_when_its_lease_ran_out_is_told_of() -> None:
    async def main() -> None:
        candidate = Candidate(Store(), "x", [], random.Random(1))
        await candidate.stop()
        hangs = asyncio.Event()

        async def lead() -> None:
            while not hangs.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await hangs.wait()
            raise asyncio.CancelledError

        term = asyncio.ensure_future(candidate.elector.run(lead))
        await asyncio.sleep(FAST.duration_s + OVERDUE_S + 10)
        assert candidate.elector.is_leader and not candidate.elector.problem()
        candidate.client.parted = True
        await asyncio.sleep(FAST.duration_s + OVERDUE_S / 2)
        assert not candidate.elector.is_leader and not candidate.elector.problem()
        await asyncio.sleep(OVERDUE_S)
        assert candidate.elector.problem() == "failed election to renew leadership on lease the-lease"
        hangs.set()
        await asyncio.sleep(1)
        assert not candidate.elector.problem()
        await cancel_and_wait(term)

    VirtualLoop().run(main())


# --- standing still -------------------------------------------------------------------------------


def _paused_for(candidate: Candidate, life: Life, seconds: float) -> asyncio.Task[None]:
    async def pause() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        life.paused = True
        await asyncio.sleep(seconds)
        loop.revive(life)

    return asyncio.ensure_future(pause())


def _in_life(store: Store, name: str, leading: list[str]) -> tuple[Candidate, Life]:
    """A candidate that is a process of its own."""
    life = Life(name)
    context = contextvars.copy_context()
    context.run(LIFE.set, life)
    return context.run(Candidate, store, name, leading, random.Random(1)), life


def test_a_leader_that_stood_still_goes_on_when_nobody_took_the_lease_but_not_before_it_knows() -> None:
    async def main() -> None:
        store, leading = Store(), []  # type: ignore[var-annotated]
        candidate, life = _in_life(store, "first", leading)
        await asyncio.sleep(3)
        assert candidate.elector.is_leader
        pause = _paused_for(candidate, life, 30)
        await asyncio.sleep(FAST.renew_deadline_s + 0.1)
        assert not candidate.elector.is_leader
        await pause
        while not candidate.elector.is_leader:
            await asyncio.sleep(0.01)
        assert (candidate.terms, leading) == (1, ["first"])
        await candidate.stop()

    VirtualLoop().run(main())


def test_a_leader_that_stood_still_for_too_long_never_leads_beside_its_successor() -> None:
    async def main() -> None:
        store = Store()
        first, life = _in_life(store, "first", [])
        await asyncio.sleep(2)
        second = Candidate(store, "second", [], random.Random(2))
        await asyncio.sleep(2)
        pause = _paused_for(first, life, 12)
        while not pause.done():
            assert not (first.elector.is_leader and second.elector.is_leader)
            await asyncio.sleep(0.01)
        assert second.elector.is_leader
        for _ in range(300):
            assert not first.elector.is_leader
            await asyncio.sleep(0.01)
        assert second.terms == 1
        await first.stop()
        await second.stop()

    VirtualLoop().run(main())
