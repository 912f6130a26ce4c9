"""Failpoints of all simulated processes: which were come to, and what happens there to whom.

`storage.env.failpoints` knows one process; here the life whose code it is says which one it is.
"""

import errno
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from rayplane.control_plane.faults.vocabulary import Failpoint
from rayplane.control_plane.simulation.loop import LIFE
from rayplane.storage.env import DiskError, failpoints

_ERROR = re.compile(r"error\(([A-Z0-9]+)\)")


class PowerCut(BaseException):
    """The process that runs here is dead: nothing of it is to go on."""


@dataclass(slots=True)
class _Rule:
    fault: Failpoint
    left: int


class Points:
    """The failpoints of one run. `kill` and `pause` do so to a process by its name; `excuse`: it may give up now."""

    def __init__(
        self, kill: Callable[[str], None], pause: Callable[[str], None], excuse: Callable[[str], None]
    ) -> None:
        self.hits: Counter[str] = Counter()
        self._acts = {"kill": kill, "stop": pause}
        self._excuse = excuse
        self._rules: dict[tuple[str, str], _Rule] = {}
        self._armed = False

    def arm(self) -> None:
        """Count from now on; until `disarm`."""
        if not self._armed:
            self._armed = True
            for point in failpoints.POINTS:
                failpoints.arm_call(point, self._hit)

    def disarm(self) -> None:
        if self._armed:
            failpoints.disarm()

    def set(self, name: str, fault: Failpoint) -> None:
        """Let it happen to the process of that name when it comes there. Raises UnknownFailpoint."""
        self.arm()
        if fault.point not in failpoints.POINTS:
            raise failpoints.UnknownFailpoint(f"there is no failpoint {fault.point!r}")
        self._rules[name, fault.point] = _Rule(fault, fault.hit)

    def _hit(self, point: str) -> None:
        self.hits[point] += 1
        life = LIFE.get()
        rule = self._rules.get((life.name, point)) if life is not None and not life.dead else None
        if life is None or rule is None:
            return
        rule.left -= 1
        if rule.left > 0:
            return
        action = rule.fault.action
        failing = _ERROR.fullmatch(action)
        if failing is not None:
            self._excuse(life.name)
            number = getattr(errno, failing[1], errno.EIO)
            raise DiskError(f"cannot go on at {point}: {os.strerror(number)}")
        del self._rules[life.name, point]
        if action in self._acts:
            self._acts[action](life.name)
        if life.dead:
            raise PowerCut(point)
