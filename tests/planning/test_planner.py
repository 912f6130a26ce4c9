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
CLAIM = {
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}
MOUNTED = {
    "containers": [container("1", volumeMounts=[{"name": "data", "mountPath": "/data"}])],
    "affinity": APART,
    "priorityClassName": "vip",
}
AGENT = workload("DaemonSet", "agent", "100m")
SHOP: list[dict[str, Any]] = [
    {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "vip"}, "value": 1000},
    workload("Deployment", "web", "750m", replicas=9),
    AGENT,
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
            with pytest.raises(CannotPlan, match='namespaces "shop" not found: create it first'):
                await plan_beside(fake.api, CONFIG, Question(objects=objects))
            await fake.api.create("namespaces", {"metadata": {"name": "shop"}})
            found = await plan_beside(fake.api, CONFIG, Question(objects=objects))
            assert (found.plan.added, len(found.plan.nodes), found.left_out) == (("new-2",), 3, ())
            assert (await fake.api.list("deployments.apps")).items == (await fake.api.list("pods")).items == []
            await fake.api.create("deployments.apps", objects[0])
            await fake.api.create("daemonsets.apps", AGENT)
            await fake.advance("30s")
            pods = (await fake.api.list("pods", label_selector="app=web")).items
            # On two nodes there is room for four: the third that was planned is for the one that waits.
            assert sorted(bool(pod["spec"].get("nodeName")) for pod in pods) == [False, *[True] * 4]
            waiting = await plan_beside(fake.api, CONFIG, Question())
            assert waiting.plan.added == ("new-2",) and not waiting.plan.unplaced
            more = await plan_beside(fake.api, CONFIG, Question(objects=[*objects, AGENT], node_cpu="16"))
            assert more.left_out == (
                "Deployment/shop/web: it is there already, and these pods would be more",
                "DaemonSet/shop/agent: it is there already",
            )
            (new,) = (more.plan.nodes[name] for name in more.plan.added)
            assert new.allocatable["cpu"] == 16_000 and new.requested["DaemonSet/shop/agent"]["pods"] == 1

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(run())


HOOK = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "ValidatingWebhookConfiguration",
    "metadata": {"name": "hook"},
    "webhooks": [
        {
            "name": "hook.example.com",
            "clientConfig": {"service": {"name": "hook", "namespace": "shop"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
    ],
}


async def test_workloads_of_one_name_are_planned_each_and_webhooks_are_not_asked() -> None:
    both = [workload("Deployment", "web", "1", replicas=4), workload("StatefulSet", "web", "1", replicas=4)]
    found = await plan_anew(CONFIG, Question(objects=[*both, HOOK, {"apiVersion": "x/v1", "kind": "X"}]))
    pods = [need["pods"] for node in found.plan.nodes.values() for need in node.requested.values()]
    assert (sum(pods), len(found.plan.nodes)) == (8, 2)
    assert found.left_out == ("ValidatingWebhookConfiguration/hook: it is not asked", "X: it is not asked")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (workload("Deployment", "web", "1", {"containers": [{"name": "main", "image": ""}]}), "image"),
        (workload("Deployment", "web", "1", replicas="many"), "replicas"),
        (workload("Deployment", "web", "1", replicas=-3), "replicas"),
        (workload("Deployment", "web", "1") | {"spec": "x"}, "spec"),
        (workload("Deployment", "web", "1", replicas=1_000_000), "more than 500000 pods"),
        (workload("Deployment", "web", "1", {"schedulerName": "volcano"}), "no profile is named 'volcano'"),
        (workload("DaemonSet", "web", "1", {"schedulerName": "volcano"}), "no profile is named 'volcano'"),
    ],
)
async def test_what_no_api_server_would_take_is_no_plan(broken: dict[str, Any], said: str) -> None:
    with pytest.raises(CannotPlan, match=f"{broken['kind']}/shop/web: .*{said}"):
        await plan_anew(CONFIG, Question(objects=[broken]))


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (Question(survive="region"), "--survive 'region': use node or zone"),
        (Question(times=0), "--times 0"),
        (Question(zones=-1), "--zones -1"),
        (Question(nodes_max=0), "--max-nodes 0"),
        (Question(node_cpu="banana"), "--node-cpu 'banana'"),
        (Question(survive="zone"), "--survive zone: nodes of one zone cannot; say --zones"),
    ],
)
async def test_a_question_that_makes_no_sense_says_what_to_say(question: Question, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        await plan_anew(CONFIG, question)
