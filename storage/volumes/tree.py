"""A real directory as a manifest, and back. Runs in a worker thread; used only where volumes have real directories.

Changes are found by stat. What that cannot see: a file whose time stamps have not moved, so a file changed within the
last `RACY_NS` before a scan is read again at the next one; and stores through a shared mapping that is never synced
(msync makes them visible). Hard links become separate files; sockets, pipes and devices are left out.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from storage.volumes.errors import CorruptVolume
from storage.volumes.manifest import (
    DIRECTORY,
    FILE,
    SYMLINK,
    Entry,
    Manifest,
    block_bytes,
    check_path,
    hash_block,
)

RACY_NS = 100_000_000
"""Older than this, a time stamp moves with every change (kernels stamp with ticks of up to 10 ms)."""
PASSES = 3
"""Scans of a directory that changes meanwhile, until it is taken as it was found."""
KEEP_BYTES = 64 * 1024 * 1024
"""Changed blocks kept in memory until they are sent; others are read again then."""
_Signature = tuple[int, ...]


@dataclass(slots=True)
class Scan:
    """A directory's content. `stable`: nothing changed while it was read, so it is of one moment."""

    manifest: dict[bytes, Entry] = field(default_factory=dict)
    stable: bool = True


class TreeScanner:
    """Scans one directory again and again, reading only what changed."""

    def __init__(self, root: str, wall_ns: Callable[[], int]) -> None:
        self.root = os.fsencode(root)
        self._wall_ns = wall_ns
        self._seen: dict[bytes, tuple[_Signature, bool, Entry]] = {}
        self._kept: dict[bytes, bytes] = {}
        self._kept_bytes = 0

    def scan(self) -> Scan:
        """Raises OSError if something cannot be read."""
        self._kept.clear()
        self._kept_bytes = 0
        scan = self._pass()
        for _ in range(PASSES - 1):
            again = self._pass()
            stable = again.manifest == scan.manifest
            scan = again
            if stable:
                break
        else:
            scan.stable = False
        return scan

    def _pass(self) -> Scan:
        scan = Scan()
        seen: dict[bytes, tuple[_Signature, bool, Entry]] = {}
        now = self._wall_ns()
        pending = [b""]
        while pending:
            directory = pending.pop()
            try:
                found = list(os.scandir(os.path.join(self.root, directory)))
            except FileNotFoundError:
                if not directory:
                    raise
                continue  # removed meanwhile
            for item in found:
                path = os.path.join(directory, item.name)
                try:
                    status = item.stat(follow_symlinks=False)
                    entry = self._entry(path, status, seen, now)
                except FileNotFoundError:
                    continue
                if entry is not None:
                    scan.manifest[path] = entry
                    if entry.kind == DIRECTORY:
                        pending.append(path)
        self._seen = seen
        return scan

    def _entry(
        self, path: bytes, status: os.stat_result, seen: dict[bytes, tuple[_Signature, bool, Entry]], now: int
    ) -> Entry | None:
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            return Entry(DIRECTORY, mode)
        if stat.S_ISLNK(status.st_mode):
            return Entry(SYMLINK, mode, target=os.readlink(os.path.join(self.root, path)))
        if not stat.S_ISREG(status.st_mode):
            return None
        signature = _signature(status)
        known = self._seen.get(path)
        if known is not None and known[0] == signature and not known[1]:
            seen[path] = known
            return known[2]
        entry = self._read(path, mode, known[2] if known else None)
        racy = max(status.st_mtime_ns, status.st_ctime_ns) > now - RACY_NS
        seen[path] = (signature, racy, entry)
        return entry

    def _read(self, path: bytes, mode: int, known: Entry | None) -> Entry:
        """Hash a file; blocks that are not in what was known of it are kept for sending."""
        before = frozenset(known.blocks) if known is not None else frozenset()
        blocks = []
        with open(os.path.join(self.root, path), "rb", buffering=0) as file:
            size = 0
            length = block_bytes(os.fstat(file.fileno()).st_size)
            while data := _read_block(file.fileno(), length, size):
                digest = hash_block(data)
                blocks.append(digest)
                size += len(data)
                if digest not in before and digest not in self._kept and self._kept_bytes < KEEP_BYTES:
                    self._kept[digest] = data
                    self._kept_bytes += len(data)
        entry = Entry(FILE, mode, size, length, tuple(blocks))
        return known if known == entry else entry

    def block(self, wanted: bytes, path: bytes, offset: int, length: int) -> bytes | None:
        """A block of the last scan; None if its file has changed since."""
        data = self._kept.get(wanted)
        if data is not None:
            return data
        try:
            with open(os.path.join(self.root, path), "rb", buffering=0) as file:
                data = _read_block(file.fileno(), length, offset)
        except FileNotFoundError:
            return None
        return data if hash_block(data) == wanted else None


def _signature(status: os.stat_result) -> _Signature:
    """What moves when a file changes."""
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode)


def _read_block(descriptor: int, length: int, offset: int) -> bytes:
    """Up to `length` bytes at an offset; fewer only at the end."""
    data = os.pread(descriptor, length, offset)
    while data and len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


class TreeWriter:
    """Makes an empty directory hold a manifest. Blocks may come in any order, files must all be begun first."""

    def __init__(self, root: str, manifest: Manifest) -> None:
        self._root = os.fsencode(root)
        self._manifest = manifest
        self._places: dict[bytes, list[tuple[bytes, int]]] = {}

    def begin(self) -> list[bytes]:
        """Create everything but content; returns the blocks that are needed, each once."""
        for path, entry in sorted(self._manifest.items()):
            if not check_path(path):
                raise CorruptVolume(f"path {path!r} leads out of the volume")
            target = os.path.join(self._root, path)
            if entry.kind == DIRECTORY:
                os.mkdir(target, 0o700)
            elif entry.kind == SYMLINK:
                os.symlink(entry.target, target)
            else:
                with open(target, "xb") as file:
                    file.truncate(entry.size)
                    os.fchmod(file.fileno(), entry.mode)
                for number, block in enumerate(entry.blocks):
                    self._places.setdefault(block, []).append((path, number * entry.block_bytes))
        return list(self._places)

    def write(self, wanted: bytes, data: bytes) -> None:
        """Put one block wherever it belongs."""
        if hash_block(data) != wanted:
            raise CorruptVolume(f"block {wanted.hex()} was altered on its way; fetch it from another replica")
        if not any(data):
            return  # files begin as holes
        for path, offset in self._places[wanted]:
            target = os.path.join(self._root, path)
            mode = os.lstat(target).st_mode
            os.chmod(target, mode | stat.S_IWUSR)
            descriptor = os.open(target, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.pwrite(descriptor, data, offset)
                os.fchmod(descriptor, stat.S_IMODE(mode))
            finally:
                os.close(descriptor)

    def finish(self) -> None:
        """Directories get their modes last, so that a read-only one could be filled; deepest first."""
        for path, entry in sorted(self._manifest.items(), reverse=True):
            if entry.kind == DIRECTORY:
                os.chmod(os.path.join(self._root, path), entry.mode)
