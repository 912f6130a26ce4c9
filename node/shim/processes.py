"""The processes of this machine as /proc shows them (proc(5)), what they have, and their end. `proc`: where that is."""

import os
import signal

from rayplane.node.shim.hogs import Seen

_PAGE = os.sysconf("SC_PAGE_SIZE")
_OWN = (b"Pss_Anon:", b"Pss_Shmem:")
_ENDED = (b"Z", b"X")
MARK = "RAYPLANE_CONTAINER_ID"
"""The variable by which a process is known for a container's."""


def read(proc: str) -> dict[int, Seen]:
    """All that have not ended, by number."""
    found = {}
    for name in os.listdir(proc):
        if name.isdigit():
            try:
                with open(f"{proc}/{name}/stat", "rb") as file:
                    # The command's name may hold blanks and brackets: fields count from behind the last bracket.
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue  # it went
            if fields[0] not in _ENDED or int(fields[17]) > 1:  # its other threads go on
                found[int(name)] = Seen(int(fields[1]), int(fields[21]) * _PAGE, int(fields[17]), int(fields[2]))
    return found


def threads_of_machine(proc: str) -> int:
    """How many processes and threads there are, read in one go: no container has more."""
    with open(f"{proc}/loadavg", "rb") as file:
        return int(file.read().split()[3].partition(b"/")[2])


def share(proc: str, pid: int) -> int:
    """Bytes of memory that are a process' own, and its part of those that it shares; 0 for one that went."""
    try:
        with open(f"{proc}/{pid}/smaps_rollup", "rb") as file:
            lines = [line.split() for line in file]
    except OSError:
        return 0
    sizes = {line[0]: int(line[1]) << 10 for line in lines if line[-1] == b"kB"}
    return sum(sizes[key] for key in _OWN) if _OWN[0] in sizes else sizes.get(b"Pss:", 0)


def kill_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def child_pids(proc: str) -> list[int]:
    with open(f"{proc}/self/task/{os.getpid()}/children", "rb") as f:
        return [int(pid) for pid in f.read().split()]


def mark_of(proc: str, pid: int) -> str:
    """The container a process was started for; empty when it cannot be told."""
    try:
        with open(f"{proc}/{pid}/environ", "rb") as f:
            for entry in f.read().split(b"\0"):
                if entry.startswith(MARK.encode() + b"="):
                    return entry.partition(b"=")[2].decode()
    except OSError:
        return ""
    return ""
