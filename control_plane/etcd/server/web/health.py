"""Health of a member: the checks behind /health, /livez and /readyz, with etcd's texts."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from rayplane.control_plane.etcd.server.metrics.metrics import Metrics
from rayplane.control_plane.etcd.server.ports import RaftStatus
from rayplane.control_plane.etcd.server.state_machine.alarms import Alarms
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb

#: The checks of each kind, in the order they run.
CHECKS: dict[str, tuple[str, ...]] = {
    "livez": ("serializable_read",),
    "readyz": ("data_corruption", "serializable_read", "linearizable_read", "non_learner"),
}


class Reads(Protocol):
    """The member's own questions to itself."""

    async def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """Raises EtcdError."""


class Health:
    """One member's health. Every check ends within the member's request timeout."""

    def __init__(self, raft: RaftStatus, alarms: Alarms, ranges: Reads, metrics: Metrics) -> None:
        self._raft = raft
        self._alarms = alarms
        self._ranges = ranges
        self._metrics = metrics
        self._checks: dict[str, Callable[[], Awaitable[str]]] = {
            "data_corruption": self._data_corruption,
            "serializable_read": lambda: self._read(serializable=True),
            "linearizable_read": lambda: self._read(serializable=False),
            "non_learner": self._non_learner,
        }

    async def overall(self, *, serializable: bool, exclude: Collection[str]) -> str:
        """What /health finds wrong; empty when nothing is. `exclude` names alarms to pass over."""
        reason = await self._first_problem(serializable, exclude)
        self._metrics.note_health(not reason)
        return reason

    async def _first_problem(self, serializable: bool, exclude: Collection[str]) -> str:
        for alarm in self._alarms.all():
            name = pb.AlarmType.Name(alarm.alarm)
            if name not in exclude:
                return f"ALARM {name}"
        if not serializable and not self._raft.leader_id:
            return "RAFT NO LEADER"
        problem = await self._read(serializable=serializable)
        return problem.replace("range error: ", "RANGE ERROR:", 1)

    async def run(self, kind: str, names: Sequence[str]) -> tuple[list[str], bool]:
        """A line for each check, and whether all succeeded."""
        lines, healthy = [], True
        for name in names:
            problem = await self._checks[name]()
            self._metrics.note_check(kind, name, not problem)
            healthy = healthy and not problem
            lines.append(f"[-]{name} failed: {problem}\n" if problem else f"[+]{name} ok\n")
        return lines, healthy

    async def _read(self, *, serializable: bool) -> str:
        try:
            await self._ranges.range(pb.RangeRequest(key=b"\0", limit=1, keys_only=True, serializable=serializable))
        except RpcError as e:
            return f"range error: {e.message}"
        return ""

    async def _data_corruption(self) -> str:
        corrupt = any(a.alarm == pb.CORRUPT for a in self._alarms.all())
        return "alarm activated: CORRUPT" if corrupt else ""

    async def _non_learner(self) -> str:
        return "not supported for learner" if self._raft.is_learner else ""
