"""Numbers of fairness for Prometheus, under Kubernetes' names. Pure.

They are counted by level and schema: labels are bounded by the objects that there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rayplane.control_plane.apiserver.flowcontrol.levels import Level
from rayplane.control_plane.component_base.metrics import Family, Histogram, counter, gauge, histogram

_PREFIX = "apiserver_flowcontrol_"
_LABELS = ("priority_level", "flow_schema")
_SECONDS = (0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0)
_LENGTHS = (0, 10, 25, 50, 100, 250, 500, 1000)
_WATCHES = (0, 1, 10, 100, 1000, 10000)


class Counts:
    """Numbers of the requests of one schema at one level. What is under way is looked at when it is asked for."""

    def __init__(self) -> None:
        self.dispatched = 0
        self.refused: Counter[str] = Counter()
        """By reason."""
        self.served, self.watched = Histogram(_SECONDS), Histogram(_SECONDS)
        """Seconds of requests, and of the beginnings of watches."""
        self.waited, self.waited_in_vain = Histogram(_SECONDS), Histogram(_SECONDS)
        self.lengths, self.watches = Histogram(_LENGTHS), Histogram(_WATCHES)
        """Of queues that were joined, and of watchers that writes would tell."""


ByFlow = Mapping[tuple[str, str], Counts]


def collect(levels: Sequence[Level], by_flow: ByFlow, fair: float) -> Iterable[Family]:
    """`fair`: the part of its wish that each level got when seats were lent last."""
    yield from _of_flows(by_flow)
    yield from _of_tickets(levels, by_flow)
    yield from _of_levels(levels)
    yield gauge(f"{_PREFIX}seat_fair_frac", "Fair fraction of server's concurrency.", fair)


def _of_flows(by_flow: ByFlow) -> Iterable[Family]:
    def measured(name: str, about: str, label: str = "", **fields: str) -> Family:
        found = {
            (*key, *((value,) if label else ())): getattr(c, field)
            for key, c in by_flow.items()
            for value, field in fields.items()
        }
        return histogram(_PREFIX + name, about, found, *_LABELS, *((label,) if label else ()))

    refused = {(*key, reason): n for key, c in by_flow.items() for reason, n in c.refused.items()}
    yield counter(f"{_PREFIX}rejected_requests_total", "Requests refused.", refused, *_LABELS, "reason")
    dispatched = {key: c.dispatched for key, c in by_flow.items()}
    yield counter(f"{_PREFIX}dispatched_requests_total", "Requests that got seats.", dispatched, *_LABELS)
    about = "Time to get a seat, of requests that found none free."
    yield measured("request_wait_duration_seconds", about, "execute", true="waited", false="waited_in_vain")
    about = "Time that seats were taken for an answer."
    yield measured("request_execution_seconds", about, "type", regular="served", watch="watched")
    yield measured("request_queue_length_after_enqueue", "Length of queues as arriving requests see them.", _="lengths")
    yield measured("watch_count_samples", "Watchers that writes were thought to tell.", _="watches")


def _of_tickets(levels: Sequence[Level], by_flow: ByFlow) -> Iterable[Family]:
    """Numbers of requests that are here now."""
    waiting = [ticket for level in levels for queue in level.queues.live.values() for ticket in queue.waiting]
    executing = [ticket for level in levels for ticket in level.queues.executing]
    for what, about, tickets in (
        ("inqueue", "that wait for seats", waiting),
        ("executing", "(watches: their beginnings) under way", executing),
    ):
        requests, seats = dict.fromkeys(by_flow, 0), dict.fromkeys(by_flow, 0)
        for ticket in tickets:
            key = ticket.flow.schema.level, ticket.flow.schema.name
            requests[key] = requests.get(key, 0) + 1
            seats[key] = seats.get(key, 0) + ticket.seats
        yield gauge(f"{_PREFIX}current_{what}_requests", f"Requests {about}.", requests, *_LABELS)
        yield gauge(f"{_PREFIX}current_{what}_seats", f"Seats of requests {about}.", seats, *_LABELS)


def _of_levels(levels: Sequence[Level]) -> Iterable[Family]:
    def gauged(name: str, about: str, field: str) -> Family:
        return gauge(_PREFIX + name, about, {(lv.spec.name,): getattr(lv, field) for lv in levels}, _LABELS[0])

    yield gauged("nominal_limit_seats", "Seats by shares.", "nominal")
    yield gauged("lower_limit_seats", "Seats that are not lent.", "lower")
    yield gauged("upper_limit_seats", "Seats with all that may be borrowed.", "upper")
    current = {(lv.spec.name,): lv.queues.limit for lv in levels}
    yield gauge(f"{_PREFIX}current_limit_seats", "Seats now.", current, _LABELS[0])
    yield gauged("demand_seats_high_watermark", "Most seats wanted in the last span.", "most")
    yield gauged("demand_seats_average", "Mean of seats wanted in the last span.", "mean")
    yield gauged("demand_seats_stdev", "Standard deviation of seats wanted in the last span.", "deviation")
    yield gauged("demand_seats_smoothed", "Seats wanted, smoothed.", "smoothed")
    yield gauged("target_seats", "Seats that lending aims at.", "target")
    yield gauge(f"{_PREFIX}current_r", "Virtual time.", {(lv.spec.name,): lv.queues.r for lv in levels}, _LABELS[0])
    blocked = {(lv.spec.name,): lv.queues.blocked for lv in levels}
    name = f"{_PREFIX}request_dispatch_no_accommodation_total"
    yield counter(name, "Times that the next request was wider than what was free.", blocked, _LABELS[0])
