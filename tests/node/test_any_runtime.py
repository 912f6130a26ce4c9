"""A node on whatever runtime is named: containerd, CRI-O, or another that serves CRI v1 and has an image with a shell.

    export RAYPLANE_CRI_SOCKET=/run/containerd/containerd.sock RAYPLANE_CRI_IMAGE=busybox
    scripts/test tests/node/test_any_runtime.py

Pods have addresses of the runtime's own network, so the test has to be in that, and may be there as root only.
"""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.node.config import NodeConfig
from rayplane.node.host import NodeHost
from rayplane.node.runtime.cri.configs import OWNER
from rayplane.proto.cri import cri_pb2 as pb
from rayplane.proto.rayplane.v1 import node_pb2
from tests.fakes import FakeClient
from tests.node.cri_clients import connected
from tests.node.processes import QUICK, MakeHost, logs, phase, run_in, shell, state, stub
from tests.node.test_services_in_pods import put, service

SOCKET, IMAGE = os.environ.get("RAYPLANE_CRI_SOCKET", ""), os.environ.get("RAYPLANE_CRI_IMAGE", "busybox")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not SOCKET, reason="no runtime: name the socket of one in RAYPLANE_CRI_SOCKET"),
]


@pytest.fixture
async def host(make_host: MakeHost) -> NodeHost:
    return await make_host(NodeConfig("n1", runtime=f"cri:unix://{SOCKET}"), timing=QUICK)


def pod(name: str, script: str, **container: Any) -> Object:
    return shell(name, script, container={"image": IMAGE, **container}, restartPolicy="Never")


async def test_a_pod_runs_to_its_end(api: FakeClient, host: NodeHost) -> None:
    api.put("configmaps", {"metadata": {"name": "settings", "namespace": "default"}, "data": {"a.txt": "from map"}})
    made = pod(
        "job",
        "echo one; echo two >&2; cat /cfg/a.txt; echo because > /dev/termination-log; exit 7",
        volumeMounts=[{"name": "cfg", "mountPath": "/cfg"}],
        resources={"limits": {"memory": "64Mi", "cpu": "500m"}},
    )
    made["spec"]["volumes"] = [{"name": "cfg", "configMap": {"name": "settings"}}]
    api.put("pods", made)
    await api.until(lambda: phase(api, "job") == "Failed")
    ended = state(api, "job")["terminated"]
    assert (ended["exitCode"], ended["message"]) == (7, "because\n")
    assert sorted((await logs(host, "job")).splitlines()) == [b"from map", b"one", b"two"]


async def test_statuses_tell_what_the_runtime_can(api: FakeClient, host: NodeHost) -> None:
    known = api.objects["nodes"]["n1"]["status"]
    can = known["runtimeHandlers"][0]["features"]["recursiveReadOnlyMounts"]
    mount = {"name": "v", "mountPath": "/v", "readOnly": True, "recursiveReadOnly": "IfPossible"}
    context = {"runAsUser": 77, "runAsGroup": 88, "supplementalGroups": [5]}
    made = pod("asks", "id -u; touch /v/f || exit 3", volumeMounts=[mount])
    made["spec"] |= {"volumes": [{"name": "v", "emptyDir": {}}], "securityContext": context}
    api.put("pods", made)
    await api.until(lambda: phase(api, "asks") == "Failed")
    status = api.pod("asks")["status"]["containerStatuses"][0]
    assert status["volumeMounts"][0]["recursiveReadOnly"] == ("Enabled" if can else "Disabled")
    if known["features"]["supplementalGroupsPolicy"]:
        assert (status["user"]["linux"]["uid"], status["user"]["linux"]["gid"]) == (77, 88)
    else:
        assert "user" not in status
    wants = pod("wants", "true", volumeMounts=[{**mount, "recursiveReadOnly": "Enabled"}])
    wants["spec"]["volumes"] = [{"name": "v", "emptyDir": {}}]
    api.put("pods", wants)
    if can:
        await api.until(lambda: phase(api, "wants") == "Succeeded")
    else:
        await api.until(lambda: "not supported by the runtime" in str(state(api, "wants")))


async def test_commands_probes_and_ports(api: FakeClient, host: NodeHost) -> None:
    serve = "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"
    probe = {"httpGet": {"port": 8080, "path": "/index.html"}, "periodSeconds": 1}
    api.put("pods", pod("web", serve, readinessProbe=probe))
    await api.until(lambda: pod_is_ready(api.pod("web")))
    assert await run_in(host, "web", "sh", "-c", "echo out; echo err >&2; exit 3") == (b"out\n", b"err\n", 3)
    assert (await run_in(host, "web", "tty", tty=True))[2] == 0

    async def requests() -> Any:
        ref = node_pb2.ContainerRef(node="n1", namespace="default", pod="web")
        yield node_pb2.PortForwardRequest(ref=ref, port=8080, data=b"GET /index.html HTTP/1.0\r\n\r\n")
        await asyncio.get_running_loop().create_future()

    answer = b""
    async for response in stub(host).PortForward(requests()):
        answer += response.data
        if response.closed:
            break
    assert answer.endswith(b"hello\n")


