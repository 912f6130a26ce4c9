"""Real pods on nodes that run out of something, or that are told to stop."""

import asyncio
import sys
from dataclasses import replace

import pytest

from rayplane.control_plane.api import meta
from rayplane.node.config import EvictionLimits, NodeConfig
from rayplane.node.kubelet.pressure import MEMORY
from rayplane.node.kubelet.shutdown import MESSAGE, Period, end_in_groups, grouped, periods_of
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import QUICK, MakeHost, phase, shell, state

TIMING = replace(QUICK, pressure_every_s=0.05, pressure_transition_s=0.1)


@pytest.mark.processes
async def test_the_pod_that_takes_the_memory_goes_and_the_node_recovers(api: FakeClient, make_host: MakeHost) -> None:
    limits = EvictionLimits(hard={MEMORY: "100Mi"})
    await make_host(NodeConfig("n1", memory="400Mi", runtime="process", eviction=limits), timing=TIMING)
    api.put("pods", shell("modest", "exec sleep 1000"))
    await api.until(lambda: "running" in state(api, "modest"))
    greedy = "import time; x = bytearray(350 << 20); time.sleep(1000)"
    api.put("pods", make_pod("greedy", container={"command": [sys.executable, "-c", greedy]}))
    await api.until(lambda: meta.condition_is(api.objects["nodes"]["n1"], "MemoryPressure"))
    await api.until(lambda: phase(api, "greedy") == "Failed")
    status = api.pod("greedy")["status"]
    assert status["reason"] == "Evicted"
    assert status["message"].startswith("The node was low on resource: memory. Threshold quantity: 100Mi, available: ")
    assert meta.get_condition(api.pod("greedy"), "DisruptionTarget")["reason"] == "TerminationByKubelet"  # type: ignore[index]
    await api.until(lambda: not meta.condition_is(api.objects["nodes"]["n1"], "MemoryPressure"))
    assert "running" in state(api, "modest")


@pytest.mark.processes
async def test_a_host_that_is_told_to_stop_ends_its_pods_in_order(api: FakeClient, make_host: MakeHost) -> None:
    node = NodeConfig("n1", runtime="process")
    host = await make_host(node, timing=QUICK, shutdown_grace_s=20.0, shutdown_grace_critical_s=10.0)
    script = "trap 'exit 0' TERM; while :; do sleep 0.01; done"
    api.put("pods", shell("plain", script))
    api.put("pods", shell("critical", script, priority=2_000_000_000))
    await api.until(lambda: all("running" in state(api, name) for name in ("plain", "critical")))
    assert host.leave_s(for_good=False) > 20.0
    await host.leave(for_good=False)
    for name in ("plain", "critical"):
        status = api.pod(name)["status"]
        assert (status["phase"], status["reason"], status["message"]) == ("Failed", "Terminated", MESSAGE)
    ready = meta.get_condition(api.objects["nodes"]["n1"], "Ready")
    assert ready is not None and (ready["status"], ready["message"]) == ("False", "node is shutting down")


@pytest.mark.processes
async def test_a_pod_that_does_not_hear_is_killed_in_time_and_that_is_told(
    api: FakeClient, make_host: MakeHost
) -> None:
    host = await make_host(NodeConfig("n1", runtime="process"), timing=QUICK, shutdown_grace_s=0.3)
    api.put("pods", shell("deaf", "trap '' TERM; while :; do sleep 0.01; done"))
    await api.until(lambda: "running" in state(api, "deaf"))
    await host.leave(for_good=False)
    assert phase(api, "deaf") == "Failed" and state(api, "deaf")["terminated"]["exitCode"] == 137


async def test_without_a_grace_pods_go_on_when_the_host_is_back(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web"))
    await api.until(lambda: phase(api, "web") == "Running")
    assert host.leave_s(for_good=False) == 0.0
    await host.leave(for_good=False)
    await host.stop()
    assert phase(api, "web") == "Running"


async def test_pods_of_a_node_that_goes_for_good_are_told_whatever_its_configuration(
    api: FakeClient, make_host: MakeHost
) -> None:
    host = await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web"))
    await api.until(lambda: phase(api, "web") == "Running")
    await host.leave(for_good=True)
    assert (phase(api, "web"), api.pod("web")["status"]["message"]) == ("Failed", MESSAGE)


class Pod:
    def __init__(self, priority: int) -> None:
        self.pod, self.takes_room = make_pod("p", priority=priority), True
        self.events: list[object] = []

    def post(self, event: object) -> None:
        self.events.append(event)


async def test_important_pods_are_told_when_the_others_have_ended() -> None:
    plain, critical, freed = Pod(0), Pod(2_000_000_000), asyncio.Event()
    ending = asyncio.create_task(end_in_groups(lambda: [plain, critical], periods_of(60.0, 30.0), freed))
    while not plain.events:
        await asyncio.sleep(0)
    freed.set()
    for _ in range(10):
        await asyncio.sleep(0)
        assert not critical.events
    plain.takes_room = False
    freed.set()
    while not critical.events:
        await asyncio.sleep(0)
    critical.takes_room = False
    freed.set()
    await ending


async def test_a_group_that_does_not_end_in_time_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayplane.node.kubelet.shutdown.KILLED_S", 0.0)
    pods = [Pod(0), Pod(2_000_000_000)]
    await end_in_groups(lambda: pods, periods_of(0.02, 0.01), asyncio.Event())
    assert [len(pod.events) for pod in pods] == [1, 1]


def test_pods_are_grouped_by_priority() -> None:
    pods = [Pod(n) for n in (-5, 0, 9, 10, 99, 100, 1000)]
    groups = grouped(pods, [Period(100, 3.0), Period(0, 1.0), Period(10, 2.0)])
    priorities = [(seconds, [p.pod["spec"]["priority"] for p in group]) for seconds, group in groups]
    assert priorities == [(1.0, [-5, 0, 9]), (2.0, [10, 99]), (3.0, [100, 1000])]
    assert periods_of(0.0, 0.0) == []
    assert [p.seconds for p in periods_of(30.0, 10.0)] == [20.0, 10.0]
