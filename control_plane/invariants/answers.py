"""Invariants of answers: versions never run back, what was acknowledged is there, watch caches tell the truth."""

from collections import deque
from collections.abc import Iterable, Iterator
from math import inf

from rayplane.control_plane.api import meta
from rayplane.control_plane.invariants.history import ADDED, DELETED, DONE, Answer, Change, Fact, History, Listed
from rayplane.control_plane.invariants.judge import Invariant

WAITING = 1000
"""Answers, and lists, that wait until the history has come as far as they are. Further ones are let go unjudged."""
IN_FLIGHT = 100
"""Calls of one client at the same time, at most."""
READS = ("get", "list")


class VersionsMonotonic(Invariant):
    """A client that was told a version is never answered with an older one, whichever server it asks then.

    Lists, and writes that change something, tell the version of everything; a read of one object that of it alone.
    """

    name = "resourceVersion monotonic per client"
    looked = 0

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}
        self._objects: dict[tuple[str, str, str], tuple[float, int]] = {}

    def changed(self, change: Change, history: History) -> Iterable[str]:
        if change.kind == DELETED:
            for client in self._told:
                self._objects.pop((client, change.resource, change.key), None)
        return ()

    def answered(self, answer: Answer, history: History) -> Iterator[str]:
        if answer.outcome != DONE or not answer.revision:
            return
        if answer.verb != "get":
            told = self._told.setdefault(answer.client, _Told())
            floor = told.floor(answer.called_s)
            self.looked += bool(floor)
            if answer.revision < floor:
                yield f"{_who(answer)} was answered with version {answer.revision} after it was told {floor}"
            told.add(answer.returned_s, answer.revision)
        if answer.key:
            place = answer.client, answer.resource, answer.key
            at_s, version = self._objects.get(place, (0.0, 0))
            self.looked += bool(version)
            if at_s <= answer.called_s and answer.revision < version:
                yield f"{_who(answer)} shows version {answer.revision} after {version}"
            self._objects[place] = answer.returned_s, max(version, answer.revision)


class _Told:
    """Versions that a client was told, and when; those of long ago as one."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque()
        self._before = 0

    def floor(self, called_s: float) -> int:
        """The newest that it had been told when it began to ask."""
        return max((version for at_s, version in self._recent if at_s <= called_s), default=self._before)

    def add(self, returned_s: float, version: int) -> None:
        self._recent.append((returned_s, version))
        if len(self._recent) > IN_FLIGHT:
            self._before = max(self._before, self._recent.popleft()[1])


class NothingLost(Invariant):
    """An acknowledged write is in the history of etcd, at the version that its client was told."""

    name = "no acknowledged object lost"
    looked = 0

    def __init__(self) -> None:
        self._waiting: deque[Answer] = deque(maxlen=WAITING)
        self._from = 0

    def begun(self, history: History) -> Iterable[str]:
        self._from = history.revision
        return ()

    def answered(self, answer: Answer, history: History) -> Iterable[str]:
        if answer.outcome == DONE and answer.verb not in READS and answer.revision and answer.verb != "delete":
            self._waiting.append(answer)
        return ()

    def changed(self, change: Change, history: History) -> Iterable[str]:
        # Others of the same revision may be on their way.
        return self._due(history, change.revision - 1) if self._waiting else ()

    def finished(self, history: History) -> Iterable[str]:
        # All has been told: what is newer than the last change was never written.
        return self._due(history, inf)

    def _due(self, history: History, until: float) -> Iterator[str]:
        for answer in [a for a in self._waiting if a.revision <= until]:
            self._waiting.remove(answer)
            changes = history.since(answer.revision - 1)
            if answer.revision <= self._from or changes is None:
                continue
            self.looked += 1
            wanted = answer.revision, answer.resource, answer.key
            if not any((c.revision, c.resource, c.key) == wanted for c in changes):
                yield f"{_who(answer)} was acknowledged at version {answer.revision}, and etcd has nothing of it there"


class CachesTrue(Invariant):
    """A list from a server's watch cache is what etcd had at that version."""

    name = "watch caches equal to etcd"
    looked = 0

    def __init__(self) -> None:
        self._waiting: deque[Listed] = deque(maxlen=WAITING)

    def observed(self, fact: Fact, history: History) -> Iterable[str]:
        if isinstance(fact, Listed):
            self._waiting.append(fact)
        return self._due(history, history.revision - 1)

    def changed(self, change: Change, history: History) -> Iterable[str]:
        return self._due(history, change.revision - 1) if self._waiting else ()

    def finished(self, history: History) -> Iterable[str]:
        return self._due(history, history.revision)

    def _due(self, history: History, until: int) -> Iterator[str]:
        for listed in [one for one in self._waiting if one.revision <= until]:
            self._waiting.remove(listed)
            held = {key: int(meta.resource_version(o)) for key, o in history.items(listed.resource)}
            changes = history.since(listed.revision)
            if changes is None:
                continue
            self.looked += 1
            for change in changes:
                if change.resource == listed.resource:
                    if change.kind == ADDED or change.old is None:
                        held.pop(change.key, None)
                    else:
                        held[change.key] = int(meta.resource_version(change.old))
            for key in sorted(held.keys() | listed.versions.keys()):
                if held.get(key) != listed.versions.get(key):
                    yield (
                        f"{listed.server} lists {listed.resource} {key} at version {listed.revision} as of "
                        f"{listed.versions.get(key)}, and etcd had {held.get(key)}"
                    )


def _who(answer: Answer) -> str:
    what = f"{answer.verb} {answer.resource} {answer.key}".rstrip()
    return f"{what} of {answer.client}" + (f" by {answer.server}" if answer.server else "")
