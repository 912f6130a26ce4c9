"""Images of another runtime: its nodes list them, and those that nobody uses go when its disk is full."""

import os
from collections import namedtuple
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc import StatusCode as Code

from rayplane.control_plane.rpc import RpcError
from rayplane.node.config import NodeConfig
from rayplane.node.images.collection import Thresholds
from rayplane.node.kubelet.pressure import IMAGE_FS, NODE_FS
from rayplane.node.kubelet.vitals import MachineVitals
from rayplane.node.runtime.cri import run, stock
from rayplane.node.runtime.cri.client import CriClient
from rayplane.node.runtime.cri.configs import Node
from rayplane.node.runtime.cri.runtime import CriRuntime
from rayplane.node.runtime.cri.stock import CriStock
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.cri_clients import upper
from tests.node.fake_runtime import FakeRuntime
from tests.node.processes import QUICK, MakeHost
from tests.node.test_cri_runtime import Heard, begun, order, place

EVERYTHING = Thresholds(high=0, low=0, min_age_s=0.0)
blocks = namedtuple("blocks", "f_blocks f_frsize f_bavail f_files")


@pytest.fixture
async def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeRuntime]:
    found = FakeRuntime(tmp_path / "s")
    await found.start()
    found.image_place = str(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda path: blocks(1000, 1, 1000 - 100 * len(found.images), 0))
    yield found
    await found.stop()


@pytest.fixture
async def runtime(fake: FakeRuntime) -> AsyncIterator[CriRuntime]:
    found = CriRuntime(CriClient(str(fake.path)), Node("me", "n1", 8 << 30), unused=EVERYTHING)
    await found.open()
    yield found
    await found.close()


async def test_nodes_list_the_largest_images_of_their_runtime(fake: FakeRuntime, runtime: CriRuntime) -> None:
    fake.images = {f"app:{number}" for number in range(60)}
    fake.sizes = {f"app:{number}": number for number in range(60)}
    assert await runtime.stock.look() and not await runtime.stock.look()
    told = runtime.stock.listed()
    assert told[0] == {"names": ["app:59"], "sizeBytes": 59} and len(told) == 50
    fake.images = {"app:1"}
    runtime.stock.changed()
    assert await runtime.stock.look() and runtime.stock.listed() == [{"names": ["app:1"], "sizeBytes": 1}]


async def test_a_pulled_image_is_looked_for_at_once(fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path) -> None:
    fake.images.clear()
    await runtime.stock.look()
    await begun(runtime, tmp_path)
    assert fake.calls["PullImage"] == 1
    assert await runtime.stock.look() and len(runtime.stock.listed()) == 1


async def test_only_what_nobody_uses_goes(fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path) -> None:
    fake.images |= {"pinned:1", "pause:1", "others:1", "unused:1"}
    fake.pinned, fake.sandbox_image = {"pinned:1"}, "pause:1"
    fake.containers["x"] = "s", stock.pb.ContainerStatus(id="x", image_ref="others:1")
    pod = make_pod("comes")
    pod["spec"]["initContainers"] = [{"name": "first", "image": "init:1"}]
    fake.images.add("init:1")
    await begun(runtime, tmp_path)
    await runtime.add_pod(place(tmp_path, pod))
    short, left = await runtime.stock.collect()
    assert fake.images == {"app:1", "pinned:1", "pause:1", "others:1", "init:1"}
    assert (short, left) == (600, 500)
    runtime.remove_pod(pod["metadata"]["uid"])
    assert await runtime.stock.reclaim() and not await runtime.stock.reclaim()
    assert fake.images == {"app:1", "pinned:1", "pause:1", "others:1"}


async def test_what_came_or_was_used_lately_stays(fake: FakeRuntime, runtime: CriRuntime) -> None:
    found = CriStock(CriClient(str(fake.path)), set, Thresholds(high=0, low=0, min_age_s=1000.0))
    fake.images = {"old:1"}
    fake.containers["x"] = "s", stock.pb.ContainerStatus(id="x", image_ref="used:1")
    fake.images.add("used:1")
    await found.look()
    fake.images.add("new:1")
    fake.containers.clear()
    await found.collect()
    assert fake.images == {"new:1", "used:1"}


async def test_no_more_goes_than_the_disk_lacks(fake: FakeRuntime) -> None:
    found = CriStock(CriClient(str(fake.path)), set, Thresholds(high=30, low=20, min_age_s=0.0))
    fake.images = {f"app:{number}" for number in range(5)}
    assert await found.collect() == (300, 0) and len(fake.images) == 2
    fake.images.add("app:9")
    fake.fail["RemoveImage"] = RpcError(Code.FAILED_PRECONDITION, "in use")
    assert await found.collect() == (100, 0) and len(fake.images) == 2


async def test_a_runtime_that_is_away_fails_nothing(fake: FakeRuntime) -> None:
    found = CriStock(CriClient(str(fake.path)), set, EVERYTHING)
    await found.look()
    before = found.listed()
    await fake.stop()
    found.changed()
    assert not await found.look() and await found.collect() == (0, 0) and not await found.reclaim()
    assert found.listed() == before != []


@pytest.mark.processes
async def test_the_status_of_a_node_lists_the_images_of_its_runtime(
    fake: FakeRuntime, make_host: MakeHost, api: FakeClient
) -> None:
    await make_host(upper(fake.path), timing=QUICK)

    def listed() -> object:
        return (api.objects["nodes"].get("n2", {}).get("status") or {}).get("images")

    await api.until(lambda: bool(listed()))
    assert listed() == [{"names": ["app:1"], "sizeBytes": 100}]


async def test_pressure_is_told_of_the_disk_that_the_images_are_on(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spaces = {str(tmp_path / "pods"): blocks(1000, 1, 700, 0), str(tmp_path): blocks(100, 1, 3, 0)}
    monkeypatch.setattr(os, "statvfs", lambda path: spaces[str(path)])
    vitals = MachineVitals(NodeConfig("n1"), dict, tmp_path / "pods", lambda: runtime.stock.place)
    assert (await vitals.observe())[IMAGE_FS].available == 700, "as long as the runtime has not told"
    await runtime.stock.look()
    seen = await vitals.observe()
    assert (seen[NODE_FS].available, seen[IMAGE_FS].available) == (700, 3)


async def test_an_image_that_is_removed_just_when_a_pod_comes_is_got_once_more(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path
) -> None:
    fake.leaving = ["app:1"]
    await begun(runtime, tmp_path)
    assert (fake.calls["PullImage"], fake.calls["CreateContainer"], fake.calls["RunPodSandbox"]) == (1, 2, 1)
    fake.leaving = ["app:1", "app:1"]
    refused = Heard()
    again = make_pod("again")
    await runtime.add_pod(place(tmp_path, again))
    runtime.start(order(tmp_path, again), refused)
    assert (await refused.until(1))[0] == ("failed", run.CREATE_ERROR, "image app:1: not found")
    assert fake.calls["CreateContainer"] == 4, "whoever removes it again and again has his way"
    never = Heard()
    last = make_pod("last")
    fake.images, fake.leaving = {"app:1"}, ["app:1"]
    await runtime.add_pod(place(tmp_path, last))
    runtime.start(order(tmp_path, last, imagePullPolicy="Never"), never)
    assert (await never.until(1))[0][:2] == ("failed", "ErrImageNeverPull")
