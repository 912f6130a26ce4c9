"""The virtual-time loop: time jumps, threads and sockets are refused, dead cells never run again."""

import asyncio
import contextlib
import contextvars
import gc
import warnings
from typing import Any

import pytest

from rayplane.control_plane.simulation import Deadlock, Livelock, NotSimulated, UnknownAsyncio, VirtualLoop
from rayplane.control_plane.simulation import loop as loop_module
from rayplane.control_plane.simulation.loop import LIFE, LOOP_STEPS, Life, check_asyncio


def test_an_hour_passes_at_once_and_timers_keep_their_order() -> None:
    loop = VirtualLoop()
    seen: list[tuple[float, str]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((loop.time(), name))

    async def main() -> None:
        await asyncio.gather(sleeper("late", 3600), sleeper("early", 0.5), sleeper("middle", 60))

    loop.run(main())
    assert seen == [(0.5, "early"), (60.0, "middle"), (3600.0, "late")]


def test_waiting_for_what_never_comes_is_found() -> None:
    loop = VirtualLoop()
    with pytest.raises(Deadlock):
        loop.run(loop.create_future())


def test_going_on_without_time_passing_is_found() -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Livelock):
        VirtualLoop().run(spin())


@pytest.mark.parametrize(
    "ask",
    [
        lambda: asyncio.to_thread(print),
        lambda: asyncio.open_connection("127.0.0.1", 1),
        lambda: asyncio.start_server(lambda r, w: None, "127.0.0.1", 0),
        lambda: asyncio.create_subprocess_exec("true"),
    ],
)
def test_threads_sockets_and_processes_are_refused(ask: object) -> None:
    async def main() -> None:
        with pytest.raises(NotSimulated):
            await ask()  # type: ignore[operator]

    VirtualLoop().run(main())


def test_nothing_of_a_dead_cell_runs_and_a_paused_one_goes_on() -> None:
    loop = VirtualLoop()
    seen: list[str] = []

    async def work(name: str) -> None:
        try:
            while True:
                await asyncio.sleep(1)
                seen.append(name)
        finally:
            seen.append(f"{name} cleaned up")

    def spawn(name: str) -> Life:
        life = Life(name)
        context = contextvars.copy_context()
        context.run(LIFE.set, life)
        keep.append(loop.create_task(work(name), context=context))
        return life

    keep: list[asyncio.Task[None]] = []

    async def main() -> None:
        victim, sleeper = spawn("victim"), spawn("sleeper")
        await asyncio.sleep(1.5)
        victim.dead = True
        keep[0].cancel()
        sleeper.paused = True
        await asyncio.sleep(2)
        assert seen == ["victim", "sleeper"]
        loop.revive(sleeper)
        await asyncio.sleep(1.1)
        assert seen == ["victim", "sleeper", "sleeper", "sleeper"]
        sleeper.dead = True

    loop.run(main())
    assert "victim cleaned up" not in seen


def test_what_a_dead_cell_did_not_begin_is_no_fault_of_its_maker() -> None:
    """Python warns of coroutines that nobody awaited, and warnings are errors here."""
    life = Life("victim")
    context = contextvars.copy_context()
    context.run(LIFE.set, life)

    async def main() -> list[asyncio.Task[None]]:
        tasks = [asyncio.get_running_loop().create_task(asyncio.sleep(1), context=context)]
        life.dead = True
        await asyncio.sleep(1)
        return tasks

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        VirtualLoop().run(main()).clear()
        gc.collect()
    assert not said


def test_asyncio_has_all_that_the_loop_uses_of_it() -> None:
    """Fails with the missing names on a Python whose asyncio is made in another way."""
    with contextlib.closing(asyncio.base_events.BaseEventLoop()) as loop:
        check_asyncio(loop)
    assert set(LOOP_STEPS) <= vars(VirtualLoop).keys()


@pytest.mark.parametrize("part", ["_timer_cancelled_count", "_run_once", "_context"])
def test_a_python_that_lacks_a_part_is_named(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for names in ("LOOP_PARTS", "LOOP_STEPS", "HANDLE_PARTS"):
        parts = [f"{name}_of_tomorrow" if name == part else name for name in getattr(loop_module, names)]
        monkeypatch.setattr(loop_module, names, tuple(parts))
    with pytest.raises(UnknownAsyncio, match=rf"asyncio of Python 3\.\d+\.\d+ has no \w+\.{part}_of_tomorrow"):
        VirtualLoop()


def test_tasks_are_made_alike_by_every_asyncio() -> None:
    """3.11 gives the task factory `context` where there is one; 3.14 gives it everything, `None`s too."""

    async def main() -> list[str]:
        ran: list[str] = []

        async def note(what: str) -> None:
            ran.append(what)

        loop = asyncio.get_running_loop()
        factory: Any = loop.get_task_factory()
        assert factory is not None
        tasks = [
            factory(loop, note("old")),
            factory(loop, note("context"), context=contextvars.copy_context()),
            factory(loop, note("new"), name=None, context=None),
            factory(loop, note("eager"), name="named", eager_start=True),
        ]
        assert ran == []
        assert tasks[3].get_name() == "named"
        assert loop.create_task(note("last"), name="x").get_name() == "x"
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
        return ran

    assert VirtualLoop().run(main()) == ["old", "context", "new", "eager", "last"]
