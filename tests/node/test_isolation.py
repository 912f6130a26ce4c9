"""Isolated pods, looked at from inside: what is theirs, what they cannot reach, and that nothing of them stays."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api.node_annotations import ISOLATION, isolation_of
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.node.config import NAMESPACES, NodeConfig
from rayplane.node.host import NodeHost
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.isolated import SLEEP, Isolating, ended, isolating, make_isolating
from tests.node.processes import NODE, gone, logs, phase, run_in, shell, state

__all__ = ["make_isolating"]
pytestmark = [pytest.mark.processes, isolating]


def service(api: FakeClient, ip: str, endpoint: dict[str, Any]) -> None:
    """A service of port 80 with one endpoint outside of the pods' network."""
    about = {"name": "web", "namespace": "default"}
    api.put("services", {"metadata": about, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}})
    labels = {"kubernetes.io/service-name": "web"}
    ends = [{"addresses": [endpoint["ip"]], "conditions": {"ready": True}}]
    slices = {"metadata": about | {"labels": labels}, "addressType": "IPv4", "endpoints": ends}
    api.put("endpointslices.discovery.k8s.io", slices | {"ports": [{"port": endpoint["port"]}]})


async def until_reached(host: NodeHost, ip: str) -> None:
    """Wait until pod `box` can connect to port 80 there."""
    ask = f"import socket; socket.create_connection(('{ip}', 80), 2)"
    async with asyncio.timeout(60):
        while (await run_in(host, "box", "python3", "-c", ask))[2]:
            await asyncio.sleep(0.01)


