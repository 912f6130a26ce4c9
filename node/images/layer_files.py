"""Files on their way into a layer of an image that is built: from a folder, from another stage, or from what ran.

Times are the build's epoch and paths are sorted: the same files give the same bytes.
"""

import os
import posixpath
import stat
import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from rayplane.node.images.decompress import CHUNK
from rayplane.node.images.errors import BadImage, TooLarge
from rayplane.node.images.file_capabilities import ATTRIBUTE, RECORD, for_layer, record
from rayplane.node.images.merged import Merged, is_opaque
from rayplane.node.images.unpacking import ENTRIES_MAX, Owners
from rayplane.storage.beneath import Beneath

GONE, HIDES = ".wh.", ".wh..wh..opq"
"""What a layer says of a file below it that is removed, and in a directory that hides the one below it."""
_BLOCK = tarfile.BLOCKSIZE
_KERNELS = ("proc", "dev", "sys")
"""What is mounted wherever an image runs, and of no image."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file. `ours`: nobody else has it, so that its mode may be changed for a moment, and its capabilities count."""

    root: Beneath
    path: str
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a layer. `source`: the file that it has its content from; `same`: the path of the entry that it is
    another name of.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    source: Source | None = None
    link: str = ""
    same: str = ""


def with_parents(found: Mapping[str, Entry], merged: Merged) -> dict[str, Entry]:
    """Entries with the directories that they are in: as they are below, since a layer's word on one hides that."""
    every = dict(found)
    for path in found:
        above = posixpath.dirname(path)
        while above and above not in every:
            seen = merged.look(above)
            mode = stat.S_IMODE(seen.mode) if seen is not None and seen.is_directory else 0o755
            owner = (seen.uid, seen.gid) if seen is not None else (0, 0)
            every[above] = Entry(stat.S_IFDIR | mode, *owner)
            above = posixpath.dirname(above)
    return every


def layer_of(entries: Mapping[str, Entry], epoch: int) -> Iterator[bytes]:
    """A layer's archive, the same for the same entries. Raises BadImage, OSError."""
    for path in sorted(entries):
        entry = entries[path]
        info = tarfile.TarInfo(path)
        info.mode, info.uid, info.gid, info.mtime = stat.S_IMODE(entry.mode), entry.uid, entry.gid, epoch
        if stat.S_ISDIR(entry.mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISFIFO(entry.mode):
            info.type = tarfile.FIFOTYPE
        elif entry.same:
            info.type, info.linkname = tarfile.LNKTYPE, entry.same
        elif entry.link:
            info.type, info.linkname = tarfile.SYMTYPE, entry.link
        if entry.source is None:
            yield _header(info)
        else:
            yield from _content(info, entry.source)
    yield bytes(2 * _BLOCK)


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _content(info: tarfile.TarInfo, source: Source) -> Iterator[bytes]:
    with open(_opened(source), "rb") as file:
        left = info.size = os.fstat(file.fileno()).st_size
        if source.ours and (rights := _capabilities(file.fileno())):
            info.pax_headers = {RECORD: record(rights)}
        yield _header(info)
        while data := file.read(min(CHUNK, left)):
            left -= len(data)
            yield data
    if left:
        raise BadImage(f"{source.root.root}/{source.path} became shorter while it was copied: build again")
    yield bytes(-info.size % _BLOCK)


def _capabilities(fd: int) -> bytes:
    return for_layer(os.getxattr(fd, ATTRIBUTE)) if ATTRIBUTE in os.listxattr(fd) else b""


def _opened(source: Source) -> int:
    """A descriptor of a regular file. One of ours that nobody may read is read all the same, as root would inside."""
    root, path = source.root, source.path
    try:
        return root.open_file(path)
    except PermissionError:
        status = root.lstat(path)
        if status is None or not source.ours:
            raise
        root.chmod(path, stat.S_IMODE(status.st_mode) | stat.S_IRUSR)
        try:
            return root.open_file(path)
        finally:
            root.chmod(path, stat.S_IMODE(status.st_mode))


class Changes:
    """Files that a container wrote above the layers of its image, as the kernel keeps them (an overlay's upper).

    Sockets and devices are left out, as is what is mounted wherever an image runs, and at `mounted`. `entries` raises
    TooLarge, OSError.
    """

    def __init__(self, root: Beneath, owners: Owners | None, mounted: Collection[str] = ()) -> None:
        self._left_out = {*_KERNELS, *(path.strip("/") for path in mounted)}
        self._root = root
        self._first = owners.first if owners is not None else None
        self._found: dict[str, Entry] = {}
        self._names: dict[int, list[str]] = {}  # of files with several, by number
        self._pending = [""]

    def entries(self) -> dict[str, Entry]:
        """By path."""
        while self._pending:
            above = self._pending.pop()
            for name in self._root.names(above):
                path = f"{above}/{name}" if above else name
                status = self._root.lstat(path)
                if status is not None and path not in self._left_out:
                    self._note(path, status)
        for paths in self._names.values():
            first, *others = sorted(paths)
            for path in others:
                self._found[path] = replace(self._found[path], source=None, same=first)
        return self._found

    def _note(self, path: str, status: os.stat_result) -> None:
        if len(self._found) >= ENTRIES_MAX:
            raise TooLarge(f"a command made more than {ENTRIES_MAX} files")
        mode = status.st_mode
        uid, gid = (0 if self._first is None else max(0, n - self._first) for n in (status.st_uid, status.st_gid))
        entry = Entry(mode, uid, gid)
        if stat.S_ISDIR(mode):
            self._note_directory(path, entry)
        elif stat.S_ISCHR(mode) and status.st_rdev == 0:
            above, _, name = path.rpartition("/")
            self._found[posixpath.join(above, f"{GONE}{name}")] = Entry(stat.S_IFREG)
        elif stat.S_ISLNK(mode):
            self._found[path] = replace(entry, link=self._root.readlink(path) or "")
        elif stat.S_ISREG(mode):
            self._found[path] = replace(entry, source=Source(self._root, path, ours=True))
            if status.st_nlink > 1:
                self._names.setdefault(status.st_ino, []).append(path)
        elif stat.S_ISFIFO(mode):
            self._found[path] = entry

    def _note_directory(self, path: str, entry: Entry) -> None:
        self._found[path] = entry
        self._pending.append(path)
        if entry.mode & stat.S_IRWXU != stat.S_IRWXU:
            self._root.chmod(path, stat.S_IMODE(entry.mode) | stat.S_IRWXU)
        with self._root.open_dir(path) as fd:
            if is_opaque(fd):
                self._found[f"{path}/{HIDES}"] = Entry(stat.S_IFREG)
