"""Files and folders that only their owner may read: 0600 and 0700, whatever the process's umask, whatever was there."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

#: What processes that keep a cluster's data run with.
UMASK = 0o077
_WIDER = 0o077


def write_private(path: Path, data: bytes) -> None:
    """Replace a file's content, whole or not at all. Raises OSError.

    The bytes never stand in a file that others may read, and a link in the file's place is replaced, not followed.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


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
