"""A directory and nothing outside of it: for paths that others choose, among links that others may plant.

A path is relative, with `/`, and may not climb. No operation follows a symbolic link, with one exception: where `links`
is allowed, a link may lead elsewhere below the same root. The root is no link either; what it lies in is the caller's.

The kernel resolves (openat2 with RESOLVE_BENEATH, Linux 5.6) where it can; elsewhere each component is opened below
the one before it. Either way what is checked is what is used: there is no moment in between for a link to be planted.
"""

import contextlib
import ctypes
import errno
import itertools
import os
import stat
from collections.abc import Iterator

Path = str | bytes | os.PathLike[str]

_SYS_OPENAT2 = 437
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_TRIES = 8
_LINKS_MAX = 40
_LEADS_OUT = "leads out through a symbolic link"
_LEADS_THROUGH = "leads through a symbolic link, which is not followed"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK
_libc = ctypes.CDLL(None, use_errno=True)


class LeavesRoot(OSError):
    """The path climbs, or a symbolic link on it leads where it may not. Nothing was done."""

    def __init__(self, path: Path, root: Path, why: str) -> None:
        super().__init__(errno.ELOOP, f"{os.fsdecode(path)!r} {why} (below {os.fsdecode(root)})")


def one_name(name: str) -> str:
    """The name, if it is one component of a path. Raises LeavesRoot."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise LeavesRoot(name, "", "is no name of a file")
    return name


def is_whole(path: str) -> bool:
    """Whether a path of the machine is absolute and does not climb."""
    return path.startswith("/") and ".." not in path.split("/") and "\0" not in path


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class Beneath:
    """Everything below `root`. Methods raise OSError as the system calls they stand for, and LeavesRoot."""

    def __init__(self, root: Path, *, parent: "Beneath | None" = None) -> None:
        self._parent_root, self._name = parent, os.fsdecode(root)
        self.root: str = f"{parent.root}/{self._name}" if parent is not None else self._name

    def below(self, path: Path) -> "Beneath":
        """A directory below this one as a root of its own: nothing leads from it into its neighbours."""
        return Beneath(path, parent=self)

    @contextlib.contextmanager
    def held(self) -> "Iterator[Beneath]":
        """The same directory, found once for all that is done in it."""
        with _closing(self._open_root()) as fd:
            yield _Held(self.root, fd)

    def _open_root(self) -> int:
        if self._parent_root is not None:
            return self._parent_root.open(self._name, _DIRECTORY)
        return os.open(self.root, _DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)

    # --- reading ----------------------------------------------------------------------------------

    def open(self, path: Path, flags: int = os.O_RDONLY, mode: int = 0o600, *, links: bool = False) -> int:
        """A descriptor, never inherited and never waiting for a pipe's other end."""
        parts = self._parts(path)
        if not parts and flags == _DIRECTORY:
            return self._open_root()
        with _closing(self._open_root()) as root:
            flags |= os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW) | (0 if flags & os.O_PATH else os.O_NONBLOCK)
            try:
                return _open(root, parts, flags, mode, links)
            except OSError as e:
                if e.errno in (errno.EXDEV, errno.ELOOP):
                    raise LeavesRoot(path, self.root, _LEADS_OUT if links else _LEADS_THROUGH) from e
                raise

    def open_file(self, path: Path) -> int:
        """A descriptor to read a regular file; anything else is a FileNotFoundError."""
        fd = self.open(path)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "not a regular file", os.fsdecode(path))
        return fd

    def open_dir(self, path: Path = "", *, links: bool = False) -> "contextlib.AbstractContextManager[int]":
        return _closing(self.open(path, _DIRECTORY, links=links))

    def read(self, path: Path, limit: int) -> bytes:
        """At most `limit` bytes of the beginning of a regular file."""
        with _closing(self.open_file(path)) as fd:
            return os.pread(fd, limit, 0)

    def read_end(self, path: Path, limit: int) -> bytes:
        """At most `limit` bytes of the end of a regular file."""
        with _closing(self.open_file(path)) as fd:
            return os.pread(fd, limit, max(0, os.fstat(fd).st_size - limit))

    def names(self, path: Path = "") -> list[str]:
        """Names in a directory, sorted."""
        with self.open_dir(path) as fd:
            return sorted(os.listdir(fd))

    def lstat(self, path: Path) -> os.stat_result | None:
        """None where there is nothing."""
        try:
            with self._parent(path) as (parent, name):
                return os.stat(name, dir_fd=parent, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def readlink(self, path: Path) -> str | None:
        """Where a symbolic link leads; None where there is none."""
        try:
            with self._parent(path) as (parent, name):
                return os.fsdecode(os.readlink(name, dir_fd=parent))
        except OSError as e:
            if e.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                return None
            raise

    def resolve(self, path: Path) -> str:
        """The real path of what is there, links below the root followed; it is not followed out of it."""
        with _closing(self.open(path, os.O_PATH, links=True)) as fd:
            return os.readlink(f"/proc/self/fd/{fd}")

    # --- writing ----------------------------------------------------------------------------------

    def make_dirs(self, path: Path, mode: int = 0o700, *, links: bool = False) -> None:
        """Make a directory and those above it; what is there already stays."""
        parts = self._parts(path)
        depth = len(parts)
        while depth and not self._make_dir(parts[:depth], mode, links):
            depth -= 1  # most often what it lies in is there
        while depth < len(parts):
            depth += 1
            if not self._make_dir(parts[:depth], mode, links):
                raise FileNotFoundError(errno.ENOENT, "what was just made is gone", os.fsdecode(path))

    def make_alike(self, path: Path, *, links: bool = False) -> None:
        """Make a directory with the root's own permissions; those above it are for all to pass."""
        self.make_dirs(path, 0o755, links=links)
        with _closing(self._open_root()) as root, self.open_dir(path, links=links) as made:
            os.fchmod(made, stat.S_IMODE(os.fstat(root).st_mode))

    def _make_dir(self, parts: list[bytes], mode: int, links: bool) -> bool:
        """Whether there is a directory now; not where there is none that it could lie in."""
        try:
            with self.open_dir(b"/".join(parts[:-1]), links=links) as parent:
                os.mkdir(parts[-1], mode, dir_fd=parent)
        except FileNotFoundError:
            return False
        except FileExistsError as e:
            try:
                with self.open_dir(b"/".join(parts), links=links):
                    return True
            except FileNotFoundError:
                raise e from None  # a link to nothing
        return True

    def write_new(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        """A file that is not there yet; it never has more permissions than `mode`."""
        with _closing(self.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 & mode)) as fd:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fchmod(fd, mode)

    def symlink(self, target: Path, path: Path) -> None:
        with self._parent(path) as (parent, name):
            os.symlink(os.fsencode(target), name, dir_fd=parent)

    def rename(self, old: Path, new: Path) -> None:
        with self._parent(old) as (source, name), self._parent(new) as (target, other):
            os.replace(name, other, src_dir_fd=source, dst_dir_fd=target)

    def unlink(self, path: Path) -> None:
        """Remove what is no directory; nothing if there is none."""
        with contextlib.suppress(FileNotFoundError), self._parent(path) as (parent, name):
            os.unlink(name, dir_fd=parent)

    def remove(self, path: Path) -> None:
        """Remove a file, a link, or a directory with all it holds, however deep; nothing if there is none."""
        with contextlib.suppress(FileNotFoundError), self._parent(path) as (parent, name):
            _remove(parent, name)

    def chmod(self, path: Path, mode: int) -> None:
        with _closing(self.open(path, os.O_PATH)) as fd:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):  # a link has no mode of its own
                os.chmod(f"/proc/self/fd/{fd}", mode)

    def chown(self, path: Path, uid: int, gid: int) -> None:
        """Give away what is there, a link itself."""
        with self._parent(path) as (parent, name):
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)

    # --- paths ------------------------------------------------------------------------------------

    def _parts(self, path: Path) -> list[bytes]:
        raw = os.fsencode(path)
        parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
        if raw.startswith(b"/") or b".." in parts or b"\0" in raw:
            raise LeavesRoot(path, self.root, "must be a relative path without '..'")
        return parts

    @contextlib.contextmanager
    def _parent(self, path: Path) -> Iterator[tuple[int, bytes]]:
        """The directory a path's last component is in, and that component."""
        *above, name = self._parts(path) or [b""]
        if not name:
            raise LeavesRoot(path, self.root, "names the root itself")
        with self.open_dir(b"/".join(above)) as fd:
            yield fd, name


