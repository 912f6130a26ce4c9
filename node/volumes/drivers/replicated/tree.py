"""A real directory as a manifest, and back. Runs in a worker thread; used only where volumes have real directories.

Changes are found by stat. What that cannot see: a file whose time stamps have not moved, so a file changed within the
last `RACY_NS` before a scan is read again at the next one; and stores through a shared mapping that is never synced
(msync makes them visible). Hard links become separate files; sockets, pipes and devices are left out. Owners among
the numbers that pods of root have are kept where root writes; every other owner becomes whoever writes.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rayplane.node.runtime.isolation.users import of_pods
from rayplane.node.volumes.drivers.replicated.manifest import (
    DIRECTORY,
    FILE,
    SYMLINK,
    Entry,
    Manifest,
    block_bytes,
    check_path,
    hash_block,
)
from rayplane.node.volumes.errors import CorruptVolume
from rayplane.storage.beneath import Beneath, LeavesRoot

RACY_NS = 100_000_000
"""Older than this, a time stamp moves with every change (kernels stamp with ticks of up to 10 ms)."""
PASSES = 3
"""Scans of a directory that changes meanwhile, until it is taken as it was found."""
KEEP_BYTES = 64 * 1024 * 1024
"""Changed blocks kept in memory until they are sent; others are read again then."""
_MEANWHILE = (FileNotFoundError, NotADirectoryError, LeavesRoot)
"""What a name says that was removed, or replaced by something else, since it was found."""
_Signature = tuple[int, ...]


@dataclass(slots=True)
class Scan:
    """A directory's content. `stable`: nothing changed while it was read, so it is of one moment."""

    manifest: dict[bytes, Entry] = field(default_factory=dict)
    stable: bool = True


class TreeScanner:
    """A reader of one directory, again and again, only what changed."""

    def __init__(self, root: str, wall_ns: Callable[[], int]) -> None:
        self._files = Beneath(root)
        self._wall_ns = wall_ns
        self._seen: dict[bytes, tuple[_Signature, bool, Entry]] = {}
        self._kept: dict[bytes, bytes] = {}
        self._kept_bytes = 0

    def scan(self) -> Scan:
        """Return the content now. Raises OSError if something cannot be read."""
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
                with self._files.open_dir(directory) as fd, os.scandir(fd) as found:
                    for item in found:
                        path = os.path.join(directory, os.fsencode(item.name))
                        try:
                            entry = self._entry(path, item.stat(follow_symlinks=False), seen, now)
                        except _MEANWHILE:
                            continue
                        if entry is not None:
                            scan.manifest[path] = entry
                            if entry.kind == DIRECTORY:
                                pending.append(path)
            except _MEANWHILE:
                if not directory:
                    raise
        self._seen = seen
        return scan

    def _entry(
        self, path: bytes, status: os.stat_result, seen: dict[bytes, tuple[_Signature, bool, Entry]], now: int
    ) -> Entry | None:
        mode, uid, gid = stat.S_IMODE(status.st_mode), of_pods(status.st_uid), of_pods(status.st_gid)
        if stat.S_ISDIR(status.st_mode):
            return Entry(DIRECTORY, mode, uid=uid, gid=gid)
        if stat.S_ISLNK(status.st_mode):
            target = self._files.readlink(path)
            if target is None:
                raise FileNotFoundError(path)
            return Entry(SYMLINK, mode, target=os.fsencode(target), uid=uid, gid=gid)
        if not stat.S_ISREG(status.st_mode):
            return None
        signature = _signature(status)
        known = self._seen.get(path)
        if known is not None and known[0] == signature and not known[1]:
            seen[path] = known
            return known[2]
        entry = self._read(path, Entry(FILE, mode, uid=uid, gid=gid), known[2] if known else None)
        racy = max(status.st_mtime_ns, status.st_ctime_ns) > now - RACY_NS
        seen[path] = (signature, racy, entry)
        return entry

    def _read(self, path: bytes, empty: Entry, known: Entry | None) -> Entry:
        """Hash a file, and fill its entry; blocks that are not in what was known of it are kept for sending."""
        before = frozenset(known.blocks) if known is not None else frozenset()
        blocks = []
        fd = self._files.open_file(path)
        try:
            size = 0
            length = block_bytes(os.fstat(fd).st_size)
            while data := _read_block(fd, length, size):
                digest = hash_block(data)
                blocks.append(digest)
                size += len(data)
                if digest not in before and digest not in self._kept and self._kept_bytes < KEEP_BYTES:
                    self._kept[digest] = data
                    self._kept_bytes += len(data)
        finally:
            os.close(fd)
        entry = empty._replace(size=size, block_bytes=length, blocks=tuple(blocks))
        return known if known == entry else entry

    def block(self, wanted: bytes, path: bytes, offset: int, length: int) -> bytes | None:
        """A block of the last scan; None if its file has changed since."""
        data = self._kept.get(wanted)
        if data is not None:
            return data
        try:
            fd = self._files.open_file(path)
        except _MEANWHILE:
            return None
        try:
            data = _read_block(fd, length, offset)
        finally:
            os.close(fd)
        return data if hash_block(data) == wanted else None


