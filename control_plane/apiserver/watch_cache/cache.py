"""The watch cache of one resource: current objects, recent changes, and who watches them.

A cache changes only in `apply` and `install`, which do not await: a reader between two awaits sees one moment. Each
change is encoded once and its bytes are shared by all watchers. A watcher has a bounded queue of its own; one that
does not keep up is ended, as in Kubernetes, and watches anew from the last version it saw.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sortedcontainers import SortedDict

from rayplane.control_plane.api.errors import Expired
from rayplane.control_plane.api.machinery.field_selectors import ALL_FIELDS, FieldSelector
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.machinery.selectors import EVERYTHING, LabelSelector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.storage.encryption import Transformer
from rayplane.control_plane.apiserver.storage.entries import Broken, Entry, Unreadable, read

log = logging.getLogger(__name__)

ADDED, MODIFIED, DELETED, BOOKMARK, ERROR = "ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"
# Watchers are indexed by one field that they require, so that a change need not ask each of them: kubelets watch by
# node, waiters by name. This is where all others are.
_EVERYONE = ("", "")
# Broken objects that are named in the log when a cache begins anew.
_LOGGED_MAX = 5


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
        if not self.labels.everything and not self.labels.matches(entry.object["metadata"].get("labels")):
            return False
        if not self.fields.everything:
            try:
                o = entry.object if self.convert is None else self.convert(entry.object)
                return self.fields.matches(o)
            except (AttributeError, KeyError, TypeError, ValueError):
                return False  # it has not the shape of its kind: written past the API
        return True

    def buckets(self, *, nodes: bool) -> list[tuple[str, str]]:
        """The (field, value) pairs that find this selection in the index of watchers; `nodes`: by node too."""
        if self.name:
            return [("metadata.name", self.name)]
        for path in ("spec.nodeName", "metadata.name") if nodes else ("metadata.name",):
            values = self.fields.allowed(path) if self.convert is None else None
            if values is not None:
                return [(path, value) for value in values]
        return [_EVERYONE]


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


class Watcher:
    """The queue of one watch."""

    def __init__(self, selection: Selection, after: int, limit: int) -> None:
        self.selection = selection
        self.after = after
        self.overflowed = False
        self.error: Exception | None = None
        self._limit = limit
        self._offered: Event | None = None
        self._queue: deque[Seen] = deque()
        self._wake = asyncio.Event()

    def offer(self, event: Event) -> None:
        # Who watches several nodes may be found under two of them.
        if event.revision <= self.after or self.overflowed or event is self._offered:
            return
        self._offered = event
        seen = event.seen_by(self.selection)
        if seen is None:
            return
        if len(self._queue) >= self._limit:
            self.overflowed = True
        else:
            self._queue.append((*seen, event))
        self._wake.set()

    def prime(self, seen: list[Seen]) -> None:
        """Put what comes before all changes; not subject to the limit."""
        self._queue.extend(seen)

    def end(self, error: Exception | None = None) -> None:
        """No more changes will come; what waits is still delivered."""
        self.error = error
        self.overflowed = True
        self._wake.set()

    async def take(self, timeout: float) -> list[Seen] | None:
        """All waiting changes; empty after `timeout` seconds without one; None at the end."""
        if not self._queue:
            if self.overflowed:
                return None
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                return []
        taken = list(self._queue)
        self._queue.clear()
        return taken or (None if self.overflowed else [])


class ResourceCache:
    """All objects of one resource at the hub's revision, in the order of their keys."""

    def __init__(
        self, info: ResourceInfo, *, events_max: int, watcher_events_max: int, transformer: Transformer | None = None
    ) -> None:
        self.info = info
        self._transformer = transformer
        self.ready = False
        self.floor = 0
        """Changes after this revision can be replayed."""
        self._entries: SortedDict = SortedDict()
        self._broken: dict[str, Broken] = {}
        self._events: deque[Event] = deque()
        self._events_max = events_max
        self._watcher_events_max = watcher_events_max
        self._watchers: dict[tuple[str, str], dict[Watcher, None]] = {}
        self._indexes_nodes = info.name == "pods"
        self.installs = 0
        """How often the cache began anew: whoever listens has to begin anew as well."""
        self.listeners: list[Callable[[Event], None]] = []
        """Called with each change, in order (authorisation and allocation keep their own indexes)."""
        self.installed: list[Callable[[], None]] = []
        """Called when the cache has begun anew, whether somebody asked for it or not."""

    # --- filled by the hub --------------------------------------------------------------------

    def install(self, entries: list[Entry], revision: int) -> None:
        """Begin with these objects; changes after `revision` follow by `apply`."""
        self._broken = {e.key: e for e in entries if isinstance(e, Broken)}
        for broken in list(self._broken.values())[:_LOGGED_MAX]:
            log.error("%s (%d such of %s)", broken.error.message, len(self._broken), self.info.plural)
        self._entries = SortedDict((e.key, e) for e in entries if e.key not in self._broken)
        self._events.clear()
        self.floor = revision
        self.installs += 1
        self.ready = True

    def apply(self, key: str, value: bytes | None, revision: int) -> None:
        """A key was written (`value`, as it stands in etcd) or removed (None) at `revision`."""
        previous = self._entries.get(key)
        known = previous if previous is not None and previous.readable else None
        if value is not None and previous is not None and previous.revision >= revision:
            return
        entry = read(self.info, key, value, revision, self._transformer) if value is not None else None
        self._broken.pop(key, None)
        if isinstance(entry, Broken):
            # For all others it is as if the object was gone: a server that starts now does not see it either.
            log.error("%s", entry.error.message)
            self._broken[key] = entry
            entry = None
        if entry is None:
            if previous is None:
                return
            del self._entries[key]
            if known is None:
                return
            event = Event(DELETED, known.at(revision), known)
        else:
            self._entries[key] = entry
            if isinstance(entry, Unreadable):
                self._lose(entry, known)
                return
            event = Event(MODIFIED if known is not None else ADDED, entry, known)
        if len(self._events) >= self._events_max:
            self.floor = self._events.popleft().revision
        self._events.append(event)
        self._tell(event)
        self._fan_out(event)

    def _tell(self, event: Event) -> None:
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                # What one listener cannot take must not be kept from the others, or from who watches.
                log.exception("a change of %s is not followed", event.entry.key)

    def _lose(self, entry: Unreadable, known: Entry | None) -> None:
        """An object cannot be read any more: whoever watches it has to begin anew, and is told why when it lists."""
        log.error("%s", entry.error.message)
        self._events.clear()
        self.floor = entry.revision
        if known is not None:
            self._tell(Event(DELETED, known.at(entry.revision), known))
        for bucket in self._watchers.values():
            for watcher in bucket:
                wanted = watcher.selection
                if wanted.namespace in ("", entry.namespace) and wanted.name in ("", entry.name):
                    watcher.end(entry.error)

    def reset(self, error: Exception | None) -> None:
        """End all watchers, with `error` where they missed something; the cache must be installed again."""
        self.ready = False
        for bucket in list(self._watchers.values()):
            for watcher in bucket:
                watcher.end(error)
        self._watchers.clear()

    def _fan_out(self, event: Event) -> None:
        if not self._watchers:
            return
        entry, previous = event.entry, event.previous
        buckets = [_EVERYONE, ("metadata.name", entry.name)]
        if self._indexes_nodes:
            nodes = {
                str((e.object.get("spec") or {}).get("nodeName") or ""): None
                for e in (entry, previous)
                if e is not None
            }
            buckets.extend(("spec.nodeName", node) for node in nodes)
        for bucket in buckets:
            for watcher in self._watchers.get(bucket, ()):
                watcher.offer(event)

    def readable(self) -> Iterator[Entry]:
        """All entries that can be read: for those who must go on without the others."""
        return (e for e in self.select(Selection()) if e.readable)

    # --- readers ------------------------------------------------------------------------------

    def get(self, namespace: str, name: str) -> Entry | None:
        """The object; Unreadable or Broken where it cannot be used."""
        key = self.info.key(namespace, name)
        found: Entry | None = self._entries.get(key) or self._broken.get(key)
        return found

    def __len__(self) -> int:
        return len(self._entries)

    def select(self, selection: Selection, start: str = "") -> Iterator[Entry]:
        """Matching entries in key order, from key `start` on."""
        name = selection.name or selection.fields.requires("metadata.name") or ""
        if name and (selection.namespace or not self.info.namespaced):
            entry = self.get(selection.namespace, name)
            if entry is None or isinstance(entry, Broken):
                return
            if entry.key >= start and selection.matches(entry):
                yield entry
            return
        prefix = self.info.key_prefix(selection.namespace)
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        whole = selection.content_free and not selection.name
        for key in self._entries.irange(max(prefix, start), end, inclusive=(True, False)):
            entry = self._entries[key]
            if whole or selection.matches(entry):
                yield entry

    def watch(self, selection: Selection, after: int) -> Watcher:
        """A watcher of the changes after revision `after`. Expired when they are no longer known."""
        if after < self.floor:
            raise Expired(f"too old resource version: {after} ({self.floor})")
        watcher = Watcher(selection, after, self._watcher_events_max)
        missed = []
        for event in reversed(self._events):
            if event.revision <= after:
                break
            missed.append(event)
        seen: list[Seen] = []
        for event in reversed(missed):
            told = event.seen_by(selection)
            if told is not None:
                seen.append((*told, event))
        watcher.prime(seen)
        self._join(watcher)
        return watcher

    def watch_from_now(self, selection: Selection, revision: int, *, initial: bool) -> Watcher:
        """A watcher that begins with the objects there are (`initial`) and goes on with changes."""
        watcher = Watcher(selection, revision, self._watcher_events_max)
        if initial:
            entries = list(self.select(selection))
            for entry in entries:
                if isinstance(entry, Unreadable):
                    raise entry.error
            watcher.prime([(ADDED, entry, None) for entry in entries])
        self._join(watcher)
        return watcher

    def _join(self, watcher: Watcher) -> None:
        for name in watcher.selection.buckets(nodes=self._indexes_nodes):
            self._watchers.setdefault(name, {})[watcher] = None

    def leave(self, watcher: Watcher) -> None:
        for name in watcher.selection.buckets(nodes=self._indexes_nodes):
            bucket = self._watchers.get(name)
            if bucket is not None:
                bucket.pop(watcher, None)
                if not bucket:
                    del self._watchers[name]

    @property
    def watcher_count(self) -> int:
        return len({watcher for bucket in self._watchers.values() for watcher in bucket})
