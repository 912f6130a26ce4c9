"""Processes of this machine as the kernel tells of them (proc(5)), and which of them an actor has.

An actor's is told by a file beside its data: Ray knows it too, but is slow to say so when it is busy. A number of a
process says nothing by itself, as the kernel gives it to others later: the moment of its start is written with it.
"""

import contextlib
import os
import resource
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rayplane.storage.env.private import make_private_dir, write_private
from rayplane.storage.process import UMASK

SUFFIX = "-process"
# Among the fields after a process's name (proc_pid_stat(5)).
_STATE, _PARENT, _SESSION, _START = 0, 1, 3, 19


def start(command: Sequence[str], out: Path, *, environment: Mapping[str, str] | None = None) -> int:
    """Start a process in a session of its own that outlives this one; its id. What it prints is added to `out`.

    Nobody but the cluster's user may read what it writes. OSError when it cannot be started.
    """
    with open(out, "ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            umask=UMASK,
            env=environment,
        )
    # Whoever gives a handle up is warned while the process runs, unless its end is known: `is_alive` waits for it.
    process.returncode = 0
    return process.pid


def write(data_dir: Path) -> None:
    """This process is the actor whose data lies there."""
    path = _path(data_dir)
    make_private_dir(path.parent)
    write_private(path, f"{os.getpid()} {started(os.getpid())}".encode())


def fill_disk(pid: int) -> None:
    """Let a process write no file any more, until `free_disk`, or until it ends. ProcessLookupError when it is gone."""
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))


def free_disk(pid: int) -> None:
    """Let a process write files again; nothing when it has ended, or is another user's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


def started_at(folder: str) -> dict[str, float]:
    """Names of the actors whose data lies in a folder, and the times of their last starts."""
    return {p.name.removesuffix(SUFFIX): p.stat().st_mtime for p in Path(folder).glob(f"*{SUFFIX}")}


def written(path: str) -> tuple[float, bytes]:
    """When a file was written last, and what stands in it. Raises OSError."""
    return os.stat(path).st_mtime, Path(path).read_bytes()


def read(data_dir: Path) -> int:
    """The process of the actor, or 0 when it is not known or gone."""
    try:
        number, begun = _path(data_dir).read_text().split()
    except (OSError, ValueError):
        return 0
    return int(number) if started(int(number)) == begun else 0


def send(pid: int, number: int) -> None:
    """Send a signal. Ray takes no function for its tasks that is not written in Python, as `os.kill`."""
    os.kill(pid, number)


def is_alive(pid: int) -> bool:
    """Whether it runs. A child that has ended is told so here, so that its number can be given to others."""
    if pid <= 0:
        return False
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return bool(_stat(pid))


def started(pid: int) -> str:
    """When it was started, as the kernel counts; with its number it is told from all others. Empty: it has ended."""
    stat = _stat(pid)
    return stat[_START] if stat else ""


def arguments(pid: int) -> list[bytes]:
    """Its command line; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def running() -> list[int]:
    """All of this machine."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def parent(pid: int) -> int:
    """Who has started it, or has it since that one ended; 0 when it has ended."""
    stat = _stat(pid)
    return int(stat[_PARENT]) if stat else 0


def below(pid: int) -> list[int]:
    """All that it has started, and those in turn, as long as who started them lives; each after its parent."""
    children: dict[int, list[int]] = {}
    for one in running():
        children.setdefault(parent(one), []).append(one)
    found = [*children.get(pid, ())]
    for one in found:
        found += children.get(one, ())
    return found


def of_session(session: int) -> list[int]:
    """All that run in a session."""
    return [pid for pid in running() if (stat := _stat(pid)) and int(stat[_SESSION]) == session]


def stands_still(data_dir: Path) -> bool:
    """Whether the actor's process was stopped by a signal (SIGSTOP) and not continued."""
    stat = _stat(read(data_dir))
    return bool(stat) and stat[_STATE] == "T"


def _path(data_dir: Path) -> Path:
    return data_dir.with_name(data_dir.name + SUFFIX)


def _stat(pid: int) -> list[str]:
    """What stands after its name; empty when there is none, or a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[_STATE] in "ZX" else fields
