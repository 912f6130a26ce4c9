"""Pages that show what priority and fairness is busy with, in the columns that kube-apiserver prints. Pure.

GET /debug/api_priority_and_fairness/dump_priority_levels
GET /debug/api_priority_and_fairness/dump_queues
GET /debug/api_priority_and_fairness/dump_requests[?includeRequestDetails=1]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from rayplane.control_plane.apiserver.flowcontrol.levels import Level
from rayplane.control_plane.apiserver.flowcontrol.queues import Ticket

PREFIX = "/debug/api_priority_and_fairness/"
_CELL_MIN = 8
_LEVELS = (
    *("PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests"),
    *("DispatchedRequests", "RejectedRequests", "TimedoutRequests", "CancelledRequests"),
)
_QUEUES = (
    *("PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR"),
    *("InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum"),
)
_REQUESTS = (
    *("PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistingsher", "ArriveTime"),
    *("InitialSeats", "FinalSeats", "AdditionalLatency", "StartTime"),
)
_DETAILS = ("UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource")
_NONE = "<none>"


class Shown(Protocol):
    """The subject of a page: all levels, and what was counted of each."""

    levels: dict[str, Level]
    leaving: list[Level]

    def totals(self, level: str) -> Mapping[str, int]:
        """How many requests of a level were `dispatched`, and how many refused, by reason."""


def page(what: str, shown: Shown, now: float, wall: datetime, *, details: bool) -> str | None:
    """The text of `dump_...`; None where there is no such page. `now` and `wall` are the same moment."""
    everyone = [*shown.levels.values(), *shown.leaving]
    if what == "dump_priority_levels":
        return _table([_LEVELS, *(_level(level, shown.totals(level.spec.name)) for level in everyone)])
    if what == "dump_queues":
        return _table([_QUEUES, *(row for level in everyone for row in _queues(level))])
    if what == "dump_requests":
        head = (*_REQUESTS, *(_DETAILS if details else ()))
        rows = (row for level in everyone for row in _requests(level, now, wall, details=details))
        return _table([head, *rows])
    return None


def _level(level: Level, totals: Mapping[str, int]) -> Sequence[object]:
    queues = level.queues
    active = sum(bool(queue.waiting) for queue in queues.live.values())
    refused = sum(totals.values()) - totals.get("dispatched", 0)
    return (
        *(level.spec.name, active, _bool(queues.idle), _bool(level.quiescing), queues.waiting, len(queues.executing)),
        *(totals.get("dispatched", 0), refused, totals.get("time-out", 0), totals.get("cancelled", 0)),
    )


def _queues(level: Level) -> Iterable[Sequence[object]]:
    """Those that are in use. Kubernetes prints the others, too."""
    if level.spec.exempt:
        yield (level.spec.name, *[_NONE] * (len(_QUEUES) - 1))
        return
    for queue in sorted(level.queues.live.values(), key=lambda queue: queue.index):
        initial, seats = sum(t.initial for t in queue.waiting), sum(t.seats for t in queue.waiting)
        numbers = (queue.index, len(queue.waiting), queue.executing, queue.seats, f"{queue.next_r:.8f}ss")
        yield (level.spec.name, *numbers, initial, seats, f"{queue.work:.8f}ss")


def _requests(level: Level, now: float, wall: datetime, *, details: bool) -> Iterable[Sequence[object]]:
    def time(at: float) -> str:
        return (wall - timedelta(seconds=now - at)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def row(ticket: Ticket, place: int) -> Sequence[object]:
        flow, queue = ticket.flow, ticket.queue
        final = ticket.seats if ticket.linger_s else 0
        return (
            *(level.spec.name, flow.schema.name, queue.index if queue is not None else -1, place, flow.distinguisher),
            *(time(ticket.arrived_at), ticket.initial, final, f"{ticket.linger_s * 1000:g}ms"),
            time(ticket.began_at) if ticket.has_begun else "",
            *(_asked(ticket) if details else ()),
        )

    for queue in level.queues.live.values():
        for place, ticket in enumerate(queue.waiting):
            yield row(ticket, place)
    for ticket in level.queues.executing:
        yield row(ticket, -1)


def _asked(ticket: Ticket) -> Sequence[str]:
    asked = ticket.flow.asked
    resource, _, subresource = asked.resource.partition("/")
    return asked.user, asked.verb, asked.path, asked.namespace, ticket.name, asked.group, resource, subresource


def _bool(value: bool) -> str:
    return str(value).lower()


def _table(rows: Sequence[Sequence[object]]) -> str:
    """Cells end with a comma and are filled up to the width of their column, as Go's tabwriter does it."""
    # Names of users may hold anything: a row stays a row.
    texts = [["".join(c if c.isprintable() else "?" for c in str(cell)) for cell in row] for row in rows]
    cells = [[f"{text}," for text in row[:-1]] for row in texts]
    widths = [max(_CELL_MIN, *(len(cell) + 1 for cell in column)) for column in zip(*cells, strict=True)]
    lines = ("".join(map(str.ljust, row, widths)) + text[-1] for row, text in zip(cells, texts, strict=True))
    return "\n".join(lines) + "\n"
