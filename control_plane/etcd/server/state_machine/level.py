"""The cluster's level: what its log may have in it, since every member can read it.

It is kept in the store, as etcd's cluster version is.

A level is the number of a format of members' data (`storage.formats`):

    1   what all builds read
    2   CONVOY: many transactions in one entry

It only rises, by an entry of the log, when the leader has heard from every member that it can read the next. A build
that cannot read a level stops at the entry that raises it, and refuses a directory that is marked with it.
"""

from collections.abc import Callable, Iterable

from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.proto.rayplane.v1 import raft_pb2 as wire
from rayplane.storage.formats import FIRST, MEMBER, Mark, check
from rayplane.storage.keyvalue import Backend

#: The highest that this build reads and writes.
LEVEL = MEMBER.newest
_KEY = b"level"
_NEEDS = {Kind.CONVOY: 2}


def told_level(level: int) -> int:
    """The level of a member that told this number: builds before levels tell 0."""
    return max(level, FIRST)


def common_level(told: Iterable[int | None]) -> int:
    """The level that all can read, of what each member tells; None for one that does not answer: nothing can rise."""
    levels = list(told)
    known = [told_level(level) for level in levels if level is not None]
    return min(known, default=FIRST) if len(known) == len(levels) else FIRST


class Level:
    """The level in force; every change is written through to the backend. `build`: that of this member."""

    def __init__(self, backend: Backend, build: str) -> None:
        self._build = build
        self.on_raised: list[Callable[[], None]] = []
        self._backend = backend
        self.now = FIRST
        self.load()

    def load(self) -> None:
        """Read it anew: at start, and after the store was replaced. Raises NewerFormat."""
        held = self._backend.get("meta", _KEY)
        self._take(wire.Level.FromString(held) if held else wire.Level(level=FIRST))

    def apply(self, request: wire.Level) -> None:
        """Raise it. Raises NewerFormat for a level that this build cannot read."""
        if request.level <= self.now:
            return
        self._take(request)
        self._backend.put("meta", _KEY, request.SerializeToString())
        for told in self.on_raised:
            told()

    def admits(self, kind: Kind) -> bool:
        """Whether all members can read an entry of this kind."""
        return self.now >= _NEEDS.get(kind, FIRST)

    def _take(self, held: wire.Level) -> None:
        check(MEMBER, Mark(held.level, held.build), where="the log", build=self._build)
        self.now = held.level
