"""Load of a component as its pages of metrics tell it: requests and how long they took, queues. Pure.

A page has sums since the component began; how it goes now is the difference to an earlier one.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

_REQUESTS, _IN_FLIGHT = "apiserver_request_total", "apiserver_current_inflight_requests"
_TOOK = "apiserver_request_duration_seconds_bucket"
_QUEUES = {"workqueue_depth": "name", "scheduler_pending_pods": "queue"}
_CPU, _MEMORY = "process_cpu_seconds_total", "process_resident_memory_bytes"
# Most of a page is not of interest, and the parser takes its time.
_WANTED = re.compile(rf"^(?:{'|'.join((_REQUESTS, _IN_FLIGHT, _TOOK, *_QUEUES, _CPU, _MEMORY))})[{{ ].*$", re.MULTILINE)
_MEDIAN, _SLOWEST = 0.5, 0.99


@dataclass(frozen=True, slots=True)
class Reading:
    """A page, read at an instant of a clock that only goes on."""

    at: float
    requests: Mapping[str, float]
    """Answered, by verb."""
    took: Mapping[str, Mapping[float, float]]
    """By verb, how many took at most so many seconds."""
    queues: Mapping[str, float]
    in_flight: float
    cpu_s: float
    memory_bytes: float


def reading(page: str, at: float) -> Reading:
    """Raises ValueError for what is no page of metrics."""
    requests: Counter[str] = Counter()
    took: dict[str, Counter[float]] = defaultdict(Counter)
    single: Counter[str] = Counter()
    queues: dict[str, float] = {}
    for family in text_string_to_metric_families("\n".join(_WANTED.findall(page)) + "\n"):
        for sample in family.samples:
            if sample.name == _REQUESTS:
                requests[sample.labels["verb"]] += int(sample.value)
            elif sample.name == _TOOK:
                took[sample.labels["verb"]][float(sample.labels["le"])] += int(sample.value)
            elif sample.name in _QUEUES:
                queues[sample.labels[_QUEUES[sample.name]]] = sample.value
            else:
                single[sample.name] += sample.value  # type: ignore[assignment]
    return Reading(at, requests, took, queues, single[_IN_FLIGHT], single[_CPU], single[_MEMORY])


def load(readings: Sequence[Reading]) -> dict[str, Any]:
    """The load between the last two, made of JSON; latencies are of all the time between the first and the last.

    With one alone there are no rates, and latencies are of all that was since the component began.
    """
    now = readings[-1]
    before, first = (readings[-2], readings[0]) if len(readings) > 1 else (None, None)
    then = before or now
    took = {verb: _since(bounds, first.took.get(verb, {}) if first else {}) for verb, bounds in now.took.items()}
    every: Counter[float] = Counter()
    for bounds in took.values():
        every.update(bounds)

    def rate(count: float, once: float) -> float | None:
        return (count - once) / (now.at - before.at) if before and now.at > before.at else None

    return {
        "requests_s": rate(sum(now.requests.values()), sum(then.requests.values())),
        **_latency(every),
        "in_flight": now.in_flight,
        "verbs": [
            {"verb": verb, "count": count}
            | {"requests_s": rate(count, then.requests.get(verb, 0))}
            | _latency(took.get(verb, {}))
            for verb, count in sorted(now.requests.items(), key=lambda one: (-one[1], one[0]))
        ],
        "queues": dict(now.queues),
        "cpu": rate(now.cpu_s, then.cpu_s),
        "memory_bytes": now.memory_bytes,
    }


def is_of_another_run(before: Reading, now: Reading) -> bool:
    """Whether the component began anew between them: its sums did."""
    return now.cpu_s < before.cpu_s or sum(now.requests.values()) < sum(before.requests.values())


def quantile(bounds: Mapping[float, float], share: float) -> float | None:
    """The least bound that such a share is within; the last finite one where none is, None without measurements."""
    total = bounds.get(math.inf, 0)
    if not total:
        return None
    finite = sorted(bound for bound in bounds if bound < math.inf)
    return next((bound for bound in finite if bounds[bound] >= share * total), finite[-1] if finite else None)


def _latency(bounds: Mapping[float, float]) -> dict[str, float | None]:
    return {"p50_s": quantile(bounds, _MEDIAN), "p99_s": quantile(bounds, _SLOWEST)}


def _since(now: Mapping[float, float], before: Mapping[float, float]) -> Counter[float]:
    return Counter({bound: int(count - before.get(bound, 0)) for bound, count in now.items()})