async def test_a_volume_in_memory_holds_so_much(api: FakeClient, host: NodeHost) -> None:
    script = "grep ' /m ' /proc/mounts | cut -d' ' -f3; dd if=/dev/zero of=/m/f bs=1M count=9 2>/dev/null; wc -c < /m/f"
    made = pod("p", script, volumeMounts=[{"name": "m", "mountPath": "/m"}])
    made["spec"]["volumes"] = [{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}}]
    api.put("pods", made)
    await api.until(lambda: phase(api, "p") == "Succeeded")
    assert await logs(host, "p") == b"tmpfs\n2097152\n"


async def test_a_follower_sees_every_line_while_the_log_begins_anew(api: FakeClient, make_host: MakeHost) -> None:
    limits = {"log_file_bytes": 50_000, "log_files": 3}
    host = await make_host(NodeConfig("n1", runtime=f"cri:unix://{SOCKET}"), timing=QUICK, **limits)
    script = "for a in $(seq 60); do for b in $(seq 400); do echo $a $b; done; sleep 0.1; done"
    api.put("pods", pod("p", script))
    await api.until(lambda: "running" in state(api, "p"))
    text = await logs(host, "p", follow=True)
    assert text == b"".join(b"%d %d\n" % (a, b) for a in range(1, 61) for b in range(1, 401))
    await api.until(lambda: phase(api, "p") == "Succeeded")
    run: Any = host.kubelets["n1"].worker("default", "p").runs["main"]
    assert [*Path(run.log_path).parent.glob("*.log.1")]


async def test_services_and_names_are_there_for_pods(api: FakeClient, make_host: MakeHost) -> None:
    networks = {"loopback_networks": ("127.77.0.0/16", "127.78.0.0/16", "127.79.0.0/16"), "dns": "127.78.0.10"}
    host = await make_host(NodeConfig("n1", runtime=f"cri:unix://{SOCKET}"), timing=QUICK, **networks)
    api.put("pods", pod("web", "cat /proc/sys/kernel/hostname > /tmp/index.html; exec httpd -f -p 80 -h /tmp"))
    api.put("pods", pod("box", "exec sleep 1000"))
    await api.until(lambda: all(pod_is_ready(api.pod(name)) for name in ("web", "box")))
    balanced = {"loadBalancer": {"ingress": [{"ip": "127.79.0.3"}]}}
    inside = service("web", clusterIP="127.78.1.1", type="LoadBalancer", ports=[{"port": 80}], status=balanced)
    place = {"addresses": [api.pod("web")["status"]["podIP"]], "nodeName": "n1", "conditions": {"ready": True}}
    put(api, inside, {**place, "targetRef": {"kind": "Pod", "namespace": "default", "name": "web"}}, port=80)
    for address in ("127.78.1.1", "127.79.0.3"):
        script = f"until printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | timeout 5 nc {address} 80; do sleep 0.1; done"
        out, err, _ = await run_in(host, "box", "timeout", "60", "sh", "-c", script)
        assert out.endswith(b"web\n"), err
    found = await run_in(host, "box", "nslookup", "web.default.svc.cluster.local", "127.78.0.10")
    assert b"127.78.1.1" in found[0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        outside = {"addresses": ["127.0.0.1"], "conditions": {"ready": True}}
        beyond = service("beyond", clusterIP="127.78.1.2", ports=[{"port": 443}])
        put(api, beyond, outside, port=server.getsockname()[1])
        script = "until echo | timeout 5 nc 127.78.1.2 443; do sleep 0.1; done"
        asking = asyncio.create_task(run_in(host, "box", "timeout", "60", "sh", "-c", script))
        server.setblocking(False)
        connection, _ = await asyncio.get_running_loop().sock_accept(server)
        connection.sendall(b"from outside")
        connection.close()
        assert (await asking)[0] == b"from outside"


async def test_a_pod_that_is_deleted_while_its_host_is_away_ends_in_what_is_left_of_its_grace(
    api: FakeClient, make_host: MakeHost
) -> None:
    node, ended = NodeConfig("n1", runtime=f"cri:unix://{SOCKET}"), "echo told; sleep 1; echo done; exit 0"
    host = await make_host(node, timing=QUICK, directory="same")
    made = pod("p", f"trap '{ended}' TERM; echo up; while :; do sleep 0.1; done")
    made["metadata"]["finalizers"] = ["example.com/keep"]
    made["spec"]["terminationGracePeriodSeconds"] = 600
    api.put("pods", made)
    await api.until(lambda: "running" in state(api, "p"))
    while await logs(host, "p") != b"up\n":
        await asyncio.sleep(0.05)
    runtime: Any = host.kubelets["n1"].runtime
    runtime.pods.clear()
    runtime.remove_strangers = nothing  # as if it had been killed
    await host.stop()
    await api.delete("pods", "p", "default")
    await make_host(node, timing=QUICK, directory="same")
    await api.until(lambda: "terminated" in state(api, "p"))
    assert (phase(api, "p"), state(api, "p")["terminated"]["exitCode"]) == ("Succeeded", 0)


async def nothing() -> None:
    return


async def test_what_cannot_be_started_is_told_and_nothing_is_left(api: FakeClient, host: NodeHost) -> None:
    api.put("pods", pod("p", "", command=["/no/such/program"]))
    await api.until(lambda: phase(api, "p") == "Failed")
    assert state(api, "p")["terminated"]["reason"] == "StartError"
    runtime: Any = host.kubelets["n1"].runtime
    owner = {OWNER: runtime.node.owner}
    await host.stop()
    async with connected(Path(SOCKET)) as (service, _):
        asked = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector=owner))
        assert not (await service.ListPodSandbox(asked)).items
