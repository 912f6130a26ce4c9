"""Hooks and probes of real processes."""

import asyncio

import pytest

from rayplane.node.host import NodeHost
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import NODE, QUICK, MakeHost, logs, phase, run_in, shell, state

pytestmark = pytest.mark.processes


async def test_probes_run_commands(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NODE, timing=QUICK)
    volumes = [{"name": "d", "emptyDir": {}}]
    live = {"exec": {"command": ["sh", "-c", "test ! -e /d/sick"]}, "periodSeconds": 1, "failureThreshold": 1}
    container = {"volumeMounts": [{"name": "d", "mountPath": "/d"}], "livenessProbe": live}
    script = "test -e /d/sick && { rm /d/sick; sleep 1000; }; touch /d/sick; sleep 1000"
    api.put("pods", shell("web", script, container=container, volumes=volumes, terminationGracePeriodSeconds=1))
    await api.until(lambda: api.pod("web")["status"].get("containerStatuses", [{}])[0].get("restartCount") == 1)
    await api.until(lambda: {"Unhealthy", "Killing"} <= {e["reason"] for e in api.objects.get("events", {}).values()})


async def test_a_port_where_nobody_listens_is_told_as_by_a_kubelet(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NODE, timing=QUICK)
    ready = {"readinessProbe": {"tcpSocket": {"port": 9}, "periodSeconds": 1}}
    api.put("pods", shell("web", "exec sleep 1000", container=ready))
    await api.until(lambda: bool(api.events("Unhealthy")))
    ip = api.pod("web")["status"]["podIP"]
    assert api.events("Unhealthy")[0] == f"Readiness probe failed: dial tcp {ip}:9: connect: connection refused"


async def test_hooks(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE, timing=QUICK)
    hooks = {
        "postStart": {"exec": {"command": ["sh", "-c", "echo post > hook"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "echo pre >> hook"]}},
    }
    pod = shell("web", "trap 'cat hook; exit 0' TERM; while :; do sleep 0.01; done", container={"lifecycle": hooks})
    pod["metadata"]["finalizers"] = ["example.com/keep"]
    api.put("pods", pod)
    await api.until(lambda: "running" in state(api, "web"))
    while (await run_in(host, "web", "cat", "hook"))[0] != b"post\n":
        await asyncio.sleep(0.01)
    await api.delete("pods", "web", "default")
    await api.until(lambda: phase(api, "web") == "Succeeded")
    assert await logs(host, "web") == b"post\npre\n"


async def test_a_failing_post_start_hook_kills_the_container(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NODE, timing=QUICK)
    hooks = {"postStart": {"exec": {"command": ["false"]}}}
    api.put("pods", shell("web", "exec sleep 1000", container={"lifecycle": hooks}, restartPolicy="Never"))
    await api.until(lambda: phase(api, "web") == "Failed")
    await api.until(lambda: "FailedPostStartHook" in reasons(api))


async def test_a_container_waits_for_the_hook_of_the_one_before_it(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE, timing=QUICK)
    hooks = {"postStart": {"exec": {"command": ["sh", "-c", "until test -e /d/go; do sleep 0.02; done"]}}}
    mounts = {"volumeMounts": [{"name": "d", "mountPath": "/d"}]}
    first = {"name": "first", "command": ["sleep", "1000"], "lifecycle": hooks, **mounts}
    second = {"name": "second", "command": ["sleep", "1000"], **mounts}
    pod = make_pod("web", volumes=[{"name": "d", "emptyDir": {}}])
    pod["spec"]["containers"] = [first, second]
    api.put("pods", pod)
    kubelet = host.kubelet("n1")
    await api.until(lambda: any(w.machine.by_name["first"].container_id for w in kubelet.workers))
    assert kubelet.worker("default", "web").machine.by_name["second"].attempt == 0
    await run_in(host, "web", "touch", "/d/go")
    await api.until(lambda: phase(api, "web") == "Running")


async def test_a_container_ends_by_the_signal_that_it_asks_for(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE, timing=QUICK)
    script = "trap 'echo usr1; exit 0' USR1; trap 'echo term; exit 1' TERM; echo up; while :; do sleep 0.01; done"
    pod = shell("web", script, container={"lifecycle": {"stopSignal": "SIGUSR1"}})
    pod["metadata"]["finalizers"] = ["example.com/keep"]
    api.put("pods", pod)
    while await until_logs(api, host) != b"up\n":
        await asyncio.sleep(0.01)
    assert api.pod("web")["status"]["containerStatuses"][0]["stopSignal"] == "SIGUSR1"
    await api.delete("pods", "web", "default")
    await api.until(lambda: phase(api, "web") == "Succeeded")
    assert await logs(host, "web") == b"up\nusr1\n"


async def until_logs(api: FakeClient, host: NodeHost) -> bytes:
    await api.until(lambda: "running" in state(api, "web"))
    return await logs(host, "web")


@pytest.mark.parametrize("host", ["a..b", "x" * 300])
async def test_hooks_and_probes_that_cannot_be_made_fail_and_stop_nothing(
    api: FakeClient, make_host: MakeHost, host: str
) -> None:
    await make_host(NODE, timing=QUICK)
    action = {"httpGet": {"host": host, "port": 80, "httpHeaders": [{"name": "a", "value": "x\r\ny"}]}}
    probe = {**action, "periodSeconds": 1, "failureThreshold": 1}
    pod = shell("web", "exec sleep 1000", container={"lifecycle": {"preStop": action}, "readinessProbe": probe})
    pod["metadata"]["finalizers"] = ["example.com/keep"]
    api.put("pods", pod)
    await api.until(lambda: "Unhealthy" in {e["reason"] for e in api.objects.get("events", {}).values()})
    await api.delete("pods", "web", "default")
    await api.until(lambda: phase(api, "web") == "Failed")
    await api.until(lambda: "FailedPreStopHook" in reasons(api))


def reasons(api: FakeClient) -> set[str]:
    return {e["reason"] for e in api.objects.get("events", {}).values()}
