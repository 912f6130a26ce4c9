"""The door of a page on loopback: its files for everybody, and all else for who shows its key, or a token.

Who asks says so by a bearer token with each request: the door's own key, made anew at each start, or a token of the
cluster. Nothing is answered without one but the page's files, and nothing to a name that is not loopback's (a name of
another's that leads here would make a browser take the two for one).
"""

import hmac
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any

import orjson
from aiohttp import web

from rayplane.control_plane.api.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    NotFound,
    RequestEntityTooLarge,
    ServiceUnavailable,
    Unauthorized,
)
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.rpc import RpcError, http1, subprotocols
from rayplane.control_plane.rpc.sockets import Listening, Sockets, SystemSockets
from rayplane.control_plane.rpc.static_files import HEADERS, Page

BODY_MAX = 3 * 1024 * 1024  # as the API servers take
VIEWS = "/rayplane/v1/"
"""The path of all that is shown beside objects."""
STOP_S = 0.5
KEY_BYTES = 32
_OWN, _KUBE = "rayplane", frozenset({"api", "apis", "openapi", "version", "readyz", "livez", "healthz", "metrics"})
_PAGE = files("rayplane.control_plane.dashboard") / "page"
_MISSING_LIB = "its libraries are not installed: run scripts/page.py in the checkout, and install again"

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Routes = Mapping[tuple[str, str], Answer]
"""By method and path."""


class Door(ABC):
    """The door of one page. `key` opens it. `at`: the path of the page, with both slashes."""

    def __init__(self, sockets: Sockets | None = None, *, at: str = "/") -> None:
        self.key = secrets.token_urlsafe(KEY_BYTES)
        self.address = ""
        self._at = at
        self._page = Page(_PAGE)
        self._sockets = sockets or SystemSockets()
        self._server = http1.server(self._handle)
        self._listening: list[Listening] = []
        self._routes: Routes = {}

    def lacking(self) -> str:
        """Why browsers show nothing of the page; empty where it is whole."""
        return "" if (_PAGE / "lib").is_dir() else f"the page stays empty: {_MISSING_LIB}"

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; OSError when the port cannot be had."""
        self._listening.append(await self._sockets.listen(f"127.0.0.1:{port}", self._server))
        self.address = self._listening[0].address
        # Browsers look for *.localhost there first: another user of this machine would be taken for the door.
        if _has_ipv6():
            try:
                self._listening.append(await self._sockets.listen(f"::1:{self.port}", self._server))
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        while self._listening:
            await self._listening.pop().close()
        await self._end()
        await self._server.shutdown(STOP_S)

    async def _end(self) -> None:  # noqa: B027 - most answers wait for nothing
        """End what answers may still wait for."""

    @abstractmethod
    async def _api(self, request: web.BaseRequest, token: str) -> web.StreamResponse:
        """The answer of an API server, which has a word on every path; `token` is empty for who has the key."""

    async def _elsewhere(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to who came by another name. Raises Forbidden."""
        raise Forbidden("the dashboard is at 127.0.0.1 alone")

    @property
    def port(self) -> str:
        return self.address.rpartition(":")[2]

    @property
    def url(self) -> str:
        """What to open in a browser. The key stands behind the `#`: it is neither sent nor logged."""
        return f"http://{self.address}{self._at}#key={self.key}"

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ApiError as e:
            return _refusal(e)
        except (ClusterError, RpcError, OSError) as e:
            return _refusal(ServiceUnavailable(str(getattr(e, "message", "") or e)))

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.host not in (f"127.0.0.1:{self.port}", f"localhost:{self.port}"):
            return await self._elsewhere(request)
        if not request.path.startswith("/"):
            raise NotFound(f"{request.path}: there is no such view")
        place = request.path.split("/")[1]
        if request.method == "GET" and place not in _KUBE and place != _OWN:
            return self._file(request.path)
        token = _token(request)
        if not token or not (token.isascii() and token.isprintable()):
            raise Unauthorized("show the dashboard's key, or a token, as a bearer token")
        own = hmac.compare_digest(token.encode(), self.key.encode())
        if place in _KUBE or not own:
            return await self._api(request, "" if own else token)
        route = self._routes.get((request.method, request.path))
        if route is None:
            raise NotFound(f"{request.method} {request.path}: there is no such view")
        return await route(request)

    def _file(self, path: str) -> web.StreamResponse:
        """A file of the page. Raises NotFound."""
        name = path.removeprefix(self._at)
        if not path.startswith(self._at) or (found := self._page.file(name)) is None:
            raise NotFound(
                f"{path}: the page has no such file{f' ({_MISSING_LIB})' if name.startswith('lib/') else ''}"
            )
        return found


def _has_ipv6() -> bool:
    """Whether this machine has a loopback of IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _token(request: web.BaseRequest) -> str:
    """The token that a request shows, "" without one. Raises Unauthorized."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    try:
        return token.strip() if scheme.lower() == "bearer" else subprotocols.bearer_token(request)
    except subprotocols.BadToken as e:
        raise Unauthorized(str(e)) from e


async def body_of(request: web.BaseRequest) -> bytes:
    """What comes with the request. Raises ApiError when that is too much."""
    if not request.can_read_body:
        return b""
    parts, size = [], 0
    async for chunk in request.content.iter_any():
        parts.append(chunk)
        size += len(chunk)
        if size > BODY_MAX:
            raise RequestEntityTooLarge(f"more than {BODY_MAX} bytes")
    return b"".join(parts)


def asked(request: web.BaseRequest, name: str) -> str:
    """A parameter of the request. Raises BadRequest when it is missing."""
    if not (value := request.query.get(name, "")):
        raise BadRequest(f"the parameter {name} is missing")
    return value


def answer(value: Any) -> web.StreamResponse:
    return web.Response(body=orjson.dumps(value), headers=HEADERS | {"Content-Type": "application/json"})


def _refusal(error: ApiError) -> web.StreamResponse:
    headers = HEADERS | {"Content-Type": "application/json"}
    return web.Response(status=error.code, body=orjson.dumps(error.status), headers=headers)
