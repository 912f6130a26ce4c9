"""Watches: who wants which key's events from which revision, and handing them out.

A watcher is synced (it gets each revision's events as they are applied) or unsynced (it reads the past from the
store until it has caught up). A stream buffers at most `EVENTS_BUFFERED_MAX` events for its client: a watcher of a
stream that is full becomes unsynced, and reads on from the store when the client has taken what was buffered. So a
slow client costs memory only once, and never misses an event unless the history it needs is compacted meanwhile.

Concurrency: `WatchHub.notify` runs inside the apply step and never waits. A stream's reader pulls by `next`.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

from proto.etcd.kv_pb2 import Event
from proto.etcd.rpc_pb2 import ResponseHeader, WatchCreateRequest, WatchResponse
from storage.mvcc import CompactedError, Store

#: Events waiting for one client before its watchers fall back to reading the store.
EVENTS_BUFFERED_MAX = 1024
#: Events read from the store at once for a watcher that catches up.
CATCH_UP_EVENTS_MAX = 512
#: Watchers on one stream; more are refused.
WATCHERS_PER_STREAM_MAX = 10_000
#: Answers waiting for one client; one that asks for more without reading them loses its stream.
ANSWERS_WAITING_MAX = 2 * WATCHERS_PER_STREAM_MAX
#: The watch id of answers that concern no watcher.
INVALID_ID = -1
_FROM_KEY = b"\0"
_K = TypeVar("_K", bound=Hashable)


class Watcher:
    """One watch of a stream."""

    __slots__ = (
        "end",
        "filters",
        "fragment",
        "id",
        "key",
        "next_revision",
        "pending",
        "prev_kv",
        "progress_notify",
        "quiet",
        "seq",
        "stream",
        "synced",
    )

    def __init__(self, request: WatchCreateRequest, watch_id: int, stream: "WatchStream", seq: int) -> None:
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
        self.synced = False
        self.next_revision = 0
        # Events not taken by the client yet; None when it has an empty place in the stream's queue.
        self.pending: list[Event] | None = None
        # Whether nothing was sent since the last progress round.
        self.quiet = True


class _Index:
    """Synced watchers by key and by range.

    Ranges that are prefixes (nearly all are) are found by the event key's own prefixes, one look-up per distinct
    prefix length; other ranges are few and are compared one by one.
    """

    def __init__(self) -> None:
        self._keys: dict[bytes, dict[int, Watcher]] = {}
        self._prefixes: dict[int, dict[bytes, dict[int, Watcher]]] = {}
        self._ranges: dict[tuple[bytes, bytes], dict[int, Watcher]] = {}

    def add(self, watcher: Watcher) -> None:
        if not watcher.end:
            self._keys.setdefault(watcher.key, {})[watcher.seq] = watcher
        elif watcher.end == prefix_end(watcher.key):
            group = self._prefixes.setdefault(len(watcher.key), {})
            group.setdefault(watcher.key, {})[watcher.seq] = watcher
        else:
            self._ranges.setdefault((watcher.key, watcher.end), {})[watcher.seq] = watcher

    def remove(self, watcher: Watcher) -> None:
        if not watcher.end:
            _drop(self._keys, watcher.key, watcher.seq)
        elif watcher.end == prefix_end(watcher.key):
            group = self._prefixes[len(watcher.key)]
            _drop(group, watcher.key, watcher.seq)
            if not group:
                del self._prefixes[len(watcher.key)]
        else:
            _drop(self._ranges, (watcher.key, watcher.end), watcher.seq)

    def matching(self, key: bytes) -> Iterator[Watcher]:
        if found := self._keys.get(key):
            yield from found.values()
        for length, group in self._prefixes.items():
            if found := group.get(key[:length]):
                yield from found.values()
        for (start, end), watchers in self._ranges.items():
            if start <= key and (end == _FROM_KEY or key < end):
                yield from watchers.values()

    def all(self) -> list[Watcher]:
        groups = [*self._keys.values(), *self._ranges.values()]
        for by_prefix in self._prefixes.values():
            groups.extend(by_prefix.values())
        return [w for group in groups for w in group.values()]


def _drop(groups: dict[_K, dict[int, Watcher]], key: _K, seq: int) -> None:
    group = groups[key]
    del group[seq]
    if not group:
        del groups[key]


def prefix_end(prefix: bytes) -> bytes:
    """The least key after all keys with this prefix; b"\\0" (from key) when there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else _FROM_KEY


