"""A disk in memory that loses what was not synced, for the simulation and for crash tests.

Enforces the contract of `storage.env.disk`. A `crash` keeps, for every file, the synced bytes, and of each later
sector either the old or the new content; of names, the synced ones and any prefix of the later changes, in order
(as a journalling file system does). Deterministic: all chance comes from the generator given to `crash`.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rayplane.storage.env.disk import DiskError, LockHeld

SECTOR = 512


_Names = list[tuple[str, "_Inode | None"]]


@dataclass(slots=True)
class _Inode:
    data: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    dirty_from: int = 0  # bytes below are the same in both
    cuts: int = 0  # times the end was cut off
    preallocated: int = 0
    syncs_begun: int = 0
    last_sync: int = 0

    def sync(self) -> None:
        self.durable = bytearray(self.data)
        self.dirty_from = len(self.data)

    def keep(self, start: int, tail: bytes, cuts: int) -> None:
        """Bytes from `start` on are durable as `tail`, and nothing follows them; `cuts` as when `tail` was read."""
        self.durable[start:] = tail
        self.dirty_from = start + len(tail) if cuts == self.cuts else min(start, self.dirty_from)

    def tear(self, rng: random.Random) -> None:
        """Lose what was not synced: all of it, none, all from some byte on, or any of its sectors."""
        new, old = bytes(self.data), bytes(self.durable)
        start, stop = min(self.dirty_from, len(old), len(new)), max(len(old), len(new))
        how = rng.choice(("all", "none", "prefix", "sectors"))
        if how == "all":
            torn = old
        elif how == "none":
            torn = new
        elif how == "prefix":
            torn = new[: rng.randint(start, max(start, len(new)))]
        else:
            new, old = new.ljust(stop, b"\0"), old.ljust(stop, b"\0")
            parts, position = [new[:start]], start
            while position < stop:
                following = min(stop, (position // SECTOR + 1) * SECTOR)
                parts.append((new if rng.random() < 0.5 else old)[position:following])
                position = following
            torn = b"".join(parts)
        self.data = bytearray(torn)
        self.sync()


class SimulatedFile:
    """A handle; dead after a crash of its disk."""

    def __init__(self, disk: "SimulatedDisk", path: str, inode: _Inode) -> None:
        self._disk, self._path, self._inode, self._boot = disk, path, inode, disk.boot
        self._open = True

    def _check(self) -> None:
        if not self._open or self._boot != self._disk.boot:
            raise DiskError(f"cannot use {self._path}: the handle was closed, or its machine crashed")

    def append(self, data: bytes) -> None:
        self._check()
        room = self._disk.room()
        self._inode.data += data[:room]
        if room < len(data):
            raise DiskError(f"cannot write {self._path}: no space left on device")

    async def sync(self) -> None:
        self._check()
        # Only what was appended before the call is promised.
        start, cuts = self._inode.dirty_from, self._inode.cuts
        tail = bytes(memoryview(self._inode.data)[start:])
        self._inode.syncs_begun += 1
        number = self._inode.syncs_begun
        await self._disk.pause()
        self._check()
        if self._disk.failing:
            raise DiskError(f"cannot sync {self._path}: input/output error")
        if number > self._inode.last_sync:
            self._inode.last_sync = number
            self._inode.keep(start, tail, cuts)

    def size(self) -> int:
        return len(self._inode.data)

    def close(self) -> None:
        self._open = False


class SimulatedDisk:
    """A disk in memory, see the module. `capacity` in bytes; `sync_seconds` is asked for the length of each sync."""

    def __init__(self, *, capacity: int = 1 << 40, sync_seconds: Callable[[], float] | None = None) -> None:
        self.capacity = capacity
        self.failing = False
        self.boot = 0
        self._sync_seconds = sync_seconds
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        # What was not synced yet, in order: a directory, and names with what they now are, all or none.
        self._changes: list[tuple[str, _Names]] = []
        self._directories: set[str] = {""}
        self._locks: set[str] = set()
        self._asked = itertools.count(1)
        self._replaced: dict[str, int] = {}

    # Faults

    def crash(self, rng: random.Random) -> None:
        """The machine stops and starts again: see the module for what is left. Open handles and locks are dead."""
        self.boot += 1
        self._locks.clear()
        for _, names in self._changes[: rng.randint(0, len(self._changes))]:
            _apply(self._durable_names, names)
        self._changes.clear()
        self._names = dict(self._durable_names)
        torn: dict[int, _Inode] = {}
        for name in sorted(self._names):
            inode = self._names[name]
            if torn.setdefault(id(inode), inode) is inode and inode.data != inode.durable:
                inode.tear(rng)

    def kill(self) -> None:
        """The process dies, the machine lives: nothing is lost but handles and locks."""
        self.boot += 1
        self._locks.clear()

    def flip(self, path: str, offset: int, bit: int = 0) -> None:
        """Invert one bit of a file, as a failing disk would."""
        inode = self._names[path]
        inode.data[offset] ^= 1 << bit
        inode.durable = bytearray(inode.data)

    def corrupt(self, rng: random.Random) -> str:
        """Invert one bit of what was written first to any file; the file, or nothing where there is none."""
        written = [name for name in sorted(self._names) if len(self._names[name].durable) > 1]
        if not written:
            return ""
        path = rng.choice(written)
        # Not of what came last: that could as well be a write that power failed under.
        self.flip(path, rng.randrange(len(self._names[path].durable) // 2), rng.randrange(8))
        return path

    def wipe(self) -> None:
        """The disk is lost and replaced by an empty one."""
        self.boot += 1
        self._names, self._durable_names = {}, {}
        self._changes, self._directories, self._locks = [], {""}, set()

    def room(self) -> int:
        used = {id(inode): len(inode.data) for inode in self._names.values()}
        return max(0, self.capacity - sum(used.values()))

    async def pause(self) -> None:
        """The time that a sync takes."""
        if self._sync_seconds is not None:
            await asyncio.sleep(self._sync_seconds())

    # Names

    def _change(self, directory: str, names: _Names) -> None:
        _apply(self._names, names)
        self._changes.append((directory, names))

    def _sync_names(self, directory: str) -> None:
        rest = []
        for change in self._changes:
            if change[0] == directory:
                _apply(self._durable_names, change[1])
            else:
                rest.append(change)
        self._changes = rest

    def _below(self, path: str) -> list[str]:
        return sorted(name for name in self._names if name.startswith(f"{path}/"))

    # Disk

    def append_file(self, path: str, *, preallocate: int = 0, at: int | None = None) -> SimulatedFile:
        path = _clean(path)
        inode = self._names.get(path)
        if inode is None:
            inode = _Inode()
            self.make_dir(_parent(path))
            self._change(_parent(path), [(path, inode)])
        if at is not None:
            del inode.data[at:]
            inode.cuts += 1
            inode.data += bytes(at - len(inode.data))
            inode.dirty_from = min(inode.dirty_from, at)
        inode.preallocated = max(preallocate, inode.preallocated)
        return SimulatedFile(self, path, inode)

    def read(self, path: str) -> bytes:
        inode = self._names.get(_clean(path))
        if inode is None:
            raise FileNotFoundError(path)
        return bytes(inode.data).ljust(inode.preallocated, b"\0")

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        return self.read(path)[offset : offset + size]

    def size(self, path: str) -> int:
        return len(self.read(path))

    async def write_atomic(self, path: str, data: bytes) -> None:
        path = _clean(path)
        boot, number = self.boot, next(self._asked)
        await self.pause()
        if boot != self.boot:
            raise DiskError(f"cannot write {path}: its machine crashed")
        if self.failing or self.room() < len(data):
            raise DiskError(f"cannot write {path}: no space left on device")
        if number < self._replaced.get(path, 0):
            return  # a later call was faster: its content stands for this one's too
        self._replaced[path] = number
        inode = _Inode(data=bytearray(data))
        inode.sync()
        self.make_dir(_parent(path))
        self._change(_parent(path), [(path, inode)])
        self._sync_names(_parent(path))

    def list(self, path: str = "") -> list[str]:
        path = _clean(path)
        prefix = f"{path}/" if path else ""
        names = [n for n in (*self._names, *self._directories) if n.startswith(prefix) and n != path]
        return sorted({n[len(prefix) :].split("/")[0] for n in names} - {""})

    def exists(self, path: str) -> bool:
        path = _clean(path)
        return path in self._names or path in self._directories or bool(self._below(path))

    def make_dir(self, path: str) -> None:
        path = _clean(path)
        while path:
            self._directories.add(path)
            path = _parent(path)

    def remove(self, path: str) -> None:
        path = _clean(path)
        gone = [path] if path in self._names else self._below(path)
        self._change(_parent(path), [(name, None) for name in gone])
        self._directories = {d for d in self._directories if d != path and not d.startswith(f"{path}/")}

    async def discard(self, path: str) -> None:
        self.remove(path)

    def rename(self, old: str, new: str) -> None:
        old, new = _clean(old), _clean(new)
        if old in self._names:
            self._change(_parent(new), [(new, self._names[old]), (old, None)])
            return
        if not self.exists(old):
            raise FileNotFoundError(old)
        if self._below(new):
            raise DiskError(f"cannot rename {old} to {new}: it is not empty")
        moved = {name: new + name[len(old) :] for name in self._below(old)}
        # The directory's entry changes in its parent; names not durable inside it are not made so by that.
        changes: list[tuple[str, _Names]] = []
        for directory, names in self._changes:
            if directory == old or directory.startswith(f"{old}/"):
                directory = new + directory[len(old) :]
                names = [(moved.get(name, name), inode) for name, inode in names]
            changes.append((directory, names))
        self._changes = changes
        durable = [name for name in moved if name in self._durable_names]
        self.make_dir(new)
        self._directories.discard(old)
        for name, target in moved.items():
            self._names[target] = self._names.pop(name)
        removed: _Names = [(name, None) for name in durable]
        self._changes.append((_parent(new), [(moved[n], self._names[moved[n]]) for n in durable] + removed))

    async def sync_dir(self, path: str = "") -> None:
        boot = self.boot
        await self.pause()
        if boot != self.boot:
            raise DiskError(f"cannot sync {path}: its machine crashed")
        self._sync_names(_clean(path))

    @contextlib.contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        if path in self._locks:
            raise LockHeld(f"{path} is held by another process; stop it or use another directory")
        self._locks.add(path)
        boot = self.boot
        try:
            yield
        finally:
            if boot == self.boot:
                self._locks.discard(path)

    def lock(self, path: str) -> contextlib.AbstractContextManager[None]:
        return self._locked(_clean(path))

    def local_path(self, path: str = "") -> str | None:
        return None


def _apply(names: dict[str, _Inode], changes: _Names) -> None:
    for name, inode in changes:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _clean(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
