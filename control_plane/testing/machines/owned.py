"""Folders that say by their names whose they are, so that a later start can clear what an ended owner left."""

import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

from rayplane.control_plane.cluster import processes

PREFIX = "rpm"
_NAME = re.compile(rf"{PREFIX}-(\d+)-(\d+)-\w+")


def folder_of_mine(parent: Path) -> Path:
    """A new folder of this process."""
    pid = os.getpid()
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{pid}-{processes.started(pid)}-", dir=parent))


def clear(parent: Path) -> list[str]:
    """End the processes that name a folder of an ended owner, and delete the folder; the names of what was there."""
    left = [path for path in parent.glob(f"{PREFIX}-*") if not path.is_symlink() and _is_left(path)]
    for path in left:
        for pid in processes.running():
            if any(os.fsencode(path) in word for word in processes.arguments(pid)):
                _end(pid)
        shutil.rmtree(path, ignore_errors=True)
    return sorted(path.name for path in left)


def _is_left(path: Path) -> bool:
    found = _NAME.fullmatch(path.name)
    return found is not None and path.stat().st_uid == os.geteuid() and processes.started(int(found[1])) != found[2]


def _end(pid: int) -> None:
    if pid != os.getpid() and processes.is_alive(pid):
        os.kill(pid, signal.SIGKILL)
