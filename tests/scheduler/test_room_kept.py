"""The shell where room is kept, given back, or comes with what a profile or a pod changes."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.scheduler import Profile, Scheduler, term
from rayplane.control_plane.scheduler.plugins.args import NodeAffinityArgs, SpreadArgs
from rayplane.control_plane.scheduler.queue import Place
from tests.fakes import FakeClient
from tests.scheduler.build import node, on, pod
from tests.scheduler.harness import is_binding, make, node_of, until


def nominated(api: FakeClient, name: str) -> str:
    return api.pod(name).get("status", {}).get("nominatedNodeName") or ""


async def test_room_that_is_of_no_use_to_who_it_was_kept_for_is_anybodys(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1", cpu="2"))
    api.put("pods", pod("meek", cpu="2", priority=1))
    await until(lambda: node_of(api, "meek"))
    api.put("pods", pod("vip", cpu="2", priority=100))
    await until(lambda: nominated(api, "vip"))
    api.put("pods", pod("king", cpu="1", priority=200))
    await until(lambda: scheduler.pending()[Place.UNSCHEDULABLE] == 2)
    api.remove("pods", "default/meek")
    await until(lambda: node_of(api, "king"))
    await until(lambda: not nominated(api, "vip"))
    api.put("pods", pod("patient", cpu="1"))
    await until(lambda: node_of(api, "patient"))


async def test_a_nomination_that_somebody_takes_back_keeps_no_room(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1", cpu="1"))
    elsewhere: dict[str, Any] = {"nodeSelector": {"disk": "ssd"}, "preemptionPolicy": "Never", "priority": 9}
    api.put("pods", {**pod("vip", cpu="1", **elsewhere), "status": {"nominatedNodeName": "n1"}})
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 1)
    api.put("pods", pod("patient", cpu="1"))
    await until(lambda: scheduler.pending()[Place.UNSCHEDULABLE] == 2)
    api.put("pods", {**api.pod("vip"), "status": {"nominatedNodeName": ""}})
    await until(lambda: node_of(api, "patient"))


async def test_a_victim_that_went_does_not_count_for_spreading(api: FakeClient, scheduler: Scheduler) -> None:
    rule = {
        "topologyKey": "kubernetes.io/hostname",
        "maxSkew": 1,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "w"}},
    }

    async def spread(name: str) -> str:
        api.put("pods", pod(name, labels={"app": "w"}, topologySpreadConstraints=[rule]))
        await until(lambda: node_of(api, name))
        return node_of(api, name)

    for name in ("n1", "n2"):
        api.put("nodes", node(name, cpu="1"))
    api.put("pods", on("n1", pod("victim", cpu="1", labels={"app": "w"})))
    api.put("pods", on("n2", pod("other", cpu="1", priority=100)))
    assert await spread("w0") == "n2"
    api.put("pods", pod("vip", cpu="1", priority=50))
    await until(lambda: nominated(api, "vip"))
    api.remove("pods", "default/victim")
    await until(lambda: node_of(api, "vip"))
    assert [await spread(f"w{number}") for number in (1, 2, 3)] == ["n1", "n1", "n2"]


async def test_a_label_that_the_profile_wants_of_nodes_wakes_pods(api: FakeClient) -> None:
    rule = {"key": "disk", "operator": "In", "values": ["ssd"]}
    wants: dict[str, Any] = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
    added = NodeAffinityArgs(added_affinity={"requiredDuringSchedulingIgnoredDuringExecution": wants})
    args = {"NodeAffinity": added, "PodTopologySpread": SpreadArgs(default_constraints=())}
    scheduler = make(api, profiles=(Profile(name="default-scheduler", args=args),))
    await scheduler.start()
    try:
        api.put("nodes", node("n1"))
        api.put("pods", pod("p"))
        await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 1)
        api.put("nodes", node("n1", labels={"disk": "ssd"}))
        await until(lambda: node_of(api, "p"))
    finally:
        await scheduler.stop()


async def test_a_pod_that_shrinks_while_it_is_bound_takes_what_it_asks_for_then(
    api: FakeClient, scheduler: Scheduler
) -> None:
    def meanwhile(operations: Any) -> None:
        if is_binding(operations) and operations[0].create.ref.name == "p":
            api.put("pods", pod("p", cpu="1"))

    api.put("nodes", node("n1", cpu="4"))
    await until(lambda: scheduler.pending())
    api.before_batch = meanwhile
    api.put("pods", pod("p", cpu="4"))
    await until(lambda: node_of(api, "p"))
    api.put("pods", pod("q", cpu="3"))
    await until(lambda: node_of(api, "q"))


@pytest.mark.parametrize(("turn_s", "calls"), [(-1.0, [1, 1, 1]), (60.0, [3])])
async def test_pods_that_take_long_do_not_keep_the_loop_for_all_of_them(
    api: FakeClient, monkeypatch: pytest.MonkeyPatch, turn_s: float, calls: list[int]
) -> None:
    """Between two turns the Lease is renewed, and what was decided is written."""
    bound: list[int] = []

    def heard(operations: Any) -> None:
        if is_binding(operations):
            bound.append(len(operations))

    monkeypatch.setattr(term, "TURN_S", turn_s)
    api.before_batch = heard
    api.put("nodes", node("n1"))
    for name in "abc":
        api.put("pods", pod(name))
    scheduler = make(api)
    await scheduler.start()
    try:
        await until(lambda: sum(bound) == 3)
    finally:
        await scheduler.stop()
    assert bound == calls
