"""Ports of pods and Services that are opened in the browser, each as a host of its own: `http://NAME.localhost:PORT/`.

What a pod shows is somebody else's program. It is never answered at the dashboard's own name, so that for a browser it
is another origin and another site: its scripts reach neither the page nor the key, and its cookies go to itself alone,
not to the other servers of this machine. The name is the key to it: nobody guesses it, no other page and no other user
of this machine, and of what a browser says that another site's page asks for, only a page to look at is given.

Below the name all is the port's: a path is put behind the proxy subresource's, and can lead nowhere beside it.
"""

import asyncio
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from rayplane.control_plane.api.errors import BadRequest, Forbidden, NotFound, TooManyRequests
from rayplane.control_plane.api.machinery.names import is_number_of_port, label_errors, subdomain_errors

FORWARDS_MAX = 64
#: What one port answers at a time: browsers ask a host of HTTP/1.1 for six things at once, and for WebSockets besides.
ANSWERS_MAX = 256
NAME_BYTES = 16
RESOURCES = ("pods", "services")
SCHEMES = ("http", "https")
_FIELDS = ("namespace", "resource", "name", "port")
# As browsers read them: what leads up, written out or not, behind any slash.
_LEADS_UP = re.compile(r"[/\\](\.|%2e){1,2}([/\\?#]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Forward:
    """One port; `host` is where it is answered, with the door's port."""

    host: str
    namespace: str
    resource: str
    name: str
    port: int
    scheme: str

    @property
    def below(self) -> str:
        """The path of the API at which the port's own begins."""
        scheme = "https:" if self.scheme == "https" else ""
        return f"/api/v1/namespaces/{self.namespace}/{self.resource}/{scheme}{self.name}:{self.port}/proxy"

    def to_json(self) -> dict[str, Any]:
        asked = {name: getattr(self, name) for name in (*_FIELDS, "scheme")}
        return asked | {"url": f"http://{self.host}/"}


class Forwards:
    """The open ports of one door. They end with it."""

    def __init__(self) -> None:
        self._by_host: dict[str, Forward] = {}
        self._answering: dict[str, set[asyncio.Task[Any]]] = {}

    def to_json(self) -> dict[str, Any]:
        return {"forwards": [one.to_json() for one in self._by_host.values()]}

    def open(self, asked: Mapping[str, Any], door_port: str) -> Forward:
        """The one that is open already, or a new one. Raises BadRequest, TooManyRequests."""
        wanted = _wanted(asked)
        for one in self._by_host.values():
            if all(getattr(one, name) == value for name, value in wanted.items()):
                return one
        if len(self._by_host) >= FORWARDS_MAX:
            raise TooManyRequests(f"{FORWARDS_MAX} ports are open already: end some", details={})
        made = Forward(host=f"{secrets.token_hex(NAME_BYTES)}.localhost:{door_port}", **wanted)
        self._by_host[made.host], self._answering[made.host] = made, set()
        return made

    def end(self, url: str) -> Forward:
        """Answer there no more, and break off what is being answered. Raises NotFound."""
        for host, one in self._by_host.items():
            if url == one.to_json()["url"]:
                for task in self._answering.pop(host):
                    task.cancel()
                return self._by_host.pop(host)
        raise NotFound("no such port is open")

    @contextmanager
    def answering(self, forward: Forward) -> Iterator[None]:
        """Inside, this task is one that `end` cancels. Raises TooManyRequests."""
        task, tasks = asyncio.current_task(), self._answering[forward.host]
        assert task is not None
        if len(tasks) >= ANSWERS_MAX:
            raise TooManyRequests(f"{ANSWERS_MAX} requests to this port are being answered: wait for some", details={})
        tasks.add(task)
        try:
            yield
        finally:
            tasks.discard(task)

    def of(self, request: web.BaseRequest) -> Forward | None:
        """Whose page a request is for by its host; None for nobody's. Raises BadRequest, Forbidden."""
        found = self._by_host.get(request.host)
        if found is None:
            return None
        if not request.raw_path.startswith("/") or _LEADS_UP.search(request.raw_path.partition("?")[0]):
            raise BadRequest("a path begins with / and has no . and .. in it")
        if _of_another_site(request) and not _is_looked_at(request):
            raise Forbidden("pages of other sites may lead here, and do nothing else")
        return found


def _of_another_site(request: web.BaseRequest) -> bool:
    """Whether the browser says so, of a WebSocket by its Origin alone; other programs say nothing."""
    if (site := request.headers.get("Sec-Fetch-Site")) is not None:
        return site not in ("none", "same-origin")
    own = f"http://{request.host}"
    return request.headers.get("Origin", own) != own


def _is_looked_at(request: web.BaseRequest) -> bool:
    to = request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest")
    return request.method == "GET" and to == ("navigate", "document")


def _wanted(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a Forward is made of. Raises BadRequest."""
    found = {name: asked.get(name, "") for name in _FIELDS} | {"scheme": asked.get("scheme", "http")}
    if found["resource"] not in RESOURCES or found["scheme"] not in SCHEMES:
        raise BadRequest(f"resource is one of {', '.join(RESOURCES)}, scheme one of {', '.join(SCHEMES)}")
    port = str(found["port"])
    if not is_number_of_port(port) or not 0 < int(port) < 65536:
        raise BadRequest(f"port is a number from 1 to 65535, not {port!r:.80}")
    # API servers route by decoded paths: a slash in a name would lead to another resource, however it is written.
    for name, errors in (("namespace", label_errors), ("name", subdomain_errors)):
        if wrong := errors(found[name]) if isinstance(found[name], str) else ("must be a string",):
            raise BadRequest(f"{name}: {wrong[0]}")
    return found | {"port": int(port)}
