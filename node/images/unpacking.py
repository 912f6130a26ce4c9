"""Unpacking of one layer into a directory of its own, as overlayfs wants it below others.

Whoever made the archive chose every byte of it. Nothing is ever made or followed outside of the directory: paths are
walked one name at a time from an open directory, no symbolic link is a step of one, and '..' is refused. A leading '/'
is dropped, as all unpackers do. Device nodes are left out: a container has its own /dev, and no right to others.

A removed file is a character device 0:0, a directory that hides those below has the attribute `user.overlay.opaque`
(overlayfs with `userxattr`). Both hide what lies in lower layers only, never what the same layer brings.

Owners: with `Owners` the layer's numbers stand at its range of the machine's numbers, as the user namespace of pods
maps them, numbers beyond the range are nobody's, and files keep their capabilities; without, everything is the
caller's, who is root in his pods, and whoever is not has no right there that a file could give.
"""

import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rayplane.node.images.decompress import CHUNK, Plain
from rayplane.node.images.errors import BadImage, TooLarge
from rayplane.node.images.file_capabilities import ATTRIBUTE, RECORD, for_pods, of_record
from rayplane.storage.beneath import Beneath

WHITEOUT = b".wh."
_RESERVED = b".wh..wh."
_OPAQUE_MARK = b".wh..wh..opq"
OPAQUE = "user.overlay.opaque"
NOBODY = 65534
ENTRIES_MAX = 500_000
HEADER_MAX = 64 * 1024
"""Bytes of an entry's headers: a long path, attributes, the map of a sparse file."""
PATH_MAX, NAME_MAX = 4095, 255
_GLOBAL_MAX = 64
_TIME_MAX = 1 << 34
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Owners:
    """A range of the machine's user and group numbers that pods have."""

    first: int
    count: int

    def __call__(self, number: int) -> int:
        return self.first + (number if 0 <= number < self.count else NOBODY)


class _Headers:
    """A reader of an archive's headers for `tarfile`: forward only, and of each entry not more than a header takes."""

    def __init__(self, plain: Plain) -> None:
        self._plain = plain
        self._at = 0
        self.left = HEADER_MAX

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence or offset < self._at:
            raise BadImage("an archive's entry lies before the one ahead of it")
        while self._at < offset:
            data = self._plain.read(min(CHUNK, offset - self._at))
            self._at += len(data)
            if not data:
                raise BadImage("an archive ends in the middle of an entry")
        return self._at

    def read(self, size: int = -1) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            raise TooLarge(f"an archive's entry has headers of more than {HEADER_MAX} bytes")
        return self.content(size)

    def content(self, size: int) -> bytes:
        data = self._plain.read(size)
        self._at += len(data)
        return data


class Archive:
    """A tar archive, read once from front to back."""

    def __init__(self, plain: Plain, *, entries_max: int = ENTRIES_MAX) -> None:
        self._headers = _Headers(plain)
        self._plain, self._most = plain, entries_max

    def entries(self) -> Iterator[tarfile.TarInfo]:
        """Each entry; its content is there to be read until the next. Raises BadImage, TooLarge."""
        try:
            yield from self._entries()
        except (tarfile.TarError, ValueError, EOFError, OverflowError, KeyError, IndexError) as e:
            raise BadImage(f"it is no tar archive, or a damaged one: {e}") from e

    def _entries(self) -> Iterator[tarfile.TarInfo]:
        archive = self._opened()
        count = 0
        while archive is not None and (entry := archive.next()) is not None:
            count += 1
            if count > self._most:
                raise TooLarge(f"an archive has more than {self._most} entries")
            if entry.size < 0 or len(archive.pax_headers) > _GLOBAL_MAX:
                raise BadImage(f"{entry.name[:100]!r} of an archive has a header that makes no sense")
            yield entry
            archive.members = []  # type: ignore[attr-defined]  # it would keep them all
            self._headers.left = HEADER_MAX
        if not self._plain.drain():
            raise BadImage("an archive goes on with something that is no entry")

    def _opened(self) -> tarfile.TarFile | None:
        """None where there is not even a header."""
        try:
            return tarfile.TarFile(fileobj=self._headers)  # type: ignore[arg-type]
        except tarfile.ReadError:
            if self._plain.size == 0:
                return None
            raise

    def content(self, entry: tarfile.TarInfo) -> Iterator[tuple[int, bytes]]:
        """Offset and bytes of the entry's content, with holes where it is sparse. BadImage where it ends early."""
        parts: list[tuple[int, int]] | None = getattr(entry, "sparse", None)
        for offset, size in [(0, entry.size)] if parts is None else parts:
            while size > 0:
                data = self._headers.content(min(CHUNK, size))
                if not data or offset < 0:
                    raise BadImage(f"an archive ends in the middle of {entry.name[:100]!r}")
                yield offset, data
                offset += len(data)
                size -= len(data)


