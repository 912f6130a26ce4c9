"""Views of a cluster: what they refuse, in HTTP's terms."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from rayplane.control_plane.api.errors import Expired, NotFound, ServiceUnavailable
from rayplane.control_plane.cluster import views as views_module
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.errors import ClusterError, NobodyAnswers, NotThere, NotUp
from rayplane.control_plane.cluster.history import HistoryForgotten
from rayplane.control_plane.cluster.past import EVERY_S
from rayplane.control_plane.cluster.views import Views
from rayplane.control_plane.simulation import VirtualLoop


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (NotThere("no pod"), NotFound),
        (NobodyAnswers("no scheduler leads"), ServiceUnavailable),
        (HistoryForgotten("too long ago"), Expired),
        (NotUp("it is down"), NotUp),
    ],
)
async def test_what_cannot_be_told_is_refused_as_what_it_is(refusal: ClusterError, told: type[Exception]) -> None:
    @asynccontextmanager
    async def way() -> AsyncIterator[Access]:
        raise refusal
        yield

    views = Views(way, lambda: datetime.now(UTC))
    with pytest.raises(told, match=str(refusal)):
        await anext(views.look("explain", {"namespace": "default", "name": "web"}))


def test_a_look_at_the_control_plane_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    async def glance(_: Any) -> dict[str, Any]:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ValueError("an answer that makes no sense")
        return {"members": [], "leases": []}

    @asynccontextmanager
    async def way() -> AsyncIterator[Any]:
        yield None

    async def main() -> None:
        remembering = asyncio.ensure_future(Views(way, lambda: datetime.now(UTC)).remember())
        await asyncio.sleep(2.5 * EVERY_S)
        remembering.cancel()

    monkeypatch.setattr(views_module, "glance", glance)
    VirtualLoop().run(main())
    assert looks == 2
