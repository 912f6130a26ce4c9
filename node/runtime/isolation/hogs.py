"""Containers that have more memory than they may, found by looking: where no control group holds them to their limit.

Every second, more often while one of them is near its limit, memory is summed up over a container's processes. Pages
that are shared are counted whole at first and by parts before anything is done about it. A limit of address space
would be exact and is none: many programs reserve much more than they ever use.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

PAUSE_S, NEAR_S = 1.0, 0.1
_NEAR = 0.5  # of the limit


@dataclass(frozen=True, slots=True)
class Seen:
    """A process: who its parent is, and bytes that it has in memory."""

    parent: int
    resident: int


def families(seen: Mapping[int, Seen], roots: Mapping[str, Iterable[int]]) -> dict[str, list[int]]:
    """The processes below the `roots` of each container."""
    children: dict[int, list[int]] = {}
    for pid, process in seen.items():
        children.setdefault(process.parent, []).append(pid)
    found = {}
    for name, starts in roots.items():
        members: list[int] = []
        todo = [pid for pid in starts if pid in seen]
        while todo:
            pid = todo.pop()
            members.append(pid)
            todo += children.get(pid, ())
        found[name] = members
    return found


def over(
    seen: Mapping[int, Seen],
    members: Mapping[str, Iterable[int]],
    limits: Mapping[str, int],
    share: Callable[[int], int],
) -> tuple[list[str], float]:
    """Containers over their limit, and how long to wait before the next look. `share`: what is a process' own part."""
    found, pause = [], PAUSE_S
    for name, pids in members.items():
        pids = [*pids]
        resident = sum(seen[pid].resident for pid in pids if pid in seen)
        if resident > limits[name] * _NEAR:
            pause = NEAR_S
        if resident > limits[name] and sum(map(share, pids)) > limits[name]:
            found.append(name)
    return found, pause
