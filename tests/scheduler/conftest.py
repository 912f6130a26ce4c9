"""The API and the scheduler of tests that need one of each."""

from collections.abc import AsyncIterator

import pytest

from rayplane.control_plane.scheduler import Scheduler
from tests.fakes import FakeClient
from tests.scheduler.harness import make
from tests.scheduler.plugged import Made, schedulers_of


@pytest.fixture
def api() -> FakeClient:
    return FakeClient()


@pytest.fixture
async def scheduler(api: FakeClient) -> AsyncIterator[Scheduler]:
    one = make(api)
    await one.start()
    yield one
    await one.stop()


@pytest.fixture
async def start(api: FakeClient) -> AsyncIterator[Made]:
    async with schedulers_of(api) as started:
        yield started
