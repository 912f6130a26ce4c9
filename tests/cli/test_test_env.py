"""`rayplane test-env` without clusters: what becomes of them when something fails, and the signals of a suite."""

import json
import os
import signal
from pathlib import Path

import pytest

from rayplane.control_plane.cli import app, options, test_env
from rayplane.control_plane.cluster import launch
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.guardian import DOWN, UP
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Topology

FORGOTTEN = b""
"""What the guardian reads of a program that ended, or wants the cluster no more."""


class Guardian:
    """In place of the real one: what it is told."""

    returncode = 0

    def __init__(self) -> None:
        self.told: bytes | None = None
        self.stdin = self

    def __enter__(self) -> "Guardian":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def write(self, word: bytes) -> None:
        self.told = word

    def communicate(self, word: bytes = FORGOTTEN) -> None:
        self.told = word


def begin(directory: StateDir, name: str) -> None:
    directory.create()
    directory.write(ClusterState(ClusterConfig(name=name), AddressPlan(2), Topology(()), False, {"pid": 0}))


@pytest.fixture
def guardian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Guardian:
    made = Guardian()
    monkeypatch.setattr(test_env, "guard", lambda *_, **__: made)
    monkeypatch.setattr(test_env.tempfile, "mkdtemp", lambda **_: str(tmp_path / "state"))

    async def up(config: ClusterConfig, directory: StateDir, _: object) -> None:
        begin(directory, config.name)
        directory.kubeconfig.write_text("how to reach it")

    monkeypatch.setattr(launch, "up", up)
    return made


@pytest.mark.parametrize(
    ("failure", "told"),
    [(ClusterError("it did not come up; see logs/process.out"), DOWN), (KeyboardInterrupt(), FORGOTTEN)],
)
def test_the_logs_stay_of_a_cluster_that_did_not_come_up(
    guardian: Guardian, monkeypatch: pytest.MonkeyPatch, failure: BaseException, told: bytes
) -> None:
    async def up(*_: object) -> None:
        raise failure

    monkeypatch.setattr(launch, "up", up)
    assert app.run(["test-env", "start"]) in (1, 130)
    assert guardian.told == told


def test_a_cluster_that_nobody_can_name_is_deleted(guardian: Guardian, tmp_path: Path) -> None:
    assert app.run(["test-env", "start", "--kubeconfig", str(tmp_path / "none" / "config")]) == 1
    assert guardian.told == FORGOTTEN
    assert app.run(["test-env", "start", "--kubeconfig", "-", "--json"]) == 2


def test_a_cluster_is_its_owners_until_stop(
    guardian: Guardian, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = StateDir(tmp_path / "state")
    assert app.run(["test-env", "start", "--json", "--kubeconfig", str(tmp_path / "config")]) == 0
    assert guardian.told == UP and (tmp_path / "config").read_text() == "how to reach it"
    program = Path(f"/proc/{os.getppid()}/comm").read_text().strip()
    out, err = capsys.readouterr()
    assert f"process {os.getppid()} ({program})" in err
    assert json.loads(out)["RAYPLANE_STATE_DIR"] == str(place.path)
    stop = ["test-env", "stop", "--state-dir", str(place.path)]
    assert app.run(stop) == 0
    assert not place.path.exists()
    begin(place, "test-env-1")
    assert app.run(stop) == 1
    assert place.read() is not None


@pytest.mark.processes
@pytest.mark.parametrize(
    ("suite", "code"),
    [
        ('trap "exit 5" TERM; kill -INT $PPID; kill -INT $PPID; kill -TERM $PPID; while :; do sleep 0.01; done', 5),
        ('trap "exit 6" HUP; kill -HUP $PPID; while :; do sleep 0.01; done', 6),
        ("kill -KILL $$", 128 + 9),
    ],
)
def test_a_suite_ends_by_itself_and_has_its_exit_code(suite: str, code: int) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who runs tests by nohup(1) ignores it
    try:
        assert options.run(test_env._exit_code(["sh", "-c", suite], os.environ)) == code
    finally:
        signal.signal(signal.SIGHUP, before)
