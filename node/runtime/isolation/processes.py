"""The processes below the shim, as it sees them in /proc (proc(5)), and the memory they have."""

import os
from collections.abc import Iterable, Mapping

from rayplane.node.runtime.isolation import hogs
from rayplane.node.runtime.isolation.rootfs import PROC
from rayplane.node.shim.child import Child

_PAGE = os.sysconf("SC_PAGE_SIZE")
_OWN = (b"Pss_Anon:", b"Pss_Shmem:")


def over(roots: Mapping[str, Iterable[int]], limited: Mapping[str, Child]) -> tuple[list[str], float]:
    """Containers that have more memory than they may, and when to look again (see `hogs`)."""
    seen = read()
    limits = {ident: child.memory_max for ident, child in limited.items()}
    return hogs.over(seen, hogs.families(seen, roots), limits, share)


def read() -> dict[int, hogs.Seen]:
    """All of them by number."""
    found = {}
    for name in os.listdir(PROC):
        if name.isdigit():
            try:
                with open(f"{PROC}/{name}/stat", "rb") as file:
                    # The command's name may hold blanks and brackets: fields count from behind the last bracket.
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue  # it went
            found[int(name)] = hogs.Seen(int(fields[1]), int(fields[21]) * _PAGE)
    return found


def share(pid: int) -> int:
    """Bytes of memory that are a process' own, and its part of those that it shares; 0 for one that went."""
    try:
        with open(f"{PROC}/{pid}/smaps_rollup", "rb") as file:
            lines = [line.split() for line in file]
    except OSError:
        return 0
    sizes = {line[0]: int(line[1]) << 10 for line in lines if line[-1] == b"kB"}
    return sum(sizes[key] for key in _OWN) if _OWN[0] in sizes else sizes.get(b"Pss:", 0)
