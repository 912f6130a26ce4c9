"""Writes that change an object or make it: who is there first is no fault of either writer."""

import contextlib
from collections.abc import Awaitable, Callable

from rayplane.control_plane.api.errors import AlreadyExists, NotFound
from rayplane.control_plane.apiserver.requests import Answer

_TRIES = 8


async def changed_or_made(change: Callable[[], Awaitable[Answer]], make: Callable[[], Awaitable[Answer]]) -> Answer:
    """What `change` answers, or `make` where there is nothing to change; both again when another made it meanwhile.

    Raises what `make` raises; AlreadyExists only when others make and delete it without end.
    """
    tries = 0
    while True:
        with contextlib.suppress(NotFound):
            return await change()
        try:
            return await make()
        except AlreadyExists:
            tries += 1
            if tries == _TRIES:
                raise