class LayerWriter:
    """A writer of a layer's entries below `root`, an empty directory that nobody else knows.

    `bytes_max`: what its files may come to, holes included.
    """

    def __init__(self, root: str, owners: Owners | None, *, bytes_max: int) -> None:
        self._root, self._owners, self._left = root, owners, bytes_max
        self._beneath = Beneath(root)
        self._top = os.open(root, _DIRECTORY)
        self._parent: tuple[list[bytes], int] = ([], os.dup(self._top))
        self._directories: dict[bytes, tuple[int, int]] = {}  # mode and time, set at last: files come after them
        self._hidden: set[bytes] = set()

    def close(self) -> None:
        os.close(self._parent[1])
        os.close(self._top)

    def unpack(self, archive: Archive) -> None:
        """Raises ImageError, OSError."""
        for entry in archive.entries():
            parts = _parts(entry.name)
            if parts:
                self._write(entry, parts, archive)
        for path, (mode, time) in sorted(self._directories.items(), key=lambda one: -one[0].count(b"/")):
            fd = self._open(path.split(b"/"), make=False)
            os.fchmod(fd, mode)
            os.utime(fd, ns=(time, time))
            os.close(fd)

    def _write(self, entry: tarfile.TarInfo, parts: list[bytes], archive: Archive) -> None:
        name = parts[-1]
        if name.startswith(WHITEOUT):
            self._whiteout(parts)
        elif entry.isdir():
            self._directory(entry, parts)
        elif entry.isreg():
            self._file(entry, parts, archive)
        elif entry.issym():
            self._link(parts, entry.linkname.encode("utf-8", "surrogateescape"))
            self._belongs(entry, parts)
        elif entry.islnk():
            self._hard_link(parts, entry.linkname)
        elif entry.isfifo():
            with self._placed(parts) as parent:
                os.mkfifo(name, 0o600, dir_fd=parent)
            self._belongs(entry, parts)

    # --- one entry --------------------------------------------------------------------------------

    def _whiteout(self, parts: list[bytes]) -> None:
        parent, name = self._in(parts), parts[-1]
        if name == _OPAQUE_MARK:
            self._hide(parent, b".")
            return
        if name.startswith(_RESERVED):
            return
        gone = name.removeprefix(WHITEOUT)
        if gone in (b"", b".", b".."):
            raise BadImage(f"{_shown(parts)} of a layer removes what has no name")
        path = b"/".join([*parts[:-1], gone])
        found = _status(parent, gone)
        if found is None:
            os.mknod(gone, stat.S_IFCHR | 0o600, os.makedev(0, 0), dir_fd=parent)
            self._hidden.add(path)
        elif stat.S_ISDIR(found.st_mode):
            self._hide(parent, gone)

    def _directory(self, entry: tarfile.TarInfo, parts: list[bytes]) -> None:
        parent, path = self._in(parts), b"/".join(parts)
        found = _status(parent, parts[-1])
        if found is None or not stat.S_ISDIR(found.st_mode):
            self._clear(parts, found)
            os.mkdir(parts[-1], 0o700, dir_fd=parent)
        if path in self._hidden:
            self._hidden.discard(path)
            self._hide(parent, parts[-1])
        self._belongs(entry, parts)
        self._directories.pop(path, None)
        self._directories[path] = (entry.mode & 0o7777, _time(entry))

    def _file(self, entry: tarfile.TarInfo, parts: list[bytes], archive: Archive) -> None:
        self._left -= entry.size
        if self._left < 0:
            raise TooLarge("a layer unpacks to more than it may, or than there is room for")
        with self._placed(parts) as parent:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(parts[-1], flags, 0o600, dir_fd=parent)
        try:
            for offset, data in archive.content(entry):
                view = memoryview(data)
                while view:
                    done = os.pwrite(fd, view, offset)
                    view, offset = view[done:], offset + done
            if entry.sparse is not None:
                os.ftruncate(fd, entry.size)
            if self._owners is not None:
                os.fchown(fd, self._owners(entry.uid), self._owners(entry.gid))
            os.fchmod(fd, entry.mode & 0o7777)
            self._endow(fd, entry)
            os.utime(fd, ns=(_time(entry), _time(entry)))
        finally:
            os.close(fd)

    def _endow(self, fd: int, entry: tarfile.TarInfo) -> None:
        """Give a file its capabilities, once it has its owner: with another owner they go."""
        said = entry.pax_headers.get(RECORD)
        if said is None or self._owners is None:
            return
        kept = for_pods(of_record(said), self._owners(0))
        if not kept:
            raise BadImage(f"{entry.name[:100]!r} of a layer has capabilities that are none")
        try:
            os.setxattr(fd, ATTRIBUTE, kept)
        except OSError as e:
            if e.errno not in (errno.ENOTSUP, errno.EPERM):
                raise  # else the machine has no room for them, or this root not the right: programs go without

    def _link(self, parts: list[bytes], target: bytes) -> None:
        if not target or len(target) > PATH_MAX or b"\0" in target:
            raise BadImage(f"{_shown(parts)} of a layer is a link to nothing, or to too long a path")
        with self._placed(parts) as parent:
            os.symlink(target, parts[-1], dir_fd=parent)

    def _hard_link(self, parts: list[bytes], target: str) -> None:
        source = _parts(target)
        if not source:
            raise BadImage(f"{_shown(parts)} of a layer is a hard link to its root")
        try:
            above = self._open(source[:-1], make=False)
        except FileNotFoundError:
            raise _no_target(parts, target) from None
        try:
            found = _status(above, source[-1])
            if found is None or not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
                raise _no_target(parts, target)
            if source == parts:
                return
            with self._placed(parts) as parent:
                os.link(source[-1], parts[-1], src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise _no_target(parts, target) from None  # it lay below what it replaces
        finally:
            os.close(above)

    def _belongs(self, entry: tarfile.TarInfo, parts: list[bytes]) -> None:
        """Owner and time of what is no regular file."""
        parent, time = self._in(parts), _time(entry)
        if self._owners is not None:
            uid, gid = self._owners(entry.uid), self._owners(entry.gid)
            os.chown(parts[-1], uid, gid, dir_fd=parent, follow_symlinks=False)
        if entry.isfifo():
            os.chmod(parts[-1], entry.mode & 0o777, dir_fd=parent)
        if not entry.isdir():
            os.utime(parts[-1], ns=(time, time), dir_fd=parent, follow_symlinks=False)

    # --- places -----------------------------------------------------------------------------------

    @contextmanager
    def _placed(self, parts: list[bytes]) -> Iterator[int]:
        """The directory that the last part is to be in, where there is nothing of that name any more."""
        parent = self._in(parts)
        found = _status(parent, parts[-1])
        if found is not None:
            self._clear(parts, found)
        self._hidden.discard(b"/".join(parts))
        yield parent

    def _clear(self, parts: list[bytes], found: os.stat_result | None) -> None:
        """Remove what an earlier entry made there."""
        if found is None:
            return
        path = b"/".join(parts)
        if stat.S_ISDIR(found.st_mode):
            inside = path + b"/"
            self._directories = {p: v for p, v in self._directories.items() if p != path and not p.startswith(inside)}
            self._hidden = {p for p in self._hidden if not p.startswith(inside)}
        self._beneath.remove(path)

    def _in(self, parts: list[bytes]) -> int:
        """The directory of an entry: made if it is missing, open until the next call."""
        above = parts[:-1]
        known, fd = self._parent
        if known != above:
            fresh = self._open(above, make=True)
            os.close(fd)
            self._parent = (above, fresh)
        return self._parent[1]

    def _open(self, parts: list[bytes], *, make: bool) -> int:
        fd = os.dup(self._top)
        for depth, part in enumerate(parts, 1):
            above = fd
            try:
                if make:
                    self._make(above, parts[:depth])
                fd = os.open(part, _DIRECTORY, dir_fd=above)
            except OSError as e:
                if e.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                raise BadImage(f"{_shown(parts)} of a layer lies below what is no directory") from e
            finally:
                os.close(above)
        return fd

    def _make(self, parent: int, parts: list[bytes]) -> None:
        """Have a directory that the archive forgot to name."""
        found, path = _status(parent, parts[-1]), b"/".join(parts)
        hides = found is not None and path in self._hidden
        if hides:
            os.unlink(parts[-1], dir_fd=parent)
            self._hidden.discard(path)
        elif found is not None:
            return
        os.mkdir(parts[-1], 0o755, dir_fd=parent)
        os.chmod(parts[-1], 0o755, dir_fd=parent)  # whatever umask this process has
        if hides:
            self._hide(parent, parts[-1])
        if self._owners is not None:
            os.chown(parts[-1], self._owners(0), self._owners(0), dir_fd=parent, follow_symlinks=False)

    def _hide(self, parent: int, name: bytes) -> None:
        """Have a directory hide what lies below it in other layers."""
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            os.setxattr(fd, OPAQUE, b"y")
        except OSError as e:
            if e.errno != errno.ENOTSUP:
                raise
            where = f"the file system of {self._root} keeps no user attributes"
            raise BadImage(f"{where}: choose another --state-dir") from e
        finally:
            os.close(fd)


def _parts(name: str) -> list[bytes]:
    """A path's parts below the root. Raises BadImage."""
    try:
        whole = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as e:
        raise BadImage(f"{name[:100]!r} of a layer is no text") from e
    parts = [part for part in whole.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise BadImage(f"{name[:100]!r} of a layer climbs out by '..'")
    if len(whole) > PATH_MAX or b"\0" in whole or any(len(part) > NAME_MAX for part in parts):
        raise BadImage(f"{name[:100]!r} of a layer is no path that a file could have")
    return parts


def _status(parent: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _time(entry: tarfile.TarInfo) -> int:
    """Nanoseconds since 1970; an archive may say anything."""
    seconds = float(entry.mtime)
    return int(min(max(seconds, 0.0), _TIME_MAX) * 1_000_000_000) if seconds == seconds else 0


def _shown(parts: list[bytes]) -> str:
    return repr(os.fsdecode(b"/".join(parts))[:100])


def _no_target(parts: list[bytes], target: str) -> BadImage:
    return BadImage(f"{_shown(parts)} of a layer is a hard link to {target[:100]!r}, which is no file of the layer")
