"""Memory of own writes: a key waits until the caches show what its last reconcile wrote.

Without it a reconcile that ran on a cache from before its own writes would create pods twice (Kubernetes' controllers
have "expectations" for that). Resource versions are etcd revisions, so a cache that has shown any later version of a
resource has shown all earlier ones; deletions are awaited object by object. What became of a write without an answer is
asked of the API server first (`runner`), and then awaited like an answer.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object


@dataclass(slots=True)
class _Held:
    until: float
    marks: dict[str, int] = field(default_factory=dict)
    """Per resource, the version its cache has to reach."""
    deletions: dict[tuple[str, str], str] = field(default_factory=dict)
    """(resource, key) of objects that have to go, with their uid."""

    @property
    def empty(self) -> bool:
        return not self.marks and not self.deletions


def version_of(o: Object) -> int:
    """resourceVersion as a number; 0 when there is none."""
    text = meta.resource_version(o)
    return int(text) if text.isdigit() else 0


class Shown:
    """The newest version of each resource that the caches have shown; one for all controllers over the same caches."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}

    def note(self, resource: str, obj: Object) -> None:
        """A cache has taken in an object."""
        version = version_of(obj)
        if version > self._newest.get(resource, 0):
            self._newest[resource] = version

    def newest(self, resource: str) -> int:
        return self._newest.get(resource, 0)


class Barrier:
    """The held keys of one controller. Bounded by the number of its keys; each is let go after `timeout_s` at last."""

    def __init__(self, timeout_s: float, shown: Shown) -> None:
        """`shown` is to hear of an event before `seen` does."""
        self._timeout_s = timeout_s
        self._shown = shown
        self._held: dict[str, _Held] = {}
        self._waiting: dict[str, list[tuple[int, str]]] = {}
        self._leaving: dict[tuple[str, str], str] = {}

    def wrote(self, key: str, resource: str, answer: Object, *, now: float) -> None:
        """An own write was answered with `answer`."""
        version = version_of(answer)
        if version <= self._shown.newest(resource):
            return
        held = self._held.setdefault(key, _Held(now + self._timeout_s))
        if version > held.marks.get(resource, 0):
            held.marks[resource] = version
            heapq.heappush(self._waiting.setdefault(resource, []), (version, key))

    def deleted(self, key: str, resource: str, gone: Object, *, cached: Object | None, now: float) -> None:
        """An own delete was accepted; `cached` is what the cache shows of the object now."""
        if _has_left(cached, meta.uid(gone)):
            return
        held = self._held.setdefault(key, _Held(now + self._timeout_s))
        held.deletions[resource, meta.key(gone)] = meta.uid(gone)
        self._leaving[resource, meta.key(gone)] = key

    def seen(self, resource: str, kind: str, obj: Object) -> list[str]:
        """A cache has taken in an event; the keys that may go on now."""
        free: list[str] = []
        waiting = self._waiting.get(resource)
        while waiting and waiting[0][0] <= self._shown.newest(resource):
            mark, key = heapq.heappop(waiting)
            held = self._held.get(key)
            if held is not None and held.marks.get(resource) == mark:
                del held.marks[resource]
                free += self._release_if_empty(key, held)
        if self._leaving:
            place = (resource, meta.key(obj))
            owner = self._leaving.get(place)
            held = self._held.get(owner) if owner is not None else None
            if owner is not None and held is not None:
                current = None if kind == "DELETED" else obj
                if _has_left(current, held.deletions.get(place, "")):
                    held.deletions.pop(place, None)
                    del self._leaving[place]
                    free += self._release_if_empty(owner, held)
        return free

    def _release_if_empty(self, key: str, held: _Held) -> list[str]:
        if not held.empty:
            return []
        self._held.pop(key, None)
        return [key]

    def holds(self, key: str, now: float) -> float:
        """As `wait_for`, but lets nothing go."""
        held = self._held.get(key)
        return 0.0 if held is None else max(0.0, held.until - now)

    def wait_for(self, key: str, now: float) -> float:
        """Seconds the key still has to wait at most; 0 when it may go on."""
        held = self._held.get(key)
        if held is None:
            return 0.0
        if now >= held.until:
            for place in held.deletions:
                self._leaving.pop(place, None)
            del self._held[key]
            return 0.0
        return held.until - now


def _has_left(cached: Object | None, uid: str) -> bool:
    return cached is None or meta.uid(cached) != uid or meta.is_deleting(cached)
