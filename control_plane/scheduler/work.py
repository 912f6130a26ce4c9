"""Work that may be spent on one decision, so that no pod and no claim holds up the scheduler, however hostile it is.

A unit is about a millionth of a second. What a decision has not come to when its allowance is used up is looked at when
the pod is tried again: whatever was found till then is remembered.
"""

from __future__ import annotations

from typing import Final

#: For one decision; it goes over that by what is done for one node at most.
DECISION_MAX: Final = 200_000
#: For the search among the devices of one node: what takes longer finds nothing.
NODE_MAX: Final = 20_000


class SearchTooLong(Exception):
    """The choice of devices for one node took too many steps."""


class Unfinished(Exception):
    """The allowance of the decision is used up."""


class Allowance:
    """The work that is left for one decision."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = DECISION_MAX

    def spend(self, units: int) -> None:
        self.left -= units

    def need(self) -> None:
        """Raises Unfinished where nothing is left."""
        if self.left <= 0:
            raise Unfinished
