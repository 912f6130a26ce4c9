"""The watchable store: who wants which key's events from which revision, and handing them out.

A watcher is synced (it gets each revision's events as they are applied) or unsynced (it reads the past from the
store until it has caught up). A stream buffers at most `EVENTS_BUFFERED_MAX` events and `BYTES_BUFFERED_MAX` bytes
for its client: a watcher of a stream that is full becomes unsynced, and reads on from the store when the client has
taken what was buffered. So a slow client costs memory only once, and never misses an event unless the history it
needs is compacted meanwhile.

Concurrency: `WatchableStore.notify` runs inside the apply step and never waits. A stream's reader pulls by `next`.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.state_machine.watcher_group import (
    Batch,
    Watcher,
    WatchGroup,
    WatchIndex,
)
from rayplane.control_plane.rpc import Encoded
from rayplane.proto.etcd.kv_pb2 import Event
from rayplane.proto.etcd.rpc_pb2 import ResponseHeader, WatchCreateRequest, WatchResponse
from rayplane.storage.key_ranges import FROM_KEY
from rayplane.storage.mvcc import Change, CompactedError, Store
from rayplane.storage.mvcc.records import field, fields, varint

#: Events waiting for one client before its watchers fall back to reading the store.
EVENTS_BUFFERED_MAX = 1024
#: Bytes of keys and values waiting for one client before its watchers fall back to reading the store.
BYTES_BUFFERED_MAX = 8 << 20
#: Bytes of keys and values in one answer, but for a single revision that has more: clients refuse very large ones.
ANSWER_BYTES_MAX = 1 << 20
#: Events read from the store at once for a watcher that catches up.
CATCH_UP_EVENTS_MAX = 512
#: Watchers on one stream; more are refused.
WATCHERS_PER_STREAM_MAX = 10_000
#: Answers waiting for one client; one that asks for more without reading them loses its stream.
ANSWERS_WAITING_MAX = 2 * WATCHERS_PER_STREAM_MAX
#: The watch id of answers that concern no watcher.
INVALID_ID = -1
#: Seconds until a stream gets more events, for each watcher (of all streams) that got the last ones, and at most:
#: events that come meanwhile go into the same answers, so that a thousand watchers leave time for other work.
PACE_S, PACE_MAX_S = 0.00002, 0.05
#: Watchers of one revision from which on it is so.
PACED_WATCHERS = 50
_HEADER, _EVENTS = b"\x0a", b"\x5a"  # WatchResponse: fields 1 and 11, length-delimited
_WATCH_ID = b"\x10"  # field 2, a number


class WatchCounts(NamedTuple):
    """Numbers of streams and watchers now; `unsynced` watchers catch up, `pending` events wait for clients."""

    streams: int
    watchers: int
    unsynced: int
    pending: int


class WatchableStore:
    """All watchers of one member. `header` makes a response header with the given revision."""

    def __init__(self, store: Store, header: Callable[[int], ResponseHeader], max_response_bytes: int) -> None:
        self.store = store
        self.header = header
        # Where watches that take fragments have their answers split.
        self.max_response_bytes = max_response_bytes
        self._index = WatchIndex()
        self._seq = itertools.count(1)
        self._streams: dict[int, WatchStream] = {}
        self._notified = store.revision
        self.events_sent = 0

    def open(self) -> "WatchStream":
        """A new stream; its reader must close it."""
        stream = WatchStream(self, next(self._seq))
        self._streams[stream.seq] = stream
        return stream

    def counts(self) -> WatchCounts:
        each = [s.counts() for s in self._streams.values()]
        return WatchCounts(len(each), *(sum(c) for c in zip(*each, strict=True))) if each else WatchCounts(0, 0, 0, 0)

    def next_seq(self) -> int:
        return next(self._seq)

    def forget(self, stream: "WatchStream") -> None:
        self._streams.pop(stream.seq, None)

    def sync(self, watcher: Watcher) -> None:
        """From now on the watcher gets events as they are applied."""
        self._index.add(watcher, self._notified)

    def unsync(self, watcher: Watcher) -> None:
        if watcher.synced:
            self._index.remove(watcher)

    def notify(self, revision: int, changes: Sequence[Change]) -> None:
        """Hand out one revision's changes, in order."""
        self._notified = revision
        if not self._streams:
            return
        chosen: dict[WatchGroup, Batch] = {}
        for change in changes:
            for group in self._index.matching(change.key):
                if change.type in group.filters or revision < group.since:
                    continue
                batch = chosen.get(group)
                if batch is None:
                    chosen[group] = Batch(tuple(group.members.values()), [change], revision, group)
                else:
                    batch.add(change)
        fan_out = sum(len(batch.targets) for batch in chosen.values())
        for group, batch in chosen.items():
            batch.fan_out = fan_out
            group.stream.offer(batch)

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


