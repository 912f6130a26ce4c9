"""What is measured on, and what its processes use (Linux: /proc, see proc(5))."""

import contextlib
import ctypes
import os
import platform
import signal
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

from rayplane.control_plane.cluster import processes
from rayplane.control_plane.cluster.config import PROCESS

_TICKS = os.sysconf("SC_CLK_TCK")
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
# Fields of /proc/PID/net/tcp.
_STATE, _INODE, _LISTENS = 3, 9, "0A"
_PACKAGES = ("ray", "grpcio", "protobuf", "lmdb", "orjson", "uvloop")


def ends_with_its_parent() -> None:
    """The `preexec_fn` of children that are killed when this process ends, however it ends (prctl(2), PDEATHSIG)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def description() -> dict[str, Any]:
    """Cores, RAM, CPU, versions and the load that was there before the measurement."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "ram_mb": int(_field("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "load_before": round(os.getloadavg()[0], 2),
    }


@dataclass(frozen=True, slots=True)
class Usage:
    """One process at one moment."""

    pid: int
    name: str
    cpu_s: float
    """User and system time since its start, that of ended children it waited for included."""
    memory_mb: float
    """Proportional set size where the kernel tells it (shared pages count in parts), else resident set size."""
    anonymous_mb: float = 0.0
    """Of it, what is no page of a file: a store's file may be mapped as far as the system has room."""
    files: int = 0
    """Open ones, sockets and pipes too; counted with the memory."""
    ports: int = 0
    """Of TCP, on which it listens; likewise."""


def usage(sessions: Collection[int], *, memory: bool = False, logs: Path | None = None) -> dict[int, Usage]:
    """All processes of some sessions, by process id; see `usage_of`."""
    return usage_of(processes.running(), sessions=sessions, memory=memory, logs=logs)


def usage_of(
    pids: Iterable[int], *, sessions: Collection[int] = (), memory: bool = False, logs: Path | None = None
) -> dict[int, Usage]:
    """These processes, by process id, only those of `sessions` if any. A zombie uses nothing and is left out.

    `logs`: a process that writes a log there is called like the log.
    """
    found = {}
    for pid in pids:
        entry = Path("/proc", str(pid))
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if (sessions and int(fields[3]) not in sessions) or fields[0] == "Z":
                continue
            cpu = sum(int(fields[i]) for i in (11, 12, 13, 14)) / _TICKS
            name = _log_name(entry, logs) or _name(entry)
            size = (*_memory_mb(entry), *_files(entry)) if memory else (0.0, 0.0, 0, 0)
            found[pid] = Usage(pid, name, cpu, *size)
    return found


def cpu_by_name(before: dict[int, Usage], after: dict[int, Usage]) -> dict[str, float]:
    """CPU seconds of each process, by name, the greatest first."""
    used: dict[str, float] = {}
    for pid, u in after.items():
        used[u.name] = used.get(u.name, 0.0) + u.cpu_s - (before[pid].cpu_s if pid in before else 0.0)
    return {name: round(s, 2) for name, s in sorted(used.items(), key=lambda item: -item[1])}


def cpu_between(before: dict[int, Usage], after: dict[int, Usage]) -> float:
    """CPU seconds; a process that ended in between is missing with what it used since `before`."""
    return sum(u.cpu_s - (before[pid].cpu_s if pid in before else 0.0) for pid, u in after.items())


def _log_name(entry: Path, logs: Path | None) -> str:
    """The component whose log a process writes; `process` where it writes those of several."""
    if logs is None:
        return ""
    names = set()
    for link in (entry / "fd").iterdir():
        with contextlib.suppress(OSError):
            target = link.readlink()
            if target.parent == logs and target.suffix == ".log" and target.stem != "ray":
                names.add(target.stem)
    return PROCESS if len(names) > 1 else "".join(names)


def _name(entry: Path) -> str:
    """What a reader recognises: Ray's actors by title, a Python module or a program by its name."""
    words = (entry / "cmdline").read_bytes().split(b"\0")
    first = words[0].decode(errors="replace")
    if first.startswith("ray::"):
        return first
    for flag, word in pairwise(words):
        if flag == b"-m":
            return word.decode(errors="replace").rpartition(".")[2]
    scripts = [w.decode(errors="replace") for w in words[1:] if w.endswith(b".py")]
    return Path(scripts[0] if scripts else first).name


def _memory_mb(entry: Path) -> tuple[float, float]:
    """All of it, and what no file backs; of the latter all where the kernel does not tell."""
    try:
        text = (entry / "smaps_rollup").read_text()
        whole, own = (int(text.partition(f"\n{name}:")[2].split()[0]) / 1024 for name in ("Pss", "Pss_Anon"))
    except (OSError, IndexError, ValueError):
        pages = int((entry / "statm").read_text().split()[1])
        whole = own = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return whole, own


def _files(entry: Path) -> tuple[int, int]:
    """Open files, and ports that are listened on."""
    links = []
    for link in (entry / "fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(link))
    sockets = [line.split() for name in ("tcp", "tcp6") for line in (entry / "net" / name).read_text().splitlines()[1:]]
    listening = {f"socket:[{fields[_INODE]}]" for fields in sockets if fields[_STATE] == _LISTENS}
    return len(links), sum(link in listening for link in links)


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "0"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
