"""Which revisions each key has: pure, in memory.

A revision is one int, `main << 32 | sub << 1 | tombstone`: ints order as revisions do. `main` counts write
transactions, `sub` the changes inside one. A key's history is the ascending list of its revisions; a tombstone ends
a generation, the next put begins another with version 1.

Example: put, put, delete, put of one key at 2, 3, 5, 7 gives [2, 3, 5t, 7]. compact(3) leaves [3, 5t, 7], compact(4)
too, compact(5) leaves [5t, 7] (a watch may still start at 5), compact(6) and (7) leave [7]. Without the last put
compact(6) leaves nothing and the key is forgotten.
"""

from bisect import bisect_left
from collections.abc import Iterator

from sortedcontainers import SortedList

SUB_MAX = (1 << 31) - 1
FROM_KEY = b"\0"


def revision(main: int, sub: int, *, tombstone: bool = False) -> int:
    """Encode a revision as described above."""
    return main << 32 | sub << 1 | tombstone


class History:
    """A key's revisions, and its live generation: `created` (main revision) and `version` are 0 if it is deleted."""

    __slots__ = ("created", "lease", "revisions", "version")

    def __init__(self) -> None:
        self.revisions: list[int] = []
        self.created = 0
        self.version = 0
        self.lease = 0

    def at(self, main: int) -> int | None:
        """The revision visible at `main`, None if the key is not there then."""
        position = bisect_left(self.revisions, (main + 1) << 32)
        if not position or self.revisions[position - 1] & 1:
            return None
        return self.revisions[position - 1]


class KeyIndex:
    """Histories of all keys, ordered. Live and deleted keys are kept apart so that counting the living is cheap."""

    def __init__(self) -> None:
        self._histories: dict[bytes, History] = {}
        self._live: SortedList[bytes] = SortedList()
        self._dead: SortedList[bytes] = SortedList()
        # Keys that a compaction could shorten, in insertion order (a dict, for an order that no hash seed changes).
        self._shrinkable: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._live)

    def history(self, key: bytes) -> History | None:
        return self._histories.get(key)

    def put(self, key: bytes, rev: int, lease: int) -> History:
        """Record a put at `rev`, which is above all others. Returns the history with its new created and version."""
        history = self._histories.get(key)
        if history is None:
            history = self._histories[key] = History()
            self._live.add(key)
        else:
            if not history.version:
                self._dead.remove(key)
                self._live.add(key)
            self._shrinkable[key] = None
        if not history.version:
            history.created = rev >> 32
        history.version += 1
        history.lease = lease
        history.revisions.append(rev)
        return history

    def tombstone(self, key: bytes, rev: int) -> None:
        """Record a delete of a live key at `rev`."""
        history = self._histories[key]
        history.revisions.append(rev)
        history.created = history.version = history.lease = 0
        self._live.remove(key)
        self._dead.add(key)
        self._shrinkable[key] = None

    def undo(self, key: bytes, created: int, version: int, lease: int) -> None:
        """Take back the last change of a key; the rest is the live generation as it was before that change."""
        history = self._histories[key]
        history.revisions.pop()
        was_live = history.version > 0
        history.created, history.version, history.lease = created, version, lease
        if was_live != (version > 0):
            (self._live if was_live else self._dead).remove(key)
            if history.revisions:
                (self._live if version else self._dead).add(key)
        if not history.revisions:
            del self._histories[key]
            self._shrinkable.pop(key, None)

    def keys(self, key: bytes, end: bytes) -> Iterator[bytes]:
        """Live keys of a range, in order. `end` empty: just `key`; b"\\0": all from `key` on."""
        if not end:
            history = self._histories.get(key)
            return iter((key,) if history is not None and history.version else ())
        return self._live.irange(key, None if end == FROM_KEY else end, inclusive=(True, False))

    def count(self, key: bytes, end: bytes) -> int:
        """How many live keys a range has."""
        if not end:
            history = self._histories.get(key)
            return int(history is not None and history.version > 0)
        stop = len(self._live) if end == FROM_KEY else self._live.bisect_left(end)
        return max(0, stop - self._live.bisect_left(key))

    def revisions(self, key: bytes, end: bytes, limit: int) -> list[int]:
        """Last revisions of the first `limit` (0: of all) live keys of a range."""
        histories = self._histories
        found = []
        for name in self.keys(key, end):
            found.append(histories[name].revisions[-1])
            if len(found) == limit:
                break
        return found

    def revisions_at(self, main: int, key: bytes, end: bytes) -> list[int]:
        """Revisions visible at `main` of all keys of a range, in key order."""
        if not end:
            names: list[bytes] = [key] if key in self._histories else []
        else:
            stop = None if end == FROM_KEY else end
            names = [
                *self._live.irange(key, stop, inclusive=(True, False)),
                *self._dead.irange(key, stop, inclusive=(True, False)),
            ]
            names.sort()
        found = (self._histories[name].at(main) for name in names)
        return [rev for rev in found if rev is not None]

    def before(self, key: bytes, rev: int) -> int | None:
        """The put that the change at `rev` replaced; None if there was none or it has been compacted away."""
        history = self._histories.get(key)
        if history is None:
            return None
        position = bisect_left(history.revisions, rev)
        if not position or history.revisions[position - 1] & 1:
            return None
        return history.revisions[position - 1]

    def compact(self, main: int) -> list[int]:
        """Forget what no reader at `main` or later can see; returns the forgotten revisions in ascending order."""
        dropped: list[int] = []
        limit = (main + 1) << 32
        for key in list(self._shrinkable):
            history = self._histories[key]
            revisions = history.revisions
            keep = bisect_left(revisions, limit)
            # The last one at or below `main` stays if a reader at `main` sees it, or a watcher from `main` must.
            if keep and (not revisions[keep - 1] & 1 or revisions[keep - 1] >> 32 == main):
                keep -= 1
            dropped += revisions[:keep]
            del revisions[:keep]
            if not revisions:
                self._dead.remove(key)
                del self._histories[key]
            if len(revisions) < 2 and not (revisions and revisions[0] & 1):
                del self._shrinkable[key]
        dropped.sort()
        return dropped

    def load(self, key: bytes, rev: int, created: int, version: int, lease: int) -> None:
        """Record a change read back from disk, in ascending order of revisions; `finish_load` ends the loading."""
        history = self._histories.get(key)
        if history is None:
            history = self._histories[key] = History()
        history.revisions.append(rev)
        history.created, history.version, history.lease = created, version, lease

    def finish_load(self) -> None:
        self._live = SortedList(key for key, history in self._histories.items() if history.version)
        self._dead = SortedList(key for key, history in self._histories.items() if not history.version)
        self._shrinkable = {
            key: None for key, history in self._histories.items() if len(history.revisions) > 1 or not history.version
        }

    def attachments(self) -> dict[int, list[bytes]]:
        """Live keys by the lease they are attached to, in key order."""
        found: dict[int, list[bytes]] = {}
        for key in self._live:
            lease = self._histories[key].lease
            if lease:
                found.setdefault(lease, []).append(key)
        return found
