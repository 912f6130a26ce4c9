"""Paths that are no resources: version, health, metrics, discovery, OpenAPI, token keys."""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Protocol

import orjson
from aiohttp import web

from rayplane.control_plane.api.machinery.discovery import Discovery
from rayplane.control_plane.api.machinery.resources import GroupInfo
from rayplane.control_plane.apiserver import server_metrics
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.flowcontrol import dumps
from rayplane.control_plane.apiserver.outgoing.supervisors import Supervisors
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry
from rayplane.control_plane.apiserver.rest.numbers import integer
from rayplane.control_plane.apiserver.rest.openapi import GIT_VERSION, OpenApiDocuments, answered
from rayplane.control_plane.apiserver.tracing.recent import RECENT
from rayplane.control_plane.component_base import debugging, healthz
from rayplane.control_plane.component_base.flags import flags_of
from rayplane.control_plane.component_base.log_pages import LogPages
from rayplane.control_plane.component_base.zpages import COMPATIBLE, EMULATED, GO, PATHS, Component
from rayplane.control_plane.rpc import Traffic
from rayplane.control_plane.rpc.static_files import Page

_MAJOR, _, _MINOR = EMULATED.partition(".")
_VERSION = {
    "major": _MAJOR,
    "minor": _MINOR,
    "emulationMajor": _MAJOR,
    "emulationMinor": _MINOR,
    "minCompatibilityMajor": _MAJOR,
    "minCompatibilityMinor": COMPATIBLE.partition(".")[2],
    "gitVersion": GIT_VERSION,
    "gitCommit": "0" * 40,
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": GO,
    "compiler": "gc",
    "platform": "linux/amd64",
}
_OTHERS = (
    "/.well-known/openid-configuration", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks",
    "/readyz/shutdown", "/version", *PATHS,
)  # fmt: skip
_UI = "/ui"
_PAGE = files("rayplane.control_plane") / "dashboard" / "page"
_PLAIN = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
_KEYS_KEPT = {"Cache-Control": "public, max-age=3600"}


class Owner(Protocol):
    """The server that these documents belong to."""

    registry: ObjectRegistry
    supervisors: Supervisors
    ready: bool
    grpc_traffic: Traffic


class Documents:
    """Discovery and OpenAPI documents. `answer(request)`: the response, or None for a path it does not know."""

    def __init__(self, config: ApiServerConfig, owner: Owner) -> None:
        self._config = config
        self._owner = owner
        self._registry = registry = owner.registry
        self._discovery = Discovery(registry.aggregator.catalog)
        self._openapi = OpenApiDocuments(registry.kinds, registry.env.clock, registry.aggregator)
        self._log = LogPages()
        self._ui = Page(_PAGE)
        now = registry.env.clock.now()
        self._component = Component("kube-apiserver", now, flags_of(config), (*healthz.PATHS, *_OTHERS))

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse | None:
        path = request.path.rstrip("/") or "/"
        if kind := healthz.kind_of(path):
            return await self._health(request, kind)
        if path in LogPages.PATHS:
            return await self._log.answer(request)
        if path.startswith(dumps.PREFIX):
            return self._dump(path.removeprefix(dumps.PREFIX), "includeRequestDetails" in request.query)
        if path == RECENT or path.startswith(f"{RECENT}/"):
            return await self._recent(path.removeprefix(RECENT).strip("/"), request.query)
        if (measured := self._measured(request, path)) is not None:
            return measured
        if path in ("/api", "/apis") or path.startswith(("/api/", "/apis/")):
            document = self._discovery.document(path, request.headers.get("Accept", ""))
            return answered(request, document)
        if path.startswith("/openapi/"):
            return await self._openapi.answer(request, path)
        return self._page(request.path) if path == _UI or path.startswith(f"{_UI}/") else self._other(path)

    def _measured(self, request: web.BaseRequest, path: str) -> web.Response | None:
        """What this server tells of itself."""
        if path == debugging.METRICS:
            return debugging.metrics(request, server_metrics.collect(self._registry, self._owner.grpc_traffic))
        return debugging.zpage(request, self._component, self._registry.env.clock.now())

    def paths(self, status: int = 200) -> web.Response:
        """The paths that are served; with 404, the answer to one that is not."""
        return web.json_response({"paths": _paths(self._registry.aggregator.catalog.groups())}, status=status)

    def _page(self, path: str) -> web.Response | None:
        """A file of the dashboard's page, which has its own at paths relative to that with the slash."""
        if not self._config.ui:
            return None
        if path == _UI:
            return web.Response(status=301, headers={"Location": f"{_UI}/"})
        return self._ui.file(path.removeprefix(f"{_UI}/"))

    def _dump(self, what: str, details: bool) -> web.Response | None:
        fairness, clock = self._registry.fairness, self._registry.env.clock
        text = dumps.page(what, fairness, fairness.now(), clock.now(), details=details)
        return web.Response(text=text, headers=_PLAIN) if text is not None else None

    async def _recent(self, id_: str, query: Mapping[str, str]) -> web.Response:
        """One recent request, or all, or with `after` those that come, see `Recent`."""
        recent = self._registry.recent
        if id_:
            body = recent.get(id_)
        elif "after" in query:
            body = await recent.after(integer(query["after"]), float(integer(query.get("wait", "0"))))
        else:
            body = recent.all()
        if body is None:
            return web.Response(status=404, text="this request is not known here, or not any more\n", headers=_PLAIN)
        return web.Response(body=body, content_type="application/json")

    def _other(self, path: str) -> web.Response | None:
        if path == "/version":
            return web.json_response(_VERSION)
        if path == "/":
            return self.paths()
        if path == "/.well-known/openid-configuration":
            issuer = self._config.issuer
            body = {
                "issuer": issuer,
                "jwks_uri": f"{issuer}/openid/v1/jwks",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }
            return web.json_response(body, headers=_KEYS_KEPT)
        if path == "/openid/v1/jwks":
            key = self._registry.authenticator.tokens.public_jwk()
            keys = orjson.dumps({"keys": [key] if key else []})
            return web.Response(body=keys, content_type="application/jwk-set+json", headers=_KEYS_KEPT)
        return None

    async def _health(self, request: web.BaseRequest, kind: str) -> web.Response | None:
        etcd = "" if await self._registry.hub.etcd_answers() else "no quorum of members answers"
        problems = {"ping": "", "log": "", "etcd": etcd}
        if kind == "readyz":
            problems["shutdown"] = "" if self._owner.ready else healthz.ENDING
        return debugging.health(request, self._component, problems)


def _paths(groups: Iterable[GroupInfo]) -> list[str]:
    """Every path that is no resource, as `/` lists them."""
    served = ["/api", "/apis"]
    for group in groups:
        root = f"/apis/{group.name}" if group.name else "/api"
        served += [root, *(f"{root}/{version}" for version in group.versions)]
    health = [f"{path}{check}" for path in healthz.PATHS for check in ("", "/etcd", "/log", "/ping")]
    return sorted({*served, *health, *_OTHERS})
