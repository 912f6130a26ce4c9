"""Pages that a component has of itself: `/statusz`, `/flagz` and `/metrics/slis`. Pure.

Source: "Kubernetes z-pages", k8s.io/apiserver/pkg/server/statusz and flagz (texts, negotiation), KEP-3466 (the SLIs).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import NotAcceptable
from rayplane.control_plane.component_base.metrics import Family, counter, gauge

STATUSZ, FLAGZ, SLIS = "/statusz", "/flagz", "/metrics/slis"
PATHS = (FLAGZ, SLIS, STATUSZ)
#: The version of Kubernetes whose API components serve, the oldest that they go with, and what they say built them.
EMULATED, COMPATIBLE, GO = "1.37", "1.36", "go1.26"
_BINARY = f"{EMULATED}.0"
_GROUP, _VERSIONS = "config.k8s.io", ("v1beta1", "v1alpha1")
_KINDS = {STATUSZ: "Statusz", FLAGZ: "Flagz"}
_JSON, _YAML, _TEXT = "application/json", "application/yaml", "text/plain"
_WARNING = (
    "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is "
    "for debugging purposes only."
)
#: What the API is served at is no page to look at when something is wrong.
_NO_DEBUGGING = frozenset({"/api", "/apis", "/openapi", "/openid", "/.well-known"})


class Page(NamedTuple):
    """An answer of HTTP."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


class Health:
    """Outcomes of a component's health checks: how each went last, and how often so."""

    __slots__ = ("_counts", "_last")

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], float] = {}
        self._counts: dict[tuple[str, str, str], float] = {}

    def observe(self, kind: str, checks: Mapping[str, bool]) -> None:
        """Note how checks went. `kind`: `healthz`, `livez` or `readyz`."""
        for name, ok in checks.items():
            self._last[name, kind] = float(ok)
            counted = (name, kind, "success" if ok else "error")
            self._counts[counted] = self._counts.get(counted, 0) + 1

    def collect(self) -> Iterable[Family]:
        """For Prometheus."""
        yield gauge("kubernetes_healthcheck", "How a health check went last.", dict(self._last), "name", "type")
        about = "How health checks went."
        yield counter("kubernetes_healthchecks_total", about, dict(self._counts), "name", "type", "status")


@dataclass(frozen=True, slots=True)
class Component:
    """A component that is asked for its pages. `flags`: see `flags.flags_of`; `paths`: what else it serves."""

    name: str
    """As Kubernetes calls it, such as `kube-scheduler`."""
    started: datetime
    flags: Mapping[str, str]
    paths: tuple[str, ...]
    health: Health = field(default_factory=Health)


def page(path: str, accept: str, component: Component, now: datetime) -> Page | None:
    """The page at a path; None where it is none of these. `accept`: the formats that the client takes."""
    if path == SLIS:
        from rayplane.control_plane.component_base.exposition import page as exposed

        return Page(*exposed(component.health.collect(), accept, process=False))
    if path not in _KINDS:
        return None
    try:
        media, version = _negotiated(accept, _KINDS[path])
    except NotAcceptable as e:
        return Page(orjson.dumps(e.status), _JSON, e.code)
    if media == _TEXT:
        text = _status_text(component, now) if path == STATUSZ else _flags_text(component)
        return Page(text.encode())
    told: dict[str, Any] = {
        "kind": _KINDS[path],
        "apiVersion": f"{_GROUP}/{version}",
        "metadata": {"name": component.name},
        **(_status(component, now) if path == STATUSZ else {"flags": dict(sorted(component.flags.items()))}),
    }
    if media == _JSON:
        return Page(orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE), _JSON)
    import yaml

    return Page(yaml.safe_dump(told, sort_keys=False).encode(), _YAML)


def _negotiated(accept: str, kind: str) -> tuple[str, str]:
    """Media type and version of the first form that can be served: a structured one only by its full name."""
    for clause in accept.split(",") if accept.strip() else (_TEXT,):
        media, *parameters = (part.strip() for part in clause.split(";"))
        values = dict(p.partition("=")[::2] for p in parameters)
        if media in ("*/*", "text/*", _TEXT) and "as" not in values:
            return _TEXT, ""
        named = values.get("g") == _GROUP and values.get("as") == kind and values.get("v") in _VERSIONS
        if named and media in ("*/*", "application/*", _JSON, _YAML):
            return (_YAML if media == _YAML else _JSON), values["v"]
    forms = (f"{media};as={kind};g={_GROUP};v={version}" for media in (_JSON, _YAML) for version in _VERSIONS)
    raise NotAcceptable(f"only the following media types are accepted: {', '.join((*forms, _TEXT))}")


def _status(component: Component, now: datetime) -> dict[str, Any]:
    return {
        "startTime": meta.format_time(component.started),
        "uptimeSeconds": _uptime_s(component, now),
        "goVersion": GO,
        "binaryVersion": _BINARY,
        "emulationVersion": EMULATED,
        "minimumCompatibilityVersion": COMPATIBLE,
        "paths": _folders(component),
    }


def _status_text(component: Component, now: datetime) -> str:
    up = _uptime_s(component, now)
    lines = (
        f"Started: {component.started:%a %b %e %H:%M:%S UTC %Y}",
        f"Up: {up // 3600} hr {up // 60 % 60:02} min {up % 60:02} sec",
        f"Go version: {GO}",
        f"Binary version: {_BINARY}",
        f"Emulation version: {EMULATED}",
        f"Paths: {' '.join(_folders(component))}",
    )
    return f"\n{component.name} statusz\n{_WARNING}\n\n" + "".join(f"{line}\n" for line in lines)


def _flags_text(component: Component) -> str:
    lines = (f"{name}={value}\n" for name, value in sorted(component.flags.items()))
    return f"\n{component.name} flagz\n{_WARNING}\n" + "".join(lines)


def _uptime_s(component: Component, now: datetime) -> int:
    return max(0, int((now - component.started).total_seconds()))


def _folders(component: Component) -> list[str]:
    """The first parts of the paths that are for debugging."""
    first = {f"/{path.split('/')[1]}" for path in (*component.paths, *PATHS)}
    return sorted(first - _NO_DEBUGGING - {"/"})
