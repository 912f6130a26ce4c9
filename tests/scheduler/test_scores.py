"""Which of the allowed nodes is taken."""

from __future__ import annotations

import pytest

from rayplane.control_plane.scheduler.config import Profile
from rayplane.control_plane.scheduler.plugins.args import VolumeBindingArgs
from tests.scheduler.build import World, claim, info, node, on, pod, storage_class


def test_the_default_profile_packs_and_the_other_spreads() -> None:
    world = World(*(node(f"n{i}", cpu="4") for i in range(3)))
    assert {world.place(pod(f"p{i}", cpu="1")) for i in range(4)} == {"n0"}
    spread = [world.place(pod(f"s{i}", cpu="1", memory="1Mi", scheduler="spread-scheduler")) for i in range(4)]
    assert spread == ["n1", "n2", "n1", "n2"]


def test_least_percentage_counts_not_least_amount() -> None:
    world = World(node("big", cpu="100", memory="100Gi"), node("small", cpu="2", memory="2Gi"))
    world.run(on("big", pod("x", cpu="10", memory="10Gi")), on("small", pod("y", cpu="1", memory="1Gi")))
    assert world.place(pod("p", cpu="100m", scheduler="spread-scheduler")) == "big"


def test_pods_without_requests_count_for_something() -> None:
    world = World(node("a"), node("b"))
    places = [world.place(pod(f"p{i}", scheduler="spread-scheduler")) for i in range(4)]
    assert places == ["a", "b", "a", "b"]


def test_preferences_outweigh_packing() -> None:
    world = World(
        node("a", taints=[{"key": "k", "effect": "PreferNoSchedule"}]), node("b", labels={"disk": "ssd"}), node("c")
    )
    world.run(on("a", pod("x", cpu="3")), on("c", pod("y", cpu="2")))
    preferred = [
        {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}
    ]
    wish = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    assert world.place(pod("p", cpu="100m", affinity=wish)) == "b"
    assert world.place(pod("q", cpu="100m")) == "c", "the fuller node is one to be avoided"


def test_soft_pod_rules() -> None:
    world = World(node("a"), node("b"))
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}
    apart = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}
    places = [world.place(pod(f"w{i}", labels={"app": "web"}, affinity={"podAntiAffinity": apart})) for i in range(2)]
    assert places == ["a", "b"]
    rules = [{"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway",
              "labelSelector": {"matchLabels": {"app": "db"}}}]  # fmt: skip
    places = [world.place(pod(f"d{i}", labels={"app": "db"}, topologySpreadConstraints=rules)) for i in range(4)]
    assert sorted(places) == ["a", "a", "b", "b"]


def test_explain_tells_scores_and_refusals_and_changes_nothing() -> None:
    world = World(node("a", cpu="1"), node("b"), node("c", unschedulable=True))
    one = info(pod("p", cpu="2"))
    explained = world.cycle.explain(one)
    assert explained.node == "b"
    refused = {n.node: n.refusal.plugin for n in explained.nodes if n.refusal}
    assert refused == {"a": "NodeResourcesFit", "c": "NodeUnschedulable"}
    (allowed,) = [n for n in explained.nodes if n.refusal is None]
    assert allowed.total == pytest.approx(allowed.scores["NodeResourcesFit"]) and allowed.total > 0
    assert not world.snapshot.pods
    assert world.cycle.explain(info(pod("q", cpu="64"))).message.startswith("0/3 nodes are available: 1 node(s) were")


@pytest.mark.parametrize(("shape", "best"), [(((0, 10), (100, 0)), "b"), (((0, 0), (100, 10)), "a")])
def test_claims_to_be_made_go_where_most_storage_is_left_unless_a_shape_says_otherwise(
    shape: tuple[tuple[int, int], ...], best: str
) -> None:
    profile = Profile(name="default-scheduler", args={"VolumeBinding": VolumeBindingArgs(shape=shape)})
    world = World(node("a"), node("b"), profiles=(profile,))
    world.volumes.classes["standard"] = storage_class("standard", provisioner="csi.x")
    world.volumes.set_claim(claim("data", storage="5Gi"))
    for name, size in (("a", "10Gi"), ("b", "100Gi")):
        here = {"matchLabels": {"kubernetes.io/hostname": name}}
        world.volumes.capacities[name] = {"storageClassName": "standard", "capacity": size, "nodeTopology": here}
    assert world.place(pod("p", claims=("data",))) == best
