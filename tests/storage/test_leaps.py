"""Time that is led forward: timers in their turn, and nothing left out that threads or sockets do."""

import asyncio
import socket
import threading
import time

import pytest

from rayplane.storage.env import SystemClock
from rayplane.storage.env.leaps import LeapingLoop, ahead_of, at_machine_pace, clock_of


def run(work):  # type: ignore[no-untyped-def]
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        return runner.run(work)


def test_each_timer_goes_off_in_its_turn_and_hours_take_no_time() -> None:
    seen: list[tuple[str, int]] = []
    began = 0.0

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
        before = clock_of(loop).now()
        await loop.advance(2 * 3600 + 1)
        assert (clock_of(loop).now() - before).total_seconds() >= 7201
        for task in tasks:
            task.cancel()

    run(main())
    assert [at for name, at in seen if name == "half"] == [1800, 3600, 5400, 7200]
    assert [at for name, at in seen if name == "hour"] == [3600, 7200]
    assert sorted(at for _, at in seen) == [at for _, at in seen]


def test_what_is_done_again_and_again_is_done_once_a_stride() -> None:
    """And work that waits for a moment between its steps goes on in that moment."""
    turns, steps = 0, []

    async def beat(every_s: float) -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(every_s)
            turns += 1

    async def work(loop: asyncio.AbstractEventLoop) -> None:
        await asyncio.sleep(10)
        for _ in range(5):
            steps.append(loop.time())
            await asyncio.sleep(0.005)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LeapingLoop)
        tasks = [asyncio.ensure_future(beat(every_s)) for every_s in (0.1, 0.13, 0.17)]
        tasks.append(asyncio.ensure_future(work(loop)))
        await loop.advance(60)
        for task in tasks:
            task.cancel()

    with asyncio.Runner(loop_factory=lambda: LeapingLoop(stride_s=0.5)) as runner:
        runner.run(main())
    assert 3 * 100 < turns < 3 * 130
    assert steps[-1] - steps[0] < 0.1


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


def test_who_is_outside_is_given_the_time_that_a_wait_for_him_allows() -> None:
    there, here = socket.socketpair()

    def answer() -> None:
        there.recv(1)
        time.sleep(0.05)
        there.send(b"!")

    async def ask() -> bytes:
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().sock_sendall(here, b"?")
            return await asyncio.get_running_loop().sock_recv(here, 1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LeapingLoop)
        here.setblocking(False)
        with loop.leaps():
            assert await at_machine_pace(ask)() == b"!"
            await asyncio.sleep(3600)
        assert ahead_of(loop) > 3599

    thread = threading.Thread(target=answer)
    thread.start()
    run(main())
    thread.join()
    there.close()
    here.close()


def test_a_loop_goes_on_as_far_ahead_as_it_was() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        return ahead_of(loop) + (clock_of(loop).now() - SystemClock().now()).total_seconds()

    with asyncio.Runner(loop_factory=lambda: LeapingLoop(7200.0)) as runner:
        assert 14390 < runner.run(main()) < 14410
