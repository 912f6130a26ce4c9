"""What is planned is what a cluster does: its API server's words, its scheduler, and its nodes."""

import asyncio
from typing import Any

import pytest

from rayplane.control_plane.cli.plan import lines
from rayplane.control_plane.cluster.config import PROCESS, ClusterConfig
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.in_memory import AsyncFake
from rayplane.control_plane.planning.planner import CannotPlan, Question, plan_anew, plan_beside
from rayplane.storage.env.leaps import LeapingLoop

CONFIG = ClusterConfig(host=PROCESS)


def container(cpu: str, **more: Any) -> dict[str, Any]:
    return {"name": "main", "image": "app:1", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}, **more}


def workload(kind: str, name: str, cpu: str, spec: dict[str, Any] | None = None, **own: Any) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container(cpu)], **(spec or {})}}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"matchLabels": labels}, "template": template, **own},
    }


APART = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}
        ]
    }
}
CLAIM = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
MOUNTED = {
    "containers": [container("1", volumeMounts=[{"name": "data", "mountPath": "/data"}])],
    "affinity": APART,
    "priorityClassName": "vip",
}
SHOP: list[dict[str, Any]] = [
    {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "vip"}, "value": 1000},
    workload("Deployment", "web", "750m", replicas=9),
    workload("DaemonSet", "agent", "100m"),
    workload("StatefulSet", "db", "1", MOUNTED, replicas=2, volumeClaimTemplates=[CLAIM]),
]


async def test_a_new_cluster_is_planned_with_all_that_its_pods_hang_on() -> None:
    found = await plan_anew(CONFIG, Question(objects=SHOP))
    assert (len(found.plan.nodes), found.plan.unplaced, found.plan.lower_bound) == (3, (), 3)
    assert found.left_out == ("StatefulSet/shop/db: room for its volumes",)
    first, *rest, last = [line for line in lines(found, "node") if isinstance(line, str)]
    assert first == "3 nodes; by the sum of what pods ask for 3 at least"
    assert all(line.startswith("when new-") for line in rest) and last == f"left out: {found.left_out[0]}"


def test_a_running_cluster_is_planned_with_what_it_has_and_nothing_is_written() -> None:
    """And the nodes that are planned are as many as its own scheduler needs, and no more."""
    objects = [workload("Deployment", "web", "1500m", replicas=5)]

    async def run() -> None:
        async with AsyncFake(nodes=2) as fake:
            await fake.api.create("namespaces", {"metadata": {"name": "shop"}})
            found = await plan_beside(fake.api, CONFIG, Question(objects=objects))
            assert (found.plan.added, len(found.plan.nodes)) == (("new-2",), 3)
            assert (await fake.api.list("deployments.apps")).items == (await fake.api.list("pods")).items == []
            await fake.api.create("deployments.apps", objects[0])
            await fake.advance("30s")
            pods = (await fake.api.list("pods")).items
            # On two nodes there is room for four: the third that was planned is for the one that waits.
            assert sorted(bool(pod["spec"].get("nodeName")) for pod in pods) == [False, *[True] * 4]
            waiting = await plan_beside(fake.api, CONFIG, Question())
            assert waiting.plan.added == ("new-2",) and not waiting.plan.unplaced

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(run())


async def test_what_no_api_server_would_take_is_no_plan() -> None:
    broken = workload("Deployment", "web", "1")
    broken["spec"]["template"]["spec"]["containers"][0]["image"] = ""
    with pytest.raises(CannotPlan, match=r"Deployment/shop/web: .*image"):
        await plan_anew(CONFIG, Question(objects=[broken]))
    with pytest.raises(CannotPlan, match="more than 500000 pods"):
        await plan_anew(CONFIG, Question(objects=[workload("Deployment", "web", "1", replicas=1_000_000)]))


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (Question(survive="region"), "--survive 'region': use node or zone"),
        (Question(times=0), "--times 0"),
        (Question(zones=-1), "--zones -1"),
        (Question(nodes_max=0), "--max-nodes 0"),
        (Question(survive="zone"), "--survive zone: nodes of one zone cannot; say --zones"),
    ],
)
async def test_a_question_that_makes_no_sense_says_what_to_say(question: Question, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        await plan_anew(CONFIG, question)
