"""What containers of an isolated pod share, with each other and with the machine, and that it ends with them."""

import asyncio
import os
import signal
from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from tests.fakes import FakeClient
from tests.node.isolated import SLEEP, Isolating, ended, isolating, make_isolating
from tests.node.processes import NODE, gone, logs, phase, run_in, shell, state

__all__ = ["make_isolating"]
pytestmark = [pytest.mark.processes, isolating]
#: The first line of each process that can be seen.
PROCESSES = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f; echo; done 2>/dev/null"


def running(api: FakeClient, name: str) -> bool:
    statuses = api.pod(name)["status"].get("containerStatuses") or ()
    return bool(statuses) and all("running" in status["state"] for status in statuses)


def state_of(api: FakeClient, name: str, container: str) -> dict[str, Any]:
    statuses = api.pod(name)["status"].get("containerStatuses") or ()
    return next((status["state"] for status in statuses if status["name"] == container), {})


def two(name: str, one: str, other: str, **spec: Any) -> Object:
    pod = shell(name, one, **spec)
    pod["spec"]["containers"].append({"name": "other", "image": "app:1", "command": ["sh", "-c", other]})
    return pod


async def test_containers_that_share_process_numbers_see_and_signal_each_other(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    kill = "while ! pkill -x -f 'sleep 4321'; do sleep 0.01; done"
    script = f"{kill}; ps -o comm= 1; echo $$$$; kill -9 1; kill -0 1 && echo there"
    api.put("pods", two("box", script, "exec sleep 4321", shareProcessNamespace=True, restartPolicy="Never"))
    await api.until(lambda: phase(api, "box") == "Failed")
    first, number, there = (await logs(host, "box", container="main")).decode().split()
    # The pod's first process, and what it is called where one more exec makes it.
    assert first.startswith(("python", "program")) and int(number) > 1 and there == "there"


async def test_what_a_container_leaves_among_others_goes_with_it(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    stray = "setsid sh -c 'exec env -i sleep 7777' & while ! pgrep -x -f 'sleep 7777'; do sleep 0.01; done; exit 0"
    api.put("pods", two("box", stray, SLEEP, shareProcessNamespace=True, restartPolicy="Never"))
    await api.until(lambda: "terminated" in state(api, "box") and "running" in state_of(api, "box", "other"))
    out, _, _ = await run_in(host, "box", "sh", "-c", PROCESSES, container="other")
    assert b"sleep 1000" in out and b"sleep 7777" not in out


async def test_containers_of_a_pod_share_memory_and_pods_do_not(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    api.put("pods", two("box", f"echo ours > /dev/shm/f; ipcmk -M 64 > /dev/null; {SLEEP}", SLEEP))
    await api.until(lambda: running(api, "box"))
    look = "cat /dev/shm/f; ipcs -m | grep -c ^0x"
    async with asyncio.timeout(60):
        while (await run_in(host, "box", "sh", "-c", look, container="other"))[0] != b"ours\n1\n":
            await asyncio.sleep(0.01)
    assert "ours" not in await ended(api, host, look)


async def test_pods_with_the_machines_ipc_share_it(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    api.put("pods", shell("box", f"echo all > /dev/shm/f; ipcmk -M 64 > /dev/null; {SLEEP}", hostIPC=True))
    await api.until(lambda: running(api, "box"))
    look = "while ! [ -e /dev/shm/f ]; do sleep 0.01; done; cat /dev/shm/f; ipcs -m | grep -c ^0x"
    assert await ended(api, host, look, hostIPC=True) == "all\n1\n"


async def test_a_pod_with_the_machines_processes_sees_those_of_all_pods_and_not_their_memory(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    api.put("pods", shell("box", "SECRET=x exec sleep 4242"))
    await api.until(lambda: running(api, "box"))
    shim = host._runtimes["process"].shim.pid  # type: ignore[attr-defined]
    script = (
        "while ! pid=$(pgrep -x -f 'sleep 4242'); do sleep 0.01; done; echo seen; cat /proc/$pid/environ 2>&1; "
        "ls /proc/$pid/root/ 2>&1; kill -9 1; kill 1; kill -INT 1; kill -0 1 && echo there; ls /proc | grep -c ^[0-9]"
    )
    container = {"securityContext": {"privileged": True}}
    told = (await ended(api, host, script, hostPID=True, container=container)).splitlines()
    assert told[0] == "seen" and told[3] == "there" and sum("ermission denied" in line for line in told[1:3]) == 2
    assert host._runtimes["process"].shim.pid == shim  # type: ignore[attr-defined]
    # Nothing of the machine but what is below the shim.
    assert int(told[4]) < 15


async def test_what_a_pod_leaves_among_the_machines_processes_goes_with_it(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    api.put("pods", shell("look", SLEEP, hostPID=True))
    stray = "unshare -Urm setsid env -i sleep 7778 & while ! pgrep -x -f 'sleep 7778'; do sleep 0.01; done"
    context = {"securityContext": {"privileged": True}}
    await ended(api, host, stray, hostPID=True, container=context)
    await api.until(lambda: running(api, "look"))
    async with asyncio.timeout(60):
        while b"sleep 7778" in (await run_in(host, "look", "sh", "-c", PROCESSES))[0]:
            await asyncio.sleep(0.01)


async def test_a_debugging_container_sees_the_processes_of_its_target(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    api.put("pods", two("box", "exec sleep 4243", "exec sleep 4244"))
    await api.until(lambda: running(api, "box"))
    pod = api.pod("box")
    debug = {
        "name": "debug",
        "image": "tools",
        "command": ["sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline; echo; ls /proc/1/root/; " + SLEEP],
        "targetContainerName": "main",
    }
    api.put("pods", pod | {"spec": pod["spec"] | {"ephemeralContainers": [debug]}})
    async with asyncio.timeout(60):
        while b"etc" not in await logs(host, "box", container="debug"):
            await asyncio.sleep(0.01)
    assert (await logs(host, "box", container="debug")).decode().splitlines()[0] == "sleep 4243 "


async def test_a_pod_of_one_user_namespace_has_no_right_in_another(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    api.put("pods", shell("box", SLEEP))
    await api.until(lambda: running(api, "box"))
    mine = (await run_in(host, "box", "readlink", "/proc/self/ns/user"))[0].decode()
    script = (
        "readlink /proc/self/ns/user; mount -t tmpfs none /tmp && echo mounted; ip addr add 10.9.9.9 dev lo && echo up"
    )
    context = {"securityContext": {"privileged": True}}
    told = (await ended(api, host, script, container=context)).splitlines()
    assert told[0] != mine.strip() and told[1:] == ["mounted", "up"]


async def test_with_the_program_that_all_pods_live_below_everything_goes(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    api.put("pods", shell("box", f"setsid env -i sleep 1000 & {SLEEP}", hostPID=True, restartPolicy="Never"))
    api.put("pods", two("pair", f"setsid env -i sleep 1000 & {SLEEP}", SLEEP, shareProcessNamespace=True))
    await api.until(lambda: running(api, "box") and running(api, "pair"))
    shim = host._runtimes["process"].shim  # type: ignore[attr-defined]
    below = [int(name) for name in os.listdir("/proc") if name.isdigit() and shim.pid in ancestors(int(name))]
    assert len(below) >= 7
    os.kill(shim.pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while not all(gone(pid) for pid in below):
            await asyncio.sleep(0.01)
    await api.until(lambda: phase(api, "box") == "Failed")


def ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        try:
            with open(f"/proc/{pid}/stat") as f:
                pid = int(f.read().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


async def test_with_the_nodes_network_a_pod_has_the_nodes_name_as_one_that_debugs_it(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    script = "hostname; cat /etc/hostname; echo $HOSTNAME; grep -c '\tn1$' /etc/hosts; grep -c box /etc/hosts"
    said = await ended(api, host, script, name="box", hostNetwork=True, hostPID=True, hostIPC=True)
    assert said.split() == ["n1", "n1", "n1", "1", "0"]