class WatchHub:
    """All watchers of one member. `header` makes a response header with the given revision."""

    def __init__(self, store: Store, header: Callable[[int], ResponseHeader], max_response_bytes: int) -> None:
        self.store = store
        self.header = header
        self.max_response_bytes = max_response_bytes
        self._index = _Index()
        self._seq = itertools.count(1)
        self._streams: dict[int, WatchStream] = {}
        self._notified = store.revision

    def open(self) -> "WatchStream":
        """A new stream; its reader must close it."""
        stream = WatchStream(self, next(self._seq))
        self._streams[stream.seq] = stream
        return stream

    def next_seq(self) -> int:
        return next(self._seq)

    def forget(self, stream: "WatchStream") -> None:
        self._streams.pop(stream.seq, None)

    def sync(self, watcher: Watcher) -> None:
        """From now on the watcher gets events as they are applied."""
        watcher.synced = True
        self._index.add(watcher)

    def unsync(self, watcher: Watcher) -> None:
        if watcher.synced:
            watcher.synced = False
            self._index.remove(watcher)

    def notify(self, revision: int, events: Sequence[Event]) -> None:
        """Hand out one revision's events, in order; each has prev_kv where there was one."""
        self._notified = revision
        chosen: dict[int, tuple[Watcher, list[Event]]] = {}
        for event in events:
            plain: Event | None = None
            for watcher in self._index.matching(event.kv.key):
                if event.type in watcher.filters or revision < watcher.next_revision:
                    continue
                if not watcher.prev_kv and plain is None:
                    plain = without_prev_kv(event)
                mine = event if watcher.prev_kv or plain is None else plain
                if watcher.seq in chosen:
                    chosen[watcher.seq][1].append(mine)
                else:
                    chosen[watcher.seq] = (watcher, [mine])
        for watcher, mine_all in chosen.values():
            watcher.stream.offer(watcher, revision, mine_all)

    def resync(self) -> None:
        """The store was replaced by a snapshot: everyone reads on from where they stand."""
        for watcher in self._index.all():
            watcher.next_revision = max(watcher.next_revision, self._notified + 1)
            self.unsync(watcher)
            watcher.stream.catch_up(watcher)
        self._notified = self.store.revision

    def note_progress(self) -> None:
        """One round of periodic progress notes, to the watchers that asked for them and heard nothing since."""
        for stream in list(self._streams.values()):
            stream.note_progress()

    def fail_all(self, error: Exception, *, only_with_leader: bool = False) -> None:
        """End all streams (or those that demand a leader) with an error."""
        for stream in list(self._streams.values()):
            if stream.requires_leader or not only_with_leader:
                stream.fail(error)

    @property
    def notified(self) -> int:
        """The last revision that synced watchers have been told of."""
        return max(self._notified, self.store.revision)


def without_prev_kv(event: Event) -> Event:
    """The event itself when it has no prev_kv, else a copy without."""
    return Event(type=event.type, kv=event.kv) if event.HasField("prev_kv") else event


