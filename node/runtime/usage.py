"""CPU and memory of processes, from /proc (proc(5)), by session: a container is one session."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from rayplane.node.runtime import Usage

FRESH_S = 1.0
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class SessionUse:
    """Sums over a session's processes."""

    cpu_ns: int = 0
    memory_bytes: int = 0
    processes: int = 0


class ProcessTable:
    """One pass over /proc serves everybody who asks within a second."""

    def __init__(self) -> None:
        self._read_at = float("-inf")
        self._sessions: dict[int, SessionUse] = {}

    def sessions(self, now: float) -> dict[int, SessionUse]:
        """Session id to what it uses. `now`: the loop's time."""
        if now - self._read_at >= FRESH_S:
            self._read_at = now
            self._sessions = _read_sessions()
        return self._sessions


class UsageMeter:
    """CPU as a rate between two looks."""

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None
        self._rate = self._total = 0

    def measure(self, use: SessionUse | None, now: float) -> Usage:
        if use is None:
            return Usage()
        # What ended processes have used is not theirs any more: the sum must not go back for that.
        self._total = max(self._total, use.cpu_ns)
        if self._last is None:
            self._last = (now, use.cpu_ns)
        elif now - self._last[0] >= FRESH_S:
            at, before = self._last
            self._rate = max(0, int((use.cpu_ns - before) / (now - at)))
            self._last = (now, use.cpu_ns)
        return Usage(self._rate, use.memory_bytes, use.processes, self._total)


def together(uses: Sequence[SessionUse]) -> SessionUse | None:
    """The sum; None of nothing."""
    if not uses:
        return None
    return SessionUse(sum(u.cpu_ns for u in uses), sum(u.memory_bytes for u in uses), sum(u.processes for u in uses))


def _read_sessions() -> dict[int, SessionUse]:
    sessions: dict[int, SessionUse] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as f:
                # The command's name may hold blanks and brackets: fields count from behind the last bracket.
                fields = f.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        use = sessions.setdefault(int(fields[3]), SessionUse())
        use.cpu_ns += (int(fields[11]) + int(fields[12])) * _TICK_NS
        use.processes += 1
        use.memory_bytes += int(fields[21]) * _PAGE
    return sessions
