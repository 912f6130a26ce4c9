"""The HTTP server of the REST face: who asks, what for, and which answer an error becomes."""

import asyncio
import contextlib
import logging
import ssl
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiohttp import web

from rayplane.control_plane.api.aggregation.backends import Backend
from rayplane.control_plane.api.errors import (
    ApiError,
    BadRequest,
    InternalError,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    Timeout,
    Unauthorized,
)
from rayplane.control_plane.api.machinery import protobuf_encoding
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.authorization.authorizer import MAY_COME_FIRST
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.flowcontrol.fairness import Flow
from rayplane.control_plane.apiserver.flowcontrol.heavy import Heavy
from rayplane.control_plane.apiserver.flowcontrol.matching import Asked
from rayplane.control_plane.apiserver.flowcontrol.queues import Ticket
from rayplane.control_plane.apiserver.registry.registry import error_json
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.apiserver.rest import paths, views
from rayplane.control_plane.apiserver.rest.aggregated import AggregatedApis
from rayplane.control_plane.apiserver.rest.answers import Whole
from rayplane.control_plane.apiserver.rest.auditing import audited
from rayplane.control_plane.apiserver.rest.compression import compressed
from rayplane.control_plane.apiserver.rest.documents import Documents, Owner
from rayplane.control_plane.apiserver.rest.numbers import flag
from rayplane.control_plane.apiserver.rest.presentation import JSON, NO_CACHE, PROTOBUF, negotiate
from rayplane.control_plane.apiserver.rest.quick import QuickGets
from rayplane.control_plane.apiserver.rest.resources import ResourceHandler, warn
from rayplane.control_plane.apiserver.tracing.recent import RECENT, About
from rayplane.control_plane.apiserver.tracing.spans import Trace, following
from rayplane.control_plane.component_base.log_pages import LogPages
from rayplane.control_plane.rpc import Identity, Network, http1, subprotocols
from rayplane.control_plane.rpc.faults import FaultLog
from rayplane.control_plane.rpc.sockets import Listening, Sockets, SystemSockets
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.control_plane.streams.wires import upgrade_of
from rayplane.control_plane.tasks import end_each
from rayplane.storage.env import Env

log = logging.getLogger(__name__)
_faults = FaultLog(log)

_STREAMING = frozenset({"log", "exec", "attach", "portforward", "proxy"})
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
# Verbs of methods where they are not served.
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}
_STOP_S = 0.5
# Who is told to try again may have better luck with another server, where a load balancer chooses it.
_MOVE_ON = 503
TRACE, TRACE_ID = "Rayplane-Trace", "Rayplane-Trace-Id"
"""A request's header with which it asks to be explained, and the answer's that says under which id it is."""


@dataclass(slots=True)
class _Known:
    """The knowledge of a request that grows while it is answered."""

    verb: str
    looks_on: bool
    """Whether it is of a view that goes on."""
    info: ResourceInfo | None = None
    subresource: str = ""
    user: User | None = None
    flow: Flow | None = None
    message: str = ""

    @property
    def streams(self) -> bool:
        """Whether it goes on for as long as its client likes."""
        return self.verb == "watch" or self.subresource in _STREAMING or self.looks_on


