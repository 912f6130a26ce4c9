"""Directories that rayplane made, and deleting them: never what it did not make.

A directory of ours holds the file `MARKER`. Deleting takes names that are known, below a directory of ours, and goes
through no symbolic link: what somebody else put there stays, and so does the directory that holds it.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from rayplane.storage.beneath import Beneath
from rayplane.storage.env.private import make_private_dir, write_private

MARKER = ".rayplane"
MARKED = b"rayplane made this directory; see `rayplane down --purge`\n"
TEST_ENV = "test-env"
"""Marks the state directory of a cluster of `rayplane test-env`; it goes with all else when that is deleted."""


def mark(directory: Path) -> None:
    """Make a directory ours. Raises OSError."""
    make_private_dir(directory)
    if not is_marked(directory):
        write_private(directory / MARKER, MARKED)


def is_marked(directory: Path) -> bool:
    """Whether `mark` was called of it, by this user."""
    with contextlib.suppress(OSError):
        found = os.lstat(directory / MARKER)
        return found.st_uid == os.geteuid() and (directory / MARKER).read_bytes() == MARKED
    return False


def remove_known(directory: Path, names: Iterable[str]) -> list[str]:
    """Delete these names in a directory, then the marker and the directory if nothing else is in it.

    What is left in it, sorted. Others may delete it at the same time.
    """
    for name in names:
        remove(directory / name)
    left: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        left = sorted(n for n in os.listdir(directory) if n != MARKER)
    if not left:
        remove(directory / MARKER)
        with contextlib.suppress(OSError):
            directory.rmdir()
    return left


def forget(directory: str, ca: bytes) -> bool:
    """Delete what actors left on a machine that no command was run on, if all of it is of the authority's cluster.

    Whether it was, or there was nothing: what holds a cluster of its own, or actors of another authority, stays.
    """
    place = Path(directory)
    if not (place / "data").exists():
        return True
    authorities = {path.read_bytes() for path in place.glob("data/*-tls/ca.crt")}
    if (place / "cluster.json").exists() or authorities != {ca}:
        return False
    for name in ("data", "logs"):
        remove(place / name)
    with contextlib.suppress(OSError):
        place.rmdir()
    return True


def remove(path: Path) -> None:
    """Delete a file, or a folder with all in it; nothing behind a symbolic link, nor the link."""
    if path.is_symlink():
        return
    if path.is_dir():
        # Pods, and the file systems they write through, leave directories that even their owner may not list.
        with contextlib.suppress(OSError):
            Beneath(path.parent).remove(path.name)
    else:
        path.unlink(missing_ok=True)
