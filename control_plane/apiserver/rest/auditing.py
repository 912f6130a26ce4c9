"""Requests of the REST face in the audit log."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from urllib.parse import unquote

from aiohttp import web

from rayplane.control_plane.apiserver.audit import Auditor
from rayplane.control_plane.apiserver.audit.trail import HEADER, Asked, following
from rayplane.control_plane.apiserver.outgoing.supervisors import FAULTS, GROUP, VERSION
from rayplane.control_plane.apiserver.rest import paths
from rayplane.control_plane.apiserver.rest.answers import Whole
from rayplane.control_plane.apiserver.rest.numbers import flag
from rayplane.control_plane.apiserver.rest.views import fault_asked

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
# Nobody saw the answer: the client closed the connection first.
_CLIENT_CLOSED = 499
_FORWARDED_MAX = 16


def audited(handler: Handler, auditor: Auditor) -> Handler:
    """The same handler, with a trail for each request."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        trail = auditor.trail(_asked(request), id=request.headers.get(HEADER, ""))
        with following(trail):
            try:
                response = await handler(request)
            except (asyncio.CancelledError, ConnectionError):
                trail.end(_CLIENT_CLOSED, message="the client closed the connection")
                raise
            if not response.prepared:
                response.headers[HEADER] = trail.id
            body = response.body if isinstance(response, web.Response | Whole) else None
            data = body if isinstance(body, bytes) else b""
            trail.end(response.status, data, response.content_type)
            return response

    return handle


def _asked(request: web.BaseRequest) -> Asked:
    asked = Asked(
        uri=request.raw_path,
        verb=request.method.lower(),
        source_ips=_source_ips(request),
        user_agent=request.headers.get("User-Agent", ""),
        path=request.path,
    )
    verb, fault = fault_asked(request)
    if verb:
        # As over gRPC.
        return replace(asked, verb=verb, group=GROUP, version=VERSION, resource=FAULTS, name=fault)
    found = paths.parse(request.path)
    if found is None:
        return asked
    watch = found.watch or bool(flag(request.query, "watch"))
    name = unquote(found.name)
    return replace(
        asked,
        verb=found.verb(request.method, watch=watch) or asked.verb,
        group=found.group,
        version=found.version,
        resource=found.plural,
        subresource=found.subresource,
        namespace=unquote(found.namespace) or (name if (found.group, found.plural) == ("", "namespaces") else ""),
        name=name,
    )


def _source_ips(request: web.BaseRequest) -> list[str]:
    """Who says to be the client, through proxies, and last who really sent the request."""
    named = [one.strip() for one in request.headers.get("X-Forwarded-For", "").split(",", _FORWARDED_MAX)]
    named.append(request.headers.get("X-Real-Ip", "").strip())
    found = [one for one in named[: _FORWARDED_MAX + 1] if one and len(one) <= 45]
    if request.remote and request.remote not in found:
        found.append(request.remote)
    return found
