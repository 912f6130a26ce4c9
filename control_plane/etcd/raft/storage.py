"""The stable part of the log, in memory: what the driver has made durable since the last snapshot.

Owns entries, the newest snapshot, hard state and the configuration a restart begins with. Writes
nothing to disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rayplane.control_plane.etcd.raft.errors import (
    Compacted,
    InvariantViolated,
    SnapshotOutOfDate,
    SnapshotUnavailable,
    Unavailable,
    invariant,
)
from rayplane.control_plane.etcd.raft.types import ConfState, Entry, HardState, Snapshot, payload


class MemoryStorage:
    """The log in memory, built empty by a new member, from its disk by a restarted one.

    `entries` must be contiguous and start at most one after `snapshot.index`. `conf_state` is the
    configuration as of `Config.applied` (later changes are in the log and come back as committed
    entries); it defaults to the snapshot's.
    """

    __slots__ = ("_entries", "_offset", "_offset_term", "_snapshot", "conf_state", "hard_state", "payload_bytes")

    def __init__(
        self,
        *,
        entries: Iterable[Entry] = (),
        snapshot: Snapshot | None = None,
        hard_state: HardState | None = None,
        conf_state: ConfState | None = None,
    ) -> None:
        self._snapshot = snapshot or Snapshot(0, 0, ConfState())
        self._offset = self._snapshot.index
        self._offset_term = self._snapshot.term
        self._entries: list[Entry] = []
        self.payload_bytes = 0  # of all entries held
        self.hard_state = hard_state or HardState()
        self.conf_state = conf_state if conf_state is not None else self._snapshot.conf_state
        self.append([entry for entry in entries if entry.index > self._offset])

    def first_index(self) -> int:
        """Index of the first entry still held (last_index + 1 when there is none)."""
        return self._offset + 1

    def last_index(self) -> int:
        """Index of the last entry, or of the snapshot when no entry follows it."""
        return self._offset + len(self._entries)

    def term(self, index: int) -> int:
        """Term of the entry at `index`, from first_index - 1 on. Compacted or Unavailable outside."""
        offset = self._offset
        if index > offset:
            position = index - offset - 1
            if position >= len(self._entries):
                raise Unavailable(f"index {index} is after the last index {self.last_index()}")
            return self._entries[position].term
        if index == offset:
            return self._offset_term
        raise Compacted(f"index {index} is before the first index {self.first_index()}")

    def entries(self, low: int, high: int) -> list[Entry]:
        """Entries low <= index < high. Compacted or Unavailable when they are not all there."""
        offset = self._offset
        if low <= offset:
            raise Compacted(f"index {low} is before the first index {self.first_index()}")
        if high > self.last_index() + 1:
            raise Unavailable(f"index {high - 1} is after the last index {self.last_index()}")
        return self._entries[low - offset - 1 : high - offset - 1]

    def snapshot(self) -> Snapshot:
        """The newest snapshot; SnapshotUnavailable when there has been none."""
        if self._snapshot.index == 0:
            raise SnapshotUnavailable("no snapshot was created yet: call create_snapshot first")
        return self._snapshot

    def set_hard_state(self, hard_state: HardState) -> None:
        """Record what was made durable."""
        self.hard_state = hard_state

    def append(self, entries: Sequence[Entry]) -> None:
        """Add durable entries; the first one replaces all from its index on. Entries before the
        start are skipped.
        """
        if not entries:
            return
        offset = self._offset
        if entries[-1].index <= offset:
            return
        if entries[0].index <= offset:
            entries = entries[offset + 1 - entries[0].index :]
        position = entries[0].index - offset - 1
        held = len(self._entries)
        if position > held:
            raise InvariantViolated(f"gap in the log: {entries[0].index} after {self.last_index()}")
        invariant(entries[-1].index - entries[0].index == len(entries) - 1, "entries are not contiguous")
        if position < held:
            self._drop(slice(position, held))
        self._entries.extend(entries)
        self.payload_bytes += payload(entries)

    def _drop(self, part: slice) -> None:
        self.payload_bytes -= payload(self._entries[part])
        del self._entries[part]

    def create_snapshot(self, index: int, conf_state: ConfState, data: bytes = b"") -> Snapshot:
        """Remember a snapshot of the state machine as of applied `index`; compact() may then go up
        to it.

        SnapshotOutOfDate when `index` is older than the held one; Unavailable when it is not in the
        log.
        """
        if index < self._snapshot.index:
            raise SnapshotOutOfDate(f"snapshot {index} is older than {self._snapshot.index}")
        self._snapshot = Snapshot(index, self.term(index), conf_state, data)
        return self._snapshot

    def compact(self, index: int) -> None:
        """Drop the entries up to and including `index`; keep some for slow members, they are
        cheaper than snapshots.

        Compacted when that was done already; Unavailable when `index` is after the log's end.
        """
        if index <= self._offset:
            raise Compacted(f"index {index} is compacted already")
        invariant(
            index <= self._snapshot.index,
            f"compaction of {index} beyond the snapshot at {self._snapshot.index}: create_snapshot first",
        )
        self._offset_term = self.term(index)
        self._drop(slice(index - self._offset))
        self._offset = index

    def compaction_point(self, applied: int, *, keep_entries: int, keep_bytes: int) -> int:
        """Where to compact to so that at most so much of what is applied stays for slow members."""
        index, size = applied, 0
        while index > self._offset and applied - index < keep_entries:
            size += len(self._entries[index - self._offset - 1].data)
            if size > keep_bytes:
                break
            index -= 1
        return index

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Start anew from a snapshot received from the leader; the whole log is dropped."""
        if snapshot.index <= self._snapshot.index:
            raise SnapshotOutOfDate(f"snapshot {snapshot.index} is not newer than {self._snapshot.index}")
        self._snapshot = snapshot
        self._offset, self._offset_term = snapshot.index, snapshot.term
        self._entries = []
        self.payload_bytes = 0
        self.conf_state = snapshot.conf_state
