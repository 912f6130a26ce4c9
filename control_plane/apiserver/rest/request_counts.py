"""Counts of the requests that were answered, by what they asked for.

Keys come from what this server serves, never from what a client writes: a path or method that nobody serves is counted
under no name. Definitions come and go, so the custom resources that have a count of their own are bounded, too.
"""

from rayplane.control_plane.api.machinery.resources import ResourceInfo

_VERBS = frozenset({"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""Methods that mean nothing here, and custom resources beyond the first `CUSTOM_MAX`."""
CUSTOM_MAX = 256


class RequestCounts:
    """Answered requests; `items` are ((verb, resource, code), count)."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], int] = {}
        self._custom: set[str] = set()

    def add(self, verb: str, info: ResourceInfo | None, code: int) -> None:
        """`verb`: of the API where `info` is the resource that is served, else the HTTP method."""
        known = verb in (_METHODS if info is None else _VERBS)
        key = verb if known else OTHER, "" if info is None else self._resource(info), code
        self._counts[key] = self._counts.get(key, 0) + 1

    def items(self) -> list[tuple[tuple[str, str, int], int]]:
        return sorted(self._counts.items())

    def _resource(self, info: ResourceInfo) -> str:
        if not info.custom or info.plural in self._custom:
            return info.plural
        if len(self._custom) >= CUSTOM_MAX:
            return OTHER
        self._custom.add(info.plural)
        return info.plural
