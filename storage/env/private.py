"""Files and folders that only their owner may read: 0600 and 0700, whatever the process's umask, whatever was there."""

import contextlib
import ctypes
import glob
import itertools
import os
import stat
import tempfile
import time
from pathlib import Path

_WIDER = 0o077
_TEMPORARY = ".tmp"
_LEFT_S = 3600.0
_writers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


def write_private(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Replace a file's content, whole or not at all. Raises OSError. `durable`: it is on the disk when this returns.

    The bytes never stand in a file that others may read, and a link in the file's place is replaced, not followed. Each
    writer has a temporary file of its own, so that two of them never share one.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fdatasync(file.fileno())
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def own_name(path: str) -> str:
    """A name beside `path` that no other writer has, for what is written bit by bit and renamed at the end."""
    return f"{path}.{os.getpid()}-{next(_writers)}{_TEMPORARY}"


def drop_left(path: Path) -> None:
    """Remove what writers of a file left that were killed long ago."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_TEMPORARY}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.lstat().st_mtime > _LEFT_S:
                left.unlink()


def sync_folder(path: Path) -> None:
    """Make names created, renamed and removed in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(path: str) -> None:
    """Make all that was written durable in the file system that a folder is in: for many files at once."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)


def make_private_dir(path: Path) -> None:
    """Make a folder and those above it that are missing, all of them the owner's. Raises OSError."""
    if path.is_dir():
        return
    make_private_dir(path.parent)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise


def narrow(root: Path) -> None:
    """Take away what group and others may do with a folder and all in it. Links are left alone."""
    for path, mode in wider(root):
        with contextlib.suppress(FileNotFoundError):
            path.chmod(mode & ~_WIDER)


def wider(root: Path) -> list[tuple[Path, int]]:
    """What group or others may use in a folder, itself included, and its mode."""
    found = []
    for folder, _, files in os.walk(root):
        for path in (Path(folder), *(Path(folder, f) for f in files)):
            with contextlib.suppress(FileNotFoundError):
                mode = path.lstat().st_mode
                if not stat.S_ISLNK(mode) and mode & _WIDER:
                    found.append((path, stat.S_IMODE(mode)))
    return found
