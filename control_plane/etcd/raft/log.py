"""The whole log as the protocol sees it: the stable part in storage, the unstable tail here.

Invariants: storage holds every index < `offset`; `unstable` is contiguous from `offset`;
applied <= committed <= last_index; nothing committed is ever replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rayplane.control_plane.etcd.raft.errors import Compacted, InvariantViolated, Unavailable, invariant
from rayplane.control_plane.etcd.raft.storage import MemoryStorage
from rayplane.control_plane.etcd.raft.types import Entry, EntryType, Snapshot, payload

CONF_CHANGE = EntryType.CONF_CHANGE
_UNLIMITED = 1 << 62
#: Entries looked at in one piece where a long stretch of the log is searched.
_PAGE = 4096


def limit_size(entries: Sequence[Entry], max_size: int) -> Sequence[Entry]:
    """The longest prefix whose data is at most `max_size` bytes, but never less than one entry."""
    if payload(entries) <= max_size:
        return entries
    size = 0
    for position, entry in enumerate(entries):
        size += len(entry.data)
        if size > max_size and position:
            return entries[:position]
    return entries


class RaftLog:
    """Indexes are 1-based; index 0 has term 0."""

    __slots__ = ("applied", "committed", "offset", "snapshot", "storage", "unstable")

    def __init__(self, storage: MemoryStorage, applied: int) -> None:
        self.storage = storage
        self.unstable: list[Entry] = []
        self.offset = storage.last_index() + 1
        self.snapshot: Snapshot | None = None  # received, not yet persisted
        first = storage.first_index()
        self.applied = max(applied, first - 1)
        self.committed = max(storage.hard_state.commit, first - 1)
        self.committed = max(self.committed, self._proven_committed())
        invariant(
            self.committed <= storage.last_index(),
            f"commit {self.committed} is after the last entry {storage.last_index()}: the log lost entries",
        )
        invariant(
            self.applied <= self.committed,
            f"applied {self.applied} is after commit {self.committed}: the log lost a hard state",
        )

    def _proven_committed(self) -> int:
        """Index of the last membership change but one, 0 when there are fewer than two after the commit index.

        A leader appends a change only when it has applied the one before, so that of two changes in a log the first is
        committed, even where a crash lost the word of it. A voter that did not know could win an election by counting
        a majority of a configuration two changes old, which need not meet the newest one's.
        """
        changes = [e.index for e in self.scan(self.committed + 1, self.last_index + 1) if e.type is CONF_CHANGE]
        return changes[-2] if len(changes) > 1 else 0

    def scan(self, low: int, high: int) -> Iterator[Entry]:
        """Entries low <= index < high, read in pieces."""
        for start in range(low, high, _PAGE):
            yield from self.entries(start, min(start + _PAGE, high), _UNLIMITED)

    def has_unapplied_conf_change(self) -> bool:
        """Whether a membership change is committed that the state machine has not seen yet."""
        low = max(self.applied + 1, self.first_index)
        return any(entry.type is CONF_CHANGE for entry in self.scan(low, self.committed + 1))

    @property
    def first_index(self) -> int:
        return self.snapshot.index + 1 if self.snapshot else self.storage.first_index()

    @property
    def last_index(self) -> int:
        return self.offset + len(self.unstable) - 1

    def last_term(self) -> int:
        return self.unstable[-1].term if self.unstable else self.term(self.offset - 1)

    def term(self, index: int) -> int:
        """Compacted or Unavailable when the index is outside of first_index - 1 .. last_index."""
        position = index - self.offset
        if position >= 0:
            if position >= len(self.unstable):
                raise Unavailable(f"index {index} is after the last index {self.last_index}")
            return self.unstable[position].term
        if self.snapshot is not None:
            if index == self.snapshot.index:
                return self.snapshot.term
            raise Compacted(f"index {index} is before the pending snapshot {self.snapshot.index}")
        return self.storage.term(index)

    def matches(self, index: int, term: int) -> bool:
        """The consistency check of AppendEntries (§5.3): the same index and term, so the same log up to there."""
        try:
            return self.term(index) == term
        except (Compacted, Unavailable):
            return False

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Whether a log ending so is at least as up to date as this one (§5.4.1)."""
        last_term = self.last_term()
        return term > last_term or (term == last_term and index >= self.last_index)

    def entries(self, low: int, high: int, max_size: int) -> tuple[Entry, ...]:
        """Entries low <= index < high, cut to `max_size` bytes of data. Compacted when low is."""
        if low >= high:
            return ()
        offset = self.offset
        if low >= offset:
            found: Sequence[Entry] = self.unstable[low - offset : high - offset]
        else:
            if self.snapshot is not None:
                raise Compacted(f"index {low} is before the pending snapshot")
            found = self.storage.entries(low, min(high, offset))
            if high > offset:
                found = [*found, *self.unstable[: high - offset]]
        return tuple(limit_size(found, max_size))

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries at the end, or replace the uncommitted tail from entries[0].index on."""
        first = entries[0].index
        if first <= self.committed:
            raise InvariantViolated(f"entry {first} would replace committed {self.committed}")
        if first < self.offset:
            self.offset = first
            self.unstable = list(entries)
            return
        position = first - self.offset
        if position < len(self.unstable):
            del self.unstable[position:]
        self.unstable.extend(entries)

    def maybe_append(self, prev_index: int, prev_term: int, entries: Sequence[Entry]) -> bool:
        """Follower's append (§5.3): False when the previous entry does not match. Skips what is
        there already.
        """
        if not self.matches(prev_index, prev_term):
            return False
        if entries and entries[0].index > self.last_index:
            self.append(entries)
            return True
        for position, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                self.append(entries[position:])
                break
        return True

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The largest (index', its term) with index' <= index and a term <= `term`: where to retry a refused append
        (§5.3, end).

        Skips a whole run of a foreign term in one round trip. The term is 0 when compaction hides it.
        """
        index = min(index, self.last_index)
        while index > 0:
            try:
                own = self.term(index)
            except Compacted:
                return index, 0
            if own <= term:
                return index, own
            index -= 1
        return 0, 0

    def commit_to(self, index: int) -> bool:
        """Move the commit index forward; True when it moved."""
        if index <= self.committed:
            return False
        if index > self.last_index:
            raise InvariantViolated(
                f"commit {index} is after the last index {self.last_index}: this log lost acknowledged entries"
            )
        self.committed = index
        return True

    def has_committed_entries(self) -> bool:
        """Whether committed entries that are durable here wait to be handed out."""
        return self.applied < self.committed and self.applied < self.offset - 1 and self.snapshot is None

    def next_committed(self, max_size: int) -> tuple[Entry, ...]:
        """Committed entries after `applied` that are durable here."""
        if not self.has_committed_entries():
            return ()
        return self.entries(self.applied + 1, min(self.committed + 1, self.offset), max_size)

    def applied_to(self, index: int) -> None:
        if not self.applied <= index <= self.committed:
            raise InvariantViolated(f"applied {index} outside of {self.applied}..{self.committed}")
        self.applied = index

    def stable_to(self, index: int, term: int) -> bool:
        """The driver made the tail up to `index` durable; ignored (False) when it was replaced
        meanwhile.
        """
        position = index - self.offset
        if not 0 <= position < len(self.unstable) or self.unstable[position].term != term:
            return False
        if self.storage.last_index() < index:
            raise InvariantViolated(
                f"entry {index} was declared durable but is not in storage: append it before advance()"
            )
        del self.unstable[: position + 1]
        self.offset = index + 1
        return True

    def snapshot_stable(self, index: int) -> None:
        """The driver persisted and restored the snapshot at `index`."""
        if self.snapshot is not None and self.snapshot.index == index:
            invariant(
                self.storage.first_index() == index + 1,
                "the snapshot is not in storage: call apply_snapshot before advance()",
            )
            self.snapshot = None

    def restore(self, snapshot: Snapshot) -> None:
        """Replace everything by a snapshot from the leader."""
        self.snapshot = snapshot
        self.unstable = []
        self.offset = snapshot.index + 1
        self.committed = snapshot.index
