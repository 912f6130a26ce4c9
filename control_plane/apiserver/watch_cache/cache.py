"""The watch cache of one resource: current objects, recent changes, and who watches them.

A cache changes only in `apply` and `install`, which do not await: a reader between two awaits sees one moment. Each
change is encoded once and its bytes are shared by all watchers. A watcher that does not keep up is ended, as in
Kubernetes, and watches anew from the last version it saw.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator

from sortedcontainers import SortedDict

from rayplane.control_plane.api.errors import Expired
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.apiserver.storage.encryption import Transformer
from rayplane.control_plane.apiserver.storage.entries import Broken, Entry, Unreadable, read
from rayplane.control_plane.apiserver.watch_cache.watchers import (
    ADDED,
    DELETED,
    EVERYONE,
    MODIFIED,
    Event,
    Group,
    Seen,
    Selection,
    Watcher,
)

log = logging.getLogger(__name__)

# Broken objects that are named in the log when a cache begins anew.
_LOGGED_MAX = 5


class ResourceCache:
    """All objects of one resource at the hub's revision, in the order of their keys."""

    def __init__(
        self,
        info: ResourceInfo,
        *,
        events_max: int,
        watcher_events_max: int,
        bytes_max: int = 64 << 20,
        transformer: Transformer | None = None,
    ) -> None:
        self.info = info
        self._transformer = transformer
        self.ready = False
        self.floor = 0
        """Changes after this revision can be replayed."""
        self._entries: SortedDict = SortedDict()
        self._broken: dict[str, Broken] = {}
        self._events: deque[Event] = deque()
        self._events_bytes = 0
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._watcher_events_max = watcher_events_max
        self._groups: dict[Selection, Group] = {}
        self._buckets: dict[tuple[str, str], dict[Group, None]] = {}
        self._indexes_nodes = info.name == "pods"
        self.installs = 0
        """How often the cache began anew: whoever listens has to begin anew as well."""
        self.changes = 0
        """How often what it holds became other: what was made of it is good as long as this stays."""
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
        self._events_bytes = 0
        self.floor = revision
        self.installs += 1
        self.changes += 1
        self.ready = True

    def apply(self, key: str, value: bytes | Entry | None, revision: int) -> Entry | None:
        """A key was written (`value`, as it stands in etcd, or what that was read as) or removed (None) at `revision`.

        What is there now, where that is news.
        """
        previous = self._entries.get(key)
        known = previous if previous is not None and previous.readable else None
        if value is not None and previous is not None and previous.revision >= revision:
            return None
        entry = read(self.info, key, value, revision, self._transformer) if isinstance(value, bytes) else value
        self.changes += 1
        self._broken.pop(key, None)
        if isinstance(entry, Broken):
            # For all others it is as if the object was gone: a server that starts now does not see it either.
            log.error("%s", entry.error.message)
            self._broken[key] = entry
            entry = None
        if entry is None:
            if previous is None:
                return None
            del self._entries[key]
            if known is None:
                return None
            event = Event(DELETED, known.at(revision), known)
        else:
            self._entries[key] = entry
            if isinstance(entry, Unreadable):
                self._lose(entry, known)
                return entry
            event = Event(MODIFIED if known is not None else ADDED, entry, known)
        self._remember(event)
        self._tell(event)
        self._fan_out(event)
        return entry

    def _remember(self, event: Event) -> None:
        self._events.append(event)
        self._events_bytes += event.size
        while len(self._events) > self._events_max or self._events_bytes > self._bytes_max:
            dropped = self._events.popleft()
            self._events_bytes -= dropped.size
            self.floor = dropped.revision

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
        self._events_bytes = 0
        self.floor = entry.revision
        if known is not None:
            self._tell(Event(DELETED, known.at(entry.revision), known))
        for wanted, group in self._groups.items():
            if wanted.namespace in ("", entry.namespace) and wanted.name in ("", entry.name):
                group.end(entry.error)

    def reset(self, error: Exception | None) -> None:
        """End all watchers, with `error` where they missed something; the cache must be installed again."""
        self.ready = False
        self.end_watchers(error)

    def end_watchers(self, error: Exception | None = None) -> None:
        """What they were told so far is all they get here."""
        for group in self._groups.values():
            group.end(error)
        self._groups.clear()
        self._buckets.clear()

    def _fan_out(self, event: Event) -> None:
        if not self._groups:
            return
        entry, previous = event.entry, event.previous
        buckets = [EVERYONE, ("metadata.name", entry.name)]
        if self._indexes_nodes:
            node = entry.node
            buckets.append(("spec.nodeName", node))
            if previous is not None and previous.node != node:
                buckets.append(("spec.nodeName", previous.node))
        for bucket in buckets:
            for group in self._buckets.get(bucket, ()):
                group.offer(event)

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

    @property
    def object_bytes(self) -> int:
        """About how large an object is: the first one that can be read."""
        return next((entry.size for entry in self._entries.values() if entry.readable), 0)

    def select(self, selection: Selection) -> list[Entry]:
        """Matching entries in key order."""
        name = selection.name or selection.fields.requires("metadata.name") or ""
        if name and (selection.namespace or not self.info.namespaced):
            entry = self.get(selection.namespace, name)
            found = entry is not None and not isinstance(entry, Broken) and selection.matches(entry)
            return [entry] if found and entry is not None else []
        prefix = self.info.key_prefix(selection.namespace)
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        entries = self._entries
        placed: list[Entry] = entries.values()[entries.bisect_left(prefix) : entries.bisect_left(end)]
        if selection.content_free and not selection.name:
            return placed
        return [entry for entry in placed if selection.matches(entry)]

    def watch(self, selection: Selection, after: int) -> Watcher:
        """A watcher of the changes after revision `after`. Expired when they are no longer known."""
        if after < self.floor:
            raise Expired(f"too old resource version: {after} ({self.floor})")
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
        return self._join(selection, after, seen)

    def watch_from_now(self, selection: Selection, revision: int, *, initial: bool) -> Watcher:
        """A watcher that begins with the objects there are (`initial`) and goes on with changes."""
        entries = self.select(selection) if initial else []
        for entry in entries:
            if isinstance(entry, Unreadable):
                raise entry.error
        return self._join(selection, revision, [(ADDED, entry, None) for entry in entries])

    def _join(self, selection: Selection, after: int, initial: list[Seen]) -> Watcher:
        group = self._groups.get(selection)
        if group is None:
            group = self._groups[selection] = Group(selection, self._watcher_events_max, self._bytes_max)
            for name in selection.buckets(nodes=self._indexes_nodes):
                self._buckets.setdefault(name, {})[group] = None
        return Watcher(group, after, initial)

    def leave(self, watcher: Watcher) -> None:
        watcher.end()
        group = watcher.group
        if group.watchers or self._groups.get(group.selection) is not group:
            return
        del self._groups[group.selection]
        for name in group.selection.buckets(nodes=self._indexes_nodes):
            bucket = self._buckets[name]
            del bucket[group]
            if not bucket:
                del self._buckets[name]

    @property
    def watched_by_all(self) -> int:
        """Watchers that no change passes by."""
        return sum(len(group.watchers) for group in self._buckets.get(EVERYONE, ()))

    @property
    def watcher_count(self) -> int:
        return sum(len(group.watchers) for group in self._groups.values())
