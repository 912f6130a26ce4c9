"""The ledger of a REST client: what it was told, and what it may be told next. Pure.

One client writes objects that nobody else touches, one request after the other; each object has an id that the client
gave it. A write is certain, refused, or of unknown fate: its answer was lost, or says that nobody knows. An unknown one
may be done now, later or never, so its object is written no more, and its outcome is either-or for good.

Held to (`violations`): what was acknowledged is there for every later read; what was refused is not; one POST makes one
object; a list is never older than what was seen before, whatever version was asked for but exactly that; a watch tells
every acknowledged write once, in order, over all its connections, and begins with nothing older.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Shown(NamedTuple):
    """An object of an answer."""

    id: str
    name: str
    value: str
    version: int


@dataclass(slots=True)
class Entry:
    """One object. `value`: by the last certain answer, None when it is not there."""

    id: str
    name: str = ""
    value: str | None = None
    doubts: list[str | None] = field(default_factory=list)
    """What it may also hold, by writes of unknown fate."""
    before: str | None = None
    """What it held when it was deleted: the answer tells no version, so an aged read may show it still."""

    @property
    def possible(self) -> list[str | None]:
        return [self.value, *self.doubts]


class Ledger:
    """The record of answers, see the module. Resource versions are numbers here: those of one etcd."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.acknowledged = 0
        self.version = 0
        """The newest that an answer has shown."""
        self.watched = 0
        """The newest that the watch has told."""
        self._expected: dict[tuple[str, int], str] = {}  # (id, version) of acknowledged writes to the value
        self._view: dict[str, str] = {}  # by the watch: id to value
        self._told: dict[tuple[str, int], str] = {}
        self._forgotten = 0  # the watch was told that history up to here is gone

    # Writes, after their answer

    def wrote(self, entry: Entry, shown: Shown) -> list[str]:
        """A create or change was acknowledged with this object."""
        self.acknowledged += 1
        found = self._newer(f"a write of {entry.id}", shown.version)
        self.version = max(self.version, shown.version)
        self.entries[entry.id] = entry
        if shown.id != entry.id or (entry.name and shown.name != entry.name):
            found.append(f"a write of {entry.id} was answered with {shown.name} ({shown.id})")
        entry.name, entry.value = shown.name, shown.value
        self._expected[entry.id, shown.version] = shown.value
        return found

    def deleted(self, entry: Entry) -> None:
        """A deletion was acknowledged."""
        self.acknowledged += 1
        entry.before, entry.value = entry.value, None

    def unknown(self, entry: Entry, value: str | None) -> None:
        """Nobody knows whether the write of `value` (None: the deletion) is done or will be."""
        self.entries[entry.id] = entry
        entry.doubts.append(value)

    # Reads

    def read(self, entry: Entry, shown: Shown | None, *, aged: bool = False) -> list[str]:
        """A read was answered; None: it is not there. `aged`: it asked for nothing newer than `version`."""
        value = shown.value if shown is not None else None
        if value not in entry.possible and not (aged and entry.before is not None and value == entry.before):
            return [f"{entry.id} reads as {value!r}, acknowledged was {entry.value!r}{_doubts(entry)}"]
        return []

    def listed(self, version: int, objects: Iterable[Shown], *, aged: bool = False) -> list[str]:
        """A list of everything was answered at this version; `aged` as for `read`."""
        found = []
        if version < self.version:
            found.append(f"a list was answered at version {version} after {self.version} was seen")
        self.version = max(self.version, version)
        seen: dict[str, Shown] = {}
        for shown in objects:
            if shown.id in seen:
                found.append(f"one request made two objects: {seen[shown.id].name} and {shown.name} ({shown.id})")
            seen[shown.id] = shown
            if shown.id not in self.entries:
                found.append(f"a list shows {shown.name} ({shown.id}), which was never made or was refused")
        for entry in self.entries.values():
            found += self.read(entry, seen.get(entry.id), aged=aged)
        return found

    def listed_at(self, asked: int, version: int, objects: Iterable[Shown]) -> list[str]:
        """A list of everything as it was at exactly the version that was asked for was answered."""
        found = [] if version == asked else [f"a list at exactly {asked} was answered at version {version}"]
        for shown in objects:
            if shown.version > asked:
                found.append(f"a list at exactly {asked} shows {shown.id} of version {shown.version}")
        return found

    # The watch

    def told(self, kind: str, shown: Shown) -> list[str]:
        """An event: ADDED, MODIFIED or DELETED."""
        found = self._newer_than_watched(kind, shown)
        self.watched = max(self.watched, shown.version)
        if (kind == "ADDED") == (shown.id in self._view):
            found.append(f"the watch tells {kind} of {shown.id}, which it {'has' if kind == 'ADDED' else 'has not'}")
        if kind == "DELETED":
            self._view.pop(shown.id, None)
        else:
            self._view[shown.id] = shown.value
            self._told[shown.id, shown.version] = shown.value
        return found

    def bookmark(self, version: int) -> list[str]:
        """The watch says that it has told everything up to this version."""
        found = [f"a bookmark goes back from {self.watched} to {version}"] if version < self.watched else []
        self.watched = max(self.watched, version)
        return found + self.missed(self.watched)

    def restarted(self, version: int, objects: Iterable[Shown], *, floor: int = 0) -> list[str]:
        """The watch begins anew, with all there is at this version; `floor` had been seen when that was asked for."""
        self._forgotten = self.watched = version
        self._view = {o.id: o.value for o in objects}
        return [f"a watch began at version {version} after {floor} was seen"] if version < floor else []

    def missed(self, until: int) -> list[str]:
        """Acknowledged writes up to this version that the watch should have told and did not."""
        due = [key for key in self._expected if key[1] <= until]
        found = []
        for key in due:
            value = self._expected.pop(key)
            told = self._told.pop(key, None)
            if key[1] > self._forgotten and told != value:
                found.append(f"the watch did not tell of {key[0]} at version {key[1]}")
        return found

    def finished(self) -> list[str]:
        """At the end, once the watch has come as far as `version`: nothing is missing, nothing is left over."""
        found = self.missed(self.version)
        for entry in self.entries.values():
            if self._view.get(entry.id) not in entry.possible:
                found.append(f"after all its events the watch has {entry.id} as {self._view.get(entry.id)!r}")
        return found

    def _newer(self, what: str, version: int) -> list[str]:
        return [f"{what} got version {version} after {self.version} was seen"] if version <= self.version else []

    def _newer_than_watched(self, kind: str, shown: Shown) -> list[str]:
        if shown.version > self.watched:
            return []
        return [f"the watch tells {kind} of {shown.id} at version {shown.version} after {self.watched}"]


def _doubts(entry: Entry) -> str:
    return f", possible {entry.doubts}" if entry.doubts else ""
