"""Resources of clients' own containers: what CRI is told to hold them to holds at once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.node.runtime import host_group
from rayplane.node.runtime.isolation.cgroups import Group, find
from rayplane.proto.cri import cri_pb2 as pb
from tests.fakes import FakeClient
from tests.node.cri_clients import connected
from tests.node.isolated import Isolating, isolating, make_isolating
from tests.node.processes import NODE

__all__ = ["make_isolating"]
pytestmark = [pytest.mark.processes, isolating]
GROUPS = find("test") is not None
MIB = 1 << 20
FULL = "import time; x = bytearray(b'x') * (40 << 20); print('ready', flush=True); time.sleep(1000)"


async def started(stubs: tuple[Stub, Stub], *command: str) -> tuple[str, str]:
    """The ids of a sandbox and a container in it that runs, held to little."""
    runtime, images = stubs
    await images.PullImage(pb.PullImageRequest(image=pb.ImageSpec(image="app")))
    metadata = pb.PodSandboxMetadata(name="s", namespace="x", uid="u")
    request = pb.RunPodSandboxRequest(config=pb.PodSandboxConfig(metadata=metadata))
    sandbox = (await runtime.RunPodSandbox(request)).pod_sandbox_id
    resources = pb.LinuxContainerResources(cpu_quota=50_000, cpu_period=100_000, memory_limit_in_bytes=256 * MIB)
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"),
        image=pb.ImageSpec(image="app"),
        command=command,
        linux=pb.LinuxContainerConfig(resources=resources),
    )
    ident = (
        await runtime.CreateContainer(pb.CreateContainerRequest(pod_sandbox_id=sandbox, config=config))
    ).container_id
    await runtime.StartContainer(pb.StartContainerRequest(container_id=ident))
    return str(sandbox), str(ident)


def file_of(group: Group, v2: str, v1: str) -> str:
    name = v2 if group.version == 2 else v1
    return next(Path(path, name) for path in group.paths if Path(path, name).exists()).read_text().split()[0]


async def status_of(runtime: Stub, ident: str) -> Any:
    return (await runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=ident))).status


@pytest.mark.skipif(not GROUPS, reason="no control groups here")
async def test_a_container_is_held_to_what_it_is_told(
    api: FakeClient, make_isolating: Isolating, tmp_path: Path
) -> None:
    host = await make_isolating(NODE, cri_socket=str(tmp_path / "cri"))
    await api.until(lambda: "n1" in api.objects["nodes"])
    async with connected(tmp_path / "cri") as stubs:
        runtime = stubs[0]
        sandbox, ident = await started(stubs, "sleep", "1000")
        whole = host._runtimes["process"].groups.top.below(f"cri-{sandbox[:32]}")  # type: ignore[attr-defined]
        own = whole.below("c-0")
        assert file_of(own, "cpu.max", "cpu.cfs_quota_us") == "50000"
        less = pb.LinuxContainerResources(cpu_quota=25_000, cpu_shares=512)
        await runtime.UpdateContainerResources(pb.UpdateContainerResourcesRequest(container_id=ident, linux=less))
        assert file_of(own, "cpu.max", "cpu.cfs_quota_us") == "25000"
        assert file_of(own, "cpu.weight", "cpu.shares") in ("512", "59")
        assert file_of(own, "memory.max", "memory.limit_in_bytes") == str(256 * MIB), "what is not said stays"
        shown = (await status_of(runtime, ident)).resources.linux
        assert (shown.cpu_quota, shown.cpu_shares, shown.memory_limit_in_bytes) == (25_000, 512, 256 * MIB)
        together = pb.LinuxContainerResources(memory_limit_in_bytes=512 * MIB)
        await runtime.UpdatePodSandboxResources(
            pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox, resources=together)
        )
        assert file_of(whole, "memory.max", "memory.limit_in_bytes") == str(512 * MIB)


async def test_without_groups_too_who_uses_more_than_he_may_from_now_on_ends(
    api: FakeClient, make_isolating: Isolating, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_group, "find", lambda name: None)
    await make_isolating(NODE, cri_socket=str(tmp_path / "cri"))
    await api.until(lambda: "n1" in api.objects["nodes"])
    async with connected(tmp_path / "cri") as stubs:
        runtime = stubs[0]
        _, ident = await started(stubs, "python3", "-c", FULL)
        less = pb.LinuxContainerResources(memory_limit_in_bytes=16 * MIB)
        update = pb.UpdateContainerResourcesRequest(container_id=ident, linux=less)
        await runtime.UpdateContainerResources(update)
        async with asyncio.timeout(60):
            while (await status_of(runtime, ident)).state == pb.ContainerState.CONTAINER_RUNNING:
                await asyncio.sleep(0.01)
        assert (await status_of(runtime, ident)).reason == "OOMKilled"
        with pytest.raises(RpcError, match="has ended"):
            await runtime.UpdateContainerResources(update)