async def test_a_pod_has_its_own_names_address_and_processes(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    script = "hostname; cat /etc/hostname; grep job /etc/hosts; echo $$$$; ls -d /proc/[0-9]* | wc -l; id -u"
    said = (await ended(api, host, script)).split()
    ip = api.pod("job")["status"]["podIP"]
    told = api.objects["nodes"]["n1"]["metadata"].get("annotations", {}).get(ISOLATION, "")
    assert told.startswith("namespaces, ") and isolation_of(api.objects["nodes"]["n1"]) == told
    assert ip.startswith("10.77.1.")
    # Itself, and the `ls` that counts; `wc` may be there already.
    assert said[:5] == ["job", "job", ip, "job", "1"] and said[5] in ("2", "3") and said[6] == "0"


async def test_pods_reach_each_other_by_address_and_share_no_port(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE, NodeConfig("n2", runtime="process"))
    serve = "mkdir /www; hostname > /www/name; exec python3 -m http.server 80 --directory /www"
    probe = {"readinessProbe": {"httpGet": {"port": 80, "path": "/name"}}}
    for name, node in (("one", "n1"), ("two", "n2")):
        api.put("pods", shell(name, serve, node=node, container=probe))
    await api.until(lambda: all(pod_is_ready(api.pod(name)) for name in ("one", "two")))
    urls = " ".join(f"http://{api.pod(name)['status']['podIP']}/name" for name in ("one", "two"))
    get = "import sys, urllib.request as u; [print(u.urlopen(a).read().decode(), end='') for a in sys.argv[1:]]"
    assert await ended(api, host, f'python3 -c "{get}" {urls}') == "one\ntwo\n"


async def test_pods_of_other_machines_are_reached_by_address_whole_and_unmixed(
    api: FakeClient, make_isolating: Isolating
) -> None:
    await make_isolating(NODE)
    there = await make_isolating(NodeConfig("n2", runtime="process"), machine="other")
    serve = (
        "import hashlib, socketserver as s\n"
        "class H(s.BaseRequestHandler):\n"
        "    def handle(self):\n"
        "        while data := self.request.recv(1 << 20): self.request.sendall(data)\n"
        "class U(s.BaseRequestHandler):\n"
        "    def handle(self): self.request[1].sendto(self.request[0][::-1], self.client_address)\n"
        "import threading\n"
        "threading.Thread(target=s.ThreadingUDPServer(('', 53), U).serve_forever).start()\n"
        "s.ThreadingTCPServer(('', 80), H).serve_forever()\n"
    )
    server = {"command": ["python3", "-c", serve], "readinessProbe": {"tcpSocket": {"port": 80}}}
    api.put("pods", make_pod("echo", container=server))
    await api.until(lambda: pod_is_ready(api.pod("echo")))
    ask = (
        "import os, socket, sys, threading\n"
        "ip, data = sys.argv[1], os.urandom(3_000_000)\n"
        "c = socket.create_connection((ip, 80)); got = bytearray()\n"
        "threading.Thread(target=c.sendall, args=(data,)).start()\n"
        "while len(got) < len(data): got += c.recv(1 << 20)\n"
        "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); big = os.urandom(8_000)\n"
        "u.sendto(big, (ip, 53)); print(got == data, u.recv(65536)[::-1] == big)\n"
    )
    asker = {"command": ["python3", "-c", ask, api.pod("echo")["status"]["podIP"]]}
    api.put("pods", make_pod("asker", node="n2", container=asker, restartPolicy="Never"))
    await api.until(lambda: phase(api, "asker") in ("Succeeded", "Failed"))
    assert (await logs(there, "asker", node="n2")).decode() == "True True\n"


async def test_a_container_sees_nothing_of_the_machines_people(
    api: FakeClient, make_isolating: Isolating, tmp_path: Path
) -> None:
    host = await make_isolating(NODE)
    secret = tmp_path / "secret"
    secret.write_text("of the machine")
    script = f"cat {secret} 2>&1; ls /home | wc -l; echo mine > /etc/mine && cat /etc/mine; kill -9 {os.getpid()} 2>&1"
    said = await ended(api, host, script)
    assert "of the machine" not in said and "No such file" in said and "mine" in said
    assert "mine" not in os.listdir("/etc")


async def test_volumes_are_mounted_where_they_belong(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    config = {"metadata": {"name": "settings", "namespace": "default"}, "data": {"key": "value"}}
    api.put("configmaps", config)
    mounts = [
        {"name": "data", "mountPath": "/data"},
        {"name": "cfg", "mountPath": "/data/deep/cfg"},
        {"name": "data", "mountPath": "/etc/part", "subPath": "a/b", "readOnly": True},
        {"name": "cfg", "mountPath": "/etc/key.txt", "subPath": "key"},
    ]
    script = (
        "cat /data/deep/cfg/key; echo; cat /etc/key.txt; echo; echo x > /data/a/b/f; cat /etc/part/f; "
        "echo y > /etc/part/g; echo z > /data/deep/cfg/key; ls -ld /data | cut -c1-10"
    )
    volumes = [{"name": "data", "emptyDir": {}}, {"name": "cfg", "configMap": {"name": "settings"}}]
    said = (await ended(api, host, script, container={"volumeMounts": mounts}, volumes=volumes)).splitlines()
    # Errors come by a stream of their own, sooner or later.
    assert said[:3] == ["value", "value", "x"] and "drwxrwxrwx" in said
    assert sum("Read-only file system" in line for line in said) == 2


@pytest.mark.parametrize("uid", [0, 1000])
async def test_a_container_runs_as_whom_it_says(api: FakeClient, make_isolating: Isolating, uid: int) -> None:
    host = await make_isolating(NODE)
    container = {"securityContext": {"runAsUser": uid, "runAsGroup": uid, "allowPrivilegeEscalation": False}}
    script = (
        "id -u; id -g; grep NoNewPrivs /proc/self/status; touch /tmp/f && stat -c %u /tmp/f; "
        "mount -t tmpfs none /tmp 2>/dev/null || echo no; ip link add x type dummy 2>/dev/null || echo no"
    )
    said = (await ended(api, host, script, container=container)).split()
    assert said == [str(uid), str(uid), "NoNewPrivs:", "1", str(uid), "no", "no"]


async def test_commands_join_the_container_and_a_missing_program_says_so(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    api.put("pods", shell("box", f"echo here > /tmp/f; {SLEEP}"))
    await api.until(lambda: "running" in state(api, "box"))
    out, _, code = await run_in(host, "box", "sh", "-c", "cat /tmp/f; hostname; cat /proc/1/cmdline | tr '\\0' ' '")
    assert (out.decode().split()[:2], code) == (["here", "box"], 0) and b"sleep" in out
    assert (await run_in(host, "box", "nonesuch"))[2] == 127
    api.put("pods", shell("bad", "", container={"command": ["nonesuch"]}, restartPolicy="Never"))
    await api.until(lambda: phase(api, "bad") == "Failed")
    assert "not found in $PATH" in state(api, "bad")["terminated"]["message"]


async def test_a_restarted_container_begins_with_a_fresh_root(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    volumes = [{"name": "kept", "emptyDir": {}}]
    container = {"volumeMounts": [{"name": "kept", "mountPath": "/kept"}]}
    script = "ls /tmp/old 2>/dev/null; touch /tmp/old; echo x >> /kept/f; wc -l < /kept/f; [ $(wc -l < /kept/f) = 2 ]"
    assert await ended(api, host, script, container=container, volumes=volumes) == "1\n"
    api.put("pods", shell("twice", script, container=container, volumes=volumes, restartPolicy="OnFailure"))
    await api.until(lambda: phase(api, "twice") == "Succeeded")
    assert (await logs(host, "twice")).decode() == "2\n"


async def test_devices_between_machines_go_with_the_hosts_that_had_them(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host, other = await make_isolating(NODE), await make_isolating(NodeConfig("n2", runtime="process"))
    api.put("pods", shell("box", SLEEP, hostNetwork=True))
    await api.until(lambda: "running" in state(api, "box"))

    async def wires() -> set[str]:
        links = (await run_in(host, "box", "ip", "-br", "link"))[0].decode().splitlines()
        return {link.split("@")[0] for link in links if link.startswith("wire")}

    async with asyncio.timeout(60):
        while len(await wires()) < 2:
            await asyncio.sleep(0.01)
        before = await wires()
        os.kill(other._runtimes["process"].shim.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        while await wires() == before or len(await wires()) != 2:
            await asyncio.sleep(0.01)


async def test_a_machine_that_lets_nothing_be_isolated_is_not_asked_again(
    api: FakeClient, make_host: Isolating, caplog: pytest.LogCaptureFixture
) -> None:
    host = await make_host(NODE, isolation=NAMESPACES, machine_file="/proc/none/isolation", services="10.78.0.0/16")
    ready = {c["type"]: c for c in api.objects["nodes"]["n1"]["status"]["conditions"]}["Ready"]
    assert ready["status"] == "False" and "does not let pods be isolated" in ready["message"]
    api.put("pods", shell("box", SLEEP))
    await api.until(lambda: api.events("FailedCreatePodSandBox"))
    host.kubelet("n1").keep_alive(1.0)
    assert host._runtimes["process"].shim.pid == 0  # type: ignore[attr-defined]


async def test_nothing_outlives_a_killed_shim_and_its_pods_come_back(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    service(api, "10.78.0.7", {"ip": "127.0.0.1", "port": int(host.advertised.rpartition(":")[2])})
    api.put("pods", shell("box", SLEEP))
    await api.until(lambda: "running" in state(api, "box"))
    await until_reached(host, "10.78.0.7")
    shim = host._runtimes["process"].shim  # type: ignore[attr-defined]
    inside = [*shim._pids.values()]
    os.kill(shim.pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while not all(gone(pid) for pid in inside):
            await asyncio.sleep(0.01)
    await api.until(lambda: api.pod("box")["status"]["containerStatuses"][0]["restartCount"] == 1)
    await api.until(lambda: "running" in state(api, "box"))
    ip = api.pod("box")["status"]["podIP"]
    assert ip in (await run_in(host, "box", "ip", "-br", "addr"))[0].decode()
    await until_reached(host, "10.78.0.7")
