"""Operators that people write: what one gives back, or fails with, ends no other."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rayplane.control_plane.api.errors import ApiError, Conflict, Forbidden, ServiceUnavailable
from rayplane.control_plane.client.operators import Key, operate_by, reconcile
from tests.fakes.client import FakeClient

Reconcile = Callable[[Any, Key, Any], Awaitable[Any]]


async def until_called_again(answer: Callable[[], Any]) -> None:
    """Run an operator until its function, which answers so, has been called three times; others go on meanwhile."""
    calls = {"one": 0, "other": 0}
    enough = asyncio.Event()

    @reconcile("configmaps")
    async def one(client: Any, key: Key, obj: Any) -> Any:
        calls["one"] += 1
        if calls["one"] == 3:
            enough.set()
        return answer()

    @reconcile("configmaps")
    async def other(client: Any, key: Key, obj: Any) -> None:
        calls["other"] += 1

    client: Any = FakeClient()
    await client.create("configmaps", {"metadata": {"name": "x", "namespace": "default"}})
    operating = asyncio.ensure_future(operate_by({"one": one, "other": other})(client))
    waiting = asyncio.ensure_future(enough.wait())
    await asyncio.wait([operating, waiting], return_when=asyncio.FIRST_COMPLETED)
    assert waiting.done() and calls["other"] == 1, "the operators ended"
    operating.cancel()
    await asyncio.wait([operating])


@pytest.mark.parametrize("answer", ["soon", ["5"], float("nan"), 10**400], ids=["word", "list", "nan", "too-large"])
async def test_an_answer_that_is_no_number_ends_nobody(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    await until_called_again(lambda: answer)
    assert "one of default/x failed; trying again" in caplog.text


async def test_a_number_is_when_to_call_again() -> None:
    await until_called_again(lambda: 0.001)


@pytest.mark.parametrize(("error", "told"), [(Forbidden, True), (Conflict, False), (ServiceUnavailable, False)])
async def test_what_will_not_come_right_is_told(
    error: type[ApiError], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error("it may not")

    caplog.set_level(logging.WARNING)
    await until_called_again(fail)
    assert ("one of default/x: it may not; trying again" in caplog.text) == told