class RestServer:
    """The HTTPS server on `config.https_address`: TLS where `config.tls_dir` is set, plain HTTP otherwise."""

    def __init__(
        self, config: ApiServerConfig, env: Env, network: Network, owner: Owner, *, sockets: Sockets | None = None
    ) -> None:
        self._config = config
        self._env = env
        self._sockets = sockets or SystemSockets()
        self._registry = owner.registry
        self._documents = Documents(config, owner)
        self._views = views.Views(owner.registry, owner.supervisors, config.timing)
        timeout_s = config.timing.request_timeout_s
        self._aggregated = AggregatedApis(owner.registry.aggregator, timeout_s=timeout_s)
        self._resources = ResourceHandler(config, env, owner.registry, network)
        identify = owner.registry.authenticator.of_certificate
        self._quick = QuickGets(owner.registry, identify=identify, now=env.clock.now)
        self._listening: Listening | None = None
        self._server: http1.GuardedServer | None = None

    async def start(self) -> str:
        """Listen; host:port as bound. OSError when the address cannot be had."""
        assert self._config.https_address is not None
        auditor = self._registry.auditor
        server = http1.server(
            compressed(self._handle if auditor is None else audited(self._handle, auditor), Heavy(self._env)),
            self._config.http,
            now=self._env.clock.now,
            # What is audited is followed through a task of its own.
            quick=self._quick if auditor is None else None,
        )
        self._listening = await self._sockets.listen(self._config.https_address, server, tls=self._ssl())
        self._server = server
        return self._listening.address

    async def stop(self) -> None:
        listening, server, self._listening, self._server = self._listening, self._server, None, None
        if listening is not None and server is not None:
            await end_each(listening.close, partial(_shut, server))

    def _ssl(self) -> ssl.SSLContext | None:
        if self._config.tls_dir is None:
            return None
        directory = Path(self._config.tls_dir)
        return Credentials.read(directory).ssl_server(directory)

    # --- one request --------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        loop, registry = asyncio.get_running_loop(), self._registry
        known = _Known(request.method, views.goes_on(request))
        began, trace = loop.time(), None
        if (registry.recent.followed or TRACE in request.headers) and not request.path.startswith(RECENT):
            trace = Trace(loop.time)
            with following(trace, "request"):
                response = await self._respond(request, known)
        else:
            response = await self._respond(request, known)
        if known.flow is not None and not response.prepared:
            response.headers.update(known.flow.headers)
        if response.status == _MOVE_ON and not response.prepared:
            response.force_close()
        seconds = loop.time() - began
        verb = "watch" if known.streams and known.info is None else known.verb
        registry.requests.add(verb, known.info, response.status, seconds, known.subresource)
        if trace is not None or registry.recent.interesting(response.status, 0.0 if known.streams else seconds):
            await self._tell(request, known, response, seconds, trace)
        return response

    async def _tell(
        self,
        request: web.BaseRequest,
        known: "_Known",
        response: web.StreamResponse,
        took_s: float,
        trace: Trace | None,
    ) -> None:
        """Keep a request, for who looks at recent ones; with its steps, and its id in the answer, for who asked so."""
        user, recent, asked = known.user, self._registry.recent, False
        if trace is not None and user is not None and TRACE in request.headers:
            with contextlib.suppress(ApiError):
                asked = await self._registry.authorizer.may_see(user, RECENT)
        wanted = asked or recent.followed
        if not (wanted or recent.interesting(response.status, 0.0 if known.streams else took_s)):
            return
        about = About("REST", request.method, request.path_qs, agent=request.headers.get("User-Agent", ""))
        about.code, about.message = response.status, known.message
        about.user = user.name if user is not None else ""
        if known.flow is not None:
            about.schema, about.level = known.flow.schema.name, known.flow.level.spec.name
        id_ = recent.over(about, took_s, trace if wanted else None)
        if asked and not response.prepared:
            response.headers[TRACE_ID] = id_

    async def _respond(self, request: web.BaseRequest, known: "_Known") -> web.StreamResponse:
        try:
            if request.method not in _METHODS:
                raise MethodNotAllowed(details={})
            _check_text(request)
            found = paths.parse(request.path)
            watch = found is not None and (found.watch or bool(flag(request.query, "watch")))
            verb = found.verb(request.method, watch=watch) if found is not None else ""
            user = known.user = await self._user(request, found, verb)
            if found is not None:
                known.verb, known.subresource = verb, found.subresource
                known.info = self._registry.kinds.registry.lookup(found.group, found.version, found.plural)
            known.flow = self._flow(request, user, found, known.verb)
            return await self._routed(request, user, known.flow, found, served=known.info is not None)
        except ApiError as e:
            known.message = e.message
            return error_response(e, request.headers.get("Accept", ""))
        except TimeoutError:
            text = "request did not complete within the allotted timeout"
            return error_response(Timeout(text, details={}))
        except web.HTTPRequestEntityTooLarge:
            text = f"Request entity too large: limit is {self._config.limits.body_bytes}"
            return error_response(RequestEntityTooLarge(text))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as e:
            audit.panicked()
            _faults.tell(f"a request failed: {request.method} {request.path}", e)
            known.message = f"Internal error occurred: {type(e).__name__}: {e}"
            return error_response(InternalError(known.message))

    def _flow(self, request: web.BaseRequest, user: User, found: paths.ResourcePath | None, verb: str) -> Flow:
        if found is None:
            asked = Asked(user.name, user.groups, verb.lower(), path=request.path)
        else:
            asked = Asked.of(user, verb, found.group, found.plural, found.subresource, namespace=found.scope)
        return self._registry.fairness.flow(asked)

    async def _routed(
        self, request: web.BaseRequest, user: User, flow: Flow, found: paths.ResourcePath | None, *, served: bool
    ) -> web.StreamResponse:
        backend = self._aggregated.backend(request.path)
        if backend is not None:
            return await self._of_another(request, user, backend, flow, found)
        if found is None:
            return await self._document(request, user, flow)
        return await self._resource(request, user, found, flow.asked.verb, served=served)

    async def _resource(
        self, request: web.BaseRequest, user: User, found: paths.ResourcePath, verb: str, *, served: bool
    ) -> web.StreamResponse:
        if not (served or await self._serves(found.group, found.version)):
            await self._check(request, user, found, verb)
            return web.Response(status=404, text="404 page not found\n")
        try:
            return await self._answer(request, user, found, verb)
        except ApiError as e:
            if e.code in MAY_COME_FIRST:
                # Who may not ask is told nothing but that.
                await self._check(request, user, found, verb)
            raise

    async def _check(self, request: web.BaseRequest, user: User, found: paths.ResourcePath, verb: str) -> None:
        """Forbidden unless the user may ask for this path, be it served or not."""
        await self._registry.authorizer.check_written(user, verb or _VERBS.get(request.method, ""), **_written(found))

    async def _answer(
        self, request: web.BaseRequest, user: User, found: paths.ResourcePath, verb: str
    ) -> web.StreamResponse:
        if verb == "watch" or found.subresource in _STREAMING:
            return await self._resources.handle(request, user, found, verb)
        async with asyncio.timeout(self._config.timing.request_timeout_s):
            return await self._resources.handle(request, user, found, verb)

    async def _of_another(
        self, request: web.BaseRequest, user: User, backend: Backend, flow: Flow, found: paths.ResourcePath | None
    ) -> web.StreamResponse:
        """The answer of an aggregated API's server to who may ask. While it thinks nobody here is kept waiting."""
        verb = flow.asked.verb
        if found is None:
            await self._registry.authorizer.check_path(user, verb, request.path)
        else:
            await self._check(request, user, found, verb)
        subresource = found.subresource if found is not None else ""
        if verb == "watch" or subresource in _STREAMING or upgrade_of(request):
            return await self._aggregated.handle(request, user, backend, stream=True)
        self._registry.fairness.leave(await self._registry.fairness.seat(flow, Ticket()))
        return await self._aggregated.handle(request, user, backend, stream=False)

    async def _serves(self, group: str, version: str) -> bool:
        kinds = self._registry.kinds
        if kinds.registry.in_version(group, version):
            return True
        if "." in group:
            await self._registry.custom.catch_up()
        return bool(kinds.registry.in_version(group, version))

    async def _document(self, request: web.BaseRequest, user: User, flow: Flow) -> web.StreamResponse:
        fairness = self._registry.fairness
        # These go on for as long as somebody looks, or waits for what comes.
        follows = views.goes_on(request) or request.path in LogPages.PATHS or request.path.startswith(RECENT)
        ticket = None if follows else await fairness.seat(flow, Ticket())
        try:
            if request.path.startswith(views.PREFIX):
                if ticket is not None:
                    fairness.at_hand(ticket)
                return await self._views.answer(request, user)
            await self._registry.authorizer.check_path(user, request.method.lower(), request.path)
            response = await self._documents.answer(request)
        finally:
            if ticket is not None:
                fairness.leave(ticket)
        return response if response is not None else self._documents.paths(status=404)

    # --- who ----------------------------------------------------------------------------------

    async def _user(self, request: web.BaseRequest, found: paths.ResourcePath | None, verb: str) -> User:
        headers = request.headers
        authorization = headers.get("Authorization", "")
        identity = http1.identity_of(request)
        if self._config.tls_dir is None and identity is None and not authorization:
            # Plain HTTP is for tests on one machine: whoever reaches it is trusted like a gRPC caller.
            name, groups = self._config.anonymous_grpc_user
            identity = Identity(name, groups)
        user = await self._registry.authenticator.of_request(identity, authorization or _shown(request), request.path)
        audit.called_by(user)
        if found is None:
            asked = user.asks(request.method.lower(), path=request.path)
        else:
            asked = user.asks(verb or _VERBS.get(request.method, ""), version=found.version, **_written(found))
        return await self._registry.authorizer.acting(user, headers.items(), asked)


