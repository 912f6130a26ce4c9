"""A node host on simulated containers: what the API sees of it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import pytest

from rayplane.control_plane.api import errors, meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.rpc import RpcError
from rayplane.node.config import NodeConfig, NodeTiming
from rayplane.node.host import NodeHost
from rayplane.node.kubelet.node_lease import OTHERS
from rayplane.node.kubelet.registrar import BATCH_MAX
from rayplane.node.kubelet.registration import Machine
from rayplane.node.restarts import RestartTiming
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import stub

MakeHost = Callable[..., Awaitable[NodeHost]]
QUICK = NodeTiming(0.02, 1, 1.0, RestartTiming(Backoff(0.05, 0.2), 60.0, 0.05))


def ready(api: FakeClient, name: str) -> bool:
    return pod_is_ready(api.pod(name))


def status(api: FakeClient, name: str) -> dict[str, Any]:
    return api.pod(name)["status"]


async def test_registers_its_node_and_keeps_its_lease(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NodeConfig("n1", cpu="2", memory="1Gi", zone="a"), timing=QUICK)
    await api.until(lambda: "kube-node-lease/n1" in api.objects.get("leases.coordination.k8s.io", {}))
    lease = api.objects["leases.coordination.k8s.io"]["kube-node-lease/n1"]
    first = lease["spec"]["renewTime"]
    await api.until(
        lambda: api.objects["leases.coordination.k8s.io"]["kube-node-lease/n1"]["spec"]["renewTime"] != first
    )
    node = api.objects["nodes"]["n1"]
    assert meta.condition_is(node, "Ready")
    assert meta.labels(node)["topology.kubernetes.io/zone"] == "a"
    assert meta.labels(node)["beta.kubernetes.io/os"] == "linux"
    assert meta.annotations(node)["rayplane.io/host-address"] == host.advertised
    assert node["status"]["allocatable"]["cpu"] == "2"
    assert {"type": "InternalIP", "address": "127.77.1.1"} in node["status"]["addresses"]
    assert node["status"]["nodeInfo"]["kubeletVersion"] == "v1.37.0"


async def test_a_node_tells_of_its_machine_and_that_it_was_started_anew(
    api: FakeClient, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> list[str]:
        return [e["message"] for e in api.objects.get("events", {}).values() if e["reason"] == "Rebooted"]

    for boot in ("first", "first", "second"):
        monkeypatch.setattr("rayplane.node.kubelet.kubelet.machine_of", lambda _node, boot=boot: Machine(boot, "6.1"))
        host = await make_host(NodeConfig("n1"))
        await api.until(lambda: meta.condition_is(api.objects["nodes"]["n1"], "Ready"))
        info = api.objects["nodes"]["n1"]["status"]["nodeInfo"]
        assert (info["bootID"], info["kernelVersion"]) == (boot, "6.1")
        if boot == "first":
            await host.stop()
    await api.until(told)
    assert told() == ["Node n1 has been rebooted, boot id: second"]


async def test_a_node_tells_that_it_was_cordoned(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"), timing=QUICK)
    for cordoned, reason in ((True, "NodeNotSchedulable"), (False, "NodeSchedulable")):
        node = api.objects["nodes"]["n1"]
        api.put("nodes", {**node, "spec": {**node["spec"], "unschedulable": cordoned}})
        await api.until(lambda r=reason: api.events(r))
        assert api.events(reason) == [f"Node n1 status is now: {reason}"]


@pytest.mark.parametrize(("moved", "zone"), [(False, "mine"), (True, "a")])
async def test_a_zone_that_somebody_gave_stays_while_the_node_does(
    api: FakeClient, make_host: MakeHost, *, moved: bool, zone: str
) -> None:
    host = await make_host(NodeConfig("n1", zone="a"), timing=QUICK)
    await host.stop()
    node = api.objects["nodes"]["n1"]
    labels = {**meta.labels(node), "topology.kubernetes.io/zone": "mine", "kubernetes.io/os": "plan9"}
    was = {"rayplane.io/host-address": "192.0.2.1:1"} if moved else {}
    changed = {**node["metadata"], "labels": labels, "annotations": {**meta.annotations(node), **was}}
    api.put("nodes", {**node, "metadata": changed})
    host = await make_host(NodeConfig("n1", zone="a"), timing=QUICK)
    node = api.objects["nodes"]["n1"]
    assert meta.annotations(node)["rayplane.io/host-address"] == host.advertised
    assert meta.labels(node)["kubernetes.io/os"] == "linux"
    assert meta.labels(node)["topology.kubernetes.io/zone"] == zone


async def test_a_node_that_was_given_up_tells_that_it_is_back(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"), timing=QUICK)
    assert api.events("NodeReady") == []
    node = api.objects["nodes"]["n1"]
    lost = [{**c, "status": "Unknown", "reason": "NodeStatusUnknown"} for c in node["status"]["conditions"]]
    api.put("nodes", {**node, "status": {**node["status"], "conditions": lost}})
    for reason in ("NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"):
        await api.until(lambda r=reason: api.events(r))
        assert api.events(reason) == [f"Node n1 status is now: {reason}"]


async def test_what_others_say_in_a_nodes_name_it_says_anew(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"), timing=QUICK)
    node = api.objects["nodes"]["n1"]
    others = {"Ready": "False", "DiskPressure": "True"}
    told = [{**c, "status": others.get(c["type"], c["status"])} for c in node["status"]["conditions"]]
    problem = {"type": "KernelDeadlock", "status": "True"}
    api.put("nodes", {**node, "status": {**node["status"], "conditions": [*told, problem]}})
    await api.until(lambda: meta.condition_is(api.objects["nodes"]["n1"], "Ready"))
    node = api.objects["nodes"]["n1"]
    assert meta.condition_is(node, "DiskPressure", "False") and meta.condition_is(node, "KernelDeadlock")


async def test_many_nodes_register_in_batches_and_those_that_could_not_again(
    api: FakeClient, make_host: MakeHost
) -> None:
    creates: list[int] = []

    def before(batch: Sequence[Any]) -> None:
        if count := sum(o.create.ref.resource == "nodes" for o in batch):
            creates.append(count)
        if count and len(creates) == 2:
            raise errors.TooManyRequests("later")

    api.before_batch = before
    names = [f"n{n}" for n in range(2 * BATCH_MAX + 1)]
    # Of these one was there before.
    api.put("nodes", {"metadata": {"name": "n0", "annotations": {"rayplane.io/heartbeat": "n9", "mine": "a"}}})
    host = await make_host(*(NodeConfig(name) for name in names), timing=QUICK, cidr=False)
    assert all(meta.condition_is(api.objects["nodes"][name], "Ready") for name in names)
    assert meta.annotations(api.objects["nodes"]["n0"])["mine"] == "a"
    assert meta.annotations(api.objects["nodes"]["n0"])["rayplane.io/heartbeat"] == "n0"
    assert all(kubelet.node is not None for kubelet in host.kubelets.values())
    # A node is made by one write, which has its status.
    assert creates == [BATCH_MAX, BATCH_MAX, BATCH_MAX, 1]
    assert [o for o in api.operations if o[1] == "nodes/status"] == [("patch", "nodes/status", "n0")]


async def test_a_host_of_many_nodes_lives_by_the_lease_of_the_first(api: FakeClient, make_host: MakeHost) -> None:
    names = [f"n{n}" for n in range(2 + OTHERS)]
    host = await make_host(*(NodeConfig(name) for name in names), timing=QUICK)
    leases = api.objects.setdefault("leases.coordination.k8s.io", {})
    await api.until(lambda: {f"kube-node-lease/{name}" for name in names} <= set(leases))
    nodes = [api.objects["nodes"][name] for name in names]
    assert {meta.annotations(node)["rayplane.io/heartbeat"] for node in nodes} == {"n0"}
    spans = {name: leases[f"kube-node-lease/{name}"]["spec"]["leaseDurationSeconds"] for name in names}
    # A Lease that has its turn every second time is good for twice as long.
    assert spans == {name: QUICK.lease_duration_s * (1 if name == "n0" else 2) for name in names}
    api.operations.clear()
    await api.until(lambda: sum(o[2] == "kube-node-lease/n0" for o in api.operations) == 4)
    renewed = Counter(key for _, resource, key in api.operations if resource == "leases.coordination.k8s.io")
    assert sum(renewed.values()) <= 5 * (1 + OTHERS)
    heard = [kubelet.fence.heard_at for kubelet in host.kubelets.values()]
    assert len(set(heard)) == 1


async def test_nodes_outlive_the_one_whose_lease_stands_for_theirs(
    api: FakeClient, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await make_host(*(NodeConfig(f"n{n}") for n in range(2 + OTHERS)), timing=QUICK)
    patch = api._patch

    def refuse(resource: str, name: str, *rest: Any) -> Any:
        if (resource, name) == ("leases.coordination.k8s.io", "n0"):
            raise errors.Forbidden("not this one")
        return patch(resource, name, *rest)

    monkeypatch.setattr(api, "_patch", refuse)
    await api.until(lambda: host.kubelets["n0"].suspended)
    # They have no turns any more: each renewal is one of all.
    others = [kubelet for name, kubelet in host.kubelets.items() if name != "n0"]
    assert len({kubelet.fence.heard_at for kubelet in others}) == 1
    assert not any(kubelet.suspended for kubelet in others)


@pytest.mark.parametrize(
    ("spec", "image", "part"),
    [
        ({}, "app:1", "spec.containers{main}"),
        ({"initContainers": [{"name": "first", "image": "tool:2"}]}, "tool:2", "spec.initContainers{first}"),
    ],
)
async def test_events_tell_of_a_container_what_kubelets_tell(
    api: FakeClient, make_host: MakeHost, spec: dict[str, Any], image: str, part: str
) -> None:
    await make_host(NodeConfig("n1"), timing=QUICK)
    api.put("pods", make_pod("web", annotations={"rayplane.io/run-duration": "1h"}, **spec))

    def events() -> list[Any]:
        return [one for one in api.objects.get("events", {}).values() if one["involvedObject"]["name"] == "web"]

    await api.until(lambda: len(events()) >= 3)
    assert {event["involvedObject"]["fieldPath"] for event in events()} == {part}
    pulled = f'Container image "{image}" already present on machine and can be accessed by the pod'
    told = [("Pulled", pulled), ("Created", "Container created"), ("Started", "Container started")]
    assert [(event["reason"], event["message"]) for event in events()] == told


async def test_a_node_tells_metrics_of_its_own_alone(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NodeConfig("n1"), NodeConfig("n2"), timing=QUICK)
    api.put("pods", make_pod("web"))
    await api.until(lambda: ready(api, "web"))
    pages = {}
    for node in ("n1", "n2"):
        answer = await stub(host).Page(pb.PageRequest(node=node, path="metrics", accept="text/plain"))
        assert answer.content_type.startswith("text/plain")
        pages[node] = answer.page.decode()
    assert "\nkubelet_running_pods 1.0\n" in pages["n1"]
    assert "\nkubelet_running_pods 0.0\n" in pages["n2"]
    assert '\nkubelet_running_containers{container_state="running"} 1.0\n' in pages["n1"]
    with pytest.raises(RpcError) as refused:
        await stub(host).Page(pb.PageRequest(node="n3", path="healthz"))
    assert refused.value.code is grpc.StatusCode.NOT_FOUND


async def test_a_pod_without_delay_is_ready_after_one_write(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web", container={"readinessProbe": {"httpGet": {"port": 80}}}))
    await api.until(lambda: ready(api, "web"))
    writes = [o for o in api.operations if o[2] == "default/web"]
    assert writes == [("patch", "pods/status", "default/web")]
    seen = status(api, "web")
    assert seen["phase"] == "Running"
    assert seen["podIP"].startswith("127.77.1.")
    assert seen["hostIP"] == "127.77.1.1"
    assert seen["containerStatuses"][0]["state"]["running"]["startedAt"]
    assert meta.condition_is(api.pod("web"), "PodReadyToStartContainers")


async def test_pods_wait_for_the_pod_cidr(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"), cidr=False)
    api.put("pods", make_pod("web"))
    await api.until(lambda: status(api, "web").get("startTime"))
    assert "podIP" not in status(api, "web")
    await api.patch("nodes", "n1", "", {"spec": {"podCIDR": "127.88.0.0/24"}})
    await api.until(lambda: ready(api, "web"))
    assert status(api, "web")["podIP"].startswith("127.88.0.")
    await api.until(
        lambda: {"type": "InternalIP", "address": "127.88.0.1"} in api.objects["nodes"]["n1"]["status"]["addresses"]
    )


async def test_a_host_starts_beside_odd_addresses_in_the_api(api: FakeClient, make_host: MakeHost) -> None:
    odd = make_pod("odd")
    odd["status"]["podIP"] = "nowhere"
    api.put("pods", odd)
    api.put("nodes", {"metadata": {"name": "n1"}, "spec": {"podCIDR": "0.0000001"}})
    await make_host(NodeConfig("n1"), NodeConfig("n2"), timing=QUICK)
    api.put("pods", make_pod("web", node="n2"))
    await api.until(lambda: ready(api, "web"))
    leases = api.objects.setdefault("leases.coordination.k8s.io", {})
    await api.until(lambda: {"kube-node-lease/n1", "kube-node-lease/n2"} <= set(leases))


async def test_deleted_pods_go_for_good(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web"))
    await api.until(lambda: ready(api, "web"))
    await api.delete("pods", "web", "default")
    await api.until(lambda: "default/web" not in api.objects["pods"])


async def test_a_simulated_container_sleeps_before_it_ends(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    hooks = {"postStart": {"exec": {"command": ["a"]}}, "preStop": {"sleep": {"seconds": 3600}}}
    api.put("pods", make_pod("web", container={"lifecycle": hooks}, terminationGracePeriodSeconds=7200))
    api.put("pods", make_pod("other"))
    await api.until(lambda: ready(api, "web") and ready(api, "other"))
    for name in ("web", "other"):
        await api.delete("pods", name, "default")
    await api.until(lambda: "default/other" not in api.objects["pods"])
    assert ready(api, "web")
    await api.delete("pods", "web", "default", grace_period_s=1)
    await api.until(lambda: "default/web" not in api.objects["pods"])


async def test_a_deleted_pod_with_a_finalizer_shows_how_it_ended(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    pod = make_pod("web")
    pod["metadata"]["finalizers"] = ["example.com/keep"]
    api.put("pods", pod)
    await api.until(lambda: ready(api, "web"))
    await api.delete("pods", "web", "default")
    await api.until(lambda: status(api, "web")["phase"] == "Failed")
    assert status(api, "web")["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 143


async def test_a_namesake_is_a_new_pod(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web", uid="one"))
    await api.until(lambda: ready(api, "web"))
    first = status(api, "web")["podIP"]
    api.remove("pods", "default/web")
    api.put("pods", make_pod("web", uid="two"))
    await api.until(lambda: ready(api, "web"))
    assert status(api, "web")["podIP"] != first


async def test_a_crashing_pod_backs_off(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"), timing=QUICK)
    annotations = {"rayplane.io/run-duration": "1ms", "rayplane.io/exit-code": "3"}
    api.put("pods", make_pod("web", annotations=annotations))
    await api.until(lambda: status(api, "web").get("containerStatuses", [{}])[0].get("restartCount", 0) >= 2)
    await api.until(
        lambda: (
            (status(api, "web")["containerStatuses"][0]["state"].get("waiting") or {}).get("reason")
            == "CrashLoopBackOff"
        )
    )
    assert status(api, "web")["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 3
    assert status(api, "web")["phase"] == "Running"


async def test_jobs_pods_complete_by_themselves(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    pod = make_pod("job", restartPolicy="Never", annotations={"rayplane.io/run-duration": "5ms"})
    api.put("pods", pod)
    await api.until(lambda: status(api, "job")["phase"] == "Succeeded")


async def test_a_missing_config_map_is_waited_for(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"), timing=QUICK)
    api.put("pods", make_pod("web", container={"envFrom": [{"configMapRef": {"name": "settings"}}]}))
    await api.until(
        lambda: (
            (status(api, "web").get("containerStatuses", [{}])[0].get("state", {}).get("waiting") or {}).get("reason")
            == "CreateContainerConfigError"
        )
    )
    message = status(api, "web")["containerStatuses"][0]["state"]["waiting"]["message"]
    assert message == 'configmap "settings" not found'
    api.put("configmaps", {"metadata": {"name": "settings", "namespace": "default"}, "data": {"A": "1"}})
    await api.until(lambda: ready(api, "web"))
    assert status(api, "web")["containerStatuses"][0]["restartCount"] == 0


async def test_a_host_that_comes_back_restarts_its_pods(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web"))
    api.put("pods", make_pod("leaving"))
    await api.until(lambda: ready(api, "web") and ready(api, "leaving"))
    first = status(api, "web")["podIP"]
    await host.stop()
    await api.delete("pods", "leaving", "default")
    await make_host(NodeConfig("n1"))
    await api.until(lambda: status(api, "web")["containerStatuses"][0]["restartCount"] == 1 and ready(api, "web"))
    assert status(api, "web")["podIP"] != first
    assert "running" in status(api, "web")["containerStatuses"][0]["state"]
    assert status(api, "web")["containerStatuses"][0]["lastState"]["terminated"]["reason"] == "Unknown"
    await api.until(lambda: "default/leaving" not in api.objects["pods"])


async def test_a_node_that_lost_the_cluster_stops_its_pods(api: FakeClient, make_host: MakeHost) -> None:
    timing = NodeTiming(0.02, 1, 1.0, RestartTiming(Backoff(0.05, 0.2), 60.0, 0.05))
    host = await make_host(NodeConfig("n1"), timing=timing)
    api.put("pods", make_pod("stays"))
    api.put("pods", make_pod("moves"))
    await api.until(lambda: ready(api, "stays") and ready(api, "moves"))
    api.down = True
    await api.until(lambda: host.kubelet("n1").suspended)
    runs = [w.machine.containers[0].run.value for w in host.kubelet("n1").workers]
    assert runs == ["idle", "idle"]
    # Meanwhile the control plane gave one of them up.
    api.remove("pods", "default/moves")
    api.down = False
    await api.until(lambda: not host.kubelet("n1").suspended)
    await api.until(lambda: status(api, "stays")["containerStatuses"][0]["restartCount"] == 1)
    assert [meta.name(w.pod) for w in host.kubelet("n1").workers] == ["stays"]


async def test_many_nodes_share_one_watch(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(*(NodeConfig(f"n{i}") for i in range(1, 8)))
    for i in range(1, 8):
        api.put("pods", make_pod(f"p{i}", node=f"n{i}"))
    api.put("pods", make_pod("elsewhere", node="other"))
    await api.until(lambda: all(ready(api, f"p{i}") for i in range(1, 8)))
    assert status(api, "elsewhere") == {"phase": "Pending"}


async def test_a_readiness_gate_is_its_keepers(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web", readinessGates=[{"conditionType": "a.b/gate"}]))
    await api.until(lambda: meta.condition_is(api.pod("web"), "ContainersReady"))
    assert not ready(api, "web")
    for one in ({"type": "a.b/gate", "status": "True"}, {"type": "Ready", "status": "False"}):
        body = {"status": {"conditions": [one]}}
        await api.patch("pods", "web", "default", body, kind="strategic", subresource="status")
        await api.until(lambda: ready(api, "web"))
    assert meta.condition_is(api.pod("web"), "a.b/gate")
    assert status(api, "web")["podIPs"] == [{"ip": status(api, "web")["podIP"]}]


async def test_a_condition_that_lands_beside_the_kubelets_write_stays(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}

    def disrupted(verb: str, resource: str) -> None:
        if (verb, resource) == ("patch", "pods/status"):
            api.refuse = None
            api.put("pods", {**api.pod("web"), "status": {**status(api, "web"), "conditions": [target]}})

    api.refuse = disrupted
    api.put("pods", make_pod("web"))
    await api.until(lambda: ready(api, "web"))
    assert target in status(api, "web")["conditions"]


async def test_readiness_is_restored_when_others_took_it_away(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("web"))
    await api.until(lambda: ready(api, "web"))
    conditions = [{**c, "status": "False"} if c["type"] == "Ready" else c for c in status(api, "web")["conditions"]]
    await api.patch("pods", "web", "default", {"status": {"conditions": conditions}}, subresource="status")
    assert not ready(api, "web")
    await api.until(lambda: ready(api, "web"))


def with_unknown_node(api: FakeClient, name: str) -> None:
    """What the node controller writes about a node it no longer hears."""
    node = api.objects["nodes"][name]
    conditions = [{**c, "status": "Unknown"} for c in node["status"]["conditions"]]
    api.put("nodes", {**node, "status": {**node["status"], "conditions": conditions}})


async def test_a_node_that_was_given_up_says_it_is_back_until_it_is_taken_in(
    api: FakeClient, make_host: MakeHost
) -> None:
    await make_host(NodeConfig("n1"), timing=QUICK)
    refusals = 3

    def overloaded(verb: str, resource: str) -> ApiError | None:
        nonlocal refusals
        if (verb, resource) != ("patch", "nodes/status") or not refusals:
            return None
        refusals -= 1
        return errors.TooManyRequests("come again")

    api.refuse = overloaded
    with_unknown_node(api, "n1")
    await api.until(lambda: meta.condition_is(api.objects["nodes"]["n1"], "Ready"))
    assert refusals == 0


async def test_a_pod_that_comes_while_its_node_resumes_is_kept(
    api: FakeClient, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await make_host(NodeConfig("n1"), timing=QUICK)
    listed = api.list

    async def slow(resource: str, *args: Any, **options: Any) -> Any:
        answer = await listed(resource, *args, **options)
        if resource == "pods" and "default/late" not in api.objects.get("pods", {}):
            api.put("pods", make_pod("late"))
            await api.until(lambda: host.kubelet("n1").workers)
        return answer

    api.down = True
    await api.until(lambda: host.kubelet("n1").suspended)
    api.down = False
    # The watch is back before the node asks which pods it still has.
    monkeypatch.setattr(host.client, "list", slow)
    await api.until(lambda: "default/late" in api.objects.get("pods", {}) and ready(api, "late"))


async def test_a_pod_whose_volumes_fail_again_and_again_takes_one_address(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NodeConfig("n1"), timing=QUICK)
    api.put("pods", make_pod("web", volumes=[{"name": "v", "configMap": {"name": "settings"}}]))
    kubelet = host.kubelet("n1")

    def failures() -> int:
        found = [e for e in api.objects.get("events", {}).values() if e["reason"] == "FailedMount"]
        return sum(e.get("count", 1) for e in found)

    await api.until(lambda: failures() >= 3)
    assert kubelet.addresses._pool is not None
    assert len(kubelet.addresses._pool._used) <= 1
    api.put("configmaps", {"metadata": {"name": "settings", "namespace": "default"}, "data": {"A": "1"}})
    await api.until(lambda: ready(api, "web"))


async def test_writes_that_are_put_off_come_later_and_not_all_the_time(
    api: FakeClient, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_host(NodeConfig("n1"))
    tries = 0
    monkeypatch.setattr("rayplane.node.kubelet.status_manager.RETRIES", Backoff(0.2, 5.0))

    def overloaded(verb: str, resource: str) -> ApiError | None:
        nonlocal tries
        tries += (verb, resource) == ("patch", "pods/status")
        return errors.TooManyRequests("come again") if resource == "pods/status" and tries <= 2 else None

    api.refuse = overloaded
    loop = asyncio.get_running_loop()
    began = loop.time()
    api.put("pods", make_pod("web"))
    await api.until(lambda: ready(api, "web"))
    assert loop.time() - began >= 0.6 and tries == 3
