"""Waiting by progress: a busy machine gets more time, a start that stands still gets none beyond its span."""

import asyncio
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest

from rayplane.control_plane.cluster import launch, ray_cluster, ray_driven, readiness
from rayplane.control_plane.cluster.errors import ClusterError, StartFailed
from rayplane.control_plane.cluster.patience import Patience, slowdown
from rayplane.control_plane.cluster.readiness import Check, await_ready
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.control_plane.testing.machines.machines import Machine
from rayplane.control_plane.testing.machines.rays import RayNodes


@pytest.mark.parametrize(
    ("slowdowns", "over_after"),
    [
        ([1.0] * 20, 10),
        ([2.0] * 30, 20),
        ([1.0] * 5 + [20.0] * 100 + [1.0] * 5, 105),
        # Less than idle is nothing; what is beyond all measure is bounded.
        ([0.1] * 20, 10),
        ([1e9] * 600, 500),
    ],
)
def test_seconds_count_as_much_as_the_machine_gives(slowdowns: list[float], over_after: int) -> None:
    patience = Patience(span_s=10.0, now=0.0)
    for second, factor in enumerate(slowdowns, 1):
        patience.passed(float(second), factor)
        if patience.over:
            assert abs(second - over_after) <= 1
            return
    raise AssertionError("it never ends")


def test_only_more_than_ever_before_is_progress() -> None:
    patience = Patience(span_s=10.0, now=0.0)
    for second, score in enumerate([1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2], 1):
        patience.passed(float(second), 1.0)
        patience.reached(score)
    assert patience.over
    patience.reached(3)
    assert not patience.over


def test_what_is_left_may_get_less() -> None:
    """A score below zero is one too."""
    patience = Patience(span_s=10.0, now=0.0)
    for second, left in enumerate(range(50, 0, -1), 1):
        patience.passed(float(second), 1.0)
        patience.reached(-left)
        assert not patience.over
    patience.passed(61.0, 1.0)
    assert patience.over


def test_this_machine_has_a_slowdown() -> None:
    assert slowdown() >= 1.0


async def _wait(rounds: list[int], ended: str = "") -> list[str]:
    """Wait for ten conditions, of which so many are met in each round; what was told."""
    left = iter(rounds)
    last = 0

    async def made(*_: Any) -> list[Check]:
        nonlocal last
        last = next(left, last)
        return [Check(str(n), "" if n < last else "not yet", done=n < last) for n in range(10)]

    told: list[str] = []
    with mock.patch.object(readiness, "checks", made), mock.patch.object(readiness, "slowdown", lambda: 1.0):
        directory = StateDir(Path("/nowhere"))
        admin = mock.Mock()
        admin.etcd.range = mock.AsyncMock(side_effect=RpcError(Code.UNAVAILABLE, "no member answers"))
        await await_ready(admin, directory, timeout=0.3, ended=lambda: ended, progress=told.append)
    return told


async def test_a_start_that_moves_takes_as_long_as_it_takes() -> None:
    # Each span alone is longer than half of the patience; all together are several times as long.
    assert len(await _wait([n // 4 for n in range(41)])) >= 40


async def test_a_start_that_stands_still_fails_and_says_what_is_missing() -> None:
    with pytest.raises(StartFailed, match=r"no progress.*7: not yet; 8: not yet; 9: not yet"):
        await _wait([7])


async def test_a_start_whose_process_is_gone_fails_at_once() -> None:
    with pytest.raises(StartFailed, match="no memory; see /nowhere"):
        await asyncio.wait_for(_wait([0], ended="no memory"), 10)


def test_a_start_whose_process_failed_says_why(tmp_path: Path) -> None:
    directory = StateDir(tmp_path)
    directory.logs.mkdir()
    out = directory.logs / "process.out"
    out.write_text("starting\nmember-0: no room\n")
    assert launch.last_words(directory).endswith("ended: member-0: no room")
    out.write_text("")
    assert "said nothing" in launch.last_words(directory)


def test_ray_is_tried_again_only_when_it_was_slow(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    gone = {"owned": True, "pid": 2**22 + 1}
    log.write_text("Exception: The current node timed out during startup. This could happen because ...\n")
    assert ray_cluster.was_slow(gone, log)
    assert not ray_cluster.was_slow({"owned": False, "pid": 0}, log)
    log.write_text("OSError: [Errno 28] No space left on device\n")
    assert not ray_cluster.was_slow(gone, log)


def test_a_node_of_ray_is_started_again_only_when_it_was_slow() -> None:
    said = ["Exception: The current node timed out during startup.", ""]
    ran: list[str] = []

    class Busy:
        address = "198.18.0.2"

        def run(self, *words: str, env: dict[str, str]) -> str:
            ran.append(next(word for word in words if word in ("start", "stop")))
            if ran[-1] == "start" and (why := said.pop(0)):
                raise ClusterError(why)
            return ""

    RayNodes("198.18.0.1").join(cast(Machine, Busy()))
    assert ran == ["start", "stop", "start"]
    said[:], ran[:] = ["no space left on device"], []
    with pytest.raises(ClusterError, match="no space"):
        RayNodes("198.18.0.1").join(cast(Machine, Busy()))
    assert ran == ["start"]


async def test_a_start_whose_ray_has_ended_fails_at_once_though_the_driver_still_waits() -> None:
    async def line() -> str:
        await asyncio.Event().wait()
        return ""

    with pytest.raises(ClusterError, match="Ray ended"):
        await asyncio.wait_for(ray_driven.while_ray_lives({"owned": True, "pid": 2**22 + 1}, line()), 10)


async def test_a_foreign_ray_that_never_answers_ends_the_wait_with_what_to_do() -> None:
    host = {"owned": False, "pid": 0, "address": "10.0.0.1:6379"}

    async def silent() -> str:
        return await asyncio.get_running_loop().create_future()

    with (
        mock.patch.object(ray_driven, "slowdown", lambda: 1.0),
        pytest.raises(ClusterError, match=r"Ray at 10\.0\.0\.1:6379 does not answer: make it reachable"),
    ):
        await asyncio.wait_for(ray_driven.while_ray_lives(host, silent(), 0.2), 30)
