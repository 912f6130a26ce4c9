"""Passages of requests through the ingress: what was asked, whereto it goes, or why it does not. Pure."""

from dataclasses import dataclass
from urllib.parse import quote

from rayplane.node.ingress.annotations import HTTPS, Options
from rayplane.node.ingress.routes import Found
from rayplane.node.proxy.rules import Endpoint

_PATH_SIGNS = "/:@!$&'()*+,;=-._~"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, over whatever version of HTTP. `path`: decoded; `size`: of its body, None for who does not say."""

    host: str
    target: str
    path: str
    secure: bool
    size: int | None
    http2: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer of the ingress itself. `location`: where the client is sent."""

    status: int
    text: str
    location: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A way to endpoints, in the order to try."""

    found: Found
    targets: list[Endpoint]

    @property
    def options(self) -> Options:
        return self.found.options

    def url(self, scheme: str, place: Endpoint, target: str) -> str:
        """Where to send a request with this target. `scheme`: http or ws."""
        return f"{scheme}{'s' if self.options.protocol == HTTPS else ''}://{place}{self.target(target)}"

    def target(self, target: str) -> str:
        """The target as it is for the endpoint: it may be rewritten."""
        if self.found.path is None:
            return target
        _, mark, query = target.partition("?")
        return quote(self.found.path, safe=_PATH_SIGNS) + mark + query
