"""Actors without Ray: the thread of a component, and starts that fail."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayplane.control_plane.cluster import actor
from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.failures import ComponentFailed
from rayplane.control_plane.cluster.topology import Instance, Machine, Role, Topology


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


class _Ended(BaseException):
    """The process is no more."""


@pytest.mark.parametrize("role", [Role.SUPERVISOR, Role.SCHEDULER])
@pytest.mark.parametrize("again", [True, False])
def test_a_supervisor_that_ray_cannot_restart_ends_so_that_it_tries_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, role: Role, again: bool
) -> None:
    """All others are started anew by the supervisor, and at first `up` wants to know."""

    def fail(_: Any) -> None:
        raise OSError(98, "the port is in use")

    def end(_: int) -> None:
        raise _Ended

    pauses: list[float] = []
    context = SimpleNamespace(was_current_actor_reconstructed=again)
    monkeypatch.setattr(actor.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(actor, "ComponentThread", fail)
    monkeypatch.setattr(actor.os, "_exit", end)
    monkeypatch.setattr(actor.os, "umask", lambda _: 0)
    monkeypatch.setattr(actor.time, "sleep", pauses.append)
    # It goes with the process, which each of these ends.
    monkeypatch.setattr(actor.signs, "hold", lambda _: None)
    spec: Any = Spec(
        instance=Instance("x", role, Machine()), config=ClusterConfig(), plan=AddressPlan(0), topology=Topology(()),
        credentials=None, secrets=None, data_dir=str(tmp_path / "x"), log_file="",
    )  # fmt: skip
    ends = again and role is Role.SUPERVISOR
    with pytest.raises(_Ended if ends else ComponentFailed):
        actor.ComponentActor(spec)
    assert pauses == [actor.LIFE_MIN_S] * ends
