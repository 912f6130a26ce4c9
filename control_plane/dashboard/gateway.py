"""The gateway: serves the page on loopback, and lends whoever has its key the identity of a kubeconfig.

Who asks says so by a bearer token with each request: the gateway's own key, made anew at each start, or a token of the
cluster, which is handed on. Nothing is answered without one but the page's files, and nothing to a name that is not
loopback's (a name of another's that leads here would make a browser take the two for one).
"""

import asyncio
import hmac
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from importlib.resources import files
from typing import Any

import orjson
from aiohttp import web
from google.protobuf.json_format import MessageToDict

from rayplane.control_plane.api.errors import (
    ApiError,
    BadRequest,
    Expired,
    Forbidden,
    NotFound,
    RequestEntityTooLarge,
    ServiceUnavailable,
    Unauthorized,
)
from rayplane.control_plane.client.informer import Informer
from rayplane.control_plane.cluster.access import Access, access
from rayplane.control_plane.cluster.asking import explained, story
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.history import (
    HistoryForgotten,
    Instant,
    changes_between,
    instant,
    oldest,
    present,
    resources,
    unread_kinds,
)
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.status import glances
from rayplane.control_plane.dashboard.kube_api import KubeApi
from rayplane.control_plane.dashboard.packing import Packing
from rayplane.control_plane.dashboard.shared import Shared
from rayplane.control_plane.rpc import RpcError, http1, subprotocols
from rayplane.control_plane.rpc.sockets import Listening, Sockets, SystemSockets
from rayplane.control_plane.rpc.static_files import HEADERS, file_of
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import chaos_pb2, controllers_pb2, scheduler_pb2
from rayplane.storage.env import SystemClock

BODY_MAX = 3 * 1024 * 1024  # as the API servers take
STANDING_S, PACKING_S, FAULT_S, STOP_S = 1.0, 0.3, 60.0, 0.5
KEY_BYTES = 32
_OWN, _KUBE = "rayplane", frozenset({"api", "apis", "openapi", "version", "readyz", "livez", "healthz", "metrics"})
_PAGE = files("rayplane.control_plane.dashboard") / "page"

