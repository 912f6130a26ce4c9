"""How the workers of a run share the files of tests: from both ends of one row, until they meet.

Clusters mostly wait and have many processes; what computes has one and never waits. So the first worker begins with the
clusters, those of few and long tests before the others, and all other workers begin at the other end, with what
computes longest. They meet among the files that take a moment, or among small clusters: nobody waits long for another's
last file.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

WAITS, MOMENT, COMPUTES = range(3)
FIRST = "gw0"


def in_a_row(items: list[pytest.Item]) -> None:
    """Sort them by what their files do; those of one file stay together, as they share clusters."""
    marks: dict[object, set[str]] = {}
    for item in items:
        marks.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())
    tests = Counter(item.path for item in items)

    def place(item: pytest.Item) -> tuple[int, int]:
        of_file = marks[item.path]
        if "e2e" in of_file:
            # Machines are lost one after the other, in a file that takes as long as ten others.
            return WAITS, 0 if "/machines/" in str(item.path) else tests[item.path]
        return COMPUTES if "slow" in of_file else MOMENT, 0

    items.sort(key=place)


def from_both_ends(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """The scheduler of pytest-xdist that does so."""
    from xdist.scheduler import LoadFileScheduling

    class FromBothEnds(LoadFileScheduling):
        def _assign_work_unit(self, node: Any) -> None:
            if node.gateway.id != FIRST:
                self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
            super()._assign_work_unit(node)

    config.option.loadscopereorder = False
    return FromBothEnds(config, log)
