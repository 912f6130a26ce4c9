"""Images of a node's store as clients of CRI see them, and containers of clients that run from them."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.rpc import Stub
from rayplane.node.cri import stored_images
from rayplane.node.host import NodeHost
from rayplane.node.images.errors import ImageNotFound
from rayplane.proto.cri import cri_pb2 as pb
from tests.fakes import FakeClient
from tests.node.cri_clients import connected
from tests.node.images.registry_server import serving
from tests.node.images.tars import entry, kept, tar
from tests.node.images.test_image_containers import image, of, tools
from tests.node.isolated import SLEEP, Isolating, isolating, make_isolating
from tests.node.processes import NODE, QUICK, state
from tests.node.test_cri_service import Code, read, refused, run_sandbox

__all__ = ["make_isolating"]
pytestmark = [pytest.mark.processes, isolating]


@pytest.fixture
async def host(make_isolating: Isolating, tmp_path: Path) -> NodeHost:
    return await make_isolating(NODE, timing=QUICK, cri_socket=str(tmp_path / "cri"))


@pytest.fixture
async def stubs(host: NodeHost, tmp_path: Path) -> AsyncIterator[tuple[Stub, Stub]]:
    async with connected(tmp_path / "cri") as found:
        yield found


def named(name: str) -> pb.ImageSpec:
    return pb.ImageSpec(image=name)


async def status_of(images: Stub, name: str) -> Any:
    return (await images.ImageStatus(pb.ImageStatusRequest(image=named(name)))).image


async def made(runtime: Stub, sandbox: str, said: str, **config: Any) -> str:
    wanted = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="c"), image=named(said), log_path="c.log", **config)
    request = pb.CreateContainerRequest(pod_sandbox_id=sandbox, config=wanted)
    return str((await runtime.CreateContainer(request)).container_id)


async def output(runtime: Stub, place: Path, said: str, name: str = "s", **config: Any) -> str:
    """What a container of a client says until it ends."""
    sandbox = await run_sandbox(runtime, name, log_directory=str(place / name))
    ident = await made(runtime, sandbox, said, **config)
    await runtime.StartContainer(pb.StartContainerRequest(container_id=ident))
    status = pb.ContainerStatusRequest(container_id=ident)
    while (await runtime.ContainerStatus(status)).status.state != pb.ContainerState.CONTAINER_EXITED:
        await asyncio.sleep(0.01)
    lines = read(str(place / name / "c.log"))
    return b"\n".join(line.split(b" ", 3)[3] for line in lines).decode()


async def test_clients_see_the_images_of_the_nodes_store(host: NodeHost, stubs: tuple[Stub, Stub]) -> None:
    _, images = stubs
    assert host.images is not None
    stored = kept(host.images.store, "shop:1", [tar([entry("a", data=b"x" * 9000)])], User="7:8")
    (found,) = (await images.ListImages(pb.ListImagesRequest())).images
    assert (found.id, [*found.repo_tags]) == (stored.config, ["docker.io/library/shop:1"])
    assert (found.size, found.uid.value, found.pinned) == (stored.size, 7, True)
    for name in ("shop:1", "docker.io/library/shop:1", stored.config, stored.config[7:19]):
        assert (await status_of(images, name)).id == stored.config, name
    assert not (await status_of(images, "shop:2")).id
    (usage,) = (await images.ImageFsInfo(pb.ImageFsInfoRequest())).image_filesystems
    assert usage.fs_id.mountpoint == str(host.images.store.root)
    assert usage.used_bytes.value > 9000 and usage.inodes_used.value > 3
    for _ in range(2):
        await images.RemoveImage(pb.RemoveImageRequest(image=named("shop:1")))
    with pytest.raises(ImageNotFound):
        host.images.store.catalog().chosen("shop:1")


async def test_what_is_in_a_store_is_measured_again_after_a_while(
    host: NodeHost, stubs: tuple[Stub, Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def files() -> int:
        (usage,) = (await stubs[1].ImageFsInfo(pb.ImageFsInfoRequest())).image_filesystems
        return int(usage.inodes_used.value)

    assert host.images is not None
    kept(host.images.store, "shop:1", [tar([entry("a")])])
    before = await files()
    (host.images.store.root / "unpacked").write_bytes(b"x")
    assert await files() == before
    monkeypatch.setattr(stored_images, "FRESH_S", 0.0)
    assert await files() == before + 1


async def test_processes_of_a_sandbox_are_counted(stubs: tuple[Stub, Stub]) -> None:
    runtime, images = stubs
    await images.PullImage(pb.PullImageRequest(image=named("busybox")))
    sandbox = await run_sandbox(runtime)
    ident = await made(runtime, sandbox, "busybox", command=["sh", "-c", "sleep 1000 & sleep 1000 & wait"])
    await runtime.StartContainer(pb.StartContainerRequest(container_id=ident))
    request = pb.PodSandboxStatsRequest(pod_sandbox_id=sandbox)
    async with asyncio.timeout(20):
        # The shell and both that it waits for.
        while (await runtime.PodSandboxStats(request)).stats.linux.process.process_count.value != 3:
            await asyncio.sleep(0.01)


async def test_an_image_of_a_pod_is_not_removed(host: NodeHost, stubs: tuple[Stub, Stub], api: FakeClient) -> None:
    image(host, "shop:1", Cmd=["sh", "-c", SLEEP])
    api.put("pods", of("one", "shop:1"))
    await api.until(lambda: "running" in state(api, "one"))
    request = pb.RemoveImageRequest(image=named("shop:1"))
    assert await refused(stubs[1].RemoveImage(request)) is Code.FAILED_PRECONDITION


async def test_a_clients_container_runs_from_its_image(
    host: NodeHost, stubs: tuple[Stub, Stub], tmp_path: Path
) -> None:
    runtime, images = stubs
    page = tar([entry("srv/page", data=b"page\n")])
    config = {"Entrypoint": ["sh", "-c"], "Cmd": ["cat page; echo $(id -u) $A $B"], "WorkingDir": "/srv"}
    stored = image(host, "shop:1", page, User="web", Env=["A=1", "B=2"], **config)
    own = pb.KeyValue(key="B", value=b"3")
    assert await output(runtime, tmp_path, "shop:1", envs=[own]) == "page\n7 1 3"
    assert await output(runtime, tmp_path, stored.config, "t", args=["ls /; pwd"]) != ""
    root = pb.LinuxContainerSecurityContext(run_as_user=pb.Int64Value(value=0))
    linux = pb.LinuxContainerConfig(security_context=root)
    said = await output(runtime, tmp_path, "shop:1", "u", command=["id", "-u"], working_dir="/", linux=linux)
    assert said == "0"
    named_user = pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(run_as_username="web"))
    assert await output(runtime, tmp_path, "shop:1", "v", command=["id", "-u"], linux=named_user) == "7"
    # What has ended holds no image any more.
    await images.RemoveImage(pb.RemoveImageRequest(image=named("shop:1")))


async def test_an_image_is_held_while_a_clients_container_runs(host: NodeHost, stubs: tuple[Stub, Stub]) -> None:
    runtime, images = stubs
    image(host, "shop:1", Cmd=["sh", "-c", SLEEP])
    ident = await made(runtime, await run_sandbox(runtime), "shop:1")
    await runtime.StartContainer(pb.StartContainerRequest(container_id=ident))
    request = pb.RemoveImageRequest(image=named("shop:1"))
    assert await refused(images.RemoveImage(request)) is Code.FAILED_PRECONDITION
    await runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=ident))
    await images.RemoveImage(request)


async def test_an_image_is_a_directory_of_a_clients_container(
    host: NodeHost, stubs: tuple[Stub, Stub], tmp_path: Path
) -> None:
    assert host.images is not None
    image(host, "tools:1")
    kept(host.images.store, "files:1", [tar([entry("sub/page", data=b"page\n")])])
    mount = pb.Mount(container_path="/m", image=named("files:1"), image_sub_path="sub")
    script = ["sh", "-c", "cat /m/page; touch /m/x 2>/dev/null || echo refused"]
    said = await output(stubs[0], tmp_path, "tools:1", command=script, mounts=[mount])
    assert said == "page\nrefused"


async def test_what_is_nowhere_runs_only_what_it_is_told(
    host: NodeHost, stubs: tuple[Stub, Stub], tmp_path: Path
) -> None:
    runtime, images = stubs
    await images.PullImage(pb.PullImageRequest(image=named("busybox")))
    assert await output(runtime, tmp_path, "busybox", command=["echo", "machine"]) == "machine"
    ident = await made(runtime, await run_sandbox(runtime, "t"), "busybox")
    start = pb.StartContainerRequest(container_id=ident)
    assert await refused(runtime.StartContainer(start)) is Code.INTERNAL
    (found,) = (await runtime.ListContainers(pb.ListContainersRequest(filter=pb.ContainerFilter(id=ident)))).containers
    assert found.state == pb.ContainerState.CONTAINER_EXITED
    assert host.images is not None
    host.images.store.map_program("greeter", ["echo", "hello"])
    ref = (await images.PullImage(pb.PullImageRequest(image=named("greeter")))).image_ref
    assert await output(runtime, tmp_path, ref, "u", args=["you"]) == "hello you"


async def test_a_client_pulls_with_its_own_credentials(make_isolating: Isolating, tmp_path: Path) -> None:
    async with serving() as registry:
        host = await make_isolating(NODE, timing=QUICK, cri_socket=str(tmp_path / "cri"), registries=("all",))
        assert host.images is not None
        stored = kept(host.images.store, "shop:1", [tools()])
        registry.have(host.images.store, stored.digest, "shop", "1")
        host.images.store.remove("shop:1")
        registry.user = "me:secret"
        name = f"{registry.address}/shop:1"
        async with connected(tmp_path / "cri") as (runtime, images):
            pull = pb.PullImageRequest(image=named(name))
            assert await refused(images.PullImage(pull)) is Code.PERMISSION_DENIED
            pull.auth.auth = base64.b64encode(b"me:secret").decode()
            ref = (await images.PullImage(pull)).image_ref
            assert ref == stored.config and (await status_of(images, name)).id == ref
            assert not (await status_of(images, name)).pinned
            assert await output(runtime, tmp_path, ref, command=["ls", "/etc/passwd"]) == "/etc/passwd"
