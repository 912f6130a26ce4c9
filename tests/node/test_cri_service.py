"""CRI as a node host serves it: each call's answer, what is not there, and calls that may be repeated."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from grpc import StatusCode as Code

from rayplane.control_plane.rpc import RpcError, Stub, methods_of
from rayplane.node import callers
from rayplane.node.config import NodeConfig
from rayplane.node.cri import own_pods, streams
from rayplane.node.host import NodeHost
from rayplane.proto.cri import cri_pb2 as pb
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.cri_clients import SERVICES, connected
from tests.node.processes import QUICK, MakeHost

MISSING = "f" * 64
#: Calls that name what is not there, and their answers; OK where CRI wants them to be repeatable.
ABSENT: dict[str, Code] = {
    "StopPodSandbox": Code.OK,
    "RemovePodSandbox": Code.OK,
    "StopContainer": Code.OK,
    "RemoveContainer": Code.OK,
    "PodSandboxStatus": Code.NOT_FOUND,
    "PodSandboxStats": Code.NOT_FOUND,
    "UpdatePodSandboxResources": Code.NOT_FOUND,
    "PortForward": Code.NOT_FOUND,
    "CreateContainer": Code.NOT_FOUND,
    "StartContainer": Code.NOT_FOUND,
    "ContainerStatus": Code.NOT_FOUND,
    "ContainerStats": Code.NOT_FOUND,
    "UpdateContainerResources": Code.NOT_FOUND,
    "ReopenContainerLog": Code.NOT_FOUND,
    "Attach": Code.NOT_FOUND,
}
#: Calls without a subject, and what their answers have.
WHOLE: dict[str, str] = {
    "Version": "runtime_name",
    "Status": "status",
    "RuntimeConfig": "linux",
    "UpdateRuntimeConfig": "",
    "ListPodSandbox": "items",
    "ListContainers": "containers",
    "ListContainerStats": "stats",
    "ListPodSandboxStats": "stats",
    "ListMetricDescriptors": "",
    "ListPodSandboxMetrics": "",
}
STREAMED = {
    "StreamPodSandboxes": 1,
    "StreamContainers": 1,
    "StreamContainerStats": 1,
    "StreamPodSandboxStats": 1,
    "StreamPodSandboxMetrics": 0,
}
NOT_MADE = {"CheckpointContainer", "CheckpointPod", "RestorePod"}
#: Calls that tests below make.
ELSEWHERE = {"RunPodSandbox", "Exec", "ExecSync", "GetContainerEvents"}


@pytest.fixture
async def host(api: FakeClient, make_host: MakeHost, tmp_path: Path) -> NodeHost:
    found = await make_host(NodeConfig("n1"), timing=QUICK, cri_socket=str(tmp_path / "cri"))
    api.put("pods", make_pod("p", annotations={"rayplane.io/log": "hello"}))
    await api.until(lambda: bool((api.pod("p")["status"].get("containerStatuses") or [{}])[0].get("ready")))
    return found


@pytest.fixture
async def stubs(host: NodeHost, tmp_path: Path) -> AsyncIterator[tuple[Stub, Stub]]:
    async with connected(tmp_path / "cri") as found:
        yield found


async def refused(call: Any) -> Code:
    with pytest.raises(RpcError) as failure:
        await call
    return failure.value.code


def read(path: str) -> list[bytes]:
    return Path(path).read_bytes().splitlines()


def request_of(name: str) -> Any:
    return next(m for m in methods_of(SERVICES["RuntimeService"]) if m.name == name).request_type


async def run_sandbox(runtime: Stub, name: str = "s", **config: Any) -> str:
    metadata = pb.PodSandboxMetadata(name=name, namespace="x", uid="u")
    request = pb.RunPodSandboxRequest(config=pb.PodSandboxConfig(metadata=metadata, **config))
    return str((await runtime.RunPodSandbox(request)).pod_sandbox_id)


async def create(stubs: tuple[Stub, Stub], sandbox: str, **config: Any) -> str:
    runtime, images = stubs
    await images.PullImage(pb.PullImageRequest(image=pb.ImageSpec(image="app")))
    wanted = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image="app"), **config)
    request = pb.CreateContainerRequest(pod_sandbox_id=sandbox, config=wanted)
    return str((await runtime.CreateContainer(request)).container_id)


async def state_of(runtime: Stub, ident: str) -> int:
    answer = await runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=ident))
    return int(answer.status.state)


def test_every_call_of_cri_has_a_row_here() -> None:
    every = {m.name for m in methods_of(SERVICES["RuntimeService"])}
    assert every == {*ABSENT, *WHOLE, *STREAMED, *NOT_MADE, *ELSEWHERE}
    assert callers.CRI["RuntimeService"].keys() == every - NOT_MADE
    assert callers.CRI["ImageService"].keys() == {m.name for m in methods_of(SERVICES["ImageService"])}


async def test_what_is_not_there(stubs: tuple[Stub, Stub]) -> None:
    for name, code in ABSENT.items():
        request = request_of(name)()
        setattr(request, "pod_sandbox_id" if hasattr(request, "pod_sandbox_id") else "container_id", MISSING)
        call = getattr(stubs[0], name)(request)
        if code is Code.OK:
            await call
        else:
            assert await refused(call) is code, name


async def test_calls_without_a_subject(stubs: tuple[Stub, Stub]) -> None:
    for name, field in WHOLE.items():
        answer = await getattr(stubs[0], name)(request_of(name)())
        assert not field or getattr(answer, field), name
    for name, count in STREAMED.items():
        assert len([a async for a in getattr(stubs[0], name)(request_of(name)())]) == count, name


async def test_what_is_not_made_here_is_said(stubs: tuple[Stub, Stub]) -> None:
    for name in NOT_MADE:
        assert await refused(getattr(stubs[0], name)(request_of(name)())) is Code.UNIMPLEMENTED


async def test_pods_of_the_kubelet_are_seen_and_not_removed(api: FakeClient, stubs: tuple[Stub, Stub]) -> None:
    runtime, _ = stubs
    (sandbox,) = (await runtime.ListPodSandbox(pb.ListPodSandboxRequest())).items
    (container,) = (await runtime.ListContainers(pb.ListContainersRequest())).containers
    assert (sandbox.metadata.name, sandbox.metadata.uid) == ("p", "uid-p")
    assert api.pod("p")["status"]["containerStatuses"][0]["containerID"] == f"rayplane://{container.id}"
    assert container.labels["io.kubernetes.pod.name"] == "p"
    status = (await runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox.id[:8]))).status
    assert status.network.ip == api.pod("p")["status"]["podIP"]
    for call in (
        runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox.id)),
        runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container.id)),
        runtime.CreateContainer(pb.CreateContainerRequest(pod_sandbox_id=sandbox.id)),
    ):
        assert await refused(call) is Code.FAILED_PRECONDITION


async def test_a_kubelets_container_that_is_stopped_is_started_again(api: FakeClient, stubs: tuple[Stub, Stub]) -> None:
    runtime, _ = stubs
    (container,) = (await runtime.ListContainers(pb.ListContainersRequest())).containers
    await runtime.StopContainer(pb.StopContainerRequest(container_id=container.id))
    await api.until(lambda: api.pod("p")["status"]["containerStatuses"][0]["restartCount"] == 1)
    found = (await runtime.ListContainers(pb.ListContainersRequest())).containers
    assert {c.metadata.attempt: c.state for c in found} == {
        0: pb.ContainerState.CONTAINER_EXITED,
        1: pb.ContainerState.CONTAINER_RUNNING,
    }


async def test_a_log_of_data_is_a_file_for_whoever_asks(stubs: tuple[Stub, Stub]) -> None:
    runtime, _ = stubs
    (container,) = (await runtime.ListContainers(pb.ListContainersRequest())).containers
    answer = await runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=container.id))
    lines = read(answer.status.log_path)
    assert [line.split(b" ", 1)[1] for line in lines] == [
        b"stdout F simulated container main started",
        b"stdout F hello",
    ]


async def test_the_life_of_a_clients_container(stubs: tuple[Stub, Stub]) -> None:
    runtime, _ = stubs
    sandbox = await run_sandbox(runtime)
    ident = await create(stubs, sandbox)
    assert await state_of(runtime, ident) == pb.ContainerState.CONTAINER_CREATED
    start = pb.StartContainerRequest(container_id=ident)
    await runtime.StartContainer(start)
    assert await refused(runtime.StartContainer(start)) is Code.FAILED_PRECONDITION
    for _ in range(2):
        await runtime.StopContainer(pb.StopContainerRequest(container_id=ident, timeout=1))
    assert await state_of(runtime, ident) == pb.ContainerState.CONTAINER_EXITED
    for _ in range(2):
        await runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=ident))
        await runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox))
        await runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox))
    assert len((await runtime.ListPodSandbox(pb.ListPodSandboxRequest())).items) == 1


async def test_what_runs_is_ended_by_stopping_or_removing_its_sandbox(stubs: tuple[Stub, Stub], host: NodeHost) -> None:
    runtime, _ = stubs
    sandbox = await run_sandbox(runtime)
    ident = await create(stubs, sandbox)
    await runtime.StartContainer(pb.StartContainerRequest(container_id=ident))
    await runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    assert await state_of(runtime, ident) == pb.ContainerState.CONTAINER_EXITED
    other = await run_sandbox(runtime, "other")
    await runtime.StartContainer(pb.StartContainerRequest(container_id=await create(stubs, other)))
    await runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=other))
    assert host.cri is not None
    assert [*host.cri.own.sandboxes] == [sandbox]


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (pb.PodSandboxConfig(), Code.INVALID_ARGUMENT),
        (pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="s", namespace="x", uid="u")), Code.INVALID_ARGUMENT),
    ],
)
async def test_sandboxes_have_a_name_of_their_own(
    stubs: tuple[Stub, Stub], config: pb.PodSandboxConfig, code: Code
) -> None:
    await run_sandbox(stubs[0])
    assert await refused(stubs[0].RunPodSandbox(pb.RunPodSandboxRequest(config=config))) is code


async def test_a_sandbox_is_made_as_its_client_says(host: NodeHost, stubs: tuple[Stub, Stub]) -> None:
    linux = pb.LinuxPodSandboxConfig(sysctls={"kernel.shm_rmid_forced": "1"})
    linux.security_context.namespace_options.ipc = pb.NamespaceMode.NODE
    ident = await run_sandbox(stubs[0], "long" * 20, linux=linux)
    assert host.cri is not None and (place := host.cri.own.sandboxes[ident].place) is not None
    assert place.pod["spec"]["hostIPC"] and len(place.host_name) == 64, "kernels have no longer names"
    assert place.pod["spec"]["securityContext"]["sysctls"] == [{"name": "kernel.shm_rmid_forced", "value": "1"}]


async def test_handlers_are_the_runtimes_of_the_host(stubs: tuple[Stub, Stub]) -> None:
    config = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="s", namespace="x", uid="u"))
    request = pb.RunPodSandboxRequest(config=config, runtime_handler="kata")
    assert await refused(stubs[0].RunPodSandbox(request)) is Code.INVALID_ARGUMENT
    await stubs[0].RunPodSandbox(pb.RunPodSandboxRequest(config=config, runtime_handler="simulated"))


async def test_containers_need_an_image_that_is_there(stubs: tuple[Stub, Stub]) -> None:
    config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image="nowhere:1"))
    request = pb.CreateContainerRequest(pod_sandbox_id=await run_sandbox(stubs[0]), config=config)
    assert await refused(stubs[0].CreateContainer(request)) is Code.NOT_FOUND


async def test_no_more_is_made_than_there_is_room_for(
    stubs: tuple[Stub, Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_pods, "SANDBOXES_MAX", 1)
    monkeypatch.setattr(own_pods, "CONTAINERS_MAX", 1)
    sandbox = await run_sandbox(stubs[0])
    await create(stubs, sandbox)
    config = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="t", namespace="x", uid="u"))
    assert await refused(stubs[0].RunPodSandbox(pb.RunPodSandboxRequest(config=config))) is Code.RESOURCE_EXHAUSTED
    wanted = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="d"), image=pb.ImageSpec(image="app"))
    request = pb.CreateContainerRequest(pod_sandbox_id=sandbox, config=wanted)
    assert await refused(stubs[0].CreateContainer(request)) is Code.RESOURCE_EXHAUSTED


async def test_changes_are_told_to_who_watches(stubs: tuple[Stub, Stub]) -> None:
    runtime, _ = stubs
    events: asyncio.Queue[pb.ContainerEventResponse] = asyncio.Queue()

    async def watch() -> None:
        async for event in runtime.GetContainerEvents(pb.GetEventsRequest()):
            events.put_nowait(event)

    watching = asyncio.create_task(watch())
    while events.empty():  # until the watch stands
        ident = await run_sandbox(runtime)
        await runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=ident))
    ident = await run_sandbox(runtime, "last")
    seen: list[int] = []
    while len(seen) < 2:
        event = await events.get()
        seen += [event.container_event_type] if event.container_id == ident else []
    assert seen == [pb.ContainerEventType.CONTAINER_CREATED_EVENT, pb.ContainerEventType.CONTAINER_STARTED_EVENT]
    watching.cancel()


async def test_urls_of_streams_are_good_once_and_are_not_guessed(
    stubs: tuple[Stub, Stub], host: NodeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "URLS_MAX", 1)
    (container,) = (await stubs[0].ListContainers(pb.ListContainersRequest())).containers
    request = pb.AttachRequest(container_id=container.id, stdout=True)
    url = (await stubs[0].Attach(request)).url
    assert url.startswith("http://127.0.0.1:")
    assert await refused(stubs[0].Attach(request)) is Code.RESOURCE_EXHAUSTED
    async with aiohttp.ClientSession() as session:
        for path, status in ((url[:-4], 404), (url.replace("attach", "exec"), 404)):
            async with session.get(path) as answer:
                assert answer.status == status
        # The guess with another name has used it up.
        async with session.get(url) as answer:
            assert answer.status == 404


@pytest.mark.parametrize(
    "fields", [{}, {"tty": True, "stderr": True, "stdout": True}], ids=["no stream", "a terminal with two outputs"]
)
async def test_streams_that_make_no_sense(stubs: tuple[Stub, Stub], fields: dict[str, bool]) -> None:
    (container,) = (await stubs[0].ListContainers(pb.ListContainersRequest())).containers
    request = pb.ExecRequest(container_id=container.id, cmd=["ls"], **fields)
    assert await refused(stubs[0].Exec(request)) is Code.INVALID_ARGUMENT


async def test_commands_in_data_are_not_run(stubs: tuple[Stub, Stub]) -> None:
    (container,) = (await stubs[0].ListContainers(pb.ListContainersRequest())).containers
    request = pb.ExecSyncRequest(container_id=container.id, cmd=["ls"])
    assert await refused(stubs[0].ExecSync(request)) is Code.UNIMPLEMENTED


async def test_images_are_what_pods_use_and_what_was_pulled(stubs: tuple[Stub, Stub]) -> None:
    _, images = stubs
    assert [i.repo_tags[0] for i in (await images.ListImages(pb.ListImagesRequest())).images] == ["app:1"]
    ref = (await images.PullImage(pb.PullImageRequest(image=pb.ImageSpec(image="reg:5000/a")))).image_ref
    pinned = f"reg/b@sha256:{'0' * 64}"
    await images.PullImage(pb.PullImageRequest(image=pb.ImageSpec(image=pinned)))
    answer = await images.ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image=pinned)))
    assert ([*answer.image.repo_tags], [*answer.image.repo_digests]) == ([], [pinned])
    for name in ("reg:5000/a", "reg:5000/a:latest", ref):
        answer = await images.ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image=name)))
        assert answer.image.id == ref
    for _ in range(2):
        await images.RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image=ref)))
    answer = await images.ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image=ref)))
    assert not answer.HasField("image")
    assert (await images.ImageFsInfo(pb.ImageFsInfoRequest())).image_filesystems
    assert [i async for i in images.StreamImages(pb.StreamImagesRequest())]


async def test_the_socket_is_its_users_and_goes_with_the_host(host: NodeHost, tmp_path: Path) -> None:
    path = tmp_path / "cri"
    assert (stat.S_IMODE(path.lstat().st_mode), path.lstat().st_uid) == (0o600, os.geteuid())
    await host.stop()
    assert not path.exists()


async def test_a_host_without_room_for_the_socket_runs_all_the_same(
    api: FakeClient, make_host: MakeHost, tmp_path: Path
) -> None:
    await make_host(NodeConfig("n1"), timing=QUICK, cri_socket=str(tmp_path / ("x" * 200)))
    api.put("pods", make_pod("p"))
    await api.until(lambda: api.pod("p")["status"]["phase"] == "Running")
