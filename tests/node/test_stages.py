"""Pods whose life stages decide, on a node host of simulated containers: what the API sees of them."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, Forbidden, Invalid
from rayplane.control_plane.cluster.manifests import parse
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.stages.examples import shipped
from rayplane.control_plane.stages.pace import UNDELAYED_MAX
from rayplane.node.config import NodeConfig
from rayplane.node.host import NodeHost
from rayplane.node.kubelet.staged_pod import StagedPod
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import logs, run_in, stub
from tests.node.test_kubelet import QUICK

MakeHost = Callable[..., Awaitable[NodeHost]]
STAGES = "stages.kwok.x-k8s.io"

RUNNING = """
phase: Running
podIP: {{ PodIPWith .spec.nodeName false "" "" "" | Quote }}
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
conditions: [{type: Ready, status: "True"}]
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  state: {running: {startedAt: {{ Now | Quote }}}}
{{ end }}
"""


def key(path: str, *values: str, operator: str = "") -> dict[str, Any]:
    return {"key": path, "operator": operator or "In", **({"values": [*values]} if values else {})}


PENDING, RUNS = key(".status.phase", "Pending"), key(".status.phase", "Running")
ALIVE = key(".metadata.deletionTimestamp", operator="DoesNotExist")


def put(api: FakeClient, name: str, *expressions: dict[str, Any], kind: str = "Pod", **spec: Any) -> None:
    selector = {"matchExpressions": [*expressions], **spec.pop("selector", {})}
    spec = {"resourceRef": {"apiGroup": "v1", "kind": kind}, "selector": selector, **spec}
    stage = {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}
    api.put(STAGES, stage)


def ready(api: FakeClient, **spec: Any) -> None:
    put(api, "ready", PENDING, ALIVE, next={"statusTemplate": RUNNING, **spec.pop("next", {})}, **spec)


def phase(api: FakeClient, name: str) -> str:
    return str(api.pod(name)["status"].get("phase"))


async def test_a_stage_decides_a_pods_life_from_its_beginning(api: FakeClient, make_host: MakeHost) -> None:
    ready(api, next={"event": {"type": "Normal", "reason": "Played", "message": "hello"}})
    put(api, "done", RUNS, ALIVE, selector={"matchLabels": {"job": "yes"}}, next={"statusTemplate": "phase: Succeeded"})
    host = await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web"))
    batch = make_pod("batch")
    batch["metadata"]["labels"] = {"job": "yes"}
    api.put("pods", batch)
    await api.until(lambda: phase(api, "web") == "Running" and phase(api, "batch") == "Succeeded")
    status = api.pod("web")["status"]
    assert status["podIP"].startswith("127.77.1.") and status["hostIP"] == "127.77.1.1"
    assert meta.condition_is(api.pod("web"), "Ready")
    assert "last one ready" in (meta.get_condition(api.pod("web"), "rayplane.io/Staged") or {})["message"]
    await api.until(lambda: "hello" in api.events("Played"))
    # It is there for who looks into it, and takes room on its node; what has ended does not.
    assert await logs(host, "web") == b"simulated container main started\n"
    assert {w.pod["metadata"]["name"]: w.takes_room for w in host.kubelets["n1"].workers} == {
        "web": True,
        "batch": False,
    }
    api.remove("pods", "default/web")
    api.remove("pods", "default/batch")
    await api.until(lambda: not host.kubelets["n1"].workers)


async def test_without_a_stage_that_is_for_it_a_pod_lives_as_ever_and_a_later_one_takes_it_over(
    api: FakeClient, make_host: MakeHost
) -> None:
    selector = {"matchLabels": {"chaos": "yes"}}
    put(api, "chaos", RUNS, next={"statusTemplate": "phase: Failed\nreason: Chaos"}, selector=selector)
    host = await make_host(NodeConfig("n1"))
    for name in ("calm", "wild"):
        api.put("pods", make_pod(name))
    await api.until(lambda: phase(api, "calm") == phase(api, "wild") == "Running")
    address = api.pod("wild")["status"]["podIP"]
    wild = api.pod("wild")
    api.put("pods", {**wild, "metadata": {**wild["metadata"], "labels": {"chaos": "yes"}}})
    await api.until(lambda: phase(api, "wild") == "Failed")
    assert api.pod("wild")["status"]["reason"] == "Chaos" and api.pod("wild")["status"]["podIP"] == address
    assert phase(api, "calm") == "Running"
    workers = {meta.name(w.pod): type(w) is StagedPod for w in host.kubelets["n1"].workers}
    assert workers == {"calm": False, "wild": True}


async def test_a_stage_that_comes_later_is_played_on_pods_that_are_there(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web"))
    await api.until(lambda: phase(api, "web") == "Running")
    put(api, "tell", RUNS, next={"event": {"type": "Warning", "reason": "Seen", "message": "a"}})
    await api.until(lambda: api.events("Seen"))
    put(api, "end", RUNS, next={"statusTemplate": "phase: Succeeded"})
    await api.until(lambda: phase(api, "web") == "Succeeded")
    assert len(api.events("Seen")) == 1


async def test_a_deleted_pod_goes_when_its_stage_says_or_at_once_where_none_does(
    api: FakeClient, make_host: MakeHost
) -> None:
    ready(api)
    gone = [key(".metadata.deletionTimestamp", operator="Exists"), key(".metadata.labels.slow", "yes")]
    put(api, "gone", *gone, next={"event": {"type": "Normal", "reason": "Going", "message": "m"}, "delete": True})
    await make_host(NodeConfig("n1"))
    slow = make_pod("slow")
    slow["metadata"]["labels"] = {"slow": "yes"}
    for pod in (slow, make_pod("quick")):
        api.put("pods", pod)
    await api.until(lambda: phase(api, "slow") == phase(api, "quick") == "Running")
    for name in ("slow", "quick"):
        await api.delete("pods", name, "default")
    await api.until(lambda: not api.objects["pods"])
    await api.until(lambda: api.events("Going"))


async def test_a_stage_may_end_a_pod_that_lived_as_ever(api: FakeClient, make_host: MakeHost) -> None:
    deleting = key(".metadata.deletionTimestamp", operator="Exists")
    put(api, "gone", deleting, next={"event": {"type": "Normal", "reason": "Going", "message": "m"}, "delete": True})
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web"))
    await api.until(lambda: phase(api, "web") == "Running")
    await api.delete("pods", "web", "default")
    await api.until(lambda: not api.objects["pods"] and api.events("Going"))


async def test_stages_that_follow_each_other_without_a_delay_are_held_and_told(
    api: FakeClient, make_host: MakeHost
) -> None:
    ready(api)
    for name, now, then in (("a", "x", "y"), ("b", "y", "x"), ("first", "", "x")):
        found = key(".status.message", now) if now else key(".status.message", operator="DoesNotExist")
        put(api, name, RUNS, found, next={"statusTemplate": f"message: {then}"}, immediateNextStage=True)
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web"))
    await api.until(lambda: api.events("StagesLoop"))
    assert f"{UNDELAYED_MAX} stages" in api.events("StagesLoop")[0]


async def test_what_a_stage_makes_it_makes_as_the_pods_service_account(api: FakeClient, make_host: MakeHost) -> None:
    secret = "{apiVersion: v1, kind: Secret, metadata: {name: {{ .metadata.name }}-key}, stringData: {a: b}}"
    role = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: mine}}"
    steps = [{"apply": {"template": secret}}, {"apply": {"template": role}}, {"event": {"reason": "Made"}}]
    put(api, "make", RUNS, steps=steps)
    refused: list[str] = []

    def refuse(verb: str, resource: str) -> ApiError | None:
        if resource.startswith("clusterroles"):
            refused.append(resource)
            return Forbidden("no")
        return None

    api.refuse = refuse
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web", serviceAccountName="maker"))
    await api.until(lambda: api.events("StageFailed"))
    assert api.objects["secrets"]["default/web-key"]["stringData"] == {"a": "b"}
    assert api.actors == [("token-of-maker", "create")] * 2
    assert api.events("StageFailed") == ["Stage make: as service account maker: no"]
    # What comes after a step that failed is not done, and the pod goes on as it was.
    assert refused == ["clusterroles.rbac.authorization.k8s.io"] and not api.events("Made")
    assert phase(api, "web") == "Running"


@pytest.mark.parametrize(
    ("application", "labels", "secrets"),
    [
        ("argo-cd", {"app.kubernetes.io/name": "argocd-redis"}, ["argocd-redis"]),
        ("argo-cd", {"app.kubernetes.io/name": "argocd-redis-ha-haproxy"}, ["argocd-redis"]),
        ("argo-cd", {"app.kubernetes.io/name": "argocd-server"}, ["argocd-initial-admin-secret"]),
        ("ingress-nginx", {"job-name": "ingress-nginx-admission-create"}, ["ingress-nginx-admission"]),
        ("keda", {"app": "keda-operator"}, ["kedaorg-certs"]),
        ("keda", {"app": "other"}, []),
    ],
)
async def test_stages_that_come_along_make_what_others_wait_for(
    api: FakeClient, make_host: MakeHost, application: str, labels: dict[str, str], secrets: list[str]
) -> None:
    for one in parse(shipped()[application], application):
        api.put(STAGES, one.object)
    await make_host(NodeConfig("n1"))
    wanted = {"name": "A", "valueFrom": {"secretKeyRef": {"name": next(iter(secrets), "none"), "key": "auth"}}}
    maker, waits = make_pod("maker"), make_pod("waits", container={"envFrom": [{"secretRef": {"name": "x"}}]})
    waits["spec"]["containers"][0] = {**maker["spec"]["containers"][0], "env": [wanted]}
    maker["metadata"]["labels"] = labels
    # Of those that make a Secret some wait for it themselves: their first containers did it.
    if "argocd-redis" in secrets:
        maker["spec"]["containers"][0] = {**maker["spec"]["containers"][0], "env": [wanted]}
    api.put("pods", maker)
    api.put("pods", waits)
    await api.until(lambda: [*api.objects.get("secrets", {})] == [f"default/{name}" for name in secrets])
    if "argocd-redis" in secrets:
        await api.until(lambda: phase(api, "maker") == phase(api, "waits") == "Running")
    assert not api.events("StageFailed")


async def test_what_is_there_is_well_for_an_account_that_may_only_make(api: FakeClient, make_host: MakeHost) -> None:
    secret = "{apiVersion: v1, kind: Secret, metadata: {name: key}, stringData: {a: mine}}"
    steps = [{"apply": {"template": secret}}, {"event": {"type": "Normal", "reason": "Made", "message": "it"}}]
    put(api, "make", RUNS, steps=steps)
    api.put("secrets", {"metadata": {"name": "key", "namespace": "default"}, "stringData": {"a": "others"}})
    api.refuse = lambda verb, resource: Forbidden("no") if (verb, resource) == ("patch", "secrets") else None
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web"))
    await api.until(lambda: api.events("Made"))
    assert not api.events("StageFailed")
    assert api.objects["secrets"]["default/key"]["stringData"] == {"a": "others"}


async def test_what_is_there_is_applied_anew_when_the_pod_has_changed(api: FakeClient, make_host: MakeHost) -> None:
    secret = "{apiVersion: v1, kind: Secret, metadata: {name: key}, stringData: {a: {{ .metadata.labels.a | Quote }}}}"
    put(api, "make", RUNS, key(".metadata.labels.a", operator="Exists"), steps=[{"apply": {"template": secret}}])
    await make_host(NodeConfig("n1"))
    for value in ("b", "c"):
        pod = api.objects.get("pods", {}).get("default/web") or make_pod("web")
        api.put("pods", {**pod, "metadata": {**pod["metadata"], "labels": {"a": value}}})
        await api.until(
            lambda value=value: api.objects.get("secrets", {}).get("default/key", {}).get("stringData") == {"a": value}
        )


async def test_a_template_that_fails_is_told_and_the_pod_stays(api: FakeClient, make_host: MakeHost) -> None:
    put(api, "bad", RUNS, next={"statusTemplate": "a: 1\nphase: {{ index .spec.containers 9 }}"})
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web"))
    await api.until(lambda: api.events("StageFailed"))
    assert "Stage bad: line 2: index out of range: 9" in api.events("StageFailed")[0]
    assert phase(api, "web") == "Running"


async def test_a_node_that_comes_back_knows_its_staged_pods(api: FakeClient, make_host: MakeHost) -> None:
    ready(api)
    first = await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web"))
    await api.until(lambda: phase(api, "web") == "Running")
    await first.stop()
    before = api.pod("web")["status"]
    second = await make_host(NodeConfig("n1"))
    (worker,) = second.kubelets["n1"].workers
    assert isinstance(worker, StagedPod)
    assert await logs(second, "web") == b"simulated container main started\n"
    assert api.pod("web")["status"] == before


async def test_stages_that_cannot_be_read_are_left_out(api: FakeClient, make_host: MakeHost) -> None:
    put(api, "bad", next={"statusTemplate": "{{ foo }}"})
    put(api, "odd", selector={"matchLabels": 7}, delay=[1])
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web"))
    await api.until(lambda: phase(api, "web") == "Running")


async def test_a_status_that_the_api_refuses_holds_nobody_up(api: FakeClient, make_host: MakeHost) -> None:
    ready(api, selector={"matchLabels": {"staged": "yes"}})
    bad = make_pod("bad")
    bad["metadata"]["labels"] = {"staged": "yes"}
    refused: list[str] = []

    def refuse(verb: str, resource: str) -> ApiError | None:
        refused.append(resource)
        return Invalid("no") if resource == "pods/status" else None

    api.refuse = refuse
    await make_host(NodeConfig("n1"))
    api.put("pods", bad)
    await api.until(lambda: "pods/status" in refused)
    api.refuse = None
    api.put("pods", make_pod("good"))
    await api.until(lambda: phase(api, "good") == "Running")


# --- answers --------------------------------------------------------------------------------------


def say(api: FakeClient, kind: str, plural: str, field: str, *parts: dict[str, Any], name: str = "all") -> None:
    place = {} if kind.startswith("Cluster") else {"namespace": "default"}
    api.put(f"{plural}.kwok.x-k8s.io", {"kind": kind, "metadata": {"name": name, **place}, "spec": {field: [*parts]}})


async def test_simulated_containers_answer_as_they_are_told(
    api: FakeClient, make_host: MakeHost, tmp_path: Any
) -> None:
    say(api, "Logs", "logs", "logs", {"text": "I am {{ .metadata.name }}", "previousText": "I was"}, name="web")
    answers = [{"command": ["psql"], "stdout": "1 row\n", "stderr": "slow\n", "exitCode": 3}]
    say(api, "ClusterExec", "clusterexecs", "execs", {"answers": answers})
    usage = {"cpu": {"value": "250m"}, "memory": {"expression": 'Quantity("1Mi")'}}
    say(api, "ClusterResourceUsage", "clusterresourceusages", "usages", {"usage": usage})
    say(api, "ClusterLogs", "clusterlogs", "logs", {"logsFile": "db.log"})
    host = await make_host(NodeConfig("n1"))
    for name in ("web", "db"):
        api.put("pods", make_pod(name))
    await api.until(lambda: phase(api, "web") == phase(api, "db") == "Running")
    assert await logs(host, "web") == b"I am web\n"
    assert await run_in(host, "web", "psql", "-c", "x") == (b"1 row\n", b"slow\n", 3)
    with pytest.raises(RpcError, match="runs no commands"):
        await run_in(host, "web", "ls")
    stats = await stub(host).Stats(pb.StatsRequest(node="n1"))
    assert {(c.cpu_nanocores, c.memory_bytes) for c in stats.containers} == {(250_000_000, 1 << 20)}
    with pytest.raises(RpcError, match=r"cannot read db.log.*put it below"):
        await logs(host, "db")
    (tmp_path / "host0/answers").mkdir(parents=True)
    (tmp_path / "host0/answers/db.log").write_text("from a file\n")
    assert await logs(host, "db") == b"from a file\n"
    say(api, "ClusterLogs", "clusterlogs", "logs", {"logsFile": "../../etc/passwd"})
    with pytest.raises(RpcError, match="cannot read"):
        await logs(host, "db")


# --- nodes ----------------------------------------------------------------------------------------


async def test_a_stage_makes_a_node_sick_as_long_as_it_is_for_it(api: FakeClient, make_host: MakeHost) -> None:
    template = """
