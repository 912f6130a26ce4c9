"""Watchers of a cache: who is told what of a change.

Watchers of the same selection are a group. What a change means to them is worked out once and kept in one chain, in
which each has its place; what several take alike, and what is made of it for their clients, is shared. The chain's
links go when the last has passed them. A watcher that lags behind by too many is ended, so that the chain is bounded.
It takes what waits for it a little at a time: what is made of that for a client who reads nothing is all it holds.

To tell a thousand watchers costs many times what to make a change costs, and hardly more when several changes are told
at once. So a group rests after a round in proportion to what the round took, and what comes meanwhile is told together:
few are told at once, many are told of more at a time the busier the server is.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rayplane.control_plane.api.machinery.field_selectors import ALL_FIELDS, FieldSelector
from rayplane.control_plane.api.machinery.selectors import EVERYTHING, LabelSelector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.conversions import Unconverted
from rayplane.control_plane.apiserver.storage.entries import Entry

ADDED, MODIFIED, DELETED, BOOKMARK, ERROR = "ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"
# Groups are indexed by one field that they require, so that a change need not ask each of them: kubelets watch by
# node, waiters by name. This is where all others are.
EVERYONE = ("", "")
# A group rests so many times as long as telling all its watchers took, if that took longer than a moment.
_REST = 2.0
_REST_MAX_S = 0.2
_MOMENT_S = 0.002
# Of objects that a watcher takes together.
PIECE_BYTES = 64 * 1024

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Selection:
    """A reader's selection from the objects of a resource."""

    namespace: str = ""
    name: str = ""
    labels: LabelSelector = EVERYTHING
    fields: FieldSelector = ALL_FIELDS
    convert: Callable[[Object], Object] | None = None
    """Turns stored objects into the form that `fields` speaks of, where it is another."""

    @property
    def content_free(self) -> bool:
        """True when place and name alone decide."""
        return self.labels.everything and self.fields.everything

    def matches(self, entry: Entry) -> bool:
        if self.namespace and entry.namespace != self.namespace:
            return False
        if self.name and entry.name != self.name:
            return False
        if not self.labels.everything and not self.labels.matches(entry.labels):
            return False
        if not self.fields.everything:
            try:
                o = entry.object if self.convert is None else self.convert(entry.object)
                return self.fields.matches(o)
            except (AttributeError, KeyError, TypeError, ValueError):
                return False  # it has not the shape of its kind: written past the API
            except Unconverted:
                return False  # its definition has just changed, and whoever watches is about to be ended
        return True

    def buckets(self, *, nodes: bool) -> list[tuple[str, str]]:
        """The (field, value) pairs that find this selection in the index of watchers; `nodes`: by node too."""
        if self.name:
            return [("metadata.name", self.name)]
        for path in ("spec.nodeName", "metadata.name") if nodes else ("metadata.name",):
            values = self.fields.allowed(path) if self.convert is None else None
            if values is not None:
                return [(path, value) for value in values]
        return [EVERYONE]


class Event:
    """One change of one object, shared by all its watchers."""

    __slots__ = ("_lines", "entry", "previous", "type")

    def __init__(self, type_: str, entry: Entry, previous: Entry | None) -> None:
        self.type = type_
        self.entry = entry
        self.previous = previous
        self._lines: dict[str, bytes] | None = None

    @property
    def revision(self) -> int:
        return self.entry.revision

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self.entry.size

    def seen_by(self, selection: Selection) -> "tuple[str, Entry] | None":
        """What a watcher of `selection` is told: objects that enter or leave it are added or deleted."""
        if self.type == DELETED:
            assert self.previous is not None
            return (DELETED, self.entry) if selection.matches(self.previous) else None
        now = selection.matches(self.entry)
        before = self.previous is not None and selection.matches(self.previous)
        if now:
            return (MODIFIED if before else ADDED), self.entry
        if before:
            assert self.previous is not None
            return DELETED, self.previous.at(self.entry.revision)
        return None

    def line(self, type_: str, entry: Entry) -> bytes:
        """The JSON line of a watch stream; encoded once for all who see the same."""
        if entry is not self.entry:
            return line_of(type_, entry.json)
        if self._lines is None:
            self._lines = {}
        found = self._lines.get(type_)
        if found is None:
            found = self._lines[type_] = line_of(type_, entry.json)
        return found


