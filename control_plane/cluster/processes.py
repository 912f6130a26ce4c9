"""Which process an actor has, told by a file beside its data: Ray knows it too, but is slow to say so when it is busy.

A number of a process says nothing by itself, as the kernel gives it to others later: the moment of its start is
written with it.
"""

import os
from pathlib import Path

SUFFIX = "-process"


def write(data_dir: Path) -> None:
    """This process is the actor whose data lies there."""
    path = _path(data_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_text(f"{os.getpid()} {_started(os.getpid())}")
    os.replace(temporary, path)


def read(data_dir: Path) -> int:
    """The process of the actor, or 0 when it is not known or gone."""
    try:
        number, started = _path(data_dir).read_text().split()
    except (OSError, ValueError):
        return 0
    return int(number) if _started(int(number)) == started else 0


def _path(data_dir: Path) -> Path:
    return data_dir.with_name(data_dir.name + SUFFIX)


def _started(pid: int) -> str:
    """Ticks from the machine's start to the process's (proc_pid_stat(5)); empty when there is none, or a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19] if fields[0] not in "ZX" else ""
