"""Time that is led forward: timers in their turn, and nothing left out that threads or sockets do."""

import asyncio
import time

import pytest

from rayplane.control_plane.cluster.leaps import LeapingLoop, LoopClock


def run(work):  # type: ignore[no-untyped-def]
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        return runner.run(work)


def test_each_timer_goes_off_in_its_turn_and_hours_take_no_time() -> None:
    seen: list[tuple[str, int]] = []

    async def beat(name: str, every_s: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(every_s)
            seen.append((name, round(loop.time() - began)))

    async def main() -> None:
        nonlocal began
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LeapingLoop)
        began = loop.time()
        tasks = [asyncio.ensure_future(beat("hour", 3600)), asyncio.ensure_future(beat("half", 1800))]
        before = LoopClock(loop).now()
        await loop.advance(2 * 3600 + 1)
        assert (LoopClock(loop).now() - before).total_seconds() >= 7201
        for task in tasks:
            task.cancel()

    began = 0.0
    run(main())
    assert [at for name, at in seen if name == "half"] == [1800, 3600, 5400, 7200]
    assert [at for name, at in seen if name == "hour"] == [3600, 7200]
    assert sorted(at for _, at in seen) == [at for _, at in seen]


def test_time_stands_still_while_a_thread_works() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LeapingLoop)
        advance = asyncio.ensure_future(loop.advance(3600))
        await asyncio.sleep(0)
        before = loop.ahead_s
        await asyncio.to_thread(time.sleep, 0.1)
        led = loop.ahead_s - before
        await advance
        return led

    assert run(main()) == 0


def test_a_time_out_is_not_met_by_an_answer_that_is_on_its_way() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LeapingLoop)
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            with loop.leaps():
                async with asyncio.timeout(5):
                    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                    writer.write(b"hello\n")
                    said = await reader.readline()
                    writer.close()
                    await writer.wait_closed()
        return said

    assert run(main()) == b"hello\n"


def test_a_loop_that_nobody_leads_keeps_the_machines_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LeapingLoop)
        await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        return loop.ahead_s

    assert run(main()) == 0
