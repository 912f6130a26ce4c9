"""Real processes: what they see, how they end, and that nothing outlives its host."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.node.config import NodeConfig, NodeTiming
from rayplane.node.lifecycle.model import ContainerUser
from rayplane.node.runtime import StartOrder
from rayplane.node.runtime.process import ProcessRuntime
from rayplane.node.runtime.simulated import SimulatedRuntime
from rayplane.node.volumes.backend import Published
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import NODE, QUICK, MakeHost, gone, logs, phase, shell, state, stub

pytestmark = pytest.mark.processes


async def test_output_exit_code_and_termination_message(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    script = "echo one; echo two >&2; printf half; echo because > /dev/termination-log; exit 7"
    api.put("pods", shell("job", script, restartPolicy="Never"))
    await api.until(lambda: phase(api, "job") == "Failed")
    ended = state(api, "job")["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (7, "Error", "because\n")
    assert await logs(host, "job") == b"one\ntwo\nhalf"
    assert await logs(host, "job", tail_lines=2) == b"two\nhalf"
    stamped = (await logs(host, "job", timestamps=True)).splitlines()[0]
    assert stamped.startswith(b"20") and stamped.endswith(b"Z one")
    assert await logs(host, "job", limit_bytes=5) == b"one\nt"


async def test_environment_and_volumes(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    config = {"metadata": {"name": "settings", "namespace": "default"}, "data": {"COLOR": "red", "a.txt": "from map"}}
    api.put("configmaps", config)
    service = {"metadata": {"name": "my-db", "namespace": "default"}}
    api.put("services", service | {"spec": {"clusterIP": "127.96.0.9", "ports": [{"port": 5432}]}})
    container = {
        "env": [
            {"name": "WHO", "value": "world"},
            {"name": "HELLO", "value": "hello $(WHO) $(NOBODY) $$(WHO)"},
            {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "FILE", "value": "/etc/app/a.txt"},
        ],
        "envFrom": [{"configMapRef": {"name": "settings"}}],
        "volumeMounts": [{"name": "cfg", "mountPath": "/etc/app"}, {"name": "tmp", "mountPath": "/scratch"}],
    }
    script = (
        'echo "$HELLO|$ME|$COLOR|$POD_IP|$MY_DB_SERVICE_HOST"; cat /etc/app/a.txt; echo; cat "$FILE" etc/app/a.txt; '
        'echo kept > /scratch/f; cat "$RAYPLANE_MOUNT_TMP/f"'
    )
    volumes = [{"name": "cfg", "configMap": {"name": "settings"}}, {"name": "tmp", "emptyDir": {}}]
    api.put("pods", shell("job", script, container=container, restartPolicy="Never", volumes=volumes))
    await api.until(lambda: phase(api, "job") == "Succeeded")
    first, *rest = (await logs(host, "job")).decode().splitlines()
    ip = api.pod("job")["status"]["podIP"]
    assert first == f"hello world $(NOBODY) $(WHO)|job|red|{ip}|127.96.0.9"
    assert rest == ["from map", "from mapfrom mapkept"]


async def test_files_of_a_config_map_follow_it(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    config = {"metadata": {"name": "settings", "namespace": "default"}, "data": {"key": "old"}}
    api.put("configmaps", config)
    container = {"volumeMounts": [{"name": "cfg", "mountPath": "/cfg"}]}
    script = 'until [ "$(cat /cfg/key)" = new ]; do sleep 0.02; done; ls /cfg'
    volumes = [{"name": "cfg", "configMap": {"name": "settings"}}]
    api.put("pods", shell("job", script, container=container, restartPolicy="Never", volumes=volumes))
    await api.until(lambda: "running" in state(api, "job"))
    api.put("configmaps", config | {"data": {"key": "new", "more": "x"}})
    await api.until(lambda: phase(api, "job") == "Succeeded")
    assert await logs(host, "job") == b"key\nmore\n"


async def test_pods_listen_on_their_own_addresses(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NODE)
    serve = [sys.executable, "-m", "http.server", "18080"]
    probe = {"readinessProbe": {"httpGet": {"port": 18080, "path": "/"}, "periodSeconds": 1}}
    # By name, by the address that means all, and by Python's own idea of all addresses.
    arguments = {"a": ["--bind", "$(POD_IP)"], "b": ["--bind", "0.0.0.0"], "c": [], "d": ["--bind", "::"]}
    for name, args in arguments.items():
        api.put("pods", make_pod(name, container={"command": serve, "args": args, **probe}))
    await api.until(lambda: all(pod_is_ready(api.pod(name)) for name in arguments))
    assert all(api.pod(name)["status"]["containerStatuses"][0]["restartCount"] == 0 for name in arguments)


async def test_term_then_kill(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    keep = {"finalizers": ["example.com/keep"]}
    polite = shell("polite", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done")
    stubborn = shell("stubborn", "trap '' TERM; echo up; while :; do sleep 1; done")
    for pod in (polite, stubborn):
        pod["metadata"].update(keep)
        api.put("pods", pod)
    await api.until(lambda: "running" in state(api, "polite") and "running" in state(api, "stubborn"))
    for name in ("polite", "stubborn"):
        while await logs(host, name) != b"up\n":
            await asyncio.sleep(0.01)
    await api.delete("pods", "polite", "default")
    await api.delete("pods", "stubborn", "default", grace_period_s=1)
    await api.until(lambda: phase(api, "polite") == "Succeeded" and phase(api, "stubborn") == "Failed")
    assert await logs(host, "polite") == b"up\nbye\n"
    ended = state(api, "stubborn")["terminated"]
    assert (ended["exitCode"], ended["signal"]) == (137, 9)


async def test_a_pod_is_there_until_its_volumes_are_given_back(
    api: FakeClient, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = await make_host(NODE)
    safe = asyncio.Event()

    async def publish(pod: Object, volume: dict[str, Any], *, node: str) -> Published:
        return Published(str(tmp_path))

    async def unpublish(pod: Object, *, node: str) -> None:
        if pod["metadata"]["name"] == "keeper":
            await safe.wait()

    monkeypatch.setattr(host._volumes, "publish", publish)
    monkeypatch.setattr(host._volumes, "unpublish", unpublish)
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    for name in ("keeper", "other"):
        api.put("pods", shell(name, "sleep 1000", volumes=[claim]))
        await api.until(lambda name=name: "running" in state(api, name))
        await api.delete("pods", name, "default", grace_period_s=1)
        await api.until(lambda: phase(api, "keeper") == "Failed")
    await api.until(lambda: "default/other" not in api.objects["pods"])
    assert "default/keeper" in api.objects["pods"]
    safe.set()
    await api.until(lambda: "default/keeper" not in api.objects["pods"])


async def test_a_container_without_command_is_simulated(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    probe = {"readinessProbe": {"httpGet": {"port": 80}}}
    api.put("pods", make_pod("nginx", container={"image": "nginx", **probe}))
    await api.until(lambda: pod_is_ready(api.pod("nginx")))
    assert b"simulated" in await logs(host, "nginx")


async def test_a_program_that_is_not_there(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NODE)
    api.put("pods", make_pod("web", container={"command": ["/no/such/program"]}))
    await api.until(lambda: (state(api, "web").get("waiting") or {}).get("reason") == "CrashLoopBackOff")
    ended = api.pod("web")["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError") and "/no/such/program" in ended["message"]
    api.put("pods", make_pod("job", container={"command": ["/no/such/program"]}, restartPolicy="Never"))
    await api.until(lambda: phase(api, "job") == "Failed")


async def test_what_a_container_left_behind_dies_with_it(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    script = "setsid sleep 1000 & echo $!; sleep 1000"
    api.put("pods", shell("web", script))
    await api.until(lambda: "running" in state(api, "web"))
    while not (text := await logs(host, "web")):
        await asyncio.sleep(0.01)
    stray = int(text)
    await api.delete("pods", "web", "default", grace_period_s=0)
    await api.until(lambda: gone(stray))


async def test_the_death_of_the_shim_restarts_containers(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE, timing=QUICK)
    api.put("pods", shell("web", "echo $$$$; exec sleep 1000"))
    await api.until(lambda: "running" in state(api, "web"))
    while not (text := await logs(host, "web")):
        await asyncio.sleep(0.01)
    os.kill(host.kubelet("n1").runtime.shim.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    await api.until(lambda: gone(int(text)))
    await api.until(lambda: api.pod("web")["status"]["containerStatuses"][0]["restartCount"] == 1)


async def test_stats_count_processes(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    api.put("pods", shell("web", "sleep 1000"))
    await api.until(lambda: "running" in state(api, "web"))
    answer = await stub(host).Stats(pb.StatsRequest(node="n1"))
    assert [c.pod for c in answer.containers] == ["web"]
    assert answer.memory_bytes > 100_000


def test_nothing_outlives_a_killed_host(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import asyncio, random, sys
        from rayplane.node.runtime import StartOrder
        from rayplane.node.runtime.process import ProcessRuntime
        from rayplane.node.runtime.simulated import SimulatedRuntime

        class Listener:
            def started(self, *about, **more): print("started", flush=True)
            def failed(self, reason, message): print(reason, message, flush=True)
            def exited(self, code, signal, message, reason=""): print("exited", flush=True)

        async def main():
            runtime = ProcessRuntime(SimulatedRuntime(random.Random(1), str))
            script = "trap '' TERM; setsid sleep 1000 & echo $! $$$$ > pids.tmp; mv pids.tmp pids; sleep 1001; :"
            container = {"name": "c", "command": ["sh", "-c", script]}
            pod = {"metadata": {"name": "p"}, "spec": {"containers": [container]}}
            order = StartOrder(pod, container, 1, "rayplane://abc", "127.0.0.1", directory=sys.argv[1])
            runtime.start(order, Listener())
            await asyncio.sleep(1000)

        asyncio.run(main())
        """
    )
    (tmp_path / "containers").mkdir()
    host = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert host.stdout is not None
    try:
        assert host.stdout.readline() == b"started\n"
        pids = tmp_path / "containers/c/root/pids"
        while not pids.exists():
            time.sleep(0.01)
        processes = [int(pid) for pid in pids.read_text().split()]
        assert not any(gone(pid) for pid in processes)
    finally:
        host.kill()
        host.wait()
        host.stdout.close()
    while not all(gone(pid) for pid in processes):
        time.sleep(0.01)


