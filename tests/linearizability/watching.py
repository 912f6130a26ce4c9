"""Watch histories against the guarantees of etcd's watch API (etcd documentation, "API guarantees").

Ordered, unique, atomic per revision, reliable, resumable, bookmarkable; and filters and previous values are right.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from tests.linearizability.history import Change, Truth


class Wanted(NamedTuple):
    """What a watch asks for. `end` as in etcd: b"" is the one key."""

    key: bytes
    end: bytes = b""
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False

    def matches(self, change: Change) -> bool:
        inside = self.key <= change.key < self.end if self.end else change.key == self.key
        return inside and not (self.no_delete if change.kv is None else self.no_put)


class Batch(NamedTuple):
    """One answer with events: header's revision, (revision, change) pairs; whether a fragment follows."""

    header: int
    events: tuple[tuple[int, Change], ...]
    fragment: bool = False


class Progress(NamedTuple):
    """An answer without events: everything up to `revision` has come."""

    revision: int


@dataclass
class Segment:
    """What one watch saw from `start` on, over all its connections, until history was compacted under it."""

    wanted: Wanted
    start: int
    seen: list[Batch | Progress] = field(default_factory=list)
    complete: bool = False
    """It had time to come to the end of all changes."""

    @property
    def resume_at(self) -> int:
        """From where the next connection goes on."""
        last = self.start - 1
        for item in self.seen:
            last = max(last, item.revision if isinstance(item, Progress) else item.events[-1][0])
        return last + 1


def check_watch(segment: Segment, truth: Truth, *, compacted: int = 0) -> None:
    """`compacted`: the newest revision that any compaction asked for; previous values below may be missing."""
    wanted = segment.wanted
    expected = [
        (revision, change)
        for revision in sorted(truth.changes)
        if revision >= segment.start
        for change in truth.changes[revision]
        if wanted.matches(change)
    ]
    position, bookmark, open_revision = 0, segment.start - 1, 0
    for item in segment.seen:
        if isinstance(item, Progress):
            due = expected[position][0] if position < len(expected) else item.revision + 1
            assert due > item.revision, f"told of {item.revision}, but {expected[position]} had not come: {wanted}"
            bookmark = max(bookmark, item.revision)
            continue
        assert item.events, "an empty batch"
        first, last = item.events[0][0], item.events[-1][0]
        assert first > bookmark, f"revision {first} after the word that all up to {bookmark} had come: {wanted}"
        assert last <= item.header, f"revision {last} under a header of {item.header}"
        for revision, change in item.events:
            assert position < len(expected), f"nothing like {revision} {change} ever happened: {wanted}"
            due_revision, due_change = expected[position]
            assert revision == due_revision and change.key == due_change.key, (
                f"{revision} {change.key!r} instead of {due_revision} {due_change.key!r}: {wanted}"
            )
            _check_content(wanted, change, due_change, compacted)
            position += 1
        more = position < len(expected) and expected[position][0] == last
        assert item.fragment or not more, f"revision {last} came in pieces: {wanted}"
        open_revision = last if item.fragment else 0
    assert not open_revision, f"the rest of revision {open_revision} never came"
    if segment.complete:
        assert position == len(expected), f"{expected[position]} never came: {wanted}"


def _check_content(wanted: Wanted, change: Change, due: Change, compacted: int) -> None:
    assert (change.kv, change.lease) == (due.kv, due.lease), f"{change} instead of {due}"
    if not wanted.prev_kv:
        assert change.prev is None, f"a previous value that nobody asked for: {change}"
    elif change.prev is None and due.prev is not None:
        assert due.prev.mod <= compacted, f"the previous value is missing: {change}, not {due}"
    else:
        assert change.prev == due.prev, f"{change} instead of {due}"
