"""Paths of the client port over HTTP/1.1: the JSON gateway, /health, /livez, /readyz, /version, /metrics.

    network.serve(address, services, web=Web(services, health, metrics, callers))

Health and version are for anyone who can connect, metrics for `callers`; calls of the gateway are checked by their
services.
"""

from collections.abc import Sequence

from aiohttp import web

from rayplane.control_plane.component_base import debugging
from rayplane.control_plane.component_base.log_pages import LOG, LogPages
from rayplane.control_plane.etcd.server.config import ETCD_VERSION
from rayplane.control_plane.etcd.server.metrics.metrics import Metrics
from rayplane.control_plane.etcd.server.web.gateway.gateway import JSON_HEADERS, Gateway
from rayplane.control_plane.etcd.server.web.gateway.messages import dump
from rayplane.control_plane.etcd.server.web.health import CHECKS, Health
from rayplane.control_plane.rpc import Callers, Service, identity_of_transport

#: etcd allows every origin unless told otherwise.
CORS = {
    "Access-Control-Allow-Headers": "accept, content-type, authorization",
    "Access-Control-Allow-Methods": "POST, GET, OPTIONS, PUT, DELETE",
    "Access-Control-Allow-Origin": "*",
}
#: A name that the gateway had while it was young.
OLD_PREFIX, PREFIX = "/v3beta/", "/v3/"


class Web:
    """A handler that answers what comes to a member's client port as HTTP/1.1."""

    def __init__(self, services: Sequence[Service], health: Health, metrics: Metrics, callers: Callers) -> None:
        self._callers = callers
        self._log = LogPages()
        self._metrics = metrics
        self._health = health
        self._gateway = Gateway(services, CORS)
        self._version = {"etcdserver": ETCD_VERSION, "etcdcluster": ETCD_VERSION.rpartition(".")[0] + ".0"}

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if request.method == "OPTIONS":
            return web.Response(headers=CORS)
        if path.startswith(OLD_PREFIX):
            path = PREFIX + path.removeprefix(OLD_PREFIX)
        if path.startswith(PREFIX):
            return await self._gateway.answer(request, path)
        if path == debugging.METRICS or path in LogPages.PATHS:
            return await self._answer_debugging(request)
        root, _, check = path.removeprefix("/").partition("/")
        health = path == "/health"
        if not health and path != "/version" and (root not in CHECKS or (check and check not in CHECKS[root])):
            return self._gateway.text(404, "404 page not found")
        if request.method != "GET":
            return self._gateway.text(405, "Method Not Allowed", {"Allow": "GET"})
        if health:
            return await self._answer_health(request)
        if path == "/version":
            return web.Response(body=dump(self._version), headers=CORS | JSON_HEADERS)
        return await self._answer_checks(request, root, check)

    async def _answer_debugging(self, request: web.BaseRequest) -> web.StreamResponse:
        # API servers may be clients, and have no business with logs.
        callers = self._callers if request.path != LOG else debugging.CALLERS
        refusal = callers.refusal(identity_of_transport(request.transport), request.path)
        if refusal is not None:
            return self._gateway.text(403, refusal.message)
        if request.path in LogPages.PATHS:
            return await self._log.answer(request)
        return debugging.metrics(request, self._metrics.collect(), **CORS)

    async def _answer_health(self, request: web.BaseRequest) -> web.StreamResponse:
        query = request.query
        reason = await self._health.overall(
            serializable=query.get("serializable") == "true", exclude=query.getall("exclude", [])
        )
        body = dump({"health": "false" if reason else "true", "reason": reason})
        if reason:
            return self._gateway.text(503, body.decode())
        return web.Response(body=body, headers=CORS | {"Content-Type": "text/plain; charset=utf-8"})

    async def _answer_checks(self, request: web.BaseRequest, kind: str, check: str) -> web.StreamResponse:
        """One line per check when one fails or the client asks for them, else "ok"."""
        query = request.query
        wanted = [check] if check else [c for c in CHECKS[kind] if c not in query.getall("exclude", [])]
        lines, healthy = await self._health.run(kind, wanted)
        if not healthy:
            return self._gateway.text(503, "".join(lines))
        return self._gateway.text(200, ("".join(lines) if "verbose" in query else "") + "ok")
