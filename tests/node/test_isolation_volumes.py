"""Volumes of isolated pods that are parts of the machine, and what of the machine they do not show."""

import asyncio
import os
import secrets
import socket
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.node.runtime.isolation.users import give
from rayplane.node.volumes.backend import Published
from rayplane.node.volumes.drivers.replicated.barrier import socket_directory
from tests.fakes import FakeClient
from tests.node.isolated import SLEEP, Isolating, ended, isolating, make_isolating
from tests.node.processes import NODE, shell, state

__all__ = ["make_isolating"]
pytestmark = [pytest.mark.processes, isolating]


def mounting(*paths: str, **more: Any) -> dict[str, Any]:
    """Parts of a pod that mounts parts of the machine at /m0, /m1 and so on."""
    volumes = [{"name": f"v{n}", "hostPath": {"path": path, **more}} for n, path in enumerate(paths)]
    mounts = [{"name": f"v{n}", "mountPath": f"/m{n}"} for n in range(len(paths))]
    return {"volumes": volumes, "container": {"volumeMounts": mounts}}


@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [
        ("Directory", "file", "not a directory"),
        ("DirectoryOrCreate", "file", "not a directory"),
        ("File", "dir", "not a file"),
        ("FileOrCreate", "dir", "not a file"),
        ("Socket", "file", "not a socket file"),
        ("CharDevice", "file", "not a character device"),
        ("BlockDevice", "missing", "not a block device"),
    ],
)
async def test_a_part_of_the_machine_is_what_its_type_says(
    api: FakeClient, make_isolating: Isolating, tmp_path: Path, kind: str, name: str, why: str
) -> None:
    await make_isolating(NODE)
    (tmp_path / "file").touch()
    (tmp_path / "dir").mkdir()
    api.put("pods", shell("box", SLEEP, **mounting(str(tmp_path / name), type=kind)))
    await api.until(lambda: why in str([*api.events("FailedMount")]))


def let_all_pass(place: Path) -> None:
    for above in (place, *place.parents):
        if os.stat(above).st_uid == os.geteuid():
            os.chmod(above, os.stat(above).st_mode | 0o555)


async def test_what_is_made_on_the_machine_for_a_pod_is_its_own(
    api: FakeClient, make_isolating: Isolating, tmp_path: Path
) -> None:
    host = await make_isolating(NODE)
    let_all_pass(tmp_path)
    (made := tmp_path / "made").mkdir(mode=0o755)
    script = "echo kept > /m0/f && cat /m0/f && stat -c '%a %u' /m0"
    assert await ended(api, host, script, **mounting(f"{made}/new")) == "kept\n755 0\n"
    assert (made / "new/f").read_text() == "kept\n"


async def test_no_pod_sees_the_files_of_the_cluster(api: FakeClient, make_isolating: Isolating, tmp_path: Path) -> None:
    host = await make_isolating(NODE)
    secret = tmp_path / "machine" / "key"
    secret.write_text("of the cluster")
    give(str(secret), 0o644)
    let_all_pass(tmp_path)
    for number, inside in enumerate((f"{tmp_path}/host0/pods", f"{tmp_path}/machine", "/sys")):
        api.put("pods", shell("bad", SLEEP, uid=f"uid-{number}", **mounting(inside)))
        await api.until(lambda path=inside: path in str([*api.events("FailedMount")]))
        api.remove("pods", "default/bad")
    (tmp_path / "open").write_text("of everybody")
    script = f"cat /m0{tmp_path}/open /m1/open; cat /m0{secret} /m1/machine/key; ls -A /m0/sys /m1/host0"
    said = await ended(api, host, f"({script}) 2>&1", **mounting("/", str(tmp_path)))
    assert said.count("of everybody") == 2 and "of the cluster" not in said and said.count("No such file") == 2
    assert said.splitlines()[-3:] == ["", "/m1/host0:"] or "pods" not in said.rpartition("/m0/sys:")[2]


async def test_processes_reach_the_socket_where_they_wait_for_their_volume(
    api: FakeClient, make_isolating: Isolating, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = await make_isolating(NODE)
    at = f"{socket_directory()}/{secrets.token_hex(10)}.sync"

    async def publish(pod: Object, volume: dict[str, Any], *, node: str) -> Published:
        return Published(str(tmp_path / "host0" / "volumes" / "v"), at)

    monkeypatch.setattr(host._volumes, "publish", publish)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ok for " + await reader.readline())
        writer.close()

    server = await asyncio.start_unix_server(answer, at)
    ask = "import os, socket; s = socket.socket(1); s.connect(os.environ['RAYPLANE_VOLUME_SYNC']); "
    ask += "s.send(b'sync\\n'); print(s.recv(99).decode(), end='')"
    container = {
        "command": ["python3", "-c", ask],
        "securityContext": {"runAsUser": 1000},
        "env": [{"name": "RAYPLANE_VOLUME_SYNC", "value": "/etc/passwd"}],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    }
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "v"}}]
    try:
        said = await ended(api, host, "", container=container, volumes=volumes)
        assert said == "ok for sync\n", str(api.pod("job")["status"]["containerStatuses"])
    finally:
        server.close()
        os.unlink(at)


def test_the_directory_of_sockets_leaves_room_for_their_names() -> None:
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(FileNotFoundError):
        one.connect(f"{socket_directory()}/{'0' * 20}.sync")


async def test_all_that_a_pod_sees_of_a_projected_volume_is_its_roots(
    api: FakeClient, make_isolating: Isolating
) -> None:
    api.put("configmaps", {"metadata": {"name": "cm", "namespace": "default"}, "data": {"a": "1", "b": "2"}})
    host = await make_isolating(NODE)
    container = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    volumes = [{"name": "v", "configMap": {"name": "cm"}}]
    script = "find /v -mindepth 1 -printf '%u\\n' | sort | uniq -c"
    assert (await ended(api, host, script, container=container, volumes=volumes)).split() == ["6", "root"]


async def test_a_part_of_a_volume_that_a_container_led_out_keeps_the_pod_waiting(
    api: FakeClient, make_isolating: Isolating
) -> None:
    await make_isolating(NODE)
    data = {"name": "data", "mountPath": "/data"}
    init = {"name": "first", "image": "x", "command": ["ln", "-s", "/etc", "/data/out"], "volumeMounts": [data]}
    mounts = {"volumeMounts": [{**data, "subPath": "out"}]}
    volumes = [{"name": "data", "emptyDir": {}}]
    api.put("pods", shell("box", SLEEP, container=mounts, initContainers=[init], volumes=volumes))
    await api.until(lambda: state(api, "box").get("waiting", {}).get("reason") == "CreateContainerConfigError")
    told = 'failed to prepare subPath for volumeMount "data": it leads out of the volume'
    assert state(api, "box")["waiting"]["message"] == told and api.pod("box")["status"]["phase"] == "Pending"
