"""A lookout for containers that no control group holds to what they may have (see `hogs`), which ends those over it."""

import os
import signal
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial

from rayplane.node.shim.child import CROWDED, OOM_KILLED, Child
from rayplane.node.shim.hogs import NEAR_S, PAUSE_S, Most, families, over
from rayplane.node.shim.processes import kill, kill_group, read, share, threads_of_machine

ORPHANS = ""
"""The name of those that nobody can tell a container of: each of them may be of any."""
_PASSES = 20  # whoever forks meanwhile is met again

Roots = Callable[[Collection[Child]], dict[str, list[int]]]


class Lookout:
    """A look at `children`, by their ids, from time to time. `roots`: processes that all others of each are below."""

    def __init__(self, proc: str, children: Mapping[str, Child], roots: Roots) -> None:
        self._proc, self._children, self._roots = proc, children, roots
        self.due = float("inf")

    def bound(self, child: Child, most: Most) -> None:
        """Have a child looked after, with these bounds, from now on."""
        child.most = most
        if most != Most():
            self.due = min(self.due, time.monotonic() + NEAR_S)

    def look(self) -> None:
        """Look when it is `due`, and set that anew."""
        if time.monotonic() < self.due:
            return
        bounded = {child.id: child for child in self._children.values() if child.most != Most()}
        if not bounded:
            self.due = float("inf")
            return
        self.due = time.monotonic() + (self._end_those_over(bounded) if self._may_be_over(bounded) else PAUSE_S)

    def _may_be_over(self, bounded: Mapping[str, Child]) -> bool:
        if any(child.most.memory for child in bounded.values()):
            return True
        return threads_of_machine(self._proc) > min(child.most.processes for child in bounded.values()) // 2

    def _end_those_over(self, bounded: Mapping[str, Child]) -> float:
        """How long to wait before the next look."""
        seen = read(self._proc)
        found = self._roots(bounded.values())
        most = {ident: child.most for ident, child in bounded.items()}
        most[ORPHANS] = Most(processes=max(one.processes for one in most.values()))
        members = families(seen, {ident: found.get(ident, []) for ident in most})
        greedy, crowded, pause = over(seen, members, most, partial(share, self._proc))
        for idents, why in ((greedy, OOM_KILLED), (crowded, CROWDED)):
            for ident in idents:
                self._end(ident, bounded.get(ident), why)
        return pause

    def _end(self, ident: str, child: Child | None, why: str) -> None:
        if child is not None:
            child.why = why
        for _ in range(_PASSES):
            seen = read(self._proc)
            members = families(seen, {ident: self._roots([child] if child is not None else []).get(ident, [])})[ident]
            if not members:
                return
            # Groups at first: nobody in one can fork between the look and the end of all of them.
            for group in {seen[pid].group for pid in members} - {0, 1, os.getpgrp()}:
                kill_group(group, signal.SIGKILL)
            for pid in members:
                kill(pid)
