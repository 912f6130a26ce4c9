"""What a node does to a pod that an experiment has marked."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from rayplane.control_plane.api.pods import marks
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.node.config import NodeConfig
from rayplane.node.host import NodeHost
from rayplane.node.lifecycle import Killed, Resumed, StopContainer, Suspended
from rayplane.node.lifecycle.model import EXPERIMENT, Run
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import stub
from tests.node.test_lifecycle import Life

MakeHost = Callable[..., Awaitable[NodeHost]]


async def mark(api: FakeClient, name: str, value: str | None) -> None:
    await api.patch("pods", "p", "default", {"metadata": {"annotations": {name: value}}})


async def seen(api: FakeClient) -> None:
    """Until the node has acted on all that was done to the pod: a pod that comes later is done with."""
    api.put("pods", make_pod("later"))
    await api.until(lambda: pod_is_ready(api.pod("later")))


def container(api: FakeClient) -> dict[str, Any]:
    found: dict[str, Any] = api.pod("p")["status"]["containerStatuses"][0]
    return found


async def test_a_pod_fails_as_long_as_one_experiment_wants_it(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("p"))
    await api.until(lambda: pod_is_ready(api.pod("p")))
    await mark(api, marks.failed("a"), "true")
    await api.until(lambda: not pod_is_ready(api.pod("p")))
    await api.until(lambda: container(api)["state"].get("waiting", {}).get("reason") == "PodFailure")
    await mark(api, marks.failed("b"), "true")
    await mark(api, marks.failed("a"), None)
    await seen(api)
    assert not pod_is_ready(api.pod("p"))
    await mark(api, marks.failed("b"), None)
    await api.until(lambda: pod_is_ready(api.pod("p")))
    assert container(api)["restartCount"] == 1


async def test_a_pod_that_is_failed_when_its_node_comes_back_stays_so(api: FakeClient, make_host: MakeHost) -> None:
    api.put("pods", make_pod("p", annotations={marks.failed("a"): "true"}))
    api.put("pods", make_pod("q"))
    await make_host(NodeConfig("n1"))
    await api.until(lambda: pod_is_ready(api.pod("q")))
    assert not pod_is_ready(api.pod("p"))
    await mark(api, marks.failed("a"), None)
    await api.until(lambda: pod_is_ready(api.pod("p")))


async def test_what_is_beside_a_simulated_container_counts_as_its_own_within_its_limits(
    api: FakeClient, make_host: MakeHost
) -> None:
    host = await make_host(NodeConfig("n1"))
    limits = {"cpu": "2", "memory": "64Mi"}
    asked = {"resources": {"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": limits}}
    api.put("pods", make_pod("p", container=asked))
    await api.until(lambda: pod_is_ready(api.pod("p")))
    for stress, cores, size in ((marks.Stress(1, 50, 1, 16 << 20), 0.6, 32), (marks.Stress(9, 100, 1, 1 << 30), 2, 64)):
        await mark(api, marks.stressed("a"), marks.stress(stress, ["main"]))
        await uses(host, cores, size)
    await mark(api, marks.stressed("a"), None)
    await uses(host, 0.1, 16)


async def uses(host: NodeHost, cores: float, mebibytes: int) -> None:
    """Until the node's pods use so much."""
    while True:
        answer = await stub(host).Stats(pb.StatsRequest(node="n1"))
        if (answer.cpu_nanocores, answer.memory_bytes) == (round(cores * 1e9), mebibytes << 20):
            return
        await asyncio.sleep(0.01)


async def test_a_container_is_killed_once_for_each_kill(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("p"))
    await api.until(lambda: pod_is_ready(api.pod("p")))
    await mark(api, marks.killed("a"), marks.kill(0, ["main"]))
    await api.until(lambda: container(api)["restartCount"] == 1 and pod_is_ready(api.pod("p")))
    assert container(api)["lastState"]["terminated"]["exitCode"] != 0
    await mark(api, "other", "x")
    await mark(api, marks.killed("a"), marks.kill(0, ["main"]))
    await seen(api)
    assert container(api)["restartCount"] == 1 and "running" in container(api)["state"]
    await mark(api, marks.killed("a"), marks.kill(1, ["main"]))
    await api.until(lambda: container(api)["lastState"].get("terminated") and "waiting" in container(api)["state"])


def test_a_pod_that_an_experiment_fails_works_again_when_that_is_over() -> None:
    life = Life()
    life.step()
    life.step(Suspended(EXPERIMENT))
    status = life.status
    assert life.machine.by_name["c"].run is Run.IDLE and status["phase"] == "Running"
    assert status["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodFailure"
    # The node has the cluster again; that is another matter.
    life.step(Suspended())
    life.step(Resumed())
    assert life.machine.by_name["c"].run is Run.IDLE
    life.step(Resumed(EXPERIMENT))
    assert life.machine.by_name["c"].run is Run.RUNNING and life.status["containerStatuses"][0]["restartCount"] == 1


def test_containers_that_are_killed_are_treated_as_those_that_crashed() -> None:
    life = Life(containers=[{"name": "a", "image": "i"}, {"name": "b", "image": "i"}])
    life.step()
    life.step(Killed(("a", "absent")))
    assert StopContainer("a", 1, 0.0) in life.effects
    a, b = (life.machine.by_name[name] for name in "ab")
    assert (a.run, a.restart_count, b.restart_count) == (Run.RUNNING, 1, 0)
    life.step(Killed(("a",)))
    assert a.run is Run.BACKOFF
    once = Life(containers=[{"name": "a", "image": "i"}], restartPolicy="Never")
    once.step()
    once.step(Killed(("a",)))
    assert once.status["phase"] == "Failed"