def measure(root: str) -> tuple[int, int]:
    """Bytes and number of the files below a real directory, links not followed."""
    used = files = 0
    tree, pending = Beneath(root), [""]
    while pending:
        directory = pending.pop()
        try:
            with tree.open_dir(directory) as fd, os.scandir(fd) as found:
                for item in found:
                    if item.is_dir(follow_symlinks=False):
                        pending.append(f"{directory}/{item.name}".lstrip("/"))
                        continue
                    used += item.stat(follow_symlinks=False).st_size
                    files += 1
        except OSError:
            continue  # changed meanwhile, or deeper than a path can say
    return used, files


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
    """A writer that makes an empty directory hold a manifest.

    Blocks may come in any order, files must all be begun first.
    """

    def __init__(self, root: str, manifest: Manifest) -> None:
        self._files = Beneath(root)
        self._manifest = manifest
        self._places: dict[bytes, list[tuple[bytes, int]]] = {}

    def begin(self) -> list[bytes]:
        """Create everything but content; returns the blocks that are needed, each once."""
        for path, entry in sorted(self._manifest.items()):
            if not check_path(path):
                raise CorruptVolume(f"path {path!r} leads out of the volume")
            try:
                self._create(path, entry)
            except LeavesRoot as e:
                raise CorruptVolume(f"path {path!r} leads through a link of the volume") from e
        return list(self._places)

    def _create(self, path: bytes, entry: Entry) -> None:
        if entry.kind == DIRECTORY:
            self._files.make_dirs(path)
        elif entry.kind == SYMLINK:
            self._files.symlink(entry.target, path)
        else:
            self._files.write_new(path, b"")
            with self._open(path) as fd:
                os.ftruncate(fd, entry.size)
            for number, block in enumerate(entry.blocks):
                self._places.setdefault(block, []).append((path, number * entry.block_bytes))

    @contextlib.contextmanager
    def _open(self, path: bytes) -> Iterator[int]:
        fd = self._files.open(path, os.O_WRONLY)
        try:
            yield fd
        finally:
            os.close(fd)

    def write(self, wanted: bytes, data: bytes) -> None:
        """Put one block wherever it belongs."""
        if hash_block(data) != wanted:
            raise CorruptVolume(f"block {wanted.hex()} was altered on its way; fetch it from another replica")
        if not any(data):
            return  # files begin as holes
        for path, offset in self._places[wanted]:
            with self._open(path) as fd:
                os.pwrite(fd, data, offset)

    def finish(self) -> None:
        """Owners and modes come last, so that what is read-only could be filled; deepest first."""
        gives = os.geteuid() == 0
        for path, entry in sorted(self._manifest.items(), reverse=True):
            if gives and (entry.uid or entry.gid):  # before the mode, of which a new owner loses a part
                self._files.chown(path, of_pods(entry.uid), of_pods(entry.gid))
            if entry.kind != SYMLINK:
                self._files.chmod(path, entry.mode)
