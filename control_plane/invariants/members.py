"""Invariants of etcd: one leader in a term, equal data at equal revisions, and what one client's keys must show."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from rayplane.control_plane.invariants.history import Fact, Hashed, History, Leads
from rayplane.control_plane.invariants.judge import Invariant

REMEMBERED = 1000
"""Terms, and revisions, of which what was told first is remembered."""

K = TypeVar("K")
V = TypeVar("V")


class OneLeader(Invariant):
    """A term has at most one leader. Source: the Raft paper, section 5.2, "Election Safety"."""

    name = "election safety"
    looked = 0

    def __init__(self) -> None:
        self._leaders: dict[int, str] = {}

    def observed(self, fact: Fact, history: History) -> Iterator[str]:
        if isinstance(fact, Leads):
            self.looked += 1
            other = _first(self._leaders, fact.term, fact.member)
            if other != fact.member:
                yield f"{fact.member} and {other} both lead in term {fact.term}"


class HashesEqual(Invariant):
    """Members that have the same revision, compacted up to the same, have the same data."""

    name = "hashes equal at equal revisions"
    looked = 0

    def __init__(self) -> None:
        self._hashes: dict[tuple[int, int], Hashed] = {}

    def observed(self, fact: Fact, history: History) -> Iterator[str]:
        if isinstance(fact, Hashed):
            first = _first(self._hashes, (fact.revision, fact.compacted), fact)
            self.looked += first.member != fact.member
            if first.hash != fact.hash:
                yield f"{first.member} and {fact.member} hold different data at revision {fact.revision}"


def _first(known: dict[K, V], key: K, value: V) -> V:
    """What was told first of a key; the oldest are forgotten."""
    found = known.setdefault(key, value)
    while len(known) > REMEMBERED:
        del known[next(iter(known))]
    return found


@dataclass(slots=True)
class _Write:
    """A write of the client: its revision once it was acknowledged."""

    value: bytes
    revision: int = 0
    told: int = 0
    """The revision under which the watch told it."""


class KeyLedger:
    """The record of one client of etcd that writes each key once. Every method gives the violations that it found.

    A client never sees revisions run backwards; a write it was told of is there when it reads, until it is retired; a
    watch tells every write once, in order. A write without an answer may be there or not.
    """

    def __init__(self) -> None:
        self.revision = 0
        """The newest that the client has seen."""
        self.watched = 0
        """The newest that its watch has told."""
        self.acknowledged = 0
        self._writes: dict[bytes, _Write] = {}

    def start_after(self, revision: int) -> None:
        """What is older is nothing of this client's."""
        self.revision = self.watched = revision

    def begin(self, key: bytes, value: bytes) -> None:
        """The key is about to be written."""
        self._writes[key] = _Write(value)

    def wrote(self, key: bytes, revision: int, floor: int) -> list[str]:
        """It was acknowledged; `floor`: the newest revision that the client had seen when it began."""
        self._writes[key].revision = revision
        self.acknowledged += 1
        found = [f"a write got revision {revision} after the client had seen {floor}"] if revision <= floor else []
        self.revision = max(self.revision, revision)
        return found

    def read(self, key: bytes, values: Iterable[bytes], revision: int, floor: int) -> list[str]:
        """The key alone was read at a revision."""
        write, found = self._writes[key], self._seen(revision, floor)
        if write.revision and list(values) != [write.value]:
            found.append(f"{key.decode()} was acknowledged at revision {write.revision} but cannot be read")
        return found

    def wanted(self) -> list[bytes]:
        """Keys that must be there for whoever reads from now on."""
        return [key for key, write in self._writes.items() if write.revision]

    def listed(
        self, wanted: Iterable[bytes], there: Mapping[bytes, tuple[bytes, int]], revision: int, floor: int
    ) -> list[str]:
        """All keys were read: value and revision of each. `wanted`: what had to be there when that was asked for."""
        found = self._seen(revision, floor)
        for key in wanted:
            write = self._writes.get(key)
            if write is not None and there.get(key) != (write.value, write.revision):
                lost = f"the acknowledged write {key.decode()} at revision {write.revision} is lost"
                found.append(f"{lost}: found {there.get(key)}")
        return found

    def told(self, key: bytes, revision: int) -> list[str]:
        """The watch told of a write of the key."""
        found = []
        if revision <= self.watched:
            found.append(f"the watch told of revision {revision} after {self.watched}")
        self.watched = max(self.watched, revision)
        write = self._writes.get(key)
        if write is not None:
            if write.told and write.told != revision:
                found.append(f"the watch told of {key.decode()} at {write.told} and again at {revision}")
            write.told = write.told or revision
        return found

    def missed(self) -> list[str]:
        """Acknowledged writes that the watch, which has come to the end, did not tell under their revision."""
        return [
            f"the watch told of {key.decode()} at revision {write.told}, not {write.revision}"
            for key, write in self._writes.items()
            if write.revision and write.told != write.revision
        ]

    def retire(self, kept: int) -> list[bytes]:
        """The oldest writes beyond so many, as far as the watch has told them: the client may delete them now."""
        old = [key for key, write in self._writes.items() if not write.revision or write.told == write.revision]
        retired = old[: max(0, len(self._writes) - kept)]
        for key in retired:
            del self._writes[key]
        return retired

    def _seen(self, revision: int, floor: int) -> list[str]:
        found = [f"a read was answered at revision {revision} after the client saw {floor}"] if revision < floor else []
        self.revision = max(self.revision, revision)
        return found
