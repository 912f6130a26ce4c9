"""Graceful shutdown of a node: its pods end in groups, the least important ones first, each within its time.

Source: Kubernetes concepts "Node Shutdowns"; words as kubelet's pkg/kubelet/nodeshutdown gives them.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.priority import SYSTEM_CRITICAL
from rayplane.node.config import NodeHostConfig
from rayplane.node.kubelet.pressure import TERMINATION_BY_KUBELET
from rayplane.node.lifecycle import Event, Evicted

REASON = "Terminated"
MESSAGE = "Pod was terminated in response to imminent node shutdown."
KILLED_S = 2.0
"""How long what is killed at the end of its time may take to be gone: how it ended is to be told."""
SETTLE_S = 5.0
"""How long a host that goes waits until the API knows how its pods have ended."""
REMOVAL_S, REMOVAL_CRITICAL_S = 10.0, 2.0
"""Of a node that goes for good, where nothing else is asked for: its pods do not go on when it is back."""


class Period(NamedTuple):
    """A time for pods of a priority, and of those above up to the next period."""

    priority: int
    seconds: float


class EndedPod(Protocol):
    """A pod of the node."""

    pod: Object

    @property
    def takes_room(self) -> bool:
        """Tells whether it runs or is going to."""

    def post(self, event: Event) -> None: ...


_P = TypeVar("_P", bound=EndedPod)


def periods_for(config: NodeHostConfig, *, for_good: bool) -> list[Period]:
    """The times that pods of a host have before it is stopped; none where they are ended with it."""
    if config.shutdown_by_priority:
        return [Period(priority, seconds) for priority, seconds in config.shutdown_by_priority]
    if for_good and config.shutdown_grace_s <= 0:
        return periods_of(REMOVAL_S, REMOVAL_CRITICAL_S)
    return periods_of(config.shutdown_grace_s, config.shutdown_grace_critical_s)


def span_of(periods: Sequence[Period]) -> float:
    """How long all of them take at most, until it is known how the pods have ended."""
    return sum(period.seconds + KILLED_S for period in periods) + SETTLE_S if periods else 0.0


def periods_of(total_s: float, critical_s: float) -> list[Period]:
    """All but critical pods end within the first part; none when there is no time at all."""
    if total_s <= 0:
        return []
    return [Period(0, max(0.0, total_s - critical_s)), Period(SYSTEM_CRITICAL, min(critical_s, total_s))]


def grouped(pods: Iterable[_P], periods: Sequence[Period]) -> list[tuple[float, list[_P]]]:
    """(seconds, pods) of each period, in their order. Pods below the lowest priority count as of that."""
    ordered = sorted(periods)
    groups: list[tuple[float, list[_P]]] = [(period.seconds, []) for period in ordered]
    for pod in pods:
        priority = meta.spec(pod.pod).get("priority") or 0
        number = sum(period.priority <= priority for period in ordered)
        groups[max(0, number - 1)][1].append(pod)
    return groups


async def end_in_groups(pods: Callable[[], list[Any]], periods: Iterable[Period], freed: asyncio.Event) -> None:
    """End the pods, group by group. `freed`: set whenever one has ended."""
    for seconds, group in grouped([p for p in pods() if p.takes_room], [*periods]):
        for pod in group:
            pod.post(Evicted(REASON, MESSAGE, seconds, (TERMINATION_BY_KUBELET, MESSAGE)))
        try:
            async with asyncio.timeout(seconds + KILLED_S):
                while any(pod.takes_room for pod in group):
                    freed.clear()
                    await freed.wait()
        except TimeoutError:
            continue
