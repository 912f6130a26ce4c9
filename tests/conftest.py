"""Settings for all tests."""

import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.tiers import USUAL, not_its_day, register_profiles
from tests.workers import from_both_ends, in_a_row

# Each process that a test starts would compile everything again, for as long as it takes to import it twice.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Whoever runs the tests may have chosen a cluster, which is none of theirs.
for _chosen in ("RAYPLANE_NAME", "RAYPLANE_STATE_DIR", "KUBECONFIG"):
    os.environ.pop(_chosen, None)

register_profiles()
settings.load_profile(USUAL)  # scripts/test --fast names another

# Whole clusters, fuzzing and long searches: what these folders and files hold is not for the fast run.
SLOW = {"cluster", "e2e", "fuzz", "linearizability", "machines", "packaging", "simulation", "storm"} | {
    "apiserver/test_hostile_requests.py",
    "apiserver/test_killed_server.py",
    "apiserver/test_odd_data.py",
    "apiserver/test_refusals.py",
    "apiserver/test_servers.py",
    "client/test_election.py",
    "controllers/test_with_api_server.py",
    "dashboard/test_in_a_browser.py",
    "etcd/test_disk_faults.py",
    "etcd/test_members.py",
    "etcd/test_odd_directories.py",
    "node/test_kubelet.py",
    "node/test_logfile.py",
    "rpc/test_grpc_server.py",
    "testing/test_plugin.py",
}
MAY_START_PROCESSES = {"e2e", "processes"}
STARTS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec"}
_running: list[pytest.Item] = []


def _refuse(event: str, _: tuple[object, ...], running: list[pytest.Item] = _running) -> None:
    # Nothing runs when the interpreter has taken this module's names away.
    if not running or event not in STARTS:
        return
    if not MAY_START_PROCESSES & {m.name for m in running[-1].iter_markers()}:
        raise RuntimeError("a test that starts a process is marked so: @pytest.mark.processes")


sys.addaudithook(_refuse)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--release", action="append", help="a release whose kubectl is tried (1.28), or `all`")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    everything = [Path(argument).resolve() for argument in config.args] == [here]
    for item in items:
        if everything and (turn := item.get_closest_marker("turn")) and (reason := not_its_day(turn)):
            item.add_marker(pytest.mark.skip(reason=reason))
        path = item.path.relative_to(here)
        if {path.parts[0], path.as_posix()} & SLOW:
            item.add_marker(pytest.mark.slow)
    in_a_row(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return from_both_ends(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """Whatever a collection of garbage looks at from here on, a virtual loop's at its end too, was made by tests."""
    _keep_what_is_there()


def _keep_what_is_there() -> None:
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _told_in_its_own_file() -> Iterator[None]:
    """What tests leave open is told in the last of their file at the latest, not in somebody else's."""
    yield
    _keep_what_is_there()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """The fast tests stay fast: what starts a process without being marked so fails.

    A command line that ran in this process leaves its umask to no other test.
    """
    _running.append(item)
    mask = os.umask(0o022)
    os.umask(mask)
    try:
        return (yield)
    finally:
        os.umask(mask)
        _running.pop()