async def test_a_pod_that_does_not_fit_is_refused(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1", cpu="1", runtime="process"))
    resources = {"resources": {"requests": {"cpu": "600m"}}}
    api.put("pods", shell("a", "sleep 1000", container=resources))
    await api.until(lambda: phase(api, "a") == "Running")
    api.put("pods", shell("b", "sleep 1000", container=resources))
    await api.until(lambda: phase(api, "b") == "Failed")
    assert api.pod("b")["status"]["reason"] == "OutOfcpu"
    await api.delete("pods", "a", "default", grace_period_s=0)
    await api.until(lambda: "default/a" not in api.objects["pods"])
    api.put("pods", shell("c", "sleep 1000", container=resources))
    await api.until(lambda: phase(api, "c") == "Running")


async def test_a_pod_is_told_that_its_node_lost_the_cluster(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE, timing=NodeTiming(0.02, 1, 1.0, QUICK.restarts))
    api.put("pods", shell("lone", "sleep 1000", restartPolicy="Never"))
    await api.until(lambda: phase(api, "lone") == "Running")
    api.down = True
    await api.until(lambda: host.kubelet("n1").suspended)
    api.down = False
    await api.until(lambda: phase(api, "lone") == "Failed")
    await api.until(lambda: "has not reached the cluster for 1 s" in str([*api.events("Killing")]))


async def test_the_shim_stops_containers_whose_host_is_silent(tmp_path: Path) -> None:
    """A host that is stopped (SIGSTOP) cannot fence its node; its shim can."""
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    class Listener:
        def started(
            self, container_id: str = "", image: tuple[str, str] = ("", ""), user: ContainerUser | None = None
        ) -> None:
            runtime.keep_alive(0.05)

        def failed(self, reason: str, message: str) -> None:
            ended.set_exception(AssertionError(message))

        def exited(self, exit_code: int, signal: int, message: str, reason: str = "") -> None:
            ended.set_result(exit_code)

    runtime = ProcessRuntime(SimulatedRuntime(random.Random(1), str))
    container = {"name": "c", "command": ["sleep", "1000"]}
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [container]}}
    (tmp_path / "containers").mkdir()
    try:
        runtime.start(StartOrder(pod, container, 1, "rayplane://abc", "", directory=str(tmp_path)), Listener())
        assert await ended == 137
    finally:
        await runtime.close()