conditions:
{{ range NodeConditions }}
- {type: {{ .type }}, status: {{ if eq .type "Ready" }}"False"{{ else }}{{ .status | Quote }}{{ end }}, reason: Sick}
{{ end }}
capacity: {cpu: "1", memory: 1Gi, pods: "5"}
"""
    sick = {"selector": {"matchLabels": {"sick": "yes"}}, "next": {"statusTemplate": template}}
    put(api, "sick", key(".status.phase", "Running"), kind="Node", **sick)
    await make_host(NodeConfig("n1"), timing=QUICK)

    def node() -> dict[str, Any]:
        return api.objects["nodes"]["n1"]

    assert meta.condition_is(node(), "Ready")
    label = {"metadata": {"labels": {"sick": "yes"}}}
    await api.patch("nodes", "n1", "", label)
    await api.until(lambda: meta.condition_is(node(), "Ready", "False"))
    assert node()["status"]["capacity"]["cpu"] == "1" and node()["status"]["allocatable"]["cpu"] == "4"
    assert "phase" not in node()["status"]
    # What the node says by itself does not undo it.
    writes = len([one for one in api.operations if one[1] == "nodes/status"])
    await api.patch("nodes", "n1", "", {"metadata": {"annotations": {"a": "b"}}})
    assert meta.condition_is(node(), "Ready", "False")
    await api.patch("nodes", "n1", "", {"metadata": {"labels": {"sick": None}}})
    await api.until(lambda: meta.condition_is(node(), "Ready"))
    assert node()["status"]["capacity"]["cpu"] == "4"
    assert len([one for one in api.operations if one[1] == "nodes/status"]) <= writes + 2
