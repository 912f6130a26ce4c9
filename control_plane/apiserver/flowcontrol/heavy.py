"""Work on large documents, done beside the loop.

Decoding, defaults, validation and ownership of fields cost in proportion to a document, which the budget bounds; for a
large one that is still more than everybody else should wait. It goes to a thread, one at a time: many at once would
take the loop's turns at the interpreter.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from rayplane.control_plane.apiserver.tracing.spans import span, traced
from rayplane.storage.env import Env, SystemClock

LARGE_BYTES = 64 * 1024
# What who asks for an explanation calls them.
_STEPS = {
    "_tracked": "field ownership",
    "applied": "apply",
    "create_errors": "validation",
    "decode": "decoding",
    "default": "defaulting",
    "patched": "patch",
    "update_errors": "validation",
}

_T = TypeVar("_T")


class Heavy:
    """Turns that the writers of one server share for large documents. Small ones never leave the loop."""

    def __init__(self, env: Env) -> None:
        # In virtual time nothing waits for a thread, and nobody waits for the loop.
        self._threads = isinstance(env.clock, SystemClock)
        self._turn = asyncio.Semaphore(1)

    async def run(self, size: int, function: Callable[..., _T], *arguments: object) -> _T:
        """The function's result; `size` in bytes. It must touch nothing that the loop changes meanwhile."""
        if size <= LARGE_BYTES and not traced():
            return function(*arguments)
        with span(_STEPS.get(function.__name__, function.__name__)):
            if size <= LARGE_BYTES:
                return function(*arguments)
            return await self.apart(function, *arguments)

    async def apart(self, function: Callable[..., _T], *arguments: object) -> _T:
        """As `run`, for what is known to take long."""
        if not self._threads:
            return function(*arguments)
        async with self._turn:
            return await asyncio.to_thread(function, *arguments)
