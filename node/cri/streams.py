"""Streams into containers: a call of CRI is answered with a URL of this machine, which is good once and soon.

Who holds the URL may use it, so it is told to the caller of the call alone. Bounds: URLs that nobody has used, and how
long they are good; the streams themselves count as those of the host's other service do.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.rpc.errors import error_of
from rayplane.control_plane.rpc.sockets import serving
from rayplane.node.errors import Malformed, NodeError, TooMany
from rayplane.node.runtime import ContainerRun
from rayplane.node.streaming.service import first_of, forward_port, run_command
from rayplane.node.streaming.sessions import Sessions
from rayplane.proto.rayplane.v1 import node_pb2

if TYPE_CHECKING:
    from aiohttp import web

    from rayplane.control_plane.rpc.http1 import GuardedServer

URLS_MAX = 1000
URL_S = 60.0
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Opening:
    """The stream that a URL is for. `find`: the run, once somebody comes; it may have ended. Raises NodeError."""

    kind: str
    """exec, attach or portforward."""
    pod: str
    find: Callable[[], ContainerRun]
    ip: str = ""
    first: node_pb2.ExecRequest | None = None
    shown: frozenset[str] = frozenset()
    ports: tuple[int, ...] = ()


class _Calls:
    """One stream's calls, in this process: see `streams.calls.PodCalls`."""

    def __init__(self, opening: Opening, sessions: Sessions) -> None:
        self._opening = opening
        self._sessions = sessions

    async def Exec(self, requests: AsyncIterator[node_pb2.ExecRequest]) -> AsyncGenerator[node_pb2.ExecResponse, None]:
        first = await first_of(requests)
        try:
            with self._sessions.one(self._opening.pod):
                async for response in run_command(self._opening.find(), first, requests):
                    yield response
        except NodeError as e:
            raise error_of(e) from e

    async def PortForward(
        self, requests: AsyncIterator[node_pb2.PortForwardRequest]
    ) -> AsyncGenerator[node_pb2.PortForwardResponse, None]:
        first, opening = await first_of(requests), self._opening
        try:
            with self._sessions.one(opening.pod):
                async for response in forward_port(opening.find(), opening.pod, opening.ip, first, requests):
                    yield response
        except NodeError as e:
            raise error_of(e) from e


class StreamServer:
    """The HTTP server of the URLs; it listens from the first one on."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._open: OrderedDict[str, tuple[float, Opening]] = OrderedDict()
        self._starting = asyncio.Lock()
        self._web: GuardedServer | None = None
        self._server: asyncio.Server | None = None
        self._base = ""

    async def url(self, opening: Opening) -> str:
        """Raises TooMany, OSError."""
        now = asyncio.get_running_loop().time()
        while self._open and next(iter(self._open.values()))[0] < now:
            self._open.popitem(last=False)
        if len(self._open) >= URLS_MAX:
            raise TooMany(f"{URLS_MAX} URLs were asked for and not used: try again in {URL_S:g} s")
        async with self._starting:
            if self._server is None:
                await self._start()
        token = secrets.token_urlsafe(24)
        self._open[token] = (now + URL_S, opening)
        return f"{self._base}/{opening.kind}/{token}"

    async def _start(self) -> None:
        # aiohttp takes its time to be imported, and most hosts are never asked.
        from rayplane.control_plane.rpc import http1

        self._web = http1.server(self._answer)
        made = asyncio.get_running_loop().create_server(self._web, _HOST, 0, start_serving=False)
        self._server = await serving(made)
        self._base = f"http://{_HOST}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._server is None or self._web is None:
            return
        self._web.pre_shutdown()
        self._server.close()
        await self._web.shutdown(0.1)

    async def _answer(self, request: "web.BaseRequest") -> "web.StreamResponse":
        from aiohttp import web

        try:
            return await self._serve(request)
        except ApiError as e:
            return web.json_response(e.status, status=e.code)

    async def _serve(self, request: "web.BaseRequest") -> "web.StreamResponse":
        from rayplane.control_plane.streams.serving import Asked, serve_command, serve_ports

        _, _, rest = request.path.partition("/")
        kind, _, token = rest.partition("/")
        until, opening = self._open.pop(token, (0.0, None))
        if opening is None or opening.kind != kind or until < asyncio.get_running_loop().time():
            raise NotFound("this URL was used, or is too old: ask for another")
        calls, asked = _Calls(opening, self._sessions), Asked(request)
        if opening.first is not None:
            return await serve_command(asked, calls, opening.first, opening.shown)
        return await serve_ports(asked, calls, node_pb2.ContainerRef(), lambda: opening.ports)


def shown_streams(*, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> frozenset[str]:
    """Names of the streams that a client wants. Raises Malformed for what no client can have."""
    if tty and stderr:
        raise Malformed("tty and stderr cannot both be set: a terminal has one output")
    wanted = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
    if not any(wanted.values()):
        raise Malformed("set one of stdin, stdout and stderr")
    return frozenset(name for name, is_wanted in wanted.items() if is_wanted)
