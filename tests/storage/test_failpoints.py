"""Failpoints: every listed one stands in the code and is come to, and nothing else can be armed."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane.storage.env import DiskError, failpoints
from rayplane.storage.env.failpoints import POINTS, UnknownFailpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.disarm()


def test_every_listed_point_stands_in_the_code_and_every_one_there_is_listed() -> None:
    used: list[str] = []
    for package in ("storage", "control_plane"):
        for path in (ROOT / package).rglob("*.py"):
            for call in re.findall(r"\bhit\(([^)]*)\)", path.read_text()):
                used += re.findall(r'"([a-z_]+\.[a-z_]+)"', call)
    assert sorted(set(used)) == sorted(POINTS)


@pytest.mark.parametrize(
    "rule",
    [
        "wal.before_snyc=kill",
        "wal.before_sync=explode",
        "wal.before_sync",
        "wal.before_sync=kill@0",
        "wal.before_sync=error(ENOSUCHTHING)",
        "wal.before_sync=kill@3, wal.after_sync=kill",
    ],
)
def test_what_is_not_known_is_refused(rule: str) -> None:
    with pytest.raises(UnknownFailpoint):
        failpoints.arm(rule)
    with pytest.raises(UnknownFailpoint):
        failpoints.arm_call("wal.before_snyc", lambda name: None)


def test_a_point_acts_from_the_given_hit_on() -> None:
    failpoints.arm("wal.before_sync=error(ENOSPC)@3; wal.after_sync=count")
    failpoints.hit("wal.before_sync")
    failpoints.hit("wal.before_sync")
    for _ in range(2):
        with pytest.raises(DiskError, match=r"wal.before_sync: No space left on device"):
            failpoints.hit("wal.before_sync")
    failpoints.hit("wal.after_sync")
    failpoints.hit("wal.after_mark")
    assert failpoints.hits() == {"wal.before_sync": 4, "wal.after_sync": 1}
    failpoints.disarm()
    failpoints.hit("wal.before_sync")


@pytest.mark.processes
async def test_kill_ends_a_process_at_once() -> None:
    program = (
        "from rayplane.storage.env import failpoints as f; f.arm_from_environment(); f.hit('wal.before_sync'); "
        "print('once', flush=True); f.hit('wal.before_sync'); print('never')"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={failpoints.ENVIRONMENT: "wal.before_sync=kill@2"},
    )
    output, _ = await process.communicate()
    assert (output, process.returncode) == (b"once\n", -9)