def line_of(type_: str, json: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (type_.encode(), json)


Seen = tuple[str, Entry, Event | None]


class Shared(list[T], Generic[T]):
    """Items that are told to several alike. Never change them."""

    __slots__ = ("_forms",)

    def __init__(self, items: Iterable[T] = ()) -> None:
        super().__init__(items)
        self._forms: dict[str, Any] = {}

    def form(self, name: str, make: "Callable[[Shared[T]], R]") -> R:
        """What `make` makes of it, made once for each name."""
        if name not in self._forms:
            self._forms[name] = make(self)
        found: R = self._forms[name]
        return found


class _Link:
    """A change in the chain of a group, and what was taken last by who stood here."""

    __slots__ = ("following", "next", "number", "seen")

    def __init__(self, number: int, seen: Seen | None) -> None:
        self.number = number
        self.seen = seen
        self.next: _Link | None = None
        self.following: tuple[_Link, _Link, Shared[Seen]] | None = None

    def piece(self, last: "_Link") -> "tuple[_Link, Shared[Seen]]":
        """The first changes after this one, up to `last` at most, and the link where they end."""
        known = self.following
        # One that ended before what was its last then is full, and stays as it is whatever has come since.
        if known is None or (known[0] is not last and (known[0] is known[1] or known[1].number > last.number)):
            end = self
            changes: deque[Seen] = deque()
            size = 0
            while end is not last and size < PIECE_BYTES:
                assert end.next is not None
                end = end.next
                assert end.seen is not None
                changes.append(end.seen)
                size += end.seen[1].size
            known = self.following = last, end, Shared(changes)
        return known[1], known[2]


class Group:
    """All watchers of one selection."""

    def __init__(self, selection: Selection, limit: int, bytes_max: int) -> None:
        """`limit`: changes that may wait for one of them, of so many bytes in all: a large one counts as several."""
        self.selection = selection
        self.watchers: dict[Watcher, None] = {}
        self.last = _Link(0, None)
        self.waiting: dict[asyncio.Future[None], None] = {}
        self._limit = limit
        self._share = max(1, bytes_max // limit)
        self._slowest = 0  # no watcher stands before this number
        self._offered: Event | None = None
        self.resting = False
        """Whether changes are gathered for the next round."""
        self.told = 0  # the number of the last change when a round began

    def offer(self, event: Event) -> None:
        # Who watches several nodes may be found under two of them.
        if event is self._offered:
            return
        self._offered = event
        seen = event.seen_by(self.selection)
        if seen is None:
            return
        number = self.last.number
        if number - self._slowest >= self._limit:
            for watcher in [w for w in self.watchers if number - w.at.number >= self._limit]:
                watcher.end()
            self._slowest = min((w.at.number for w in self.watchers), default=number)
        self.last.next = self.last = _Link(number + max(1, event.size // self._share), (*seen, event))
        # Who rests must not be outrun.
        if not self.resting or self.last.number - self.told > self._limit // 4:
            self._tell()

    def _tell(self) -> None:
        """Begin a round: all who wait take what there is."""
        self.told = self.last.number
        waiting, self.waiting = self.waiting, {}
        for future in waiting:
            _done(future)
        if waiting and not self.resting:
            self.resting = True
            loop = asyncio.get_running_loop()
            # It is called after the tasks that were just woken have done their part.
            loop.call_soon(self._round_over, loop.time())

    def _round_over(self, began: float) -> None:
        loop = asyncio.get_running_loop()
        took = loop.time() - began
        if took < _MOMENT_S:
            self._go_on()
        else:
            loop.call_later(min(took * _REST, _REST_MAX_S), self._go_on)

    def _go_on(self) -> None:
        self.resting = False
        if self.last.number > self.told:
            self._tell()

    def end(self, error: Exception | None) -> None:
        for watcher in list(self.watchers):
            watcher.end(error)


class Watcher:
    """One watch: its place in its group's chain."""

    def __init__(self, group: Group, after: int, initial: Iterable[Seen] = ()) -> None:
        """`initial` comes before all changes, and is not subject to the limit."""
        self.group = group
        self.at = group.last
        self.ended = False
        self.error: Exception | None = None
        self.after = after
        self.initial = deque(initial)
        """Not taken yet."""
        self._last: _Link | None = None  # the end of what it may take
        self._waiter: asyncio.Future[None] | None = None
        group.watchers[self] = None

    def end(self, error: Exception | None = None) -> None:
        """No more changes will come; what waits is still delivered."""
        if self.ended:
            return
        self.ended, self.error, self._last = True, error, self.group.last
        self.group.watchers.pop(self, None)
        if self._waiter is not None:
            _done(self._waiter)

    async def take(self, timeout: float) -> Shared[Seen] | None:
        """Some of the waiting changes; empty after `timeout` seconds without one; None at the end."""
        # What the others were told in the last round is not kept from who comes later.
        may_take = self._behind and (not self.group.resting or self.at.number < self.group.told)
        if not (self.initial or self.ended or may_take):
            await self._wait(timeout)
        if self.initial:
            return Shared(self._first())
        while self._behind:
            self.at, taken = self.at.piece(self._last or self.group.last)
            if taken[0][1].revision <= self.after:
                # It may have known of changes before the cache did.
                taken = Shared(seen for seen in taken if seen[1].revision > self.after)
            if taken:
                return taken
        return None if self.ended else Shared()

    def _first(self) -> Iterator[Seen]:
        size = 0
        while self.initial and size < PIECE_BYTES:
            seen = self.initial.popleft()
            size += seen[1].size
            yield seen

    @property
    def _behind(self) -> bool:
        return self.at is not (self._last or self.group.last)

    async def _wait(self, timeout: float) -> None:
        if timeout <= 0:
            return
        loop = asyncio.get_running_loop()
        future = self._waiter = loop.create_future()
        self.group.waiting[future] = None
        handle = loop.call_later(timeout, _done, future)
        try:
            await future
        finally:
            handle.cancel()
            self._waiter = None
            self.group.waiting.pop(future, None)


def _done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
