"""Objects that an API server takes and nobody expects: the scheduler answers all the same, and grows no more for it."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.scheduler import topology
from rayplane.control_plane.scheduler.nodes import NodeInfo
from tests.scheduler.build import World, info, node, on, pod

MANY = {f"example.com/r{number}": "1" for number in range(100)}


def test_what_no_node_has_takes_no_room_in_memory() -> None:
    world = World(node("a"), node("b"))
    before = world.snapshot.allocatable.shape
    for number in range(100):
        wants = pod(f"p{number}", requests={f"example.com/of-{number}": "1"})
        assert f"2 Insufficient example.com/of-{number}" in world.fail(wants)
    world.run(on("a", pod("by-hand", requests=MANY)))
    assert world.snapshot.allocatable.shape == before


def test_what_a_node_offers_later_is_counted_for_the_pods_that_are_there() -> None:
    world = World(node("a", extended={"gpu": "1"}), node("b"))
    world.run(on("b", pod("early", requests={"example.com/chip": "3"})), on("a", pod("old", requests={"gpu": "1"})))
    world.snapshot.set_node(NodeInfo.of(node("b", extended={"example.com/chip": "4"})))
    assert "Insufficient example.com/chip" in world.fail(pod("two", requests={"example.com/chip": "2"}))
    assert "Insufficient gpu" in world.fail(pod("gpu", requests={"gpu": "1"}))
    assert world.place(pod("one", requests={"example.com/chip": "1"})) == "b"
    world.snapshot.remove_pod("default/early")
    assert world.place(pod("three", requests={"example.com/chip": "3"})) == "b"


def test_resources_that_nodes_cease_to_offer_are_forgotten() -> None:
    world = World(node("a"))
    for number in range(100):
        world.snapshot.set_node(NodeInfo.of(node("a", extended={f"example.com/of-{number}": "1"})))
    assert world.snapshot.allocatable.shape[1] < 10


def test_each_of_many_resources_that_are_lacking_is_told() -> None:
    """More than the bits of a number."""
    world = World(node("a", extended=MANY), node("b", extended=MANY), node("c"))
    world.run(on("a", pod("taker", requests={"example.com/r99": "1"})))
    assert world.place(pod("all", requests=MANY)) == "b"
    text = world.fail(pod("all-too", requests=MANY))
    assert "3 Insufficient example.com/r99" in text
    assert "2 Insufficient example.com/r0," in text


def test_victims_are_only_those_that_make_room_for_all_of_many_resources() -> None:
    world = World(node("a", extended=MANY))
    world.run(on("a", pod("important", priority=10, requests={"example.com/r99": "1"})))
    world.run(on("a", pod("small", cpu="1")))
    text = world.fail(pod("all", cpu="4", priority=5, requests=MANY))
    assert "1 Insufficient example.com/r99" in text
    assert "No preemption victims found" in text


@pytest.mark.parametrize("text", ["much", "-", "1e9999999"])
def test_room_for_volumes_that_cannot_be_read_hides_no_node(text: str) -> None:
    found = NodeInfo.of(node("a", annotations={"rayplane.io/volume-capacity": text}))
    assert found.volume_bytes == 0


def test_images_of_any_size_fail_no_pod() -> None:
    huge = {"names": ["i:latest"], "sizeBytes": (1 << 63) - 1}
    odd = node("a")
    odd["status"]["images"] = [huge]
    world = World(odd)
    assert world.place(pod("p")) == "a"


def test_a_victim_that_is_told_to_go_leaves_no_trace_in_spreading() -> None:
    rule = {
        "topologyKey": "kubernetes.io/hostname",
        "maxSkew": 1,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "w"}},
    }
    world = World(node("a"), node("b"))
    victim = info(on("a", pod("v", labels={"app": "w"})))
    world.snapshot.set_pod(victim)
    spread: dict[str, Any] = {"labels": {"app": "w"}, "topologySpreadConstraints": [rule]}
    assert world.place(pod("w0", **spread)) == "b"
    world.snapshot.set_terminating(victim, True)
    world.snapshot.remove_pod("default/v")
    assert world.place(pod("w1", **spread)) == "a"
    assert world.place(pod("w2", **spread)) == "a"


def test_a_node_affinity_of_thousands_of_numbers_looks_at_each_value_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(*(node(f"n{number}", labels={"size": str(number)}) for number in range(50)))
    asked = 0
    real = topology._number

    def number(text: str) -> int | None:
        nonlocal asked
        asked += 1
        return real(text)

    monkeypatch.setattr(topology, "_number", number)
    for operator, where in (("Gt", "n49"), ("Lt", "n0")):
        bounds = [48 + n if operator == "Gt" else 1 for n in range(3000)]
        rules = [{"matchExpressions": [{"key": "size", "operator": operator, "values": [str(b)]}]} for b in bounds]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": rules}}
        assert world.place(pod(operator, affinity={"nodeAffinity": required})) == where
    assert asked <= 50 + 2 * 3000 * 3
