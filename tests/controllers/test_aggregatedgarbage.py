"""Garbage in aggregated APIs: looked for while there are any, and no more often than that."""

from __future__ import annotations

from rayplane.control_plane.controllers.actions import CollectAggregated
from rayplane.control_plane.controllers.aggregatedgarbage import SERVICES, AggregatedGarbageCollector
from tests.controllers.cluster import Cluster


def looks(cluster: Cluster, seconds: float) -> int:
    before = len(cluster.specials)
    cluster.advance(seconds)
    assert all(isinstance(action, CollectAggregated) for action in cluster.specials)
    return len(cluster.specials) - before


def test_it_looks_now_and_then_while_others_serve_an_api() -> None:
    cluster = Cluster(AggregatedGarbageCollector(30.0))
    cluster.add(SERVICES, "v1.apps", spec={"group": "apps", "version": "v1"})
    assert looks(cluster, 100) == 0
    spec = {"group": "x.io", "version": "v1", "service": {"name": "s", "namespace": "default"}}
    made = cluster.add(SERVICES, "v1.x.io", spec=spec)
    assert looks(cluster, 0) == 1
    looked = len(cluster.specials)
    for _ in range(10):  # how it fares changes all the time
        cluster.change(SERVICES, "v1.x.io", status={"conditions": [{"type": "Available", "status": "True"}]})
        cluster.change(SERVICES, "v1.x.io", status={"conditions": None})
        cluster.settle()
    assert len(cluster.specials) == looked
    assert looks(cluster, 90) == 3
    cluster.remove_object(SERVICES, made)
    assert looks(cluster, 90) == 0
