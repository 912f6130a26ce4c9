"""Tests of members in one process run in virtual time: fast, and the same however busy the machine is."""

import asyncio
from collections.abc import Callable

import pytest

from tests.etcd.virtual import VirtualLoop

#: Real processes, real disks, other people's clients.
REAL_TIME = (
    "test_auth_clients.py",
    "test_crash.py",
    "test_disk_faults.py",
    "test_errors.py",
    "test_odd_directories.py",
    "test_real_clients.py",
    "test_scale_members.py",
    "test_standalone.py",
)


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in REAL_TIME:
        return {"real": asyncio.SelectorEventLoop}
    return {"virtual": VirtualLoop}
