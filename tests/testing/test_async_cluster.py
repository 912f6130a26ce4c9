"""AsyncCluster: cancelled however often, it leaves no cluster that its program does not know of."""

import asyncio
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rayplane
from rayplane.control_plane.cluster import backup, stages
from rayplane.control_plane.testing import cluster as clusters


class Launch:
    """In place of the real one: a start that goes on until it is let go, and what is up."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.failure: Exception | None = None
        self.up_now: list[str] = []
        self.encryption = b""

    async def up(self, config: object, directory: object, heard: object, *, encryption: bytes = b"") -> None:
        self.encryption = encryption
        self.begun.set()
        self.go.wait()
        if self.failure is not None:
            raise self.failure
        self.up_now.append("cluster")

    async def fork(self, source: object, directory: object, name: str, at: str, heard: object) -> tuple[Any, None]:
        await self.up(None, directory, heard)
        return SimpleNamespace(config=None), None

    async def down(self, directory: object, heard: object, purge: bool) -> None:
        self.up_now.remove("cluster")


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Launch:
    made = Launch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(clusters, "launch", made)
    monkeypatch.setattr(backup, "fork", made.fork)
    monkeypatch.setattr(clusters, "guard", lambda *_, **__: SimpleNamespace(communicate=lambda _: None))
    return made


async def _starting(launch: Launch) -> "asyncio.Task[rayplane.AsyncCluster]":
    task = asyncio.create_task(rayplane.AsyncCluster.up())
    await asyncio.to_thread(launch.begun.wait)
    return task


async def test_it_is_up_until_its_block_ends(launch: Launch) -> None:
    launch.go.set()
    async with rayplane.AsyncCluster():
        assert launch.up_now
    assert not launch.up_now and clusters.left() == []


async def test_stages_are_read_before_anything_is_begun_and_put_in_when_it_is_up(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[str] = []

    async def applied(directory: object, found: list[Any]) -> None:
        assert launch.up_now
        put.extend(one.object["kind"] for one in found)

    monkeypatch.setattr(stages, "put", applied)
    launch.go.set()
    with pytest.raises(rayplane.ClusterError, match=r"no-such\.yaml"):
        await rayplane.AsyncCluster.up(stages=["no-such.yaml"])
    with pytest.raises(rayplane.ClusterError, match=r"stages is a list, such as \['keda'\]"):
        await rayplane.AsyncCluster.up(stages="keda")
    assert not launch.begun.is_set()
    async with rayplane.AsyncCluster(stages=["keda"], encryption_config="kind: EncryptionConfiguration"):
        assert put == ["Stage"]
        assert launch.encryption == b"kind: EncryptionConfiguration"


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_start_that_is_cancelled_ends_when_nothing_is_left_of_it(launch: Launch, times: int) -> None:
    starting = await _starting(launch)
    for _ in range(times):
        starting.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not starting.done()
    launch.go.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not launch.up_now and clusters.left() == []


async def test_a_fork_that_is_cancelled_ends_when_nothing_is_left_of_it(launch: Launch) -> None:
    launch.go.set()
    async with rayplane.AsyncCluster() as origin:
        launch.begun.clear()
        launch.go.clear()
        forking = asyncio.create_task(origin.fork())
        await asyncio.to_thread(launch.begun.wait)
        forking.cancel()
        launch.go.set()
        with pytest.raises(asyncio.CancelledError):
            await forking
        assert len(launch.up_now) == len(clusters.left()) == 1
    assert not launch.up_now


async def test_a_start_that_fails_after_it_was_cancelled_is_cancelled(launch: Launch) -> None:
    launch.failure = rayplane.ClusterError("no room")
    starting = await _starting(launch)
    starting.cancel()
    launch.go.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert clusters.left() == []


def test_the_end_of_a_loop_waits_for_it(launch: Launch) -> None:
    async def program() -> None:
        await _starting(launch)
        asyncio.get_running_loop().call_later(0.05, launch.go.set)  # when this has ended, which cancels what it left

    asyncio.run(program())
    assert not launch.up_now and clusters.left() == []
