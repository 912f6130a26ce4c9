"""Memory of own writes: a key waits until the caches show what its last reconcile wrote.

Without it a reconcile that ran on a cache from before its own writes would create pods twice (Kubernetes' controllers
have "expectations" for that). Resource versions are etcd revisions, so a cache that has shown any later version of a
resource has shown all earlier ones; deletions are awaited object by object. What became of a write without an answer is
asked of the API server first (`runner`), and then awaited like an answer.

No key goes on because time has passed: where a watch has not told in a while what it should have, all is listed anew,
and a list that was asked for after a write shows what became of it. (Kubernetes' controllers go on after five minutes,
those of v1.36 with a "consistency store" wait for the version alone.)
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object


@dataclass(slots=True)
class _Held:
    since: float
    """When the last of its writes was answered."""
    until: float
    """When the caches are to be read anew for it."""
    marks: dict[str, int] = field(default_factory=dict)
    """Per resource, the version its cache has to reach."""
    deletions: dict[tuple[str, str], str] = field(default_factory=dict)
    """(resource, key) of objects that have to go, with their uid."""

    @property
    def empty(self) -> bool:
        return not self.marks and not self.deletions

    @property
    def resources(self) -> set[str]:
        return {*self.marks, *(resource for resource, _ in self.deletions)}


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
    """The held keys of one controller. Bounded by the number of its keys."""

    def __init__(self, timeout_s: float, shown: Shown) -> None:
        """`shown` is to hear of an event before `seen` does. A cache so far behind is `overdue`."""
        self._timeout_s = timeout_s
        self._shown = shown
        self._held: dict[str, _Held] = {}
        self._waiting: dict[str, list[tuple[int, str]]] = {}
        self._leaving: dict[tuple[str, str], dict[str, None]] = {}
        """The keys that wait for an object to go; several may have deleted it."""

    def wrote(self, key: str, resource: str, answer: Object, *, now: float) -> None:
        """An own write was answered with `answer`."""
        version = version_of(answer)
        if version <= self._shown.newest(resource):
            return
        held = self._hold(key, now)
        if version > held.marks.get(resource, 0):
            held.marks[resource] = version
            heapq.heappush(self._waiting.setdefault(resource, []), (version, key))

    def deleted(self, key: str, resource: str, gone: Object, *, cached: Object | None, now: float) -> None:
        """An own delete was accepted; `cached` is what the cache shows of the object now."""
        if _has_left(cached, meta.uid(gone)):
            return
        held = self._hold(key, now)
        place = (resource, meta.key(gone))
        held.deletions[place] = meta.uid(gone)
        self._leaving.setdefault(place, {})[key] = None

    def _hold(self, key: str, now: float) -> _Held:
        held = self._held.setdefault(key, _Held(now, now + self._timeout_s))
        held.since = now
        return held

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
            place, current = (resource, meta.key(obj)), None if kind == "DELETED" else obj
            for key in [*self._leaving.get(place, ())]:
                held = self._held[key]
                if _has_left(current, held.deletions[place]):
                    self._left(key, held, place)
                    free += self._release_if_empty(key, held)
        return free

    def _left(self, key: str, held: _Held, place: tuple[str, str]) -> None:
        """A key does not wait for this object any more."""
        del held.deletions[place]
        waiting = self._leaving[place]
        del waiting[key]
        if not waiting:
            del self._leaving[place]

    def listed(self, resource: str, began: float) -> list[str]:
        """A list that was asked for at `began` is in the cache; the keys that may go on now."""
        free: list[str] = []
        for key, held in [*self._held.items()]:
            if held.since <= began and resource in held.resources:
                self._forget(key, held, resource)
                free += self._release_if_empty(key, held)
        return free

    def _forget(self, key: str, held: _Held, resource: str) -> None:
        """Await nothing more of a resource."""
        held.marks.pop(resource, None)
        for place in [place for place in held.deletions if place[0] == resource]:
            self._left(key, held, place)

    def _release_if_empty(self, key: str, held: _Held) -> list[str]:
        if not held.empty:
            return []
        self._held.pop(key, None)
        return [key]

    def is_held(self, key: str) -> bool:
        """Whether a key has to wait; it is told by `seen`, `listed` or `forget` when it may go on."""
        return key in self._held

    def holds(self, key: str, now: float) -> float:
        """Seconds until the caches are read anew for a key that waits; 0 for one that does not."""
        held = self._held.get(key)
        return 0.0 if held is None else max(0.0, held.until - now)

    def overdue(self, now: float) -> list[str]:
        """The resources whose caches are to be read anew: some key waits for them too long."""
        late: set[str] = set()
        for held in self._held.values():
            if held.until <= now:
                held.until = now + self._timeout_s
                late |= held.resources
        return sorted(late)

    def forget(self, resource: str) -> list[str]:
        """Nobody follows a resource any more; the keys that may go on now."""
        free: list[str] = []
        for key, held in [*self._held.items()]:
            self._forget(key, held, resource)
            free += self._release_if_empty(key, held)
        return free


def _has_left(cached: Object | None, uid: str) -> bool:
    return cached is None or meta.uid(cached) != uid or meta.is_deleting(cached)
