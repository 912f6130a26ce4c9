"""Watchers, in groups: those of one stream that want the same, and the changes that wait for them.

A thousand watchers on one prefix get the same events: what is done per event is done per group, and what is left per
watcher is a few bytes of its answer.
"""

from collections.abc import Hashable, Iterator
from typing import Protocol, TypeVar

from rayplane.proto.etcd.rpc_pb2 import WatchCreateRequest
from rayplane.storage.key_ranges import FROM_KEY, prefix_end
from rayplane.storage.mvcc import Change

#: What an event takes besides its keys and values.
EVENT_BYTES = 64
_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Stream(Protocol):
    """The stream of one client, to which events go."""

    seq: int

    def offer(self, batch: "Batch") -> None:
        """A revision's events for one group."""

    def catch_up(self, watcher: "Watcher") -> None:
        """The watcher must read its past."""


class Watcher:
    """One watch of a stream."""

    __slots__ = (
        "end",
        "filters",
        "fragment",
        "group",
        "id",
        "key",
        "next_revision",
        "prev_kv",
        "progress_notify",
        "quiet",
        "removed",
        "seq",
        "stream",
    )

    def __init__(self, request: WatchCreateRequest, watch_id: int, stream: "Stream", seq: int) -> None:
        self.id = watch_id
        self.key = request.key or b"\0"
        # b"" is the single key; b"\0" is every key from `key` on.
        self.end = request.range_end
        self.filters = frozenset(int(f) for f in request.filters)
        self.prev_kv = request.prev_kv
        self.progress_notify = request.progress_notify
        self.fragment = request.fragment
        self.stream = stream
        self.seq = seq
        self.removed = False
        self.next_revision = 0
        # Where it gets events as they are applied; None while it catches up.
        self.group: WatchGroup | None = None
        # Whether nothing was sent since the last progress round.
        self.quiet = True

    @property
    def synced(self) -> bool:
        return self.group is not None

    @property
    def wants(self) -> tuple[bytes, bytes, tuple[int, ...], bool, bool]:
        """Watchers of a stream that want the same get the same events."""
        return self.key, self.end, tuple(sorted(self.filters)), self.prev_kv, self.fragment


class WatchGroup:
    """Synced watchers of one stream that want the same."""

    __slots__ = ("filters", "members", "pending", "prev_kv", "since", "stream")

    def __init__(self, first: Watcher, since: int) -> None:
        self.stream = first.stream
        self.filters = first.filters
        self.prev_kv = first.prev_kv
        # They want nothing before this revision.
        self.since = since
        self.members: dict[int, Watcher] = {}
        # The last of its batches in the stream's queue, to which changes may be added; None when there is none.
        self.pending: Batch | None = None


class Batch:
    """Changes that wait for a client, the watchers that want them, and about how many bytes they take."""

    __slots__ = ("changes", "fan_out", "group", "revision", "size", "targets")

    def __init__(
        self, targets: tuple[Watcher, ...], changes: list[Change], revision: int, group: WatchGroup | None = None
    ) -> None:
        self.targets = targets
        self.changes = changes
        self.size = sum(_size(c, targets[0]) for c in changes)
        # The watchers have everything up to here with this batch.
        self.revision = revision
        self.group = group
        # How many watchers, of all streams, get the same revision.
        self.fan_out = len(targets)

    def add(self, change: Change) -> None:
        """One more change of the same revision."""
        self.changes.append(change)
        self.size += _size(change, self.targets[0])

    def extend(self, later: "Batch") -> None:
        """A later revision for the same watchers."""
        self.changes += later.changes
        self.size += later.size
        self.revision = later.revision
        self.fan_out = max(self.fan_out, later.fan_out)


def _size(change: Change, watcher: Watcher) -> int:
    """About the bytes that a change takes; reads the value before, where it is wanted, while it is there."""
    size = EVENT_BYTES + len(change.record)
    return size + len(change.previous or b"") if watcher.prev_kv else size


_Groups = dict[tuple[Hashable, ...], WatchGroup]


class WatchIndex:
    """Groups of synced watchers by key and by range.

    Ranges that are prefixes (nearly all are) are found by the event key's own prefixes, one look-up per distinct
    prefix length; other ranges are few and are compared one by one.
    """

    def __init__(self) -> None:
        self._keys: dict[bytes, _Groups] = {}
        self._prefixes: dict[int, dict[bytes, _Groups]] = {}
        self._ranges: dict[tuple[bytes, bytes], _Groups] = {}

    def add(self, watcher: Watcher, notified: int) -> None:
        """`notified`: the last revision that was handed out."""
        if not watcher.end:
            groups = self._keys.setdefault(watcher.key, {})
        elif watcher.end == prefix_end(watcher.key):
            groups = self._prefixes.setdefault(len(watcher.key), {}).setdefault(watcher.key, {})
        else:
            groups = self._ranges.setdefault((watcher.key, watcher.end), {})
        name = _name(watcher)
        since = watcher.next_revision if watcher.next_revision > notified + 1 else 0
        if since:
            # It waits for a revision to come: alone.
            name = (*name, watcher.seq)
        group = groups.get(name)
        if group is None:
            group = groups[name] = WatchGroup(watcher, since)
        group.members[watcher.seq] = watcher
        group.pending = None  # it was not there for what waits already
        watcher.group = group

    def remove(self, watcher: Watcher) -> None:
        group = watcher.group
        assert group is not None
        watcher.group = None
        group.pending = None
        del group.members[watcher.seq]
        if group.members:
            return
        name = (*_name(watcher), watcher.seq) if group.since else _name(watcher)
        if not watcher.end:
            _drop(self._keys, watcher.key, name)
        elif watcher.end == prefix_end(watcher.key):
            by_prefix = self._prefixes[len(watcher.key)]
            _drop(by_prefix, watcher.key, name)
            if not by_prefix:
                del self._prefixes[len(watcher.key)]
        else:
            _drop(self._ranges, (watcher.key, watcher.end), name)

    def matching(self, key: bytes) -> Iterator[WatchGroup]:
        if found := self._keys.get(key):
            yield from found.values()
        for length, by_prefix in self._prefixes.items():
            if found := by_prefix.get(key[:length]):
                yield from found.values()
        for (start, end), groups in self._ranges.items():
            if start <= key and (end == FROM_KEY or key < end):
                yield from groups.values()

    def all(self) -> list[Watcher]:
        each = [*self._keys.values(), *self._ranges.values()]
        for by_prefix in self._prefixes.values():
            each.extend(by_prefix.values())
        return [w for groups in each for group in groups.values() for w in group.members.values()]


def _name(watcher: Watcher) -> tuple[Hashable, ...]:
    return (watcher.stream.seq, *watcher.wants[2:])


def _drop(groups: dict[_K, dict[tuple[Hashable, ...], _V]], key: _K, name: tuple[Hashable, ...]) -> None:
    group = groups[key]
    del group[name]
    if not group:
        del groups[key]
