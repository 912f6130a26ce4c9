"""Resources over HTTP: each verb read from the request, given to the registry, and its answer put into bytes."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import datetime
from urllib.parse import unquote

import orjson
from aiohttp import web

from rayplane.control_plane.api.errors import (
    ApiError,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)
from rayplane.control_plane.api.machinery import decoding, patching
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.registry.bodies import check_dry_run, program
from rayplane.control_plane.apiserver.registry.delete_options import IGNORE_READ_ERRORS, parse_delete_options
from rayplane.control_plane.apiserver.registry.pod_streams import PodStreams
from rayplane.control_plane.apiserver.registry.reading import WatchItem
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry, error_json
from rayplane.control_plane.apiserver.requests import (
    Answer,
    DeleteOptions,
    ListOptions,
    Target,
    User,
    WriteOptions,
    check_scope,
)
from rayplane.control_plane.apiserver.rest.answers import Whole, write
from rayplane.control_plane.apiserver.rest.numbers import flag, integer
from rayplane.control_plane.apiserver.rest.paths import ResourcePath
from rayplane.control_plane.apiserver.rest.pods import PodHandler
from rayplane.control_plane.apiserver.rest.presentation import (
    BY_HAND,
    JSON,
    NO_CACHE,
    PROTOBUF,
    Presenter,
    View,
    negotiate,
)
from rayplane.control_plane.apiserver.rest.proxy import Proxy
from rayplane.control_plane.apiserver.tracing.spans import span, spanned
from rayplane.control_plane.apiserver.watch_cache.watchers import Shared, line_of
from rayplane.control_plane.client.history import History
from rayplane.control_plane.rpc import Network, RpcError, subprotocols
from rayplane.control_plane.rpc.http1 import date
from rayplane.control_plane.streams.wires import go_on, wants_websocket, websocket
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.env import Env

# As Kubernetes cuts them.
_WARNINGS_CHARS_MAX = 4096
_WARNING_CHARS_MAX = 256
_DEPRECATED = "k8s.io/deprecated"
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_Lines = AsyncGenerator[Shared[bytes], None]
_STREAMS = frozenset({"log", "exec", "attach", "portforward"})
_WITH_TABLES = frozenset({"", "status", "scale", "approval", "finalize"})
# As Go's ParseBool reads it.
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})


class ResourceHandler:
    """A handler that answers requests below a group-version."""

    def __init__(self, config: ApiServerConfig, env: Env, registry: ObjectRegistry, network: Network) -> None:
        self._config = config
        self._env = env
        self._registry = registry
        self._presenter = Presenter(registry.kinds)
        self._pods = PodHandler(PodStreams(registry, network))
        self._proxy = Proxy(registry, network, beside_page=config.ui)

    async def handle(self, request: web.BaseRequest, user: User, path: ResourcePath, verb: str) -> web.StreamResponse:
        """The response. Raises ApiError."""
        target = await self._registry.target(
            path.group,
            path.version,
            path.plural,
            namespace=unquote(path.namespace),
            name=unquote(path.name),
            subresource=path.subresource,
        )
        _check_route(path, target, verb)
        if path.subresource in _STREAMS and target.info.name == "pods":
            return await self._pods.handle(request, user, target)
        if path.subresource == "proxy":
            return await self._proxy.handle(request, user, target, verb)
        if verb in _WRITES and not request.content.is_eof():
            # Who may not write is told so before the rest of a body is waited for.
            options = list_options(request) if verb == "deletecollection" else None
            await self._registry.allow(user, verb, target, options)
        try:
            response: web.StreamResponse = await getattr(self, f"_{verb}")(request, user, target)
        except ApiError as e:
            e.warnings = [*e.warnings, *self._of_kind(target)]
            raise
        if not response.prepared:
            warn(response, self._of_kind(target))
        return response

    def _of_kind(self, target: Target) -> Sequence[str]:
        """What clients, and the audit log, are told of a version that is on its way out."""
        warning = self._registry.kinds.warning(target.info)
        if not warning:
            return ()
        audit.annotate({_DEPRECATED: "true"})
        return (warning,)

    # --- reads --------------------------------------------------------------------------------

    async def _get(self, request: web.BaseRequest, user: User, target: Target) -> Whole:
        view = _view(request, target)
        version = request.query.get("resourceVersion", "")
        json = await self._registry.get(user, target, version)
        return self._shown(request, view, target, json)

    async def _list(self, request: web.BaseRequest, user: User, target: Target) -> Whole:
        view = _view(request, target)
        options = list_options(request)
        listing = await self._registry.list(user, target, options)
        include = request.query.get("includeObject", "")
        of_then = view.form == "table" and (options.continue_token or options.resource_version_match == "Exact")
        now = await self._then(listing.revision) if of_then else self._now()
        with span("encoding"):
            pieces = self._presenter.list(view, listing, now, include=include)
        return self._response(request, pieces, view)

    async def _watch(self, request: web.BaseRequest, user: User, target: Target) -> web.StreamResponse:
        view = _view(request, target)
        options = list_options(request)
        if target.name:
            target = Target(target.info, target.namespace, target.name)
        # What is refused at once is a plain error; only a stream that has begun ends with an ERROR event.
        await self._registry.allow(user, "watch", target, options)
        self._registry.reader.check_watch(target, options)
        ticket = await self._registry.watch_seat(user, target, options)
        try:
            items = self._registry.watch(user, target, options, ticket)
            if wants_websocket(request):
                # Its messages are text.
                view = replace(view, media=JSON)
                return await self._watch_messages(request, self._lines(request, view, target, items))
            headers = {"Content-Type": view.stream_type, "Date": date(self._now()), **ticket.flow.headers}
            response = web.StreamResponse(headers={**NO_CACHE, **headers})
            warn(response, self._of_kind(target))
            return await self._watch_body(request, response, self._lines(request, view, target, items))
        finally:
            # Where it did not come to its first event.
            self._registry.fairness.leave(ticket)

    async def _watch_body(
        self, request: web.BaseRequest, response: web.StreamResponse, groups: _Lines
    ) -> web.StreamResponse:
        response.enable_chunked_encoding()
        audit.response_starts(response.headers)
        await response.prepare(request)
        # The client may leave at any time: that is how most watches end.
        with contextlib.suppress(ConnectionError):
            async with contextlib.aclosing(groups):
                async for lines in groups:
                    if lines:
                        write(request, lines.form("chunk", _chunk))
                        await request.writer.drain()  # type: ignore[no-untyped-call, unused-ignore]
            await response.write_eof()
        return response

    async def _watch_messages(self, request: web.BaseRequest, groups: _Lines) -> web.StreamResponse:
        """As clients in Java and browsers watch: each event is a message of text, by whatever name they ask for it."""
        wire = await websocket(request, subprotocols.of_any_name(request.headers), starting=audit.response_starts)

        async def send() -> None:
            with contextlib.suppress(ConnectionError):
                async with contextlib.aclosing(groups):
                    async for lines in groups:
                        for line in lines:
                            await wire.socket.send_str(line.decode())

        async def read() -> None:
            with contextlib.suppress(ConnectionError):
                async for _ in wire:
                    pass  # only its end is of interest

        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(part(), name="watch by WebSocket") for part in (send, read)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(*tasks)
        await wire.close()
        return wire.socket

    async def _lines(
        self, request: web.BaseRequest, view: View, target: Target, items: AsyncGenerator[Shared[WatchItem], None]
    ) -> _Lines:
        """Events as they are sent, in the groups in which they are; an error is the last one."""
        include = request.query.get("includeObject", "")
        first = True

        def shown(group: Shared[WatchItem]) -> Shared[bytes]:
            return Shared(self._line(view, target, i, include, first=first) for i in group)

        try:
            async with contextlib.aclosing(items):
                async for group in items:
                    # Objects as they are look the same to all; tables tell of ages.
                    lines = group.form(view.media, shown) if view.form == "object" else shown(group)
                    self._registry.requests.sent(target.info, len(lines))
                    yield lines
                    first = first and not group
        except ApiError as e:
            yield Shared([self._line(view, target, WatchItem("ERROR", error_json(e)), include, first=False)])

    def _line(self, view: View, target: Target, item: WatchItem, include: str, *, first: bool) -> bytes:
        if view.media == PROTOBUF:
            partial = view.form == "metadata" and item.type != "ERROR"
            json = self._presenter.metadata(view, item.json) if partial else item.json
            return self._presenter.protobuf_event(item.type, json)
        if view.form == "object" or item.type == "ERROR":
            return item.line
        if item.type == "BOOKMARK":
            return line_of(item.type, self._presenter.bookmark(view, item.json))
        shown = self._presenter.event(view, target.info, item.json, self._now(), include=include, first=first)
        return line_of(item.type, shown)

    # --- writes -------------------------------------------------------------------------------

    async def _create(self, request: web.BaseRequest, user: User, target: Target) -> Whole:
        view = _view(request, target)
        options = _write_options(request, "CreateOptions")
        body = await self._body(request)
        answer = await self._registry.create(user, target, body, _content_type(request), options)
        return self._answered(request, view, target, answer)

    async def _update(self, request: web.BaseRequest, user: User, target: Target) -> Whole:
        view = _view(request, target)
        options = _write_options(request, "UpdateOptions")
        body = await self._body(request)
        answer = await self._registry.update(user, target, body, _content_type(request), options)
        return self._answered(request, view, target, answer)

    async def _patch(self, request: web.BaseRequest, user: User, target: Target) -> Whole:
        view = _view(request, target)
        kind = patching.patch_kind(_content_type(request), custom=target.info.custom)
        options = _write_options(request, "PatchOptions")
        body = await self._body(request)
        answer = await self._registry.patch(user, target, kind, body, options)
        return self._answered(request, view, target, answer)

    async def _delete(self, request: web.BaseRequest, user: User, target: Target) -> Whole:
        view = _view(request, target)
        options = await self._delete_options(request, target)
        answer = await self._registry.delete(user, target, options)
        return self._answered(request, view, target, answer)

    async def _deletecollection(self, request: web.BaseRequest, user: User, target: Target) -> Whole:
        view = _view(request, target)
        delete = await self._delete_options(request, target)
        listing = await self._registry.delete_collection(user, target, list_options(request), delete)
        return self._response(request, self._presenter.list(view, listing, self._now()), view)

    async def _delete_options(self, request: web.BaseRequest, target: Target) -> DeleteOptions:
        """From the body, or where there is none from the query."""
        body = await self._body(request)
        if body:
            return parse_delete_options(decoding.decode_options(body, _content_type(request)))
        query = request.query
        o: Object = {}
        if target.name:  # of a collection these say what is listed
            o["preconditions"] = {field: query.get(field) for field in ("uid", "resourceVersion")}
        if "gracePeriodSeconds" in query:
            o["gracePeriodSeconds"] = integer(query["gracePeriodSeconds"])
        if "propagationPolicy" in query:
            o["propagationPolicy"] = query["propagationPolicy"]
        if "orphanDependents" in query:
            o["orphanDependents"] = flag(query, "orphanDependents")
        if "dryRun" in query:
            o["dryRun"] = query.getall("dryRun")
        if IGNORE_READ_ERRORS in query:
            o[IGNORE_READ_ERRORS] = bool(flag(query, IGNORE_READ_ERRORS))
        return parse_delete_options(o)

    # --- common -------------------------------------------------------------------------------

    @spanned("body")
    async def _body(self, request: web.BaseRequest) -> bytes:
        limit = self._config.limits.body_bytes
        coding = request.headers.get("Content-Encoding", "identity")
        if coding.strip().lower() not in ("", "identity"):
            text = f"the body of the request has the encoding {coding!r}; send it as it is"
            raise UnsupportedMediaType(text, details={})
        await go_on(request)
        data = await _read(request, limit)
        audit.body(data, _content_type(request))
        return data

    def _now(self) -> datetime:
        return self._env.clock.now()

    async def _then(self, revision: int) -> datetime:
        """When a revision was, for ages as they were then; now where nobody has noted it."""
        try:
            return await History(self._registry.etcd).time_of(revision) or self._now()
        except RpcError:
            return self._now()

    def _answered(self, request: web.BaseRequest, view: View, target: Target, answer: Answer) -> Whole:
        if b'"kind":"Status"' in answer.json[:40]:
            view = View(media=view.media)
        response = self._shown(request, view, target, answer.json)
        if answer.created or answer.accepted:
            response.set_status(201 if answer.created else 202)
        warn(response, answer.warnings)
        return response

    def _shown(self, request: web.BaseRequest, view: View, target: Target, json: bytes) -> Whole:
        include = request.query.get("includeObject", "")
        with span("encoding"):
            body = self._presenter.object(
                view, target.info, json, self._now(), include=include, subresource=target.subresource
            )
        return self._response(request, (body,), view)

    def _response(self, request: web.BaseRequest, pieces: Sequence[bytes], view: View) -> Whole:
        if view.media == JSON and _is_pretty(request):
            pieces = (orjson.dumps(orjson.loads(b"".join(pieces)), option=orjson.OPT_INDENT_2),)
        return Whole(pieces, headers={"Content-Type": view.content_type, **NO_CACHE})


async def _read(request: web.BaseRequest, limit: int) -> bytes:
    content = request.content
    if content.is_eof() and content.total_bytes <= limit:
        return content.read_nowait()
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > limit:
            raise RequestEntityTooLarge(f"Request entity too large: limit is {limit}")
    return bytes(body)


def _check_route(path: ResourcePath, target: Target, verb: str) -> None:
    """NotFound for a path at which nothing is served, MethodNotAllowed for one at which the verb is not served."""
    if (path.namespace and not target.info.namespaced) or (path.rest and path.subresource != "proxy"):
        raise NotFound(details={})
    check_scope(target, verb)
    if not verb:
        raise MethodNotAllowed(details={})


def _view(request: web.BaseRequest, target: Target) -> View:
    """The form that a client asks for. Reviews and most subresources have no tables."""
    plain = target.subresource in _WITH_TABLES and "list" in target.info.verbs
    return negotiate(request.headers.get("Accept", ""), tables=plain, protobuf=bool(target.info.definition))


def _is_pretty(request: web.BaseRequest) -> bool:
    """Whether JSON is for people: where the query says so, and for the programs with which they look at it."""
    said = request.query.get("pretty")
    if said:
        return said in _TRUE
    return request.headers.get("User-Agent", "").startswith(BY_HAND)


def warn(response: web.StreamResponse, warnings: Sequence[str]) -> None:
    for text in warning_texts(warnings):
        response.headers.add("Warning", f'299 - "{text}"')


def _chunk(lines: Sequence[bytes]) -> bytes:
    """Lines as a piece of a body whose length is not known (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (sum(map(len, lines)), b"".join(lines))


def _content_type(request: web.BaseRequest) -> str:
    return request.headers.get("Content-Type", "")


def warning_texts(warnings: Sequence[str]) -> list[str]:
    """Warnings as headers carry them, each once; where there is too much to say, each is cut, and then their number."""
    distinct = list(dict.fromkeys(warnings))
    if sum(map(len, distinct)) > _WARNINGS_CHARS_MAX:
        distinct = [w[:_WARNING_CHARS_MAX] for w in distinct][: _WARNINGS_CHARS_MAX // _WARNING_CHARS_MAX]
    shown = ("".join(c if c.isprintable() else " " for c in w) for w in distinct)
    return [w.replace("\\", "\\\\").replace('"', '\\"') for w in shown]


def list_options(request: web.BaseRequest) -> ListOptions:
    """ListOptions from the query. BadRequest for numbers that are none."""
    query = request.query
    timeout = query.get("timeoutSeconds")
    return ListOptions(
        label_selector=query.get("labelSelector", ""),
        field_selector=query.get("fieldSelector", ""),
        limit=integer(query.get("limit") or "0"),
        continue_token=query.get("continue", ""),
        resource_version=query.get("resourceVersion", ""),
        resource_version_match=query.get("resourceVersionMatch", ""),
        timeout_s=float(integer(timeout)) if timeout else None,
        allow_bookmarks=bool(flag(query, "allowWatchBookmarks")),
        send_initial_events=flag(query, "sendInitialEvents"),
    )


def _write_options(request: web.BaseRequest, kind: str) -> WriteOptions:
    query = request.query
    manager = query.get("fieldManager", "")
    agent = program(request.headers.get("User-Agent", "")) or "unknown"
    return WriteOptions(
        dry_run=check_dry_run([value for value in query.getall("dryRun", []) if value], kind),
        field_manager=manager,
        field_validation=query.get("fieldValidation", ""),
        force=bool(flag(query, "force")),
        user_agent=agent,
        patches=kind == "PatchOptions",
    )
