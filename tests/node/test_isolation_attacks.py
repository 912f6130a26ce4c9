"""Isolated pods that mean harm: to the machine, to their neighbours, to the program that all of them live below."""

import asyncio
import ctypes
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.node.runtime.isolation import launch, syscalls
from rayplane.node.runtime.isolation.namespaces import PodNamespaces
from rayplane.node.runtime.isolation.users import give
from rayplane.storage.beneath import Beneath
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.isolated import SLEEP, Isolating, ended, isolating, make_isolating
from tests.node.processes import NODE, logs, phase, run_in, shell, state

__all__ = ["make_isolating"]
pytestmark = [pytest.mark.processes, isolating]


@pytest.fixture
def of_everybody() -> Iterator[Path]:
    """A directory of the machine in which every user may write."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        yield Path(directory)


@pytest.mark.parametrize("command", [["\u00e9" * 5000], ["/" + "x/" * 3000], ["sh", "x" * 100_000]])
async def test_no_command_ends_the_program_that_all_pods_live_below(
    api: FakeClient, make_isolating: Isolating, command: list[str]
) -> None:
    host = await make_isolating(NODE)
    api.put("pods", shell("box", SLEEP))
    await api.until(lambda: "running" in state(api, "box"))
    shim = host._runtimes["process"].shim.pid  # type: ignore[attr-defined]
    api.put("pods", make_pod("bad", container={"command": command}, restartPolicy="Never"))
    await api.until(lambda: phase(api, "bad") == "Failed" or state(api, "bad").get("waiting", {}).get("message"))
    assert host._runtimes["process"].shim.pid == shim  # type: ignore[attr-defined]
    assert (await run_in(host, "box", *command))[2] != 0
    assert host._runtimes["process"].shim.pid == shim  # type: ignore[attr-defined]


async def test_no_link_in_a_volume_leads_a_mount_out_of_the_container(
    api: FakeClient, make_isolating: Isolating, of_everybody: Path
) -> None:
    host = await make_isolating(NODE)
    plant = {
        "name": "plant",
        "image": "app:1",
        "command": ["sh", "-c", f"ln -s ../../../../..{of_everybody} /data/out"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    mounts = [{"name": "data", "mountPath": "/data"}, {"name": "more", "mountPath": "/data/out/deep"}]
    spec: dict[str, Any] = {
        "volumes": [{"name": "data", "emptyDir": {}}, {"name": "more", "emptyDir": {}}],
        "initContainers": [plant],
        "container": {"volumeMounts": mounts, "terminationMessagePath": f"/..{of_everybody}/said"},
    }
    said = await ended(api, host, f"ls {of_everybody}", **spec)
    assert said.split() == ["deep", "said"] and os.listdir(of_everybody) == []


async def test_a_volume_is_not_mounted_over_proc(api: FakeClient, make_isolating: Isolating) -> None:
    await make_isolating(NODE)
    container = {"volumeMounts": [{"name": "data", "mountPath": "/proc/"}]}
    api.put("pods", shell("bad", SLEEP, container=container, volumes=[{"name": "data", "emptyDir": {}}]))
    await api.until(lambda: "inside /proc" in state(api, "bad").get("waiting", {}).get("message", ""))


def test_a_command_on_its_way_into_a_container_has_nothing_of_the_shims(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(message: dict[str, Any], own: int) -> None:
        found = sorted(os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))
        os.write(1, f"{secret in found} {Path('/proc/self/fd').stat().st_uid}".encode())
        os._exit(0)

    monkeypatch.setattr(launch, "_run", tell)
    monkeypatch.setattr(syscalls, "setns", lambda fd, kind=0: None)
    read, write = os.pipe()
    with tempfile.NamedTemporaryFile() as file, open(os.devnull) as nothing:
        secret = os.path.realpath(file.name)
        pod = PodNamespaces({"user": nothing.fileno()})
        forked = launch.enter({"tty": False, "oom_score": 0}, pod, os.getpid(), [nothing.fileno(), write, write])
        assert forked.failure() is None
    os.close(write)
    with open(read) as answer:
        # Files of a process that nobody may look at are of the machine's root.
        assert answer.read() == "False 0"


async def test_processes_of_containers_are_limited(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    script = "bash -c 'ulimit -u; ulimit -n; ulimit -c'"
    processes, files, core = (int(n) for n in (await ended(api, host, script)).split())
    assert processes == 2048 and 1024 <= files <= 65536 and core == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of a system call")
async def test_no_container_has_the_keys_of_the_session_that_its_host_was_started_in(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    ask = "import ctypes; print(ctypes.CDLL(None).syscall(250, 0, -3, 1))"
    context = {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}
    said = int(await ended(api, host, "", container={"command": ["python3", "-c", ask], **context}))
    assert said != ctypes.CDLL(None).syscall(250, 0, -3, 0)


async def test_no_container_changes_the_program_that_its_host_is_run_by(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    # What its first process was before is what it is asked to be.
    change = (
        "import os\n"
        "for change in (lambda: os.chmod('/proc/self/exe', 0o777), lambda: open('/proc/self/exe', 'r+b')):\n"
        "    try: print('changed', change())\n"
        "    except OSError as e: print('refused', flush=True)\n"
    )
    container = {"command": ["/proc/self/exe", "-c", change], "securityContext": {"privileged": True}}
    assert await ended(api, host, "", container=container) == "refused\nrefused\n"


async def test_a_fork_bomb_leaves_room_for_its_neighbours(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    bomb = "try:\n  while os.fork(): pass\nexcept OSError: print('no more', flush=True)"
    limited = f'ulimit -u 40; exec python3 -c "import os, time\n{bomb}\ntime.sleep(1000)"'
    api.put("pods", make_pod("bomb", container={"command": ["bash", "-c", limited]}))
    await api.until(lambda: "running" in state(api, "bomb"))
    async with asyncio.timeout(60):
        while b"no more" not in await logs(host, "bomb"):
            await asyncio.sleep(0.01)
    script = "ulimit -u 40; for n in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo all"
    assert await ended(api, host, "", container={"command": ["bash", "-c", script]}) == "all\n"


async def test_no_pod_speaks_or_hears_with_the_address_of_another(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    for name in ("victim", "friend"):
        api.put("pods", shell(name, SLEEP))
    await api.until(lambda: all("running" in state(api, name) for name in ("victim", "friend")))
    victim, friend = (api.pod(name)["status"]["podIP"] for name in ("victim", "friend"))
    listen = (
        "import socket; s = socket.socket(2, 2); s.bind(('', 9)); s.settimeout(30); print('up', flush=True)\n"
        "while (got := s.recvfrom(99))[0] != b'end': print(got[0].decode(), flush=True)"
    )
    hearing = asyncio.create_task(run_in(host, "victim", "python3", "-c", listen))
    steal = (
        "import socket, struct, sys\n"
        "friend, victim = (socket.inet_aton(a) for a in sys.argv[1:])\n"
        "def udp(source, data):\n"
        "    body = struct.pack('!HHHH', 9, 9, 8 + len(data), 0) + data\n"
        "    head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0, source, victim)\n"
        "    raw.sendto(head + body, (sys.argv[2], 0))\n"
        "raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)\n"
        "packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); packet.bind(('eth0', 0))\n"
        "mac = packet.getsockname()[4]\n"
        "for _ in range(3):\n"
        "    udp(friend, b'forged')\n"
        "    arp = struct.pack('!HHBBH6s4s6s4s', 1, 0x800, 6, 4, 2, mac, victim, b'\\xff' * 6, victim)\n"
        "    packet.send(b'\\xff' * 6 + mac + b'\\x08\\x06' + arp)\n"
    )
    container = {"command": ["python3", "-c", steal, friend, victim]}
    assert await ended(api, host, "", container=container) == ""
    send = f"import socket; s = socket.socket(2, 2); [s.sendto(d, ('{victim}', 9)) for d in (b'true', b'end')]"
    async with asyncio.timeout(60):
        while not hearing.done():
            await run_in(host, "friend", "python3", "-c", send)
    assert set(hearing.result()[0].decode().split()) <= {"up", "true"}


async def test_a_privileged_container_writes_no_installation_of_the_machine(
    api: FakeClient, make_isolating: Isolating, of_everybody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = of_everybody / "program"
    program.write_text("good")
    give(str(program), 0o644)
    monkeypatch.setattr(sys, "prefix", str(of_everybody))
    host = await make_isolating(NODE)
    script = f"mount -o remount,bind,rw {of_everybody}; echo -n bad > {program}; cat {program}"
    assert await ended(api, host, script, container={"securityContext": {"privileged": True}}) == "bad"
    assert program.read_text() == "good"


async def test_what_a_container_of_before_wrote_goes_however_deep_it_is(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    deep = "import os\nos.chdir('/tmp')\nfor _ in range(1100): os.mkdir('d'); os.chdir('d')"
    container = {
        "command": ["sh", "-c", f'[ -e /kept/f ] && exec {SLEEP}; touch /kept/f; python3 -c "$0"; exit 1', deep],
        "volumeMounts": [{"name": "kept", "mountPath": "/kept"}],
    }
    api.put("pods", make_pod("box", container=container, volumes=[{"name": "kept", "emptyDir": {}}]))
    await api.until(
        lambda: "running" in state(api, "box") and api.pod("box")["status"]["containerStatuses"][0]["restartCount"]
    )
    directory = host._runtimes["process"].place("uid-box").directory  # type: ignore[attr-defined]
    try:
        async with asyncio.timeout(60):
            while any(name.startswith("gone-") for name in os.listdir(f"{directory}/containers/main")):
                await asyncio.sleep(0.01)
    finally:
        # Nor could whoever removes what tests leave.
        Beneath(f"{directory}/containers").remove("main")


async def test_volumes_serve_a_user_with_a_read_only_root_and_a_group_of_files(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    api.put("secrets", {"metadata": {"name": "key", "namespace": "default"}, "data": {"key": "dmFsdWU="}})
    volumes = [
        {"name": "own", "emptyDir": {}},
        {"name": "key", "secret": {"secretName": "key", "defaultMode": 0o400}},
    ]
    container = {
        "securityContext": {"runAsUser": 1000, "readOnlyRootFilesystem": True},
        "volumeMounts": [{"name": "key", "mountPath": "/made/for/key"}, {"name": "own", "mountPath": "/etc"}],
    }
    script = "cat /made/for/key/key; touch /etc/f && stat -c %g /etc/f; touch /tmp/f /usr/f 2>&1 | grep -c Read-only"
    spec: dict[str, Any] = {"volumes": volumes, "securityContext": {"fsGroup": 2000}}
    group = 2000 if os.geteuid() == 0 else 0  # without subordinate numbers all groups are one
    assert await ended(api, host, script, container=container, **spec) == f"value{group}\n2\n"


async def test_the_device_between_machines_can_be_made_anew(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    wire: Any = host._runtimes["process"]
    for _ in range(2):
        os.close(await wire.open_wire())


@pytest.mark.parametrize(
    ("said", "user", "why"),
    [
        (b"[7, 8, [9]]\n", [7, 8, [9]], None),
        (b"[7, 8, [9, 1", None, None),
        (b'[7, 8, []]\n{"errno": 2, "text": "no such program", "path": "/x"}\n', [7, 8, []], 2),
        (b'[7, 8, []]\n{"errno": 2, "te', [7, 8, []], None),
    ],
)
def test_a_child_that_is_killed_while_it_speaks_does_not_trouble_the_shim(said: bytes, user: Any, why: Any) -> None:
    read, write = os.pipe()
    os.write(write, said)
    os.close(write)
    child = launch.Forked(1, read)
    failure = child.failure()
    assert (child.user, failure.errno if failure is not None else None) == (user, why)
