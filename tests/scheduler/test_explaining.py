"""What is told of decisions: those of the past, within bounds, and the one that would be taken now."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rayplane.control_plane.api.kinds.scheduling.fields import GROUPS
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.cli.explain import lines
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.identities import MASTERS
from rayplane.control_plane.rpc import Context, Identity, RpcError, Stub
from rayplane.control_plane.rpc.errors import Code
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.control_plane.scheduler import Failure, Scheduler, SchedulerConfig
from rayplane.control_plane.scheduler.decisions import Budget, DecisionLog
from rayplane.control_plane.scheduler.explaining import ExplainService
from rayplane.control_plane.scheduler.queue import Place
from rayplane.proto.rayplane.v1 import scheduler_pb2 as pb
from rayplane.storage.env import Env, SystemClock
from tests.fakes import FakeClient
from tests.scheduler.build import World, info, node, pod
from tests.scheduler.harness import node_of, until
from tests.scheduler.test_gangs import group, member

STAMP = "2026-01-01T00:00:00Z"


def failure(name: str, message: str, uid: str = "") -> Failure:
    one = info(pod(name))
    one.uid = uid or one.uid
    return Failure(one, message)


# --- the log ----------------------------------------------------------------------------------


def test_a_decision_is_kept_with_what_was_known_of_each_node() -> None:
    world = World(node("n1", cpu="4"), node("n2", cpu="1"))
    one = info(pod("p", cpu="2"))
    detail = world.cycle.explain(one)
    log = DecisionLog()
    [decision] = world.cycle.schedule([one])
    log.add(decision, STAMP, detail)
    [found] = log.of("default/p", one.uid)
    verdicts = {v.node: v for v in found.nodes}
    assert (found.node, found.time, found.times, found.summary) == ("n1", STAMP, 1, False)
    assert verdicts["n1"].total == sum(verdicts["n1"].scores.values()) > 0
    assert (verdicts["n2"].plugin, list(verdicts["n2"].reasons)) == ("NodeResourcesFit", ["Insufficient cpu"])
    assert log.of("default/p", "another uid") == [] and log.of("default/q", one.uid) == []


def test_equal_decisions_in_a_row_are_one() -> None:
    log = DecisionLog()
    for message in ("a", "a", "b", "a"):
        log.add(failure("p", message), STAMP, None)
    assert [(d.message, d.times) for d in log.of("default/p", "uid-p")] == [("a", 2), ("b", 1), ("a", 1)]
    for message in "cdefg":
        log.add(failure("p", message), STAMP, None)
    assert [d.message for d in log.of("default/p", "uid-p")] == ["d", "e", "f", "g"], "the newest four"


def test_a_summary_does_not_displace_what_an_equal_decision_knew() -> None:
    world = World(node("n1", cpu="1"))
    one = info(pod("p", cpu="2"))
    detail = world.cycle.explain(one)
    log = DecisionLog()
    log.add(Failure(one, "m"), STAMP, detail)
    log.add(Failure(one, "m"), STAMP, None)
    [found] = log.of("default/p", one.uid)
    assert found.times == 2 and len(found.nodes) == 1


@given(st.lists(st.tuples(st.integers(0, 9), st.text(max_size=60), st.sampled_from("uv")), max_size=60))
def test_the_log_keeps_within_its_bytes(steps: list[tuple[int, str, str]]) -> None:
    log = DecisionLog(2500)
    for number, message, uid in steps:
        log.add(failure(f"p{number}", message, uid), STAMP, None)
        assert 0 <= log.size <= 2500
        assert log.size == sum(record.size for record in log._records.values())
        assert log.of(f"default/p{number}", uid)[-1].message == message


def test_the_budget_is_a_share_of_the_time_with_some_saved() -> None:
    budget = Budget(0.0)
    budget.spend(0.2)
    assert not budget.allows(1.0), "a fifth of a tenth of a second more, and a tenth is owed"
    assert budget.allows(7.0)
    budget.spend(0.1)
    assert budget.allows(1000.0)
    budget.spend(0.6)
    assert not budget.allows(1000.0), "no more than a tenth of a second is saved"


# --- the service ------------------------------------------------------------------------------


@pytest.fixture
def fabric() -> Fabric:
    return Fabric()


@pytest.fixture
async def scheduler(api: FakeClient, fabric: Fabric) -> AsyncIterator[Scheduler]:
    env = Env(SystemClock(), random.Random(1), cast(Any, None))
    config = SchedulerConfig(identity="s0", address="s0:1", backoff=Backoff(0.01, 0.02))
    one = Scheduler(config, env, MemoryNetwork(fabric, "s0"), client=cast(ApiClient, api))
    await one.start()
    yield one
    await one.stop()


def stub(fabric: Fabric, *groups: str) -> Any:
    network = MemoryNetwork(fabric, "me", Identity("me", groups))
    return Stub(network.channel("s0:1"), pb.DESCRIPTOR.services_by_name["Scheduler"])


async def explained(fabric: Fabric, name: str) -> pb.ExplainResponse:
    request = pb.ExplainRequest(namespace="default", name=name)
    found: pb.ExplainResponse = await stub(fabric, MASTERS).Explain(request)
    return found


async def test_a_placed_pod_is_explained_as_it_was_and_as_it_would_be(
    api: FakeClient, scheduler: Scheduler, fabric: Fabric
) -> None:
    api.put("nodes", node("n1"))
    api.put("pods", pod("p", cpu="1"))
    await until(lambda: node_of(api, "p"))
    api.put("nodes", node("n2", cpu="2"))
    while len((found := await explained(fabric, "p")).now.nodes) < 2:
        await asyncio.sleep(0)
    assert found.node == "n1" and not found.queue
    assert [(d.node, len(d.nodes)) for d in found.past] == [("n1", 1)]
    assert found.now.node == "n2" and len(found.now.nodes) == 2, "packing takes the smaller one now"
    assert node_of(api, "p") == "n1" and (await explained(fabric, "p")).node == "n1", "nothing came of asking"


async def test_a_waiting_pod_is_explained(api: FakeClient, scheduler: Scheduler, fabric: Fabric) -> None:
    api.put("nodes", node("n1", cpu="1"))
    api.put("nodes", node("n2", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}]))
    api.put("pods", pod("p", cpu="2"))
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 1)
    found = await explained(fabric, "p")
    assert (found.queue, found.attempts, found.node) == ("unschedulable", 1, "")
    assert list(found.waits_for) == ["NodeResourcesFit", "TaintToleration"]
    assert found.past[0].message == found.now.message
    told = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s). "
    assert found.now.message.startswith(told)
    assert list(found.now.nodes[1].reasons) == ["node(s) had untolerated taint(s) {k: v}"]
    assert {v.node: v.plugin for v in found.now.nodes} == {"n1": "NodeResourcesFit", "n2": "TaintToleration"}


async def test_a_gated_pod_says_who_holds_it(api: FakeClient, scheduler: Scheduler, fabric: Fabric) -> None:
    api.put("nodes", node("n1"))
    api.put("pods", pod("p", schedulingGates=[{"name": "g"}]))
    await until(lambda: scheduler.pending().get(Place.GATED) == 1)
    found = await explained(fabric, "p")
    assert (found.queue, list(found.waits_for), found.attempts) == ("gated", ["SchedulingGates"], 0)
    assert found.now.node == "n1", "where it would go"


async def test_a_gang_says_what_it_waits_for(api: FakeClient, scheduler: Scheduler, fabric: Fabric) -> None:
    api.put("nodes", node("n1", cpu="2"))
    api.put("pods", member("p0"))
    await until(lambda: scheduler.pending().get(Place.GATED) == 1)
    found = await explained(fabric, "p0")
    assert (found.queue, list(found.waits_for)) == ("gated", ["GangScheduling"])
    assert found.now.message == 'waiting for pod\'s pod group "g" to appear in scheduling queue'
    api.put(GROUPS, group(least=3))
    for number in range(1, 3):
        api.put("pods", member(f"p{number}"))
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 3)
    found = await explained(fabric, "p0")
    assert found.now.node == "" and "minCount (3) cannot be satisfied: 2 scheduled" in found.now.message
    assert "minCount (3)" in found.past[0].message
    api.put("pods", pod("lone", cpu="2"))
    await until(lambda: node_of(api, "lone") == "n1")


async def test_who_may_ask_and_what_is_not_known(api: FakeClient, scheduler: Scheduler, fabric: Fabric) -> None:
    await until(lambda: scheduler.pending())
    with pytest.raises(RpcError) as refused:
        await stub(fabric, "system:nodes").Explain(pb.ExplainRequest(namespace="default", name="p"))
    assert refused.value.code is Code.PERMISSION_DENIED
    with pytest.raises(RpcError) as unknown:
        await explained(fabric, "p")
    assert unknown.value.code is Code.NOT_FOUND


async def test_a_replica_that_does_not_lead_says_so(api: FakeClient, fabric: Fabric) -> None:
    env = Env(SystemClock(), random.Random(1), cast(Any, None))
    config = SchedulerConfig(identity="s0", address="s0:1")
    idle = Scheduler(config, env, MemoryNetwork(fabric, "s0"), client=cast(ApiClient, api))
    service = ExplainService(lambda: None)
    assert idle.pending() == {}
    with pytest.raises(RpcError) as raised:
        await service.Explain(pb.ExplainRequest(namespace="default", name="p"), Context())
    assert raised.value.code is Code.FAILED_PRECONDITION


# --- for people -------------------------------------------------------------------------------


def shown(found: pb.ExplainResponse) -> str:
    console = Console(width=160, file=io.StringIO(), highlight=False)
    for line in lines(pb.ExplainRequest(namespace="default", name="p"), found):
        console.print(line, markup=False)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_best_node_comes_first_and_each_refusal_has_its_words() -> None:
    nodes = [
        pb.NodeVerdict(node="n1", scores={"ImageLocality": 5.0}, total=5.0),
        pb.NodeVerdict(node="n2", plugin="NodeResourcesFit", reasons=["Insufficient cpu", "Insufficient memory"]),
        pb.NodeVerdict(node="n3", scores={"ImageLocality": 50.0}, total=50.0),
    ]
    text = shown(pb.ExplainResponse(node="n3", past=[pb.Decision(time=STAMP, times=1, node="n3", nodes=nodes)]))
    assert text.index("n3 ") < text.index("n1 ") < text.index("n2 ")
    assert "default/p is on n3" in text and f"decided at {STAMP}: n3" in text
    assert "Insufficient cpu, Insufficient memory" in text


def test_a_waiting_pod_says_what_it_waits_for() -> None:
    past = [pb.Decision(time=STAMP, times=3, message="0/0", nominated="n1", summary=True)]
    text = shown(pb.ExplainResponse(queue="unschedulable", attempts=4, waits_for=["NodePorts"], past=past))
    assert "no node: unschedulable, 4 attempts so far; waits for what NodePorts may find otherwise" in text
    assert f"decided at {STAMP}, 3 times: 0/0 (pods on n1 are ended to make room)" in text
    assert "which node was refused by whom was not noted" in text
    gated = pb.ExplainResponse(queue="gated", waits_for=["SchedulingGates"])
    assert "not known any more" not in shown(gated), "nothing was decided"
    assert "not known any more" in shown(pb.ExplainResponse(node="n1"))
