"""Routes of HTTP requests to backends (networking.k8s.io/v1 Ingress). Pure.

Exact hosts go before wildcards, which stand for one label, wildcards before rules without a host; within a host longer
paths go before shorter ones, and of equal ones exact before others; the older Ingress wins what two of them claim. A
path of type ImplementationSpecific is a regular expression where the Ingress's annotations say so, else a prefix.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import re2

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.ingresses import is_served
from rayplane.control_plane.api.meta import Object
from rayplane.node.ingress.annotations import Options, options_of

PATTERN_CHARS_MAX = 1024
TARGET_CHARS_MAX = 8192


@dataclass(frozen=True, slots=True)
class BackendRef:
    """A port of a service: by number or by name."""

    namespace: str
    service: str
    port: int | str


@dataclass(frozen=True, slots=True)
class Found:
    """A way for a request. `backend`: None for one that is no service; `path`: another than was asked for."""

    backend: BackendRef | None
    options: Options
    path: str | None = None


@dataclass(frozen=True, slots=True)
class _Route:
    path: str
    exact: bool
    backend: BackendRef | None
    options: Options = field(default_factory=Options)
    pattern: Any = None

    def found(self, path: str) -> Found | None:
        target = self.options.rewrite_target
        if self.pattern is not None:
            match = self.pattern.match(path)
            if match is None:
                return None
            return Found(self.backend, self.options, _filled(target, match) if target else None)
        prefix = self.path.rstrip("/")
        if path == self.path or (not self.exact and (path == prefix or path.startswith(prefix + "/"))):
            return Found(self.backend, self.options, target or None)
        return None


class RoutingTable:
    """The routes of all Ingress objects of the cluster; `find` answers for one request."""

    def __init__(self, ingresses: Iterable[Object]) -> None:
        self._hosts: dict[str, list[_Route]] = {}
        self._default: Found | None = None
        mine = (i for i in ingresses if is_served(i))
        for ingress in sorted(mine, key=age):
            self._add(ingress)
        for routes in self._hosts.values():
            # Stable: of equal routes the older Ingress's comes first.
            routes.sort(key=lambda r: (-len(r.path.rstrip("/")), not r.exact))

    def find(self, host: str, path: str) -> Found | None:
        """`host`: the Host header, with or without a port. None: nobody wants the request."""
        host = plain_host(host)
        wildcard = "*." + host.partition(".")[2]
        for candidate in (host, wildcard, ""):
            for route in self._hosts.get(candidate, ()):
                found = route.found(path or "/")
                if found is not None:
                    return found
        return self._default

    def _add(self, ingress: Object) -> None:
        spec, namespace = meta.spec(ingress), meta.namespace(ingress)
        options = options_of(meta.annotations(ingress))
        if spec.get("defaultBackend") and self._default is None:
            self._default = Found(_backend(namespace, spec["defaultBackend"]), options)
        for rule in spec.get("rules") or ():
            for part in (rule.get("http") or {}).get("paths") or ():
                path, kind = part.get("path") or "/", part.get("pathType")
                pattern = _pattern(path, kind, options)
                if pattern is False:
                    continue
                backend = _backend(namespace, part.get("backend") or {})
                route = _Route(path, kind == "Exact", backend, options, pattern)
                self._hosts.setdefault((rule.get("host") or "").lower(), []).append(route)


def plain_host(host: str) -> str:
    """A host without its port, in lower case."""
    return (host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host).lower()


def age(ingress: Object) -> tuple[str, str]:
    """By which the older of two Ingresses goes first."""
    return meta.metadata(ingress).get("creationTimestamp") or "", meta.key(ingress)


def _pattern(path: str, kind: str | None, options: Options) -> Any:
    """The regular expression of a path; None where it is none, False where it is not one that can be."""
    if kind != "ImplementationSpecific" or not (options.use_regex or "$" in options.rewrite_target):
        return None
    if len(path) > PATTERN_CHARS_MAX:
        return False
    try:
        # As nginx has them: from the beginning, whatever follows, in either case.
        return re2.compile(f"(?i){path}")
    except re2.error:
        return False


def _filled(target: str, match: Any) -> str:
    """The target with what the groups of the path have found."""
    parts, groups = target.split("$"), match.groups()
    made = parts[0]
    for part in parts[1:]:
        number = part[:1]
        known = number.isdecimal() and 0 < int(number) <= len(groups)
        made += (groups[int(number) - 1] or "") + part[1:] if known else "$" + part
    made = made[:TARGET_CHARS_MAX]
    return made if made.startswith("/") else "/" + made


def _backend(namespace: str, backend: dict[str, Any]) -> BackendRef | None:
    service = backend.get("service")
    if not service:
        return None
    port = service.get("port") or {}
    return BackendRef(namespace, service["name"], port.get("number") or port.get("name") or 0)
