"""Tests of members in one process run in virtual time: fast, and the same however busy the machine is."""

import asyncio
from collections.abc import Callable

import pytest

from tests.etcd.virtual import VirtualLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name == "test_real_clients.py":
        return {"real": asyncio.SelectorEventLoop}
    return {"virtual": VirtualLoop}