def _shown(request: web.BaseRequest) -> str:
    """The credentials of a WebSocket whose client can set no header for them, "" without. Raises Unauthorized."""
    try:
        token = subprotocols.bearer_token(request)
    except subprotocols.BadToken as e:
        raise Unauthorized(str(e)) from e
    return f"Bearer {token}" if token else ""


def _written(found: paths.ResourcePath) -> dict[str, str]:
    """What a path names, as fields of Attributes."""
    return {
        "group": found.group,
        "resource": found.plural,
        "subresource": found.subresource,
        "namespace": found.scope,
        "name": found.name,
    }


def _check_text(request: web.BaseRequest) -> None:
    """BadRequest for a request whose line or headers are no UTF-8: nothing that is said of them could be written."""
    for part in (request.path_qs, *request.headers.values()):
        if not part.isascii():
            try:
                part.encode()
            except UnicodeEncodeError as e:
                raise BadRequest("the request's line and headers must be UTF-8") from e


def error_response(error: ApiError, accept: str = "") -> Whole:
    """The Status of an error: in protobuf for who takes nothing else (and could have it), in JSON for all others."""
    media, body = JSON, error_json(error)
    if PROTOBUF in accept and not isinstance(error, NotAcceptable):
        with contextlib.suppress(NotAcceptable):
            media = negotiate(accept, protobuf=True).media
    if media == PROTOBUF:
        body = protobuf_encoding.encode(error.status)
    headers = {"Content-Type": PROTOBUF if media == PROTOBUF else JSON, **NO_CACHE}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    response = Whole(body, status=error.code, headers=headers)
    warn(response, error.warnings)
    return response


async def _shut(server: http1.GuardedServer) -> None:
    server.pre_shutdown()
    await server.shutdown(_STOP_S)
