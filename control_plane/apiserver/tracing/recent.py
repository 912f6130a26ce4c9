"""Recent requests that are worth a look: slow ones, failed ones, and those that somebody asked to be explained.

A ring of so many bytes. While somebody follows, all requests are traced and kept; whoever follows asks again within
seconds, and as soon as nobody does, nothing is traced any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from rayplane.control_plane.apiserver.tracing.spans import Trace

RECENT = "/debug/requests"
"""The path of them; of one with `/` and its id."""
SLOW_S = 1.0
"""A request that takes longer is kept."""
WAIT_MAX_S = 10.0
"""As long may somebody wait for the next request."""
_FOLLOWED_S = 15.0
_BYTES_MAX = 8 << 20
_CHARS_MAX = 1024
_BAD = frozenset({429})


@dataclass(slots=True)
class About:
    """The knowledge of a request that is over."""

    face: str
    method: str
    path: str
    """With its query."""
    user: str = ""
    agent: str = ""
    schema: str = ""
    level: str = ""
    """The flow schema and the priority level."""
    code: int = 0
    message: str = ""

    def shown(self) -> dict[str, Any]:
        texts = {
            "face": self.face, "method": self.method, "path": self.path, "user": self.user, "userAgent": self.agent,
            "flowSchema": self.schema, "priorityLevel": self.level, "message": self.message,
        }  # fmt: skip
        return {"code": self.code, **{key: text[:_CHARS_MAX] for key, text in texts.items() if text}}


@dataclass(frozen=True, slots=True)
class _Kept:
    number: int
    body: bytes


class Recent:
    """The recent requests of one server."""

    def __init__(self, server: str, wall: Callable[[], datetime]) -> None:
        """`wall`: the time of day."""
        self._server = server
        self._wall = wall
        self._kept: deque[_Kept] = deque()
        self._bytes = 0
        self._last = 0
        self.followed = False
        """Somebody wants to see all."""
        self._stop_at: asyncio.TimerHandle | None = None
        self._more = asyncio.Event()

    @staticmethod
    def interesting(code: int, seconds: float) -> bool:
        """Whether a request is kept although nobody asked for it."""
        return code >= 500 or code in _BAD or seconds >= SLOW_S

    def over(self, about: About, seconds: float, trace: Trace | None = None) -> str:
        """Keep a request that is over; its id."""
        self._last += 1
        id_ = f"{self._server}-{self._last}"
        at = self._wall().isoformat().replace("+00:00", "Z")
        entry = {"id": id_, "server": self._server, "at": at, "seconds": round(seconds, 6), **about.shown()}
        if trace is not None:
            entry["steps"] = trace.steps()
            if trace.left_out:
                entry["stepsLeftOut"] = trace.left_out
        try:
            body = orjson.dumps(entry)
        except TypeError:  # a text that is no UTF-8
            body = json.dumps(entry).encode()
        self._kept.append(_Kept(self._last, body))
        self._bytes += len(body)
        while self._bytes > _BYTES_MAX:
            self._bytes -= len(self._kept.popleft().body)
        self._more.set()
        return id_

    def get(self, id_: str) -> bytes | None:
        """A request that is kept, as JSON."""
        return next((one.body for one in self._kept if f"{self._server}-{one.number}" == id_), None)

    async def after(self, number: int, wait_s: float) -> bytes:
        """Requests that came after the one of this number, and the number of the last; it waits for one, but no longer
        than that. Who gives a number follows: all requests are traced from now on, for a while.
        """
        self._follow()
        if self._last <= number:
            self._more.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(max(wait_s, 0.0), WAIT_MAX_S)):
                    await self._more.wait()
        return self._page(number)

    def all(self) -> bytes:
        """All that are kept."""
        return self._page(-1)

    def _page(self, number: int) -> bytes:
        found = b",".join(one.body for one in self._kept if one.number > number)
        return b'{"last":%d,"recent":[%s]}' % (self._last, found)

    def _follow(self) -> None:
        if self._stop_at is not None:
            self._stop_at.cancel()
        self.followed = True
        self._stop_at = asyncio.get_running_loop().call_later(_FOLLOWED_S, self._stop)

    def _stop(self) -> None:
        self.followed, self._stop_at = False, None

    def stop(self) -> None:
        """Nobody follows any more, and nobody waits."""
        if self._stop_at is not None:
            self._stop_at.cancel()
        self._stop()
        self._more.set()
