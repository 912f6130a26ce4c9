"""Zones of nodes: how much of each is lost, and how fast pods may be moved from its lost nodes.

A zone that is lost as a whole is left at the ordinary rate, as its pods have other zones to go to. When most of a zone
is lost pods move slowly, or not at all where the zone is small. When every zone is lost as a whole the fault is rather
in what lies between nodes and controllers, and nobody is moved.
Source: Kubernetes concepts "Nodes" (rate limits on eviction), reference kube-controller-manager.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_labels import REGION, ZONE
from rayplane.control_plane.controllers.config import Timing

UNHEALTHY_ZONE_THRESHOLD = 0.55
LARGE_CLUSTER_THRESHOLD = 50
EXCLUDED = "node.kubernetes.io/exclude-disruption"
"""A label of nodes that say nothing of their zone, whatever its value."""
Zone = tuple[str, str]
"""(region, zone), each empty where nobody says."""


class Disruption(Enum):
    NONE = "Normal"
    PARTIAL = "PartialDisruption"
    FULL = "FullDisruption"


def zone_of(node: Object) -> Zone:
    labels = meta.labels(node)
    return labels.get(REGION, ""), labels.get(ZONE, "")


def disruption_of(healthy: int, sick: int) -> Disruption:
    if sick and not healthy:
        return Disruption.FULL
    if sick > 2 and sick / (healthy + sick) >= UNHEALTHY_ZONE_THRESHOLD:
        return Disruption.PARTIAL
    return Disruption.NONE


@dataclass(frozen=True, slots=True)
class ZoneHealth:
    """The health of each zone: how many of its nodes are well, and how many are not."""

    healthy: Mapping[Zone, int]
    sick: Mapping[Zone, int]

    @staticmethod
    def of(nodes: Iterable[tuple[Object, bool]]) -> ZoneHealth:
        """The health of the zones of `nodes`, each given with whether it is healthy."""
        healthy: Counter[Zone] = Counter()
        sick: Counter[Zone] = Counter()
        for node, fine in nodes:
            if EXCLUDED not in meta.labels(node):
                (healthy if fine else sick)[zone_of(node)] += 1
        return ZoneHealth(healthy, sick)

    @property
    def all_lost(self) -> bool:
        return bool(self.sick) and not any(self.healthy.values())

    def rate(self, zone: Zone, timing: Timing) -> float:
        """Nodes of a zone that may be left in a second, while not all zones are lost."""
        healthy, sick = self.healthy.get(zone, 0), self.sick.get(zone, 0)
        if disruption_of(healthy, sick) is not Disruption.PARTIAL:
            return timing.eviction_rate
        return timing.secondary_eviction_rate if healthy + sick > LARGE_CLUSTER_THRESHOLD else 0.0


class Turns:
    """Turns at leaving nodes, one after the other in each zone."""

    def __init__(self) -> None:
        self._next: dict[Zone, float] = {}

    def take(self, zone: Zone, rate: float, now: float) -> float | None:
        """None when it is somebody's turn now, who takes it; else seconds until it may be (infinite: who knows)."""
        if rate <= 0:
            return float("inf")
        left = self._next.get(zone, now) - now
        if left > 0:
            return left
        self._next = {z: when for z, when in self._next.items() if when > now}
        self._next[zone] = now + 1 / rate
        return None
