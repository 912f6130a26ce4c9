"""Pods of another project's runtime: whom they ask for names, and the block devices they are given."""

import errno
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.node.host import NodeHost
from rayplane.node.runtime.isolation import syscalls
from rayplane.node.volumes.memory import mount_in_memory, unmount_below
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.cri_clients import upper
from tests.node.fake_runtime import FakeRuntime
from tests.node.processes import NODE, QUICK, MakeHost, phase, state

#: This process's own, so that tests may run beside each other.
DNS = f"127.87.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems: root's alone")
DEVICE = {"name": "raw", "devicePath": "/dev/mine"}


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeRuntime]:
    found = FakeRuntime(tmp_path / "s")
    await found.start()
    yield found
    await found.stop()


def put_volume(api: FakeClient, path: Path, mode: str = "Block") -> None:
    of = {"namespace": "default", "name": "c", "uid": "uid-c"}
    spec = {"local": {"path": str(path)}, "volumeMode": mode, "claimRef": of}
    api.put("persistentvolumes", {"metadata": {"name": "v"}, "spec": spec})
    claim = {"metadata": {"name": "c", "namespace": "default", "uid": "uid-c"}, "spec": {"volumeName": "v"}}
    api.put("persistentvolumeclaims", {**claim, "status": {"phase": "Bound"}})


def using(node: str, **container: Any) -> Object:
    volumes = [{"name": "raw", "persistentVolumeClaim": {"claimName": "c"}}]
    return make_pod("p", node=node, container={"command": ["sleep", "9"], **container}, volumes=volumes)


@pytest.mark.processes
async def test_they_are_told_the_clusters_dns_where_they_can_reach_it(
    api: FakeClient, make_host: MakeHost, fake: FakeRuntime
) -> None:
    host = await make_host(upper(fake.path), timing=QUICK, dns="127.78.0.10", foreign_dns=DNS)
    api.put("pods", make_pod("p", node="n2", container={"command": ["sleep", "9"]}))
    await api.until(lambda: "running" in state(api, "p"))
    told = fake.requests["RunPodSandbox"].config.dns_config
    assert [*told.servers] == [DNS] and [*told.options] == ["ndots:5"]
    assert [*told.searches] == ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    assert host.dns is not None
    ours = next(place for place in host.dns._places() if place.ip == DNS)
    assert ours.ports == (53,), "there is no other in a resolv.conf"
    assert ours.admits(api.pod("p")["status"]["podIP"]) and not ours.admits("192.0.2.9"), "nobody else is answered"


@pytest.mark.processes
async def test_a_block_device_is_given_to_a_runtime_that_can_map_it(
    api: FakeClient, make_host: MakeHost, fake: FakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_host(upper(fake.path), timing=QUICK)
    (tmp_path / "disk").touch()
    put_volume(api, tmp_path / "disk")
    api.put("pods", using("n2", volumeDevices=[DEVICE]))
    await api.until(lambda: any("is not a block device" in text for text in api.events("FailedMapVolume")))
    monkeypatch.setattr(stat, "S_ISBLK", lambda mode: True)
    await api.until(lambda: "running" in state(api, "p"))
    (device,) = fake.requests["CreateContainer"].config.devices
    assert (device.container_path, device.host_path) == ("/dev/mine", str(tmp_path / "disk"))


def in_memory(name: str, **source: Any) -> Object:
    volumes = [{"name": "m", "emptyDir": {"medium": "Memory", **source}}]
    mounts = [{"name": "m", "mountPath": "/m"}]
    return make_pod(name, node="n2", container={"command": ["sleep", "9"], "volumeMounts": mounts}, volumes=volumes)


def volume(host: NodeHost, uid: str) -> Path:
    assert host.pod_files is not None
    return host.pod_files.root / uid / "volumes/m"


@pytest.mark.processes
@only_root
async def test_a_volume_in_memory_is_so_and_goes_with_its_pod(
    api: FakeClient, make_host: MakeHost, fake: FakeRuntime
) -> None:
    host = await make_host(upper(fake.path), timing=QUICK)
    for name, source in (("p", {"sizeLimit": "1Mi"}), ("q", {})):
        api.put("pods", in_memory(name, **source))
        await api.until(lambda: "running" in state(api, name))  # noqa: B023
    path = volume(host, "uid-p")
    room = os.statvfs(path)
    assert path.is_mount() and room.f_blocks * room.f_frsize == 1 << 20
    (mount,) = [m for m in fake.requests["CreateContainer"].config.mounts if m.container_path == "/m"]
    assert mount.host_path == str(volume(host, "uid-q"))
    (path / "file").write_bytes(bytes(500_000))
    vitals = host.kubelets["n2"].vitals
    assert vitals is not None and (await vitals.disk(api.pod("p")))[0] == {}, "it is on no disk"
    await api.delete("pods", "p", "default")
    await api.until(lambda: not path.exists())
    await host.stop()
    assert not volume(host, "uid-q").is_mount(), "who ends its pods leaves none"


@pytest.mark.processes
@only_root
async def test_memory_of_a_killed_hosts_pods_goes_on_with_them_or_is_given_back(
    api: FakeClient, make_host: MakeHost, fake: FakeRuntime, tmp_path: Path
) -> None:
    pods = tmp_path / "host0/pods"
    for uid in ("uid-p", "uid-gone"):
        (pods / uid / "volumes/m").mkdir(parents=True)
        mount_in_memory(str(pods / uid / "volumes/m"), {})
        (pods / uid / "volumes/m/file").write_text("kept")
    api.put("pods", in_memory("p"))
    host = await make_host(upper(fake.path), timing=QUICK)
    await api.until(lambda: "running" in state(api, "p"))
    await api.until(lambda: not (pods / "uid-gone").exists())
    assert (volume(host, "uid-p") / "file").read_text() == "kept"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    syscalls.mount("tmpfs", str(theirs), "tmpfs")
    try:
        unmount_below(str(tmp_path))
        assert not volume(host, "uid-p").is_mount(), "once mounted, whoever comes"
        assert theirs.is_mount(), "what others have in memory beside is theirs"
    finally:
        syscalls.unmount(str(theirs))


@pytest.mark.processes
async def test_memory_that_cannot_be_had_is_told(
    api: FakeClient, make_host: MakeHost, fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(syscalls, "mount", refused)
    await make_host(upper(fake.path), timing=QUICK)
    api.put("pods", in_memory("p"))
    await api.until(lambda: "running" in state(api, "p"))
    await api.until(lambda: any("on disk" in text for text in api.events("MemoryVolumeOnDisk")))


@pytest.mark.processes
@pytest.mark.parametrize(
    ("mode", "container", "why"),
    [
        ("Block", {"volumeDevices": [DEVICE]}, "block devices are not given to pods of this runtime: use volumeMode"),
        ("Filesystem", {"volumeDevices": [DEVICE]}, "has volumeMode Filesystem, but is specified in volumeDevices"),
        (
            "Block",
            {"volumeMounts": [{"name": "raw", "mountPath": "/m"}]},
            "has volumeMode Block, but is specified in volumeMounts",
        ),
    ],
)
async def test_where_there_is_no_device_an_event_says_so(
    api: FakeClient, make_host: MakeHost, tmp_path: Path, mode: str, container: dict[str, Any], why: str
) -> None:
    await make_host(NODE, timing=QUICK)
    put_volume(api, tmp_path, mode)
    api.put("pods", using("n1", **container))
    await api.until(lambda: any(why in text for text in api.events("FailedMapVolume")))
    assert phase(api, "p") == "Pending"
