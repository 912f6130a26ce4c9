"""Paths that are no resources: version, health, metrics, discovery, OpenAPI, token keys."""

from collections.abc import Callable

import orjson
from aiohttp import web

from rayplane.control_plane.api.machinery.discovery import Discovery
from rayplane.control_plane.apiserver import server_metrics
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry
from rayplane.control_plane.apiserver.rest.openapi import GIT_VERSION, OpenApiDocuments, answered
from rayplane.control_plane.component_base import debugging
from rayplane.control_plane.component_base.logs import Level

_VERSION = {
    "major": "1",
    "minor": "37",
    "gitVersion": GIT_VERSION,
    "gitCommit": "0" * 40,
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "go1.26",
    "compiler": "gc",
    "platform": "linux/amd64",
}
_HEALTH = ("/healthz", "/livez", "/readyz")


class Documents:
    """Discovery and OpenAPI documents. `answer(request)`: the response, or None for a path it does not know."""

    def __init__(self, config: ApiServerConfig, registry: ObjectRegistry, is_ready: Callable[[], bool]) -> None:
        self._config = config
        self._registry = registry
        self._is_ready = is_ready
        resources = registry.kinds.registry
        self._discovery = Discovery(resources)
        self._openapi = OpenApiDocuments(registry.kinds, registry.env.clock)
        self._level = Level()

    async def answer(self, request: web.BaseRequest) -> web.Response | None:
        path = request.path.rstrip("/") or "/"
        if path.startswith(_HEALTH) and path.split("/")[1] in ("healthz", "livez", "readyz"):
            return await self._health(request, path)
        if path == debugging.VERBOSITY:
            return await debugging.verbosity(request, self._level)
        if path == "/metrics":
            return debugging.metrics(request, server_metrics.collect(self._registry))
        if path in ("/api", "/apis") or path.startswith(("/api/", "/apis/")):
            document = self._discovery.document(path, request.headers.get("Accept", ""))
            return answered(request, document)
        if path.startswith("/openapi/"):
            return await self._openapi.answer(request, path)
        return self._other(path)

    def _other(self, path: str) -> web.Response | None:
        if path == "/version":
            return web.json_response(_VERSION)
        if path == "/":
            return web.json_response({"paths": _paths()})
        if path == "/.well-known/openid-configuration":
            issuer = self._config.issuer
            body = {
                "issuer": issuer,
                "jwks_uri": f"{issuer}/openid/v1/jwks",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }
            return web.json_response(body)
        if path == "/openid/v1/jwks":
            key = self._registry.authenticator.tokens.public_jwk()
            keys = orjson.dumps({"keys": [key] if key else []})
            return web.Response(body=keys, content_type="application/jwk-set+json")
        return None

    async def _health(self, request: web.BaseRequest, path: str) -> web.Response:
        checks = {"ping": True, "etcd": await self._registry.hub.etcd_answers()}
        if path.startswith("/readyz"):
            checks["shutdown"] = self._is_ready()
        _, _, single = path.strip("/").partition("/")
        if single:
            if single not in checks:
                return web.Response(status=404, text="404 page not found\n")
            checks = {single: checks[single]}
        for excluded in request.query.getall("exclude", []):
            checks.pop(excluded, None)
        healthy = all(checks.values())
        name = path.split("/")[1]
        if healthy and "verbose" not in request.query:
            return web.Response(text="ok")
        lines = [f"[{'+' if ok else '-'}]{check} {'ok' if ok else 'failed'}" for check, ok in checks.items()]
        lines.append(f"{name} check {'passed' if healthy else 'failed'}")
        return web.Response(status=200 if healthy else 500, text="\n".join(lines) + "\n")


def _paths() -> list[str]:
    return [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]


def not_found_paths() -> web.Response:
    """What an unknown path outside the API is answered with."""
    return web.json_response({"paths": _paths()}, status=404)
