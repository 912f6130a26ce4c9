"""Containers that have more memory or processes than they may, found by looking: where no control group holds them.

Every second, more often while one of them is near its limit, memory and threads are summed up over a container's
processes. Pages that are shared are counted whole at first and by parts before anything is done about it. A limit of
address space would be exact and is none: many programs reserve much more than they ever use. Pure.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

PAUSE_S, NEAR_S = 1.0, 0.1
_NEAR = 0.5  # of the limit


@dataclass(frozen=True, slots=True)
class Seen:
    """A process: who its parent is, bytes that it has in memory, its threads, the process group that it is in."""

    parent: int
    resident: int
    threads: int = 1
    group: int = 0


@dataclass(frozen=True, slots=True)
class Most:
    """Bounds of a container: bytes of memory, processes and threads. 0 for no bound."""

    memory: int = 0
    processes: int = 0


def families(seen: Mapping[int, Seen], roots: Mapping[str, Iterable[int]]) -> dict[str, list[int]]:
    """The processes below the `roots` of each container."""
    children: dict[int, list[int]] = {}
    for pid, process in seen.items():
        children.setdefault(process.parent, []).append(pid)
    found = {}
    for name, starts in roots.items():
        members: dict[int, None] = {}
        todo = [pid for pid in starts if pid in seen]
        while todo:
            pid = todo.pop()
            if pid not in members:
                members[pid] = None
                todo += children.get(pid, ())
        found[name] = [*members]
    return found


def over(
    seen: Mapping[int, Seen],
    members: Mapping[str, Iterable[int]],
    most: Mapping[str, Most],
    share: Callable[[int], int],
) -> tuple[list[str], list[str], float]:
    """Containers with too much memory, those with too many processes, and how long to wait before the next look.

    `share`: what of its memory is a process' own.
    """
    greedy, crowded, pause = [], [], PAUSE_S
    for name, pids in members.items():
        pids, may = [pid for pid in pids if pid in seen], most[name]
        threads = sum(seen[pid].threads for pid in pids)
        resident = sum(seen[pid].resident for pid in pids) if may.memory else 0
        if resident > may.memory * _NEAR or (may.processes and threads > may.processes * _NEAR):
            pause = NEAR_S
        if may.processes and threads > may.processes:
            crowded.append(name)
        elif resident > may.memory and sum(map(share, pids)) > may.memory:
            greedy.append(name)
    return greedy, crowded, pause
