"""Routes of HTTP requests to backends (networking.k8s.io/v1 Ingress). Pure.

Exact hosts go before wildcards, wildcards before rules without a host; within a host exact paths go before prefixes,
longer prefixes before shorter ones; the older Ingress wins what two of them claim.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

INGRESS_CLASS = "rayplane"
_CLASS_ANNOTATION = "kubernetes.io/ingress.class"


@dataclass(frozen=True, slots=True)
class BackendRef:
    """A port of a service: by number or by name."""

    namespace: str
    service: str
    port: int | str


@dataclass(frozen=True, slots=True)
class _Route:
    path: str
    exact: bool
    backend: BackendRef

    def matches(self, path: str) -> bool:
        if self.exact:
            return path == self.path
        prefix = self.path.rstrip("/")
        return path == prefix or path.startswith(prefix + "/")


class RoutingTable:
    """The routes of all Ingress objects of the cluster; `find` answers for one request."""

    def __init__(self, ingresses: Iterable[Object]) -> None:
        self._hosts: dict[str, list[_Route]] = {}
        self._default: BackendRef | None = None
        mine = (i for i in ingresses if is_served(i))
        for ingress in sorted(mine, key=_age):
            self._add(ingress)
        for routes in self._hosts.values():
            # Stable: of equal routes the older Ingress's comes first.
            routes.sort(key=lambda r: (not r.exact, -len(r.path.rstrip("/"))))

    def find(self, host: str, path: str) -> BackendRef | None:
        """`host`: the Host header, with or without a port. None: nobody wants the request."""
        host = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        host = host.lower()
        wildcard = "*." + host.partition(".")[2]
        for candidate in (host, wildcard, ""):
            for route in self._hosts.get(candidate, ()):
                if route.matches(path or "/"):
                    return route.backend
        return self._default

    def _add(self, ingress: Object) -> None:
        spec, namespace = meta.spec(ingress), meta.namespace(ingress)
        default = _backend(namespace, spec.get("defaultBackend") or {})
        if default is not None and self._default is None:
            self._default = default
        for rule in spec.get("rules") or ():
            for part in (rule.get("http") or {}).get("paths") or ():
                backend = _backend(namespace, part.get("backend") or {})
                if backend is None:
                    continue
                exact = part.get("pathType") == "Exact"
                route = _Route(part.get("path") or "/", exact, backend)
                self._hosts.setdefault((rule.get("host") or "").lower(), []).append(route)


def is_served(ingress: Object) -> bool:
    """Tell whether an Ingress is for this implementation."""
    name = meta.spec(ingress).get("ingressClassName") or meta.annotations(ingress).get(_CLASS_ANNOTATION)
    return name in (None, "", INGRESS_CLASS)


def _age(ingress: Object) -> tuple[str, str]:
    return meta.metadata(ingress).get("creationTimestamp") or "", meta.key(ingress)


def _backend(namespace: str, backend: dict[str, Any]) -> BackendRef | None:
    service = backend.get("service")
    if not service:
        return None
    port = service.get("port") or {}
    return BackendRef(namespace, service["name"], port.get("number") or port.get("name") or 0)
