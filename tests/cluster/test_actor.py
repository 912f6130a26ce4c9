"""The thread of an actor's component, without Ray."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rayplane.control_plane.cluster import actor


@pytest.fixture
def thread() -> Iterator[Any]:
    made: Any = object.__new__(actor.ComponentThread)
    made._loop = asyncio.new_event_loop()
    runs = threading.Thread(target=made._loop.run_forever)
    runs.start()
    yield made
    made._loop.call_soon_threadsafe(made._loop.stop)
    runs.join()
    made._loop.close()


@pytest.mark.parametrize("raised", [None, TimeoutError("its own")])
def test_work_that_ends_just_after_a_look_has_ended_well(
    thread: Any, monkeypatch: pytest.MonkeyPatch, raised: TimeoutError | None
) -> None:
    looked, ended = threading.Event(), threading.Event()

    async def work() -> None:
        await asyncio.to_thread(looked.wait)
        # What waits for the result sees it only after this.
        asyncio.get_running_loop().call_later(0.05, ended.set)
        if raised is not None:
            raise raised

    def slowdown() -> float:
        looked.set()
        ended.wait()
        return 1.0

    monkeypatch.setattr(actor, "POLL_S", 0.01)
    monkeypatch.setattr(actor, "slowdown", slowdown)
    if raised is None:
        thread._call(work(), 60.0)
    else:
        with pytest.raises(TimeoutError, match="its own"):
            thread._call(work(), 60.0)
