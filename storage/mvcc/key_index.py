"""The key index: the revisions of each key. Pure, in memory.

A revision is one int, `main << 32 | sub << 1 | tombstone`: ints order as revisions do. `main` counts write
transactions, `sub` the changes inside one. A key's history is the ascending list of its revisions; a tombstone ends
a generation, the next put begins another with version 1.

Example: put, put, delete, put of one key at 2, 3, 5, 7 gives [2, 3, 5t, 7]. trim(3) leaves [3, 5t, 7], trim(4) too,
trim(5) leaves [5t, 7] (a watch may still start at 5), trim(6) and (7) leave [7]. Without the last put trim(6) leaves
nothing and the key is forgotten.

Compact, because there may be millions of keys: most were written once since they were made, and such a key is its
bytes, one int and a place in the order of keys; what a compaction will remove is kept apart.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice

from sortedcontainers import SortedList

from rayplane.storage.key_ranges import FROM_KEY

SUB_MAX = (1 << 31) - 1
RUN_KEYS = 1 << 15
"""Keys that `load` sorts at once."""

Head = int | tuple[int, int, int]
"""A key's last revision; with its created main revision and version, unless it is the first put of its generation
(created is then its own main revision, version 1) or a tombstone."""


def revision(main: int, sub: int, *, tombstone: bool = False) -> int:
    """Encode a revision as described above."""
    return main << 32 | sub << 1 | tombstone


class KeyIndex:
    """Histories of all keys, ordered. Live and deleted keys are kept apart so that counting the living is cheap."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}
        # What came before the last revision, of keys that have such; in an order that no hash seed changes.
        self._older: dict[bytes, list[int]] = {}
        # Leases of live keys, 0 left out.
        self._leases: dict[bytes, int] = {}
        self._live: SortedList[bytes] = SortedList()
        self._dead: SortedList[bytes] = SortedList()
        self._runs: list[list[bytes]] = [[]]
        self._loaded_dead: dict[bytes, None] = {}
        self.newest = 0
        """Main revision of the last change that was loaded."""

    def __len__(self) -> int:
        return len(self._live)

    # Changes

    def put(self, key: bytes, rev: int, lease: int) -> tuple[int, int, Head | None]:
        """Record a put at `rev`, which is above all others; its created and version, and what `undo` needs."""
        head = self._heads.get(key)
        if head is None:
            self._heads[key] = rev
            self._live.add(key)
            created, version = rev >> 32, 1
        else:
            if type(head) is int:
                last, created, version = head, head >> 32, 1
            else:
                last, created, version = head  # type: ignore[misc]
            older = self._older.get(key)
            if older is None:
                self._older[key] = [last]
            else:
                older.append(last)
            if last & 1:
                self._dead.remove(key)
                self._live.add(key)
                self._heads[key] = rev
                created, version = rev >> 32, 1
            else:
                version += 1
                self._heads[key] = (rev, created, version)
        if lease:
            self._leases[key] = lease
        elif self._leases:
            self._leases.pop(key, None)
        return created, version, head

    def tombstone(self, key: bytes, rev: int) -> Head:
        """Record a delete of a live key at `rev`; returns what `undo` needs."""
        head = self._heads[key]
        self._older.setdefault(key, []).append(_last(head))
        self._heads[key] = rev
        self._leases.pop(key, None)
        self._live.remove(key)
        self._dead.add(key)
        return head

    def undo(self, key: bytes, before: Head | None, lease: int) -> None:
        """Take back the last change of a key, which was `before` and had this lease."""
        deleted = _last(self._heads[key]) & 1
        if before is None:
            del self._heads[key]
            self._live.remove(key)
        else:
            self._heads[key] = before
            older = self._older[key]
            older.pop()
            if not older:
                del self._older[key]
            if _last(before) & 1 != deleted:
                (self._dead if deleted else self._live).remove(key)
                (self._live if deleted else self._dead).add(key)
        if lease:
            self._leases[key] = lease
        else:
            self._leases.pop(key, None)

    # Reading

    def last(self, key: bytes) -> int:
        """The last revision of a live key, 0 if there is none."""
        head = self._heads.get(key)
        if head is None:
            return 0
        rev = head if type(head) is int else head[0]  # type: ignore[index]
        return 0 if rev & 1 else rev

    def lease(self, key: bytes) -> int:
        return self._leases.get(key, 0)

    def written(self, key: bytes) -> tuple[int, int, int]:
        """Main revisions of a live key's creation and its last put, and its version; zeros if there is none."""
        head = self._heads.get(key, 1)
        if type(head) is int:
            return (0, 0, 0) if head & 1 else (head >> 32, head >> 32, 1)
        rev, created, version = head  # type: ignore[misc]
        return created, rev >> 32, version

    def history(self, key: bytes) -> list[int]:
        """All revisions that are still known, ascending."""
        head = self._heads.get(key)
        return [] if head is None else [*self._older.get(key, ()), _last(head)]

    def keys(self, key: bytes, end: bytes) -> Iterator[bytes]:
        """Live keys of a range, in order. `end` empty: just `key`; b"\\0": all from `key` on."""
        if not end:
            return iter((key,) if self.last(key) else ())
        return self._live.irange(key, None if end == FROM_KEY else end, inclusive=(True, False))

    def count(self, key: bytes, end: bytes) -> int:
        """How many live keys a range has."""
        if not end:
            return int(self.last(key) > 0)
        stop = len(self._live) if end == FROM_KEY else self._live.bisect_left(end)
        return max(0, stop - self._live.bisect_left(key))

    def revisions(self, key: bytes, end: bytes, limit: int) -> list[int]:
        """Last revisions of the first `limit` (0: of all) live keys of a range."""
        if not end:
            last = self.last(key)
            return [last] if last else []
        names = self.keys(key, end)
        heads = map(self._heads.__getitem__, islice(names, limit) if limit > 0 else names)
        return [head if type(head) is int else head[0] for head in heads]  # type: ignore[index]

    def at(self, key: bytes, main: int) -> int:
        """The revision visible at `main`, 0 if the key is not there then."""
        rev = self._change_at(key, main)
        return 0 if rev & 1 else rev

    def _change_at(self, key: bytes, main: int) -> int:
        """The last change at or before `main`, be it a tombstone; 0 if there is none."""
        head = self._heads.get(key)
        if head is None:
            return 0
        rev, limit = _last(head), (main + 1) << 32
        if rev < limit:
            return rev
        older = self._older.get(key, ())
        position = bisect_left(older, limit)
        return older[position - 1] if position else 0

    def revisions_at(self, main: int, key: bytes, end: bytes) -> list[int]:
        """Revisions visible at `main` of all keys of a range, in key order."""
        return self.visible(self.names(key, end), main)

    def names(self, key: bytes, end: bytes) -> list[bytes]:
        """Keys of a range that live or have lived, in order."""
        if not end:
            return [key]
        stop = None if end == FROM_KEY else end
        names = list(self._live.irange(key, stop, inclusive=(True, False)))
        dead = list(self._dead.irange(key, stop, inclusive=(True, False)))
        if dead:
            names += dead
            names.sort()
        return names

    def visible(self, names: list[bytes], main: int) -> list[int]:
        """Revisions visible at `main` of these keys, where there are any."""
        heads, limit, found = self._heads, (main + 1) << 32, []
        for name in names:
            head = heads.get(name, 1)
            rev = head if type(head) is int else head[0]  # type: ignore[index]
            if rev >= limit:
                rev = self.at(name, main)
            if rev and not rev & 1:
                found.append(rev)
        return found

    def before(self, key: bytes, rev: int) -> int:
        """The put that was there before the main revision of the change at `rev`, as watches show it.

        0 if there was none, if it is not known any more, or if the change creates the key.
        """
        head = self._heads.get(key)
        older = self._older.get(key)
        if head is None or older is None:
            return 0
        position = len(older) if _last(head) == rev else bisect_left(older, rev)
        while position:
            previous = older[position - 1]
            if previous >> 32 < rev >> 32:
                return 0 if previous & 1 else previous
            if previous & 1 and not rev & 1:
                return 0  # created again in the revision that deleted it
            position -= 1
        return 0

    def keeps(self, key: bytes, rev: int, main: int) -> bool:
        """Whether a compaction at `main`, at or after the last one, leaves the change at `rev` <= `main` there."""
        return self._change_at(key, main) == rev and (not rev & 1 or rev >> 32 == main)

    def attachments(self) -> dict[int, list[bytes]]:
        """Live keys by the lease they are attached to, in key order."""
        found: dict[int, list[bytes]] = {}
        for key in sorted(self._leases):
            found.setdefault(self._leases[key], []).append(key)
        return found

    # Compaction

    def trimmable(self) -> list[bytes]:
        """The keys that a compaction could shorten."""
        older = self._older
        return [*older, *(key for key in self._dead if key not in older)]

    def trim(self, key: bytes, main: int) -> list[int]:
        """Forget what no reader at `main` or later can see of a key; returns the forgotten revisions, ascending."""
        head = self._heads.get(key)
        if head is None:
            return []
        rev = _last(head)
        if rev >> 32 <= main:
            dropped = self._older.pop(key, [])
            if rev & 1 and rev >> 32 != main:
                dropped.append(rev)
                del self._heads[key]
                self._dead.remove(key)
            return dropped
        older = self._older.get(key)
        if older is None:
            return []
        keep = bisect_left(older, (main + 1) << 32)
        # The last one at or below `main` stays if a reader at `main` sees it, or a watcher from `main` must.
        if keep and (not older[keep - 1] & 1 or older[keep - 1] >> 32 == main):
            keep -= 1
        dropped = older[:keep]
        del older[:keep]
        if not older:
            del self._older[key]
        return dropped

    # Loading

    def load(self, key: bytes, rev: int, created: int, version: int, lease: int) -> None:
        """Record a change read back from disk, in ascending order of revisions; `finish_load` ends the loading."""
        head = self._heads.get(key)
        self.newest = rev >> 32
        if head is not None:
            self._older.setdefault(key, []).append(_last(head))
            self._loaded_dead.pop(key, None)
        else:
            self._runs[-1].append(key)
            if len(self._runs[-1]) >= RUN_KEYS:
                self._merge_runs(everything=False)
                self._runs.append([])
        if rev & 1:
            self._loaded_dead[key] = None
            self._heads[key] = rev
        elif version == 1:
            self._heads[key] = rev
        else:
            self._heads[key] = (rev, created, version)
        if lease:
            self._leases[key] = lease
        elif self._leases:
            self._leases.pop(key, None)

    def _merge_runs(self, *, everything: bool) -> None:
        """Sort the last run, and merge it with those before it that are not larger (sort finds the runs in it)."""
        runs = self._runs
        runs[-1].sort()
        while len(runs) > 1 and (everything or len(runs[-2]) <= len(runs[-1])):
            last = runs.pop()
            runs[-1] += last
            runs[-1].sort()

    def finish_load(self) -> None:
        """What was loaded can be read from now on."""
        self._merge_runs(everything=True)
        dead, (names,) = self._loaded_dead, self._runs
        self._live = SortedList([key for key in names if key not in dead] if dead else names)
        self._dead = SortedList(dead)
        self._loaded_dead, self._runs = {}, [[]]


def _last(head: Head) -> int:
    return head if type(head) is int else head[0]  # type: ignore[return-value,index]