class WatchStream:
    """The watches of one client connection and what is on its way to it."""

    def __init__(self, hub: WatchHub, seq: int) -> None:
        self.seq = seq
        self.requires_leader = False
        self._hub = hub
        self._watchers: dict[int, Watcher] = {}
        self._ids = itertools.count()
        # Ready answers, and watchers whose `pending` events are due at that place.
        self._queue: deque[WatchResponse | Watcher] = deque()
        self._buffered = 0
        self._unsynced: dict[int, Watcher] = {}
        self._progress_wanted = False
        self._wake = asyncio.Event()
        self._error: Exception | None = None

    @property
    def congested(self) -> bool:
        """Whether the client asks on and on without taking the answers."""
        return len(self._queue) > ANSWERS_WAITING_MAX

    @property
    def buffered(self) -> int:
        """Events that wait for the client."""
        return self._buffered

    def create(self, request: WatchCreateRequest) -> None:
        """Begin a watch; the answer (also a refusal) goes onto the stream."""
        refusal = self._refusal(request)
        if refusal:
            self._push(
                WatchResponse(
                    header=self._header(),
                    watch_id=INVALID_ID,
                    created=True,
                    canceled=True,
                    cancel_reason=refusal,
                )
            )
            return
        watch_id = request.watch_id
        if not watch_id:
            watch_id = next(i for i in self._ids if i not in self._watchers)
        watcher = Watcher(request, watch_id, self, self._hub.next_seq())
        self._watchers[watch_id] = watcher
        self._push(WatchResponse(header=self._header(), watch_id=watch_id, created=True))
        current = self._hub.notified
        watcher.next_revision = request.start_revision or current + 1
        if watcher.next_revision > current:
            self._hub.sync(watcher)
        else:
            self.catch_up(watcher)

    def _refusal(self, request: WatchCreateRequest) -> str:
        if request.watch_id and request.watch_id in self._watchers:
            return "mvcc: duplicate watch ID provided on the WatchStream"
        if request.range_end and request.range_end != _FROM_KEY and request.key >= request.range_end:
            return "mvcc: watcher range is empty"
        if request.start_revision < 0:
            return "mvcc: watcher start revision is negative"
        if len(self._watchers) >= WATCHERS_PER_STREAM_MAX:
            return "etcdserver: too many watchers on one stream"
        return ""

    def cancel(self, watch_id: int) -> None:
        """End a watch at the client's wish."""
        watcher = self._watchers.get(watch_id)
        if watcher is not None:
            self._remove(watcher)
            self._push(WatchResponse(header=self._header(), watch_id=watch_id, canceled=True))

    def request_progress(self) -> None:
        """Tell the client the revision up to which it has everything, as soon as all its watchers are synced."""
        self._progress_wanted = True
        self._wake.set()

    def note_progress(self) -> None:
        if self._queue:
            return  # the client does not keep up with what it has: notes would pile up
        for watcher in self._watchers.values():
            if not watcher.progress_notify:
                continue
            if watcher.quiet and watcher.synced and watcher.pending is None:
                self._push(WatchResponse(header=self._header(), watch_id=watcher.id))
            watcher.quiet = True

    def offer(self, watcher: Watcher, revision: int, events: list[Event]) -> None:
        """Queue a revision's events for a synced watcher, or let it fall behind when the stream is full."""
        if self._buffered and self._buffered + len(events) > EVENTS_BUFFERED_MAX:
            self._hub.unsync(watcher)
            watcher.next_revision = revision
            self.catch_up(watcher)
            return
        self._enqueue(watcher, events)

    def catch_up(self, watcher: Watcher) -> None:
        """Read the watcher's past when the client asks for more."""
        self._unsynced[watcher.seq] = watcher
        self._wake.set()

    def fail(self, error: Exception) -> None:
        """End the stream: what is queued is dropped, the reader gets `error`."""
        self._error = error
        self._wake.set()

    def close(self) -> None:
        """Forget all watchers."""
        for watcher in list(self._watchers.values()):
            self._remove(watcher)
        self._hub.forget(self)

    async def next(self) -> list[WatchResponse]:
        """What to send now; waits until there is something. Raises what `fail` was given."""
        while True:
            if self._error is not None:
                raise self._error
            if self._queue:
                return self._take()
            if self._unsynced:
                self._read_past(next(iter(self._unsynced.values())))
                # Long histories must not keep the loop from its other work.
                await asyncio.sleep(0)
                continue
            if self._progress_wanted:
                self._progress_wanted = False
                return [WatchResponse(header=self._header(), watch_id=INVALID_ID)]
            self._wake.clear()
            await self._wake.wait()

    def _read_past(self, watcher: Watcher) -> None:
        try:
            batch = self._hub.store.events(
                watcher.next_revision, watcher.key, watcher.end, max_events=CATCH_UP_EVENTS_MAX
            )
        except CompactedError as error:
            self._remove(watcher)
            self._push(
                WatchResponse(
                    # As etcd does: the header of this answer has no revision.
                    header=self._hub.header(0),
                    watch_id=watcher.id,
                    canceled=True,
                    compact_revision=error.compacted,
                )
            )
            return
        events = [
            event if watcher.prev_kv else without_prev_kv(event)
            for _, group in batch.groups
            for event in group
            if event.type not in watcher.filters
        ]
        watcher.next_revision = batch.next_revision
        self._unsynced.pop(watcher.seq)
        if events:
            self._enqueue(watcher, events)
        if watcher.next_revision > self._hub.notified:
            self._hub.sync(watcher)
        else:
            # To the end of the line: watchers catch up by turns.
            self._unsynced[watcher.seq] = watcher

    def _enqueue(self, watcher: Watcher, events: list[Event]) -> None:
        watcher.quiet = False
        self._buffered += len(events)
        if watcher.pending is None:
            watcher.pending = events
            self._push(watcher)
        else:
            watcher.pending.extend(events)

    def _push(self, item: WatchResponse | Watcher) -> None:
        self._queue.append(item)
        self._wake.set()

    def _take(self) -> list[WatchResponse]:
        item = self._queue.popleft()
        if isinstance(item, WatchResponse):
            return [item]
        events, item.pending = item.pending or [], None
        self._buffered -= len(events)
        if not events:
            return []
        response = WatchResponse(header=self._header(), watch_id=item.id, events=events)
        if item.fragment and response.ByteSize() > self._hub.max_response_bytes:
            return self._fragments(response)
        return [response]

    def _fragments(self, whole: WatchResponse) -> list[WatchResponse]:
        parts = [WatchResponse(header=whole.header, watch_id=whole.watch_id)]
        size = 0
        for event in whole.events:
            event_size = event.ByteSize()
            if size and size + event_size > self._hub.max_response_bytes:
                parts[-1].fragment = True
                parts.append(WatchResponse(header=whole.header, watch_id=whole.watch_id))
                size = 0
            parts[-1].events.append(event)
            size += event_size
        return parts

    def _remove(self, watcher: Watcher) -> None:
        self._watchers.pop(watcher.id, None)
        self._unsynced.pop(watcher.seq, None)
        self._hub.unsync(watcher)
        if watcher.pending is not None:
            self._buffered -= len(watcher.pending)
            watcher.pending = []

    def _header(self) -> ResponseHeader:
        return self._hub.header(self._hub.notified)