_MISSING_LIB = " (its libraries are not installed: run scripts/page.py in the checkout, and install again)"

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Gateway:
    """The dashboard of one cluster. `key` opens it: whoever has it acts with the kubeconfig's certificate."""

    def __init__(self, directory: StateDir, sockets: Sockets | None = None) -> None:
        self.key = secrets.token_urlsafe(KEY_BYTES)
        self.address = ""
        self._directory = directory
        self._sockets = sockets or SystemSockets()
        self._kube = KubeApi(directory)
        self._server = http1.server(self._handle)
        self._listening: Listening | None = None
        self._standing: dict[str, Any] = {}
        self._packing = Packing()
        self._standings = Shared(self._keep_standing)
        self._packings = Shared(self._keep_packing)
        self._routes: dict[tuple[str, str], Answer] = {
            ("GET", "/rayplane/v1/control-plane"): self._control_plane,
            ("GET", "/rayplane/v1/packing"): self._packed,
            ("GET", "/rayplane/v1/explain"): self._explain,
            ("GET", "/rayplane/v1/why"): self._why,
            ("GET", "/rayplane/v1/history"): self._history,
            ("GET", "/rayplane/v1/changes"): self._changes,
            ("GET", "/rayplane/v1/faults"): self._faults,
            ("POST", "/rayplane/v1/faults"): self._begin,
            ("DELETE", "/rayplane/v1/faults"): self._end,
        }

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; OSError when the port cannot be had."""
        self._listening = await self._sockets.listen(f"127.0.0.1:{port}", self._server)
        self.address = self._listening.address

    async def close(self) -> None:
        if self._listening is not None:
            await self._listening.close()
        await self._standings.stop()
        await self._packings.stop()
        await self._server.shutdown(STOP_S)
        await self._kube.close()

    @property
    def url(self) -> str:
        """What to open in a browser. The key stands behind the `#`: it is neither sent nor logged."""
        return f"http://{self.address}/#key={self.key}"

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ApiError as e:
            return _refusal(e)
        except (ClusterError, RpcError, OSError) as e:
            return _refusal(ServiceUnavailable(str(getattr(e, "message", "") or e)))

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        port = self.address.rpartition(":")[2]
        if request.host not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            raise Forbidden("the dashboard is at 127.0.0.1 alone")
        if not request.path.startswith("/"):
            raise NotFound(f"{request.path}: there is no such view")
        place = request.path.split("/")[1]
        if request.method == "GET" and place not in _KUBE and place != _OWN:
            return _file(request.path)
        token = _token(request)
        if not token or not (token.isascii() and token.isprintable()):
            raise Unauthorized("show the dashboard's key, or a token, as a bearer token")
        own = hmac.compare_digest(token.encode(), self.key.encode())
        if place in _KUBE:
            body = await _body(request)
            return await self._kube.forward(request, body, token="" if own else token)
        route = self._routes.get((request.method, request.path))
        if route is None:
            raise NotFound(f"{request.method} {request.path}: there is no such view")
        if not own:
            raise Forbidden(
                "this view takes the key that `rayplane dashboard` printed: it shows what no token of the cluster may"
            )
        return await route(request)

    # --- views that go on -------------------------------------------------------------------------

    async def _control_plane(self, request: web.BaseRequest) -> web.StreamResponse:
        async def lines() -> AsyncIterator[Any]:
            async for _ in self._standings.turns(STANDING_S):
                yield self._standing

        return await _stream(request, lines())

    async def _packed(self, request: web.BaseRequest) -> web.StreamResponse:
        async def lines() -> AsyncIterator[Any]:
            serial = 0
            async for _ in self._packings.turns(PACKING_S):
                news = self._packing.since(serial)
                serial = news["serial"]
                yield news

        return await _stream(request, lines())

    async def _keep_standing(self, tell: Callable[[], None]) -> None:
        async with aclosing(glances(self._directory, STANDING_S)) as found:
            async for self._standing in found:
                tell()

    async def _keep_packing(self, tell: Callable[[], None]) -> None:
        self._packing = packing = Packing()
        async with access(self._directory) as admin:
            nodes, pods = Informer(admin.api, "nodes"), Informer(admin.api, "pods")
            for informer, handler in ((nodes, packing.node_event), (pods, packing.pod_event)):
                informer.add_handler(handler)
                informer.start()
            try:
                for informer in (nodes, pods):
                    await self._while_up(admin, informer.synced())
                    informer.add_handler(lambda *_: tell())
                tell()
                await self._while_up(admin, asyncio.Event().wait())
            finally:
                await nodes.stop()
                await pods.stop()

    async def _while_up(self, admin: Access, waited: Coroutine[Any, Any, object]) -> None:
        """Wait, as long as it is the same run of the cluster. Raises NotUp, or ClusterError for another run."""
        task = asyncio.ensure_future(waited)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=STANDING_S)
                if self._directory.read_running().topology.run != admin.state.topology.run:
                    raise ClusterError("the cluster was started anew")
        finally:
            await cancel_and_wait(task)

    # --- single answers ---------------------------------------------------------------------------

    async def _explain(self, request: web.BaseRequest) -> web.StreamResponse:
        query = scheduler_pb2.ExplainRequest(namespace=_asked(request, "namespace"), name=_asked(request, "name"))
        async with access(self._directory) as admin:
            return _json(MessageToDict(await explained(admin, query), always_print_fields_with_no_presence=True))

    async def _why(self, request: web.BaseRequest) -> web.StreamResponse:
        query = controllers_pb2.WhyRequest(
            resource=_asked(request, "resource"),
            namespace=request.query.get("namespace", ""),
            name=_asked(request, "name"),
        )
        async with access(self._directory) as admin:
            found = await story(admin, query)
        answers = [MessageToDict(one, always_print_fields_with_no_presence=True) for one in found.answers]
        return _json({"replicas": answers, "silent": dict(found.silent)})

    async def _history(self, request: web.BaseRequest) -> web.StreamResponse:
        async with access(self._directory) as admin:
            first, last = await oldest(admin.etcd), await present(admin.etcd)
            at = await self._instant(admin, request.query["at"]) if "at" in request.query else last
        return _json({"oldest": first.to_json(), "newest": last.to_json(), "at": at.to_json()})

    async def _changes(self, request: web.BaseRequest) -> web.StreamResponse:
        async with access(self._directory) as admin:
            old, new = [await self._instant(admin, _asked(request, name)) for name in ("from", "to")]
            namespace = request.query.get("namespace", "")
            found = await changes_between(admin.api, await resources(admin.api), old, new, namespace)
            unread = await unread_kinds(admin.api, old, new)
        span = {"from": old.to_json(), "to": new.to_json()}
        return _json({**span, "changes": [one.to_json() for one in found], "unread": unread})

    async def _instant(self, admin: Access, text: str) -> Instant:
        try:
            return await instant(admin.etcd, text, SystemClock().now())
        except UsageError as e:
            raise BadRequest(str(e)) from e
        except HistoryForgotten as e:
            raise Expired(str(e)) from e

    async def _faults(self, request: web.BaseRequest) -> web.StreamResponse:
        async with access(self._directory) as admin:
            targets = await admin.faults.Targets(chaos_pb2.TargetsRequest(), timeout=FAULT_S)
            found = await admin.faults.List(chaos_pb2.ListFaultsRequest(), timeout=FAULT_S)
        return _json(MessageToDict(targets) | {"faults": MessageToDict(found).get("faults", [])})

    async def _begin(self, request: web.BaseRequest) -> web.StreamResponse:
        fault = _document(await _body(request)).get("fault")
        if not isinstance(fault, str):
            raise BadRequest('say which fault: {"fault": "stop: {target: leader, for: 10s}"}')
        async with access(self._directory) as admin:
            begun = await admin.faults.Begin(chaos_pb2.BeginRequest(fault=fault, by="dashboard"), timeout=FAULT_S)
        return _json(MessageToDict(begun))

    async def _end(self, request: web.BaseRequest) -> web.StreamResponse:
        async with access(self._directory) as admin:
            ended = await admin.faults.End(chaos_pb2.EndRequest(id=_asked(request, "id")), timeout=FAULT_S)
        return _json(MessageToDict(ended.fault))


def _token(request: web.BaseRequest) -> str:
    """The token that a request shows, "" without one. Raises Unauthorized."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    try:
        return token.strip() if scheme.lower() == "bearer" else subprotocols.bearer_token(request)
    except subprotocols.BadToken as e:
        raise Unauthorized(str(e)) from e


