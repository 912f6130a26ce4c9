"""Tasks: all of them end, whatever they do and whoever ends them, and those that wait for nothing let others go."""

import asyncio
import contextlib
import logging

import pytest

from rayplane.control_plane import tasks
from rayplane.control_plane.tasks import TURN_S, Turn, cancel_and_wait, each_of, end_each, finished


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _started(*coroutines: object) -> list[asyncio.Task[None]]:
    made = [asyncio.ensure_future(c) for c in coroutines]  # type: ignore[call-overload]
    await asyncio.sleep(0)
    return made


async def test_what_runs_ends_and_what_was_never_started_is_nothing() -> None:
    made = await _started(_for_ever(), _for_ever())
    await cancel_and_wait(None, *made)
    assert all(task.cancelled() for task in made)
    await cancel_and_wait(*made)
    await cancel_and_wait()


async def test_a_failure_is_logged_and_the_others_end_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        try:
            await _for_ever()
        finally:
            raise OSError("no room")

    made = await _started(failing(), _for_ever())
    made[0].set_name("writer")
    with caplog.at_level(logging.WARNING):
        await cancel_and_wait(*made)
    assert all(task.done() for task in made)
    assert "task 'writer' had failed: OSError: no room" in caplog.text


async def test_one_that_swallows_its_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_S", 0.01)

    async def stubborn() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await _for_ever()
        await _for_ever()

    [task] = await _started(stubborn())
    async with asyncio.timeout(60):
        await cancel_and_wait(task)
    assert task.cancelled()


async def test_a_caller_that_is_cancelled_still_sees_them_end() -> None:
    may_end, ended = asyncio.Event(), False

    async def slow() -> None:
        nonlocal ended
        try:
            await _for_ever()
        finally:
            await may_end.wait()
            ended = True

    [task] = await _started(slow())
    [caller] = await _started(cancel_and_wait(task))
    caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended


async def test_a_task_may_end_its_own_group() -> None:
    group: list[asyncio.Task[None]] = []

    async def leader() -> None:
        await cancel_and_wait(*group)

    group += await _started(_for_ever())
    group.append(asyncio.ensure_future(leader()))
    await group[1]
    assert group[0].cancelled()


async def test_tasks_that_wait_for_nothing_let_others_go_after_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    now, passes, turn = 0.0, 0, Turn()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)

    async def others() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    async def works() -> None:
        nonlocal now
        for _ in range(100):
            now += TURN_S / 4
            await turn.give()

    other = asyncio.ensure_future(others())
    await asyncio.gather(works(), works())
    await cancel_and_wait(other)
    # Of 200 steps four make a turn; the other task that takes it begins it anew when it is back.
    assert 200 / 10 <= passes <= 200 / 3


async def test_what_must_not_be_left_half_done_is_waited_for_by_who_is_cancelled() -> None:
    done, go = list[str](), asyncio.Event()

    async def work() -> None:
        await go.wait()
        done.append("all of it")
        raise OSError("which nobody wants to know any more")

    (waiting,) = await _started(finished(work()))
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert done == ["all of it"]


async def test_of_several_ends_each_is_called_though_one_fails_and_another_is_cancelled() -> None:
    ended, waits = list[str](), asyncio.Event()

    async def first() -> None:
        ended.append("first")
        raise OSError("no room")

    async def second() -> None:
        waits.set()
        await _for_ever()

    async def third() -> None:
        ended.append("third")

    ending = asyncio.create_task(end_each(first, second, third))
    await waits.wait()
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert ended == ["first", "third"]
    with pytest.raises(OSError, match="no room"):
        await end_each(third, first, third)
    assert ended == ["first", "third", "third", "first", "third"]


async def test_few_of_many_are_under_way_and_what_they_make_is_in_order() -> None:
    doing = most = 0

    async def work(item: int) -> int:
        nonlocal doing, most
        doing += 1
        most = max(most, doing)
        for _ in range(1 + item % 3):
            await asyncio.sleep(0)
        doing -= 1
        return -item

    assert await each_of(range(20), work, at_once=4) == [-item for item in range(20)]
    assert most == 4
    assert await each_of([], work, at_once=4) == []


async def test_what_is_under_way_ends_with_the_first_that_fails_or_with_who_waits() -> None:
    begun: list[int] = []
    ended: list[int] = []

    async def work(item: int) -> None:
        begun.append(item)
        if item == 2:
            raise OSError("the third")
        try:
            await _for_ever()
        finally:
            ended.append(item)

    with pytest.raises(OSError, match="the third"):
        await each_of(range(9), work, at_once=3)
    assert (begun, sorted(ended)) == ([0, 1, 2], [0, 1])
    [waiting] = await _started(each_of(range(2), work, at_once=9))
    await asyncio.sleep(0)
    await cancel_and_wait(waiting)
    assert ended[2:] == [0, 1]