async def test_hostile_mounts_of_a_pod_fail_and_the_node_goes_on(
    api: FakeClient, make_host: MakeHost, tmp_path: Path
) -> None:
    host = await make_host(NODE)
    (tmp_path / "precious").write_text("kept")
    for number, mount in enumerate(({"mountPath": f"/../../../../../../../../..{tmp_path}"}, {"subPath": "../.."})):
        container = {"volumeMounts": [{"name": "d", "mountPath": "/data", **mount}]}
        api.put("pods", shell(f"bad-{number}", "sleep 1", container=container, volumes=[{"name": "d", "emptyDir": {}}]))
    api.put("pods", shell("nul", "sleep 1", container={"env": [{"name": "A", "value": "x\0y"}]}))
    api.put("pods", shell("args", "sleep 1", container={"args": ["x\0y"]}))
    waiting = {"bad-0": "CreateContainerConfigError", "bad-1": "CreateContainerConfigError"}
    waiting |= {"nul": "CreateContainerError", "args": "CreateContainerError"}
    for name, reason in waiting.items():
        await api.until(lambda n=name, r=reason: (state(api, n).get("waiting") or {}).get("reason") == r)
    shim = host.kubelet("n1").runtime.shim.pid  # type: ignore[attr-defined]
    api.put("pods", shell("good", "echo ok", restartPolicy="Never"))
    await api.until(lambda: phase(api, "good") == "Succeeded")
    assert host.kubelet("n1").runtime.shim.pid == shim  # type: ignore[attr-defined]
    assert (tmp_path / "precious").read_text() == "kept"