class WatchStream:
    """The watches of one client connection and what is on its way to it."""

    def __init__(self, watches: WatchableStore, seq: int) -> None:
        self.seq = seq
        self.requires_leader = False
        self._watches = watches
        self._watchers: dict[int, Watcher] = {}
        # Watches that ended because their past was compacted: their ids are taken until the client cancels them.
        self._compacted: dict[int, None] = {}
        self._ids = itertools.count()
        # Ready answers, and events that are due at that place.
        self._queue: deque[WatchResponse | Batch] = deque()
        self._buffered = 0
        self._buffered_bytes = 0
        self._unsynced: dict[int, Watcher] = {}
        self._progress_wanted = False
        self._events_from = 0.0
        self._wake = asyncio.Event()
        self._error: Exception | None = None

    @property
    def congested(self) -> bool:
        """Whether the client asks on and on without taking the answers."""
        return len(self._queue) > ANSWERS_WAITING_MAX

    def counts(self) -> tuple[int, int, int]:
        """Watchers, those of them that catch up, events that wait."""
        return len(self._watchers), len(self._unsynced), self._buffered

    @property
    def buffered(self) -> int:
        """Events that wait for the client."""
        return self._buffered

    @property
    def buffered_bytes(self) -> int:
        """Bytes of keys and values, about, that wait for the client."""
        return self._buffered_bytes

    def create(self, request: WatchCreateRequest, denied: str = "") -> None:
        """Begin a watch; the answer (also a refusal) goes onto the stream. `denied`: why the caller may not."""
        refusal = denied or self._refusal(request)
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
            watch_id = next(i for i in self._ids if i not in self._watchers and i not in self._compacted)
        watcher = Watcher(request, watch_id, self, self._watches.next_seq())
        self._watchers[watch_id] = watcher
        self._push(WatchResponse(header=self._header(), watch_id=watch_id, created=True))
        current = self._watches.notified
        watcher.next_revision = request.start_revision or current + 1
        if watcher.next_revision > current:
            self._watches.sync(watcher)
        else:
            self.catch_up(watcher)

    def _refusal(self, request: WatchCreateRequest) -> str:
        if request.start_revision < 0:
            # As in later releases of etcd 3.5; the first ones took it for the beginning.
            return errors.Compacted().message
        if request.range_end and request.range_end != FROM_KEY and request.key >= request.range_end:
            return "mvcc: watcher range is empty"
        if request.watch_id and (request.watch_id in self._watchers or request.watch_id in self._compacted):
            return "mvcc: duplicate watch ID provided on the WatchStream"
        if len(self._watchers) + len(self._compacted) >= WATCHERS_PER_STREAM_MAX:
            return "etcdserver: too many watchers on one stream"
        return ""

    def cancel(self, watch_id: int) -> None:
        """End a watch at the client's wish."""
        watcher = self._watchers.get(watch_id)
        if watcher is not None:
            self._remove(watcher)
        if watcher is not None or self._compacted.pop(watch_id, 0) is None:
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
            if watcher.quiet and watcher.synced:
                self._push(WatchResponse(header=self._header(), watch_id=watcher.id))
            watcher.quiet = True

    def offer(self, batch: Batch) -> None:
        """Queue a revision's events for a group, or let it fall behind when the stream is full."""
        if self._buffered and (
            self._buffered + len(batch.changes) > EVENTS_BUFFERED_MAX
            or self._buffered_bytes + batch.size > BYTES_BUFFERED_MAX
        ):
            for watcher in batch.targets:
                self._watches.unsync(watcher)
                watcher.next_revision = batch.revision
                self.catch_up(watcher)
            return
        self._enqueue(batch)

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
        self._queue.clear()
        self._watches.forget(self)

    async def next(self) -> list[WatchResponse]:
        """What to send now; waits until there is something. Raises what `fail` was given."""
        item = await self._next()
        return [item] if isinstance(item, WatchResponse) else list(self._messages(item))

    async def next_encoded(self) -> list[Encoded]:
        """As `next`, serialized: what goes to many watchers is so only once."""
        item = await self._next()
        if isinstance(item, WatchResponse):
            return [Encoded(item.SerializeToString())]
        if item.targets[0].fragment and len(item.changes) > 1:
            return [Encoded(message.SerializeToString()) for message in self._messages(item)]
        prev_kv = item.targets[0].prev_kv
        header = field(_HEADER, self._watches.header(item.revision).SerializeToString())
        events = b"".join(fields(_EVENTS, [change.encoded(prev_kv=prev_kv) for change in item.changes]))
        return [Encoded(header + _numbered(watcher.id) + events) for watcher in item.targets if not watcher.removed]

    async def _next(self) -> "WatchResponse | Batch":
        while True:
            if self._error is not None:
                raise self._error
            if self._queue:
                wait = self._events_from - asyncio.get_running_loop().time()
                if wait > 0 and isinstance(self._queue[0], Batch):
                    # Many watchers were served just now: what comes meanwhile goes together.
                    await asyncio.sleep(wait)
                    continue
                return self._take()
            if self._unsynced:
                self._read_past(next(iter(self._unsynced.values())))
                # Long histories must not keep the loop from its other work.
                await asyncio.sleep(0)
                continue
            if self._progress_wanted:
                self._progress_wanted = False
                return WatchResponse(header=self._header(), watch_id=INVALID_ID)
            self._wake.clear()
            await self._wake.wait()

    def _read_past(self, watcher: Watcher) -> None:
        try:
            past = self._watches.store.events(
                watcher.next_revision,
                watcher.key,
                watcher.end,
                max_events=CATCH_UP_EVENTS_MAX,
                max_bytes=ANSWER_BYTES_MAX,
            )
        except CompactedError as error:
            self._remove(watcher)
            self._compacted[watcher.id] = None
            self._push(
                WatchResponse(
                    # As etcd does: the header of this answer has no revision.
                    header=self._watches.header(0),
                    watch_id=watcher.id,
                    canceled=True,
                    compact_revision=error.compacted,
                )
            )
            return
        changes = [c for _, group in past.groups for c in group if c.type not in watcher.filters]
        alike = self._alike(watcher)
        for each in alike:
            each.next_revision = past.next_revision
            self._unsynced.pop(each.seq)
        if changes:
            self._enqueue(Batch(alike, changes, past.next_revision - 1))
        for each in alike:
            if each.next_revision > self._watches.notified:
                self._watches.sync(each)
            else:
                # To the end of the line: watchers catch up by turns.
                self._unsynced[each.seq] = each

    def _alike(self, watcher: Watcher) -> tuple[Watcher, ...]:
        """Those that must read the same past as this one, it included."""
        if len(self._unsynced) == 1:
            return (watcher,)
        wants, start = watcher.wants, watcher.next_revision
        return tuple(w for w in self._unsynced.values() if w.next_revision == start and w.wants == wants)

    def _enqueue(self, batch: Batch) -> None:
        self._buffered += len(batch.changes)
        self._buffered_bytes += batch.size
        last = batch.group.pending if batch.group is not None else None
        if last is not None and last.size + batch.size <= ANSWER_BYTES_MAX:
            last.extend(batch)
            return
        if batch.group is not None:
            batch.group.pending = batch
        self._push(batch)

    def _push(self, item: WatchResponse | Batch) -> None:
        self._queue.append(item)
        self._wake.set()

    def _take(self) -> WatchResponse | Batch:
        item = self._queue.popleft()
        if isinstance(item, WatchResponse):
            return item
        if item.group is not None and item.group.pending is item:
            item.group.pending = None
        self._buffered -= len(item.changes)
        self._buffered_bytes -= item.size
        for watcher in item.targets:
            if not watcher.removed:
                watcher.quiet = False
                self._watches.events_sent += len(item.changes)
        if item.fan_out >= PACED_WATCHERS:
            pause = min(PACE_MAX_S, PACE_S * item.fan_out)
            self._events_from = asyncio.get_running_loop().time() + pause
        return item

    def _messages(self, batch: Batch) -> Iterator[WatchResponse]:
        """A batch as it is told to each of its watchers that are still there."""
        header = self._watches.header(batch.revision)
        for watcher in batch.targets:
            if watcher.removed:
                continue
            events = [change.message(prev_kv=watcher.prev_kv) for change in batch.changes]
            if watcher.fragment and len(events) > 1:
                yield from self._fragments(header, watcher.id, events)
            else:
                yield WatchResponse(header=header, watch_id=watcher.id, events=events)

    def _fragments(self, header: ResponseHeader, watch_id: int, events: list[Event]) -> Iterator[WatchResponse]:
        """Answers that are smaller than the limit each, or have one event."""
        limit = self._watches.max_response_bytes
        part = WatchResponse(header=header, watch_id=watch_id, fragment=True)
        size = part.ByteSize()
        for event in events:
            length = event.ByteSize()
            length += 1 + (max(1, length.bit_length()) + 6) // 7
            if part.events and size + length >= limit:
                yield part
                part = WatchResponse(header=header, watch_id=watch_id, fragment=True)
                size = part.ByteSize()
            part.events.append(event)
            size += length
        part.fragment = False
        yield part

    def _remove(self, watcher: Watcher) -> None:
        self._watchers.pop(watcher.id, None)
        self._unsynced.pop(watcher.seq, None)
        self._watches.unsync(watcher)
        # What it has in the queue is passed over.
        watcher.removed = True

    def _header(self) -> ResponseHeader:
        return self._watches.header(self._watches.notified)


def _numbered(watch_id: int) -> bytes:
    """The field of the watch id, which may be negative."""
    return _WATCH_ID + varint(watch_id & (1 << 64) - 1) if watch_id else b""
