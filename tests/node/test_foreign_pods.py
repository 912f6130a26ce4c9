"""Pods of another project's runtime: whom they ask for names, and the block devices they are given."""

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.cri_clients import upper
from tests.node.fake_runtime import FakeRuntime
from tests.node.processes import NODE, QUICK, MakeHost, phase, state

#: This process's own, so that tests may run beside each other.
DNS = f"127.87.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
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