class _Held(Beneath):
    """A directory that is open already."""

    def __init__(self, root: str, fd: int) -> None:
        super().__init__(root)
        self._fd = fd

    def _open_root(self) -> int:
        return os.dup(self._fd)


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


# --- opening ------------------------------------------------------------------------------------


def _open(root: int, parts: list[bytes], flags: int, mode: int, links: bool) -> int:
    if not parts:
        return os.open(b".", flags, dir_fd=root)
    fd = _openat2(root, parts, flags, mode, links)
    return _walk(root, parts, flags, mode, links) if fd is None else fd


def _openat2(root: int, parts: list[bytes], flags: int, mode: int, links: bool) -> int | None:
    """None where the kernel has no such call, or forbids it."""
    resolve = _BENEATH | _NO_MAGICLINKS | (0 if links else _NO_SYMLINKS)
    how = _OpenHow(flags, mode if flags & os.O_CREAT else 0, resolve)
    path = b"/".join(parts)
    for _ in range(_TRIES):
        fd = _libc.syscall(_SYS_OPENAT2, root, ctypes.c_char_p(path), ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return int(fd)
        number = ctypes.get_errno()
        if number in (errno.ENOSYS, errno.EPERM):
            return None
        if number not in (errno.EAGAIN, errno.EINTR):  # a rename at the same moment: look again
            raise OSError(number, os.strerror(number), os.fsdecode(path))
    return None


def _walk(root: int, parts: list[bytes], flags: int, mode: int, links: bool) -> int:
    """The same without the kernel's help: a stack of open directories, so that `..` of a link is known, not asked."""
    stack = [os.dup(root)]
    todo, followed = [*reversed(parts)], 0
    try:
        while todo:
            part, last = todo.pop(), not todo
            if part in (b"", b"."):
                continue
            if part == b"..":
                if len(stack) == 1:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                os.close(stack.pop())
                continue
            target = _link_at(stack[-1], part)
            if last and (target is None or not links):
                return os.open(part, flags, mode, dir_fd=stack[-1])
            if target is None:
                stack.append(os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stack[-1]))
                continue
            followed += 1
            if not links or followed > _LINKS_MAX or target.startswith(b"/"):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            todo += reversed(target.split(b"/"))
        return os.open(b".", flags, dir_fd=stack[-1])
    finally:
        for fd in stack:
            os.close(fd)