async def test_pods_see_nothing_of_the_hosts_environment(
    api: FakeClient, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the-secret")
    host = await make_host(NODE)
    named = {"hostname": "box", "subdomain": "boxes", "setHostnameAsFQDN": True}
    api.put("pods", shell("job", "env; tr '\\0' '\\n' < /proc/$PPID/environ", restartPolicy="Never", **named))
    await api.until(lambda: phase(api, "job") == "Succeeded")
    text = (await logs(host, "job")).decode()
    assert "RAYPLANE_ROOT=" in text and "the-secret" not in text
    assert "\nHOSTNAME=box.boxes.default.svc.cluster.local\n" in f"\n{text}"
    own = {"PATH", "LANG", "LD_LIBRARY_PATH", "PWD", "SHLVL", "_", "OLDPWD", "HOME", "HOSTNAME", "PYTHONPATH"}
    inherited = {line.partition("=")[0] for line in text.splitlines()} & os.environ.keys()
    assert inherited <= own | {"PYTHONUNBUFFERED", "POD_IP"}


async def test_planted_termination_logs_are_not_read(api: FakeClient, make_host: MakeHost, tmp_path: Path) -> None:
    host = await make_host(NODE)
    (tmp_path / "secret").write_text("the-secret")
    plant = f"ln -s {tmp_path}/secret"
    api.put("pods", shell("link", f"{plant} /dev/termination-log", restartPolicy="Never"))
    api.put("pods", shell("pipe", "mkfifo /dev/termination-log", restartPolicy="Never"))
    api.put("pods", shell("log", f"cd ..; rm *.log; {plant} $(ls | head -1).log; {plant} 1.log", restartPolicy="Never"))
    for name in ("link", "pipe", "log"):
        await api.until(lambda n=name: phase(api, n) == "Succeeded")
        assert "message" not in state(api, name)["terminated"]
    assert b"the-secret" not in await logs(host, "log")
