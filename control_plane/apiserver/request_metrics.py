"""Counts and durations of the requests that were answered, by what they asked for.

Keys come from what this server serves, never from what a client writes: a path or method that nobody serves is counted
under no name. Definitions come and go, so the custom resources that have a count of their own are bounded, too.
"""

from collections import Counter
from collections.abc import Iterable

from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.component_base.metrics import Family, Histograms, counter, histogram

_VERBS = {verb: verb.upper() for verb in ("get", "list", "watch", "patch", "delete", "deletecollection")} | {
    "create": "POST",
    "update": "PUT",
}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SUBRESOURCES = frozenset({
    *("", "approval", "attach", "binding", "ephemeralcontainers", "eviction", "exec", "finalize", "log"),
    *("portforward", "proxy", "resize", "scale", "status", "token"),
})  # fmt: skip
OTHER = "other"
"""Methods that mean nothing here, and custom resources beyond the first `CUSTOM_MAX`."""
CUSTOM_MAX = 256
#: As in Kubernetes.
BOUNDS_S = (
    *(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0),
    *(4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0),
)
_LABELS = ("verb", "group", "version", "resource", "subresource")


class RequestMetrics:
    """Answered requests and sent events of watches."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str, str, str, str]] = Counter()
        self._durations = Histograms(BOUNDS_S)
        self._events: Counter[tuple[str, str, str]] = Counter()
        self._custom: set[tuple[str, str, str]] = set()

    def add(self, verb: str, info: ResourceInfo | None, code: int, seconds: float, subresource: str = "") -> None:
        """`verb`: of the API where `info` is the resource that is served, else the HTTP method."""
        if info is None:
            key = (verb if verb in _METHODS else OTHER, "", "", "", "")
        else:
            part = subresource if subresource in _SUBRESOURCES else OTHER
            key = (_VERBS.get(verb, OTHER), *self._resource(info), part)
        self._counts[(*key, str(code))] += 1
        if verb != "watch":
            self._durations.observe(seconds, *key)

    def sent(self, info: ResourceInfo, events: int) -> None:
        """A watch of the resource was told of so many changes."""
        group, version, resource = self._resource(info)
        self._events[group, version, info.kind if resource != OTHER else OTHER] += events

    def collect(self) -> Iterable[Family]:
        yield counter("apiserver_request_total", "Requests answered.", self._counts, *_LABELS, "code")
        durations = self._durations.by_labels
        yield histogram("apiserver_request_duration_seconds", "Time to answer, but of watches.", durations, *_LABELS)
        about = "Events sent to watchers."
        yield counter("apiserver_watch_events_total", about, self._events, "group", "version", "kind")

    def _resource(self, info: ResourceInfo) -> tuple[str, str, str]:
        found = (info.group, info.version, info.plural)
        if info.custom and found not in self._custom:
            if len(self._custom) >= CUSTOM_MAX:
                return OTHER, OTHER, OTHER
            self._custom.add(found)
        return found