def _link_at(parent: int, name: bytes) -> bytes | None:
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError as e:
        if e.errno in (errno.EINVAL, errno.ENOENT):  # no link, or nothing
            return None
        raise


# --- removing -----------------------------------------------------------------------------------

_names = itertools.count()


def _unlinked(parent: int, name: bytes) -> bool:
    """Remove what is no directory; whether that was it."""
    try:
        os.unlink(name, dir_fd=parent)
    except OSError as e:
        if e.errno not in (errno.EISDIR, errno.EPERM):
            raise
        return False
    return True


def _remove(parent: int, name: bytes) -> None:
    if _unlinked(parent, name):
        return
    with _closing(_open_to_empty(parent, name)) as top:
        # Trees as deep as somebody cares to plant need neither recursion nor long paths: what lies deeper is moved up.
        while entries := os.listdir(top):
            for entry in entries:
                _flatten(top, os.fsencode(entry))
    os.rmdir(name, dir_fd=parent)


def _flatten(top: int, name: bytes) -> None:
    """Remove an entry of `top`; directories in it become entries of `top`."""
    if _unlinked(top, name):
        return
    with _closing(_open_to_empty(top, name)) as inner:
        for entry in os.listdir(inner):
            child = os.fsencode(entry)
            if not _unlinked(inner, child):
                os.close(_open_to_empty(inner, child))
                os.rename(child, b".removing-%d-%d" % (os.getpid(), next(_names)), src_dir_fd=inner, dst_dir_fd=top)
    os.rmdir(name, dir_fd=top)


def _open_to_empty(parent: int, name: bytes) -> int:
    """A directory, made ours to empty: pods may leave read-only ones."""
    with _closing(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)) as handle:
        if os.fstat(handle).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        return os.open(b".", _DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
