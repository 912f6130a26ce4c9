"""A node on whatever runtime is named: containerd, CRI-O, or another that serves CRI v1 and has an image with a shell.

    export RAYPLANE_CRI_SOCKET=/run/containerd/containerd.sock RAYPLANE_CRI_IMAGE=busybox
    scripts/test tests/node/test_any_runtime.py

Pods have addresses of the runtime's own network, so the test has to be in that, and may be there as root only.
"""

import asyncio
import os
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
