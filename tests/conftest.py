"""Settings for all tests."""

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.tiers import USUAL, register_profiles

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
    "etcd/test_disk_faults.py",
    "etcd/test_members.py",
    "etcd/test_odd_directories.py",
    "node/test_kubelet.py",
    "node/test_logfile.py",
    "rpc/test_grpc_server.py",
}
MAY_START_PROCESSES = {"e2e", "processes"}
STARTS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec"}
_running: list[pytest.Item] = []


def _refuse(event: str, _: tuple[object, ...]) -> None:
    if event in STARTS and _running and not MAY_START_PROCESSES & {m.name for m in _running[-1].iter_markers()}:
        raise RuntimeError("a test that starts a process is marked so: @pytest.mark.processes")


sys.addaudithook(_refuse)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--release", action="append", help="a release whose kubectl is tried (1.28), or `all`")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(here)
        if {path.parts[0], path.as_posix()} & SLOW:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Whatever a collection of garbage looks at from here on, a virtual loop's at its end too, was made by tests."""
    gc.collect()
    gc.freeze()


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
