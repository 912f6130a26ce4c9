"""Paths that every component answers over HTTP/1.1, on the port that it has for gRPC or on one of its own.

    GET /metrics             its measurements (see `exposition`)
    GET /healthz, /livez, /readyz, /statusz, /flagz, /metrics/slis   of a component of Kubernetes (see `zpages`)
    /debug/...               its log (see `log_pages`)

For whom `callers` names: what a component is busy with is not everybody's business.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rayplane.control_plane.component_base.flags import flags_of
from rayplane.control_plane.component_base.log_pages import LogPages, text
from rayplane.control_plane.component_base.metrics import Family
from rayplane.control_plane.component_base.zpages import Component, page
from rayplane.control_plane.rpc import ADMINISTRATORS, Callers, Network, Server, Service, identity_of_transport

if TYPE_CHECKING:
    from aiohttp import web

METRICS = "/metrics"
HEALTH = ("/healthz", "/livez", "/readyz")
#: Who may ask for it unless the component says otherwise.
CALLERS = ADMINISTRATORS

Collect = Callable[[], Iterable[Family]]
Now = Callable[[], datetime]


class Debugging:
    """A web handler, as `Network.serve` takes it. `component`: one of Kubernetes, with the clock that it goes by."""

    def __init__(
        self, collect: Collect, callers: Callers = CALLERS, component: tuple[Component, Now] | None = None
    ) -> None:
        self._collect = collect
        self._component = component
        self._callers = callers
        self._log = LogPages()

    async def __call__(self, request: "web.BaseRequest") -> "web.StreamResponse":
        refusal = self._callers.refusal(identity_of_transport(request.transport), request.path)
        if refusal is not None:
            return text(403, refusal.message)
        if request.path in LogPages.PATHS:
            return await self._log.answer(request)
        if request.method not in ("GET", "HEAD"):
            return text(405, "Method Not Allowed", Allow="GET, HEAD")
        if request.path == METRICS:
            return metrics(request, self._collect())
        return self._of_component(request) or text(404, "404 page not found")

    def _of_component(self, request: "web.BaseRequest") -> "web.Response | None":
        if self._component is None:
            return None
        component, now = self._component
        if request.path in HEALTH:
            component.health.observe(request.path.strip("/"), {"ping": True})
            return _ok()
        return zpage(request, component, now())


async def serve(
    network: Network,
    address: str,
    collect: Collect,
    services: Sequence[Service] = (),
    component: tuple[Component, Now] | None = None,
) -> Server | None:
    """A port for these paths, and what else a component has to tell; none where `address` is empty. OSError."""
    if not address:
        return None
    return await network.serve(address, services, web=Debugging(collect, component=component))


def told(name: str, config: Any, now: Now) -> tuple[Component, Now]:
    """A component of Kubernetes that starts now with these settings, and serves the paths of this module."""
    return Component(name, now(), flags_of(config), (*HEALTH, METRICS)), now


def zpage(request: "web.BaseRequest", component: Component, now: datetime) -> "web.Response | None":
    """The answer of `zpages`; None for another path."""
    from aiohttp import web

    found = page(request.path, request.headers.get("Accept", ""), component, now)
    if found is None:
        return None
    return web.Response(body=found.body, status=found.status, headers={"Content-Type": found.content_type})


def _ok() -> "web.Response":
    from aiohttp import web

    return web.Response(text="ok")


def metrics(request: "web.BaseRequest", families: Iterable[Family], **headers: str) -> "web.Response":
    from aiohttp import web

    from rayplane.control_plane.component_base.exposition import page

    body, content_type = page(families, request.headers.get("Accept", ""))
    return web.Response(body=body, headers={**headers, "Content-Type": content_type})
