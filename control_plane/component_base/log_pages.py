"""Paths about the log of a component, over HTTP/1.1: what it says, and from which level on.

GET, PUT /debug/flags/v  the level of its log, by name or by Kubernetes' verbosity
GET /debug/log           its log: `tail` lines from the end, and with `follow` what comes; `of` names another
                         component of the same machine, which may be dead
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayplane.control_plane.component_base.log_reading import ALL, LogReader
from rayplane.control_plane.component_base.log_settings import level_of
from rayplane.control_plane.component_base.logs import FILE_BYTES_MAX, FILES_KEPT, Level

if TYPE_CHECKING:
    from aiohttp import web

VERBOSITY = "/debug/flags/v"
LOG = "/debug/log"
LEVEL_BYTES_MAX = 64
#: Those who read logs of one component at a time.
READERS_MAX = 8
#: Between two looks at whether a log that is followed has grown.
FOLLOW_S = 0.2
#: What is written while it is read could go on for ever.
LOG_BYTES_MAX = (FILES_KEPT + 1) * FILE_BYTES_MAX
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_TAIL = re.compile(r"-1|[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class LogQuery:
    """A request for a log. `of`: whose; the component's own where it is empty."""

    of: str = ""
    tail: int = ALL
    follow: bool = False

    @classmethod
    def read(cls, query: Mapping[str, str]) -> "LogQuery":
        """Raises ValueError that says what is wrong."""
        of, tail, follow = query.get("of", ""), query.get("tail", str(ALL)), query.get("follow", "false")
        if of and not _NAME.fullmatch(of):
            raise ValueError("of: give the name of a component")
        if not _TAIL.fullmatch(tail):
            raise ValueError(f"tail: give a number of lines, or {ALL} for all")
        if follow not in ("true", "false"):
            raise ValueError("follow: give true or false")
        return cls(of, int(tail), follow == "true")

    def as_query(self) -> dict[str, str]:
        return {"of": self.of, "tail": str(self.tail), "follow": str(self.follow).lower()}


class LogPages:
    """Pages about the log of the component that made them, for a caller who may."""

    PATHS = frozenset({VERBOSITY, LOG})

    def __init__(self) -> None:
        self._level = Level()
        self._readers = 0

    async def answer(self, request: "web.BaseRequest") -> "web.StreamResponse":
        if request.path == VERBOSITY:
            return await self._verbosity(request)
        if request.method != "GET":
            return text(405, "Method Not Allowed", Allow="GET")
        try:
            query = LogQuery.read(request.query)
        except ValueError as e:
            return text(400, str(e))
        if self._readers >= READERS_MAX:
            return text(429, f"{READERS_MAX} read logs here already", **{"Retry-After": "1"})
        self._readers += 1
        try:
            return await self._log(request, query)
        finally:
            self._readers -= 1

    async def _verbosity(self, request: "web.BaseRequest") -> "web.Response":
        if request.method == "GET":
            return text(200, self._level.get())
        if request.method != "PUT":
            return text(405, "Method Not Allowed", Allow="GET, PUT")
        body = await request.content.read(LEVEL_BYTES_MAX)
        try:
            self._level.set(level_of(body.decode(errors="replace")))
        except ValueError as e:
            return text(400, str(e))
        return text(200, f"the level is {self._level.get()} now")

    async def _log(self, request: "web.BaseRequest", query: LogQuery) -> "web.StreamResponse":
        from aiohttp import web

        path = self._level.file(query.of)
        try:
            # In a thread, as each read is: a disk that is slow, or stuck, holds up nobody who serves.
            reader = await asyncio.to_thread(LogReader, path, query.tail) if path is not None else None
        except FileNotFoundError:
            reader = None
        if reader is None:
            return text(404, "there is no such log on this machine")
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        left_bytes = LOG_BYTES_MAX
        try:
            await response.prepare(request)
            while query.follow or left_bytes > 0:
                data = await asyncio.to_thread(reader.read)
                if data:
                    left_bytes -= len(data)
                    await response.write(data)
                elif query.follow:
                    await asyncio.sleep(FOLLOW_S)
                else:
                    break
        finally:
            reader.close()
        return response


def text(status: int, line: str, **headers: str) -> "web.Response":
    # Imported here: who is never asked needs none of it.
    from aiohttp import web

    return web.Response(status=status, text=f"{line}\n", headers=headers)
