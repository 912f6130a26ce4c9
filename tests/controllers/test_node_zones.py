"""How fast pods are moved from lost nodes: zones, rates, and events about nodes that come and go."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.controllers.config import Timing
from rayplane.control_plane.controllers.node_zones import (
    EXCLUDED,
    LARGE_CLUSTER_THRESHOLD,
    Disruption,
    disruption_of,
)
from rayplane.control_plane.controllers.nodelifecycle import NodeLifecycleController
from rayplane.control_plane.timings import KUBERNETES
from tests.controllers.cluster import Cluster

EVICTED = ("node.kubernetes.io/unreachable", "NoExecute")


class Zoned(Cluster):
    """Nodes `a0`, `a1`, ..., `b0`, ... in zones of these letters."""

    def __init__(self, timing: Timing | None = None, **sizes: int) -> None:
        super().__init__(NodeLifecycleController(timing or Timing()))
        for zone, size in sizes.items():
            for n in range(size):
                self.node(f"{zone}{n}", metadata={"labels": {"topology.kubernetes.io/zone": zone}})
        self.settle()

    def pass_by(self, seconds: float, *, lost: Iterable[str]) -> None:
        gone = tuple(lost)
        self.advance(seconds, heartbeats=[n for n in map(meta.name, self.list("nodes")) if n not in gone])

    def tainted(self) -> list[str]:
        return sorted(
            meta.name(n)
            for n in self.list("nodes")
            if EVICTED in [(t["key"], t["effect"]) for t in meta.spec(n).get("taints") or ()]
        )


def members(zone: str, count: int) -> list[str]:
    return [f"{zone}{n}" for n in range(count)]


@pytest.mark.parametrize(
    ("healthy", "sick", "expected"),
    [
        (0, 0, Disruption.NONE),
        (0, 1, Disruption.FULL),
        (1, 2, Disruption.NONE),  # two are too few to judge a zone by
        (3, 3, Disruption.NONE),
        (2, 3, Disruption.PARTIAL),
        (9, 11, Disruption.PARTIAL),
        (10, 12, Disruption.NONE),
    ],
)
def test_how_much_of_a_zone_is_lost(healthy: int, sick: int, expected: Disruption) -> None:
    assert disruption_of(healthy, sick) is expected


def test_a_zone_that_is_lost_as_a_whole_is_left_while_others_live() -> None:
    cluster = Zoned(a=4, b=2)
    cluster.pass_by(8, lost=members("a", 4))
    assert cluster.tainted() == members("a", 4)


def test_when_all_zones_are_lost_nobody_is_left_and_taints_go() -> None:
    cluster = Zoned(a=3, b=3)
    cluster.pass_by(6, lost=["a0"])
    assert cluster.tainted() == ["a0"]
    cluster.pass_by(10, lost=[*members("a", 3), *members("b", 3)])
    assert cluster.tainted() == []
    for name in ("b0", "b1", "b2"):
        cluster.heartbeat(name)
        report = {"type": "Ready", "status": "True", "lastTransitionTime": cluster.now.stamp}
        cluster.change("nodes", name, status={"conditions": [report]})
    cluster.pass_by(5, lost=members("a", 3))
    assert cluster.tainted() == members("a", 3)


def test_a_small_zone_most_of_which_is_lost_is_not_left_any_further() -> None:
    cluster = Zoned(a=5, b=5)
    cluster.pass_by(6, lost=["a0"])
    cluster.pass_by(20, lost=members("a", 4))
    assert cluster.tainted() == ["a0"]  # whoever began to be left goes on
    cluster.pass_by(6, lost=[*members("a", 4), "b0"])
    assert cluster.tainted() == ["a0", "b0"]


def test_nodes_that_are_excluded_say_nothing_of_their_zone() -> None:
    cluster = Zoned(a=5, b=5)
    for name in members("a", 4):
        cluster.change("nodes", name, metadata={"labels": {"topology.kubernetes.io/zone": "a", EXCLUDED: ""}})
    cluster.pass_by(20, lost=members("a", 4))
    assert cluster.tainted() == members("a", 4)


def test_a_large_zone_most_of_which_is_lost_is_left_slowly() -> None:
    size = LARGE_CLUSTER_THRESHOLD + 10
    cluster = Zoned(Timing(secondary_eviction_rate=0.5), a=size, b=1)
    cluster.pass_by(24.5, lost=members("a", 40))
    assert len(cluster.tainted()) == 11  # from the fourth second on, one in two seconds


def test_nodes_of_a_zone_are_left_one_after_the_other() -> None:
    cluster = Zoned(Timing.of(KUBERNETES), a=5, b=5)
    cluster.pass_by(48, lost=["a0", "a1", "b0"])
    assert sorted(name[0] for name in cluster.tainted()) == ["a", "b"]
    cluster.pass_by(5, lost=["a0", "a1", "b0"])
    assert cluster.tainted() == ["a0", "a1", "b0"]


def test_a_node_that_says_otherwise_keeps_its_turn() -> None:
    cluster = Zoned(Timing.of(KUBERNETES), a=5)
    cluster.pass_by(51, lost=["a0"])
    assert cluster.tainted() == ["a0"]
    cluster.heartbeat("a0")
    report = {"type": "Ready", "status": "False", "lastTransitionTime": cluster.now.stamp}
    cluster.change("nodes", "a0", status={"conditions": [report]})
    cluster.settle()
    found = [t["key"] for t in meta.spec(cluster.require("nodes", "", "a0"))["taints"] if t["effect"] == "NoExecute"]
    assert found == ["node.kubernetes.io/not-ready"]


def test_events_tell_which_nodes_came_and_went() -> None:
    cluster = Zoned(a=1)
    first = cluster.require("nodes", "", "a0")
    cluster.remove_object("nodes", first)
    cluster.settle()
    cluster.node("a0")
    cluster.advance(3, heartbeats=["a0"])
    registered = ("a0", "RegisteredNode", "Node a0 event: Registered Node a0 in Controller")
    removing = ("a0", "RemovingNode", "Node a0 event: Removing Node a0 from Controller")
    assert cluster.events == [registered, removing, registered]