async def _body(request: web.BaseRequest) -> bytes:
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


async def _stream(request: web.BaseRequest, lines: AsyncIterator[Any]) -> web.StreamResponse:
    """One JSON value a line, as long as the client listens; the last says why it ends, where it was not the client."""
    response = web.StreamResponse(headers=HEADERS | {"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    try:
        async for line in lines:
            await response.write(orjson.dumps(line) + b"\n")
    except (ClusterError, ApiError, RpcError) as e:
        await response.write(orjson.dumps({"error": str(getattr(e, "message", "") or e)}) + b"\n")
    await response.write_eof()
    return response


def _file(path: str) -> web.StreamResponse:
    """A file of the page. Raises NotFound."""
    name = path.removeprefix("/")
    if (found := file_of(_PAGE, name)) is None:
        raise NotFound(f"{path}: the page has no such file{_MISSING_LIB if name.startswith('lib/') else ''}")
    return found


def _asked(request: web.BaseRequest, name: str) -> str:
    """A parameter of the request. Raises BadRequest when it is missing."""
    if not (value := request.query.get(name, "")):
        raise BadRequest(f"the parameter {name} is missing")
    return value


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise BadRequest(f"the body is no JSON: {e}") from e
    if not isinstance(found, dict):
        raise BadRequest("the body is no object")
    return found


def _json(value: Any) -> web.StreamResponse:
    return web.Response(body=orjson.dumps(value), headers=HEADERS | {"Content-Type": "application/json"})


def _refusal(error: ApiError) -> web.StreamResponse:
    headers = HEADERS | {"Content-Type": "application/json"}
    return web.Response(status=error.code, body=orjson.dumps(error.status), headers=headers)
