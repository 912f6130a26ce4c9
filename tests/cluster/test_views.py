"""Views of a cluster: what they refuse, in HTTP's terms."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from rayplane.control_plane.api.errors import Expired, NotFound, ServiceUnavailable
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.errors import ClusterError, NobodyAnswers, NotThere, NotUp
from rayplane.control_plane.cluster.history import HistoryForgotten
from rayplane.control_plane.cluster.views import Views


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
