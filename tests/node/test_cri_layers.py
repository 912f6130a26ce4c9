"""Nodes whose runtime is another node host's CRI: the life of a pod, and streams into it, through two layers."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.node.host import NodeHost
from rayplane.proto.cri import cri_pb2 as pb
from rayplane.proto.rayplane.v1 import node_pb2
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.cri_clients import connected, upper
from tests.node.processes import NODE, QUICK, MakeHost, logs, phase, shell, state, stub

pytestmark = pytest.mark.processes


@pytest.fixture
async def hosts(make_host: MakeHost, tmp_path: Path) -> AsyncIterator[tuple[NodeHost, NodeHost]]:
    """The host that serves CRI, and the one whose pods it runs."""
    lower = await make_host(NODE, timing=QUICK, cri_socket=str(tmp_path / "cri"))
    host = await make_host(upper(tmp_path / "cri"), timing=QUICK)
    yield lower, host
    await host.stop()


async def run_above(
    host: NodeHost, pod: str, *command: str, data: bytes = b"", **first: Any
) -> tuple[bytes, bytes, int]:
    async def requests() -> Any:
        ref = node_pb2.ContainerRef(node="n2", namespace="default", pod=pod)
        yield node_pb2.ExecRequest(ref=ref, command=command, stdin_open=bool(data), **first)
        if data:
            yield node_pb2.ExecRequest(stdin=data)
            yield node_pb2.ExecRequest(stdin_closed=True)

    out = err = b""
    code = -1
    async for response in stub(host).Exec(requests()):
        out += response.stdout
        err += response.stderr
        code = response.exit_code if response.HasField("exit_code") else code
    return out, err, code


def above(name: str, script: str, **spec: Any) -> Any:
    return shell(name, script, node="n2", **spec)


async def test_a_pod_runs_to_its_end(api: FakeClient, hosts: tuple[NodeHost, NodeHost]) -> None:
    script = "echo one; echo two >&2; printf half; echo because > /dev/termination-log; exit 7"
    api.put("pods", above("job", script, restartPolicy="Never"))
    await api.until(lambda: phase(api, "job") == "Failed")
    ended = state(api, "job")["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (7, "Error", "because\n")
    assert ended["containerID"].startswith("rayplane://")
    assert await logs(hosts[1], "job", node="n2") == b"one\ntwo\nhalf"
    assert api.pod("job")["status"]["podIP"].startswith("127.77.1.")  # of the node below


async def test_environment_arguments_and_volumes(api: FakeClient, hosts: tuple[NodeHost, NodeHost]) -> None:
    api.put("configmaps", {"metadata": {"name": "settings", "namespace": "default"}, "data": {"a.txt": "from map"}})
    container = {
        "env": [{"name": "WHO", "value": "world"}],
        "volumeMounts": [
            {"name": "cfg", "mountPath": "/etc/app", "readOnly": True},
            {"name": "tmp", "mountPath": "/s"},
        ],
    }
    volumes = [{"name": "cfg", "configMap": {"name": "settings"}}, {"name": "tmp", "emptyDir": {}}]
    script = 'echo "$WHO $(WHO)"; cat /etc/app/a.txt; echo x > /s/f; cat /s/f; stat -Lc %a /s'
    api.put("pods", above("job", script, container=container, restartPolicy="Never", volumes=volumes))
    await api.until(lambda: phase(api, "job") == "Succeeded")
    assert await logs(hosts[1], "job", node="n2") == b"world world\nfrom mapx\n777\n"


async def test_commands_have_input_outputs_and_an_exit_code(api: FakeClient, hosts: tuple[NodeHost, NodeHost]) -> None:
    api.put("pods", above("p", "sleep 1000"))
    await api.until(lambda: "running" in state(api, "p"))
    assert await run_above(hosts[1], "p", "sh", "-c", "echo out; echo err >&2; exit 3") == (b"out\n", b"err\n", 3)
    data = bytes(range(256)) * 2000
    assert await run_above(hosts[1], "p", "cat", data=data) == (data, b"", 0)
    out, _, code = await run_above(hosts[1], "p", "sh", "-c", "tty; stty size", tty=True, width=80, height=24)
    assert (out.splitlines()[0][:5], code) == (b"/dev/", 0)


async def test_probes_and_forwarded_ports_reach_the_pod(api: FakeClient, hosts: tuple[NodeHost, NodeHost]) -> None:
    serve = [sys.executable, "-m", "http.server", "18080"]
    probes = {
        "readinessProbe": {"httpGet": {"port": 18080}, "periodSeconds": 1},
        "startupProbe": {"exec": {"command": ["sh", "-c", "exit 0"]}, "periodSeconds": 1},
        "livenessProbe": {"tcpSocket": {"port": 18080}, "initialDelaySeconds": 1},
    }
    api.put("pods", make_pod("web", node="n2", container={"command": serve, **probes}))
    await api.until(lambda: pod_is_ready(api.pod("web")))

    async def requests() -> Any:
        ref = node_pb2.ContainerRef(node="n2", namespace="default", pod="web")
        yield node_pb2.PortForwardRequest(ref=ref, port=18080, data=b"GET / HTTP/1.0\r\n\r\n")
        await asyncio.get_running_loop().create_future()

    answer = b""
    async for response in stub(hosts[1]).PortForward(requests()):
        answer += response.data
        if response.closed:
            break
    assert answer.startswith(b"HTTP/1.0 200 OK")


async def test_containers_that_crash_are_started_again_and_the_log_before_is_kept(
    api: FakeClient, hosts: tuple[NodeHost, NodeHost]
) -> None:
    api.put("pods", above("p", "echo run; [ -e /keep/x ] && sleep 1000; touch /keep/x; exit 1", **KEEP))
    await api.until(lambda: "running" in state(api, "p") and _restarts(api, "p") == 1)
    assert await logs(hosts[1], "p", node="n2", previous=True) == b"run\n"
    assert (await logs(hosts[1], "p", node="n2")) in (b"run\n", b"")


KEEP: Any = {
    "container": {"volumeMounts": [{"name": "keep", "mountPath": "/keep"}]},
    "volumes": [{"name": "keep", "emptyDir": {}}],
}


def _restarts(api: FakeClient, name: str) -> int:
    return int(api.pod(name)["status"]["containerStatuses"][0]["restartCount"])


async def test_a_program_that_is_not_there_is_told(api: FakeClient, hosts: tuple[NodeHost, NodeHost]) -> None:
    api.put("pods", make_pod("p", node="n2", container={"command": ["/no/such/program"]}, restartPolicy="Never"))
    await api.until(lambda: phase(api, "p") == "Failed")
    ended = state(api, "p")["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("StartError", 128)
    assert "/no/such/program" in ended["message"]


async def test_grace_is_kept_and_nothing_is_left(api: FakeClient, hosts: tuple[NodeHost, NodeHost]) -> None:
    lower, _ = hosts
    script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done"
    pod = above("p", script)
    pod["metadata"]["finalizers"] = ["example.com/keep"]
    api.put("pods", pod)
    await api.until(lambda: "running" in state(api, "p"))
    while await logs(hosts[1], "p", node="n2") != b"up\n":
        await asyncio.sleep(0.01)
    await api.delete("pods", "p", "default")
    await api.until(lambda: phase(api, "p") == "Succeeded")
    assert lower.cri is not None
    while lower.cri.own.sandboxes:
        await asyncio.sleep(0.01)


async def test_the_node_tells_which_runtime_it_has(api: FakeClient, hosts: tuple[NodeHost, NodeHost]) -> None:
    assert api.objects["nodes"]["n2"]["status"]["nodeInfo"]["containerRuntimeVersion"] == "rayplane://1.0.0"


async def test_a_host_that_comes_back_removes_what_it_left_and_nothing_else(
    api: FakeClient, hosts: tuple[NodeHost, NodeHost], tmp_path: Path
) -> None:
    lower, host = hosts
    assert lower.cri is not None
    async with connected(tmp_path / "cri") as (runtime, images):
        await images.PullImage(pb.PullImageRequest(image=pb.ImageSpec(image="app:1")))
        config = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="other", namespace="x", uid="y"))
        other = (await runtime.RunPodSandbox(pb.RunPodSandboxRequest(config=config))).pod_sandbox_id
        api.put("pods", above("p", "sleep 1000"))
        await api.until(lambda: "running" in state(api, "p"))
        left = set(lower.cri.own.sandboxes) - {other}
        assert len(left) == 1
        # It dies: what it has made is not removed.
        kubelet = host.kubelets["n2"]
        runtime_above: Any = kubelet.runtime
        await runtime_above.observer.stop()
        runtime_above.pods.clear()
        await runtime_above.remove_strangers()
        assert set(lower.cri.own.sandboxes) == {other}


async def test_a_host_that_was_killed_goes_on_with_its_pods(
    api: FakeClient, hosts: tuple[NodeHost, NodeHost], make_host: MakeHost, tmp_path: Path
) -> None:
    lower, host = hosts
    assert lower.cri is not None
    for name in ("kept", "deleted"):
        api.put("pods", above(name, "echo one; trap 'echo end; exit 3' TERM; while :; do sleep 0.05; done"))
    await api.until(lambda: all(pod_is_ready(api.pod(name)) for name in ("kept", "deleted")))
    before = api.pod("kept")["status"]
    killed: Any = host.kubelets["n2"].runtime
    killed.remove_strangers = AsyncMock()
    await host.stop()
    api.remove("pods", "default/deleted")
    (tmp_path / "host2").symlink_to("host1")
    again = await make_host(upper(tmp_path / "cri"), timing=QUICK)
    runtime: Any = again.kubelets["n2"].runtime
    await api.until(lambda: "uid-kept" in runtime.pods and bool(runtime.pods["uid-kept"].running))
    await runtime.remove_strangers()
    assert len(lower.cri.own.sandboxes) == len(lower.cri.own.containers()) == 1
    assert api.pod("kept")["status"] == before
    assert await logs(again, "kept", node="n2") == b"one\n"
    assert await run_above(again, "kept", "echo", "hi") == (b"hi\n", b"", 0)
