"""The virtual-time loop: time jumps, threads and sockets are refused, dead cells never run again."""

import asyncio
import contextvars

import pytest

from control_plane.cluster.simulation import Deadlock, Livelock, NotSimulated, VirtualLoop
from control_plane.cluster.simulation.loop import LIFE, Life


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
