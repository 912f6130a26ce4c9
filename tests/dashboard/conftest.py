"""A gateway on loopback without a cluster behind it, and a client of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.dashboard import Gateway


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    made = Gateway(StateDir(tmp_path))
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{gateway.address}") as session:
        yield session
