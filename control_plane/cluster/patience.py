"""Patience with a machine that may be busy: how long waits on it last.

A start that takes 5 seconds of an idle machine takes minutes of one where twenty others want the same core, and is as
healthy. So waits here end when nothing has moved for a span of *fair* time: seconds count in full on an idle machine,
and as the machine's share of a second on a busy one.
"""

import asyncio
import contextlib
import math
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rayplane.control_plane.rpc import RpcError

T = TypeVar("T")
RETRY_S = 0.2
SLOWDOWN_MAX = 50.0


@dataclass(slots=True)
class Patience:
    """Waiting that grows with the load, pure.

    `now` is any clock's seconds, `slowdown` how many times slower than idle the machine is (1 and more).
    """

    span_s: float
    now: float
    spent_s: float = field(default=0.0, init=False)
    best: float = field(default=-math.inf, init=False)

    def passed(self, now: float, slowdown: float) -> None:
        """Time has gone by without news."""
        self.spent_s += max(0.0, now - self.now) / min(max(slowdown, 1.0), SLOWDOWN_MAX)
        self.now = now

    def reached(self, score: int) -> None:
        """More is done than ever before, or not: what was there already and comes and goes is no progress."""
        if score > self.best:
            self.best, self.spent_s = score, 0.0

    @property
    def over(self) -> bool:
        return self.spent_s >= self.span_s


def slowdown() -> float:
    """How many runnable threads share each core of this machine, now or in the last minute; at least 1."""
    try:
        wanting = os.getloadavg()[0]
    except OSError:
        return 1.0
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The average is slow to rise (proc_loadavg(5): runnable/all).
        wanting = max(wanting, float(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]))
    return max(1.0, wanting / _cores())


def stretched(seconds: float, *, times_max: float) -> float:
    """As many times longer as this machine is slower than an idle one, up to a limit."""
    return seconds * min(slowdown(), times_max)


def _cores() -> float:
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with contextlib.suppress(OSError, ValueError):
        # Kernel documentation, cgroup v2, cpu.max: "quota period" in microseconds, or "max".
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, int(quota) / int(period))
    return cores


def is_passing(error: RpcError) -> bool:
    """Whether the same may work in a moment: etcd loses its leader, a member is away."""
    return error.retryable or error.code.name == "DEADLINE_EXCEEDED"


async def until(
    attempt: Callable[[], Awaitable[T]],
    span_s: float,
    retry: Callable[[RpcError], bool] = lambda _: True,
    slow: Callable[[], float] = slowdown,
) -> T:
    """Try until it works; the last RpcError when it did not in that span, or when `retry` says that it never will."""
    loop = asyncio.get_running_loop()
    patience = Patience(span_s, loop.time())
    while True:
        try:
            return await attempt()
        except RpcError as e:
            patience.passed(loop.time(), slow())
            if not retry(e) or patience.over:
                raise
        await asyncio.sleep(RETRY_S)
