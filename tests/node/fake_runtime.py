"""A container runtime that keeps everything in dictionaries, and misbehaves as a test tells it to."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from io import FileIO
from pathlib import Path
from typing import Any

from grpc import StatusCode as Code

from rayplane.control_plane.rpc import EVERYONE, Context, RpcError, Service, each, methods_of
from rayplane.control_plane.rpc.unix import UnixListener
from rayplane.proto.cri import cri_pb2 as pb
from tests.node.cri_clients import SERVICES

_CREATED, _RUNNING, _EXITED = pb.CONTAINER_CREATED, pb.CONTAINER_RUNNING, pb.CONTAINER_EXITED


class FakeRuntime:
    """Both services. `hang`: names of calls that are not answered; `fail`: name to the error of the next such call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hang: set[str] = set()
        self.fail: dict[str, RpcError] = {}
        self.calls: Counter[str] = Counter()
        self.requests: dict[str, Any] = {}
        self.ready = True
        self.api_version = "v1"
        self.has_events = True
        self.images: set[str] = {"app:1"}
        self.leaving: list[str] = []
        """Images that are removed one by one, each when a container of it is to be made."""
        self.sizes: dict[str, int] = {}
        self.pinned: set[str] = set()
        self.image_place = ""
        self.sandbox_image = ""
        self.features = pb.RuntimeFeatures()
        self.handlers: list[pb.RuntimeHandler] = []
        self.user: pb.ContainerUser | None = None
        self.sandboxes: dict[str, pb.PodSandboxStatus] = {}
        self.containers: dict[str, tuple[str, pb.ContainerStatus]] = {}
        self.network = "127.9.9"
        """The first numbers of sandboxes' addresses."""
        self.flood = 0
        """So many containers more are listed than there are."""
        self.filters = True
        self.wrong_ids = False
        self.logs: dict[str, list[FileIO]] = {}
        """The files that a container's log was written to, by its id; the last one is written now."""
        self._log_paths: dict[str, Path] = {}
        self._made = 0
        self._watchers: list[asyncio.Queue[pb.ContainerEventResponse]] = []
        self._listener: UnixListener | None = None

    async def start(self) -> None:
        services = [
            Service(d, self, callers=each(EVERYONE, *(m.name for m in methods_of(d) if hasattr(self, m.name))))
            for d in (SERVICES["RuntimeService"], SERVICES["ImageService"])
        ]
        self._listener = UnixListener(services)
        await self._listener.listen(str(self.path))

    async def stop(self) -> None:
        if self._listener is not None:
            await self._listener.stop()
        for file in (file for files in self.logs.values() for file in files):
            file.close()

    def forget(self) -> None:
        """Come back without memory."""
        self.sandboxes.clear()
        self.containers.clear()

    def exit(self, ident: str, code: int) -> None:
        status = self.containers[ident][1]
        status.state, status.exit_code = _EXITED, code
        for watcher in self._watchers:
            watcher.put_nowait(pb.ContainerEventResponse(container_id=ident))

    def _open_log(self, ident: str) -> None:
        path = self._log_paths[ident]
        if path.parent.is_dir():
            self.logs.setdefault(ident, []).append(path.open("ab", buffering=0))

    def write_log(self, ident: str, text: bytes, *, late: bool = False) -> None:
        """A line of a container; `late`: it was in hand when the log was opened anew, and goes to the file before."""
        self.logs[ident][-2 if late else -1].write(b"2026-01-01T00:00:00.000000000Z stdout F %s\n" % text)

    async def _called(self, name: str, request: Any) -> None:
        self.calls[name] += 1
        self.requests[name] = request
        if name in self.hang:
            await asyncio.get_running_loop().create_future()
        if name in self.fail:
            raise self.fail.pop(name)

    def _id(self, kind: str) -> str:
        self._made += 1
        return f"{kind}-{self._made}"

    async def Version(self, request: pb.VersionRequest, context: Context) -> pb.VersionResponse:
        await self._called("Version", request)
        return pb.VersionResponse(runtime_name="fake", runtime_version="9", runtime_api_version=self.api_version)

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        await self._called("Status", request)
        conditions = [
            pb.RuntimeCondition(type="RuntimeReady", status=True),
            pb.RuntimeCondition(type="NetworkReady", status=self.ready, reason="NoCNI", message="cni is missing"),
        ]
        told = {"config": json.dumps({"sandboxImage": self.sandbox_image})} if request.verbose else {}
        status = pb.RuntimeStatus(conditions=conditions)
        return pb.StatusResponse(status=status, info=told, features=self.features, runtime_handlers=self.handlers)

    async def UpdateRuntimeConfig(self, request: Any, context: Context) -> pb.UpdateRuntimeConfigResponse:
        await self._called("UpdateRuntimeConfig", request)
        return pb.UpdateRuntimeConfigResponse()

    async def RunPodSandbox(self, request: pb.RunPodSandboxRequest, context: Context) -> pb.RunPodSandboxResponse:
        ident = self._id("sandbox")
        self._log_paths[ident] = Path(request.config.log_directory)
        self.sandboxes[ident] = pb.PodSandboxStatus(
            id=ident,
            metadata=request.config.metadata,
            labels=request.config.labels,
            network=pb.PodSandboxNetworkStatus(ip=f"{self.network}.{self._made}"),
        )
        await self._called("RunPodSandbox", request)
        return pb.RunPodSandboxResponse(pod_sandbox_id=ident)

    async def StopPodSandbox(self, request: pb.StopPodSandboxRequest, context: Context) -> pb.StopPodSandboxResponse:
        await self._called("StopPodSandbox", request)
        return pb.StopPodSandboxResponse()

    async def RemovePodSandbox(self, request: Any, context: Context) -> pb.RemovePodSandboxResponse:
        await self._called("RemovePodSandbox", request)
        self.sandboxes.pop(request.pod_sandbox_id, None)
        return pb.RemovePodSandboxResponse()

    async def PodSandboxStatus(self, request: Any, context: Context) -> pb.PodSandboxStatusResponse:
        await self._called("PodSandboxStatus", request)
        if request.pod_sandbox_id not in self.sandboxes:
            raise RpcError(Code.NOT_FOUND, "no such sandbox")
        status = pb.PodSandboxStatus()
        status.CopyFrom(self.sandboxes[request.pod_sandbox_id])
        if self.wrong_ids:
            status.id = "another"
        return pb.PodSandboxStatusResponse(status=status)

    async def ListPodSandbox(self, request: Any, context: Context) -> pb.ListPodSandboxResponse:
        await self._called("ListPodSandbox", request)
        wanted = dict(request.filter.label_selector) if self.filters else {}
        items = [
            pb.PodSandbox(id=s.id, metadata=s.metadata, labels=s.labels, state=s.state)
            for s in self.sandboxes.values()
            if wanted.items() <= dict(s.labels).items()
        ]
        return pb.ListPodSandboxResponse(items=items)

    async def CreateContainer(self, request: Any, context: Context) -> pb.CreateContainerResponse:
        await self._called("CreateContainer", request)
        if request.pod_sandbox_id not in self.sandboxes:
            raise RpcError(Code.NOT_FOUND, "no such sandbox")
        image = request.config.image.image
        if image in self.leaving:
            self.leaving.remove(image)
            self.images.discard(image)
        if image not in self.images:
            raise RpcError(Code.NOT_FOUND, f"image {image}: not found")
        ident = self._id("container")
        status = pb.ContainerStatus(id=ident, metadata=request.config.metadata, state=_CREATED, user=self.user)
        status.image_ref = request.config.image.image
        self.containers[ident] = (request.pod_sandbox_id, status)
        self._log_paths[ident] = self._log_paths[request.pod_sandbox_id] / request.config.log_path
        return pb.CreateContainerResponse(container_id=ident)

    async def StartContainer(self, request: Any, context: Context) -> pb.StartContainerResponse:
        await self._called("StartContainer", request)
        self.containers[request.container_id][1].state = _RUNNING
        self._open_log(request.container_id)
        return pb.StartContainerResponse()

    async def StopContainer(self, request: Any, context: Context) -> pb.StopContainerResponse:
        await self._called("StopContainer", request)
        if request.container_id in self.containers:
            self.exit(request.container_id, 143)
        return pb.StopContainerResponse()

    async def RemoveContainer(self, request: Any, context: Context) -> pb.RemoveContainerResponse:
        await self._called("RemoveContainer", request)
        self.containers.pop(request.container_id, None)
        return pb.RemoveContainerResponse()

    async def ListContainers(self, request: Any, context: Context) -> pb.ListContainersResponse:
        await self._called("ListContainers", request)
        items = [
            pb.Container(id=s.id, state=s.state, metadata=s.metadata, pod_sandbox_id=sandbox, image_ref=s.image_ref)
            for sandbox, s in self.containers.values()
        ]
        return pb.ListContainersResponse(
            containers=[*items, *(pb.Container(id=f"x{n}", state=_RUNNING) for n in range(self.flood))]
        )

    async def ContainerStatus(self, request: Any, context: Context) -> pb.ContainerStatusResponse:
        await self._called("ContainerStatus", request)
        if request.container_id not in self.containers:
            raise RpcError(Code.NOT_FOUND, "no such container")
        status = pb.ContainerStatus()
        status.CopyFrom(self.containers[request.container_id][1])
        if self.wrong_ids:
            status.id, status.state = "another", _EXITED
        return pb.ContainerStatusResponse(status=status)

    async def ListContainerStats(self, request: Any, context: Context) -> pb.ListContainerStatsResponse:
        await self._called("ListContainerStats", request)
        stats = [
            pb.ContainerStats(
                attributes=pb.ContainerAttributes(id=ident),
                cpu=pb.CpuUsage(
                    usage_nano_cores=pb.UInt64Value(value=5), usage_core_nano_seconds=pb.UInt64Value(value=7)
                ),
                memory=pb.MemoryUsage(working_set_bytes=pb.UInt64Value(value=6)),
            )
            for ident in self.containers
        ]
        return pb.ListContainerStatsResponse(stats=stats)

    async def UpdateContainerResources(self, request: Any, context: Context) -> pb.UpdateContainerResourcesResponse:
        await self._called("UpdateContainerResources", request)
        return pb.UpdateContainerResourcesResponse()

    async def ReopenContainerLog(self, request: Any, context: Context) -> pb.ReopenContainerLogResponse:
        await self._called("ReopenContainerLog", request)
        self._open_log(request.container_id)
        return pb.ReopenContainerLogResponse()

    async def Exec(self, request: Any, context: Context) -> pb.ExecResponse:
        await self._called("Exec", request)
        return pb.ExecResponse(url="http://127.0.0.1:9/gone")

    async def ExecSync(self, request: Any, context: Context) -> pb.ExecSyncResponse:
        await self._called("ExecSync", request)
        return pb.ExecSyncResponse(stdout=b"out", stderr=b"err", exit_code=3)

    async def GetContainerEvents(self, request: Any, context: Context) -> AsyncIterator[pb.ContainerEventResponse]:
        await self._called("GetContainerEvents", request)
        if not self.has_events:
            raise RpcError(Code.UNIMPLEMENTED, "no events here")
        queue: asyncio.Queue[pb.ContainerEventResponse] = asyncio.Queue()
        self._watchers.append(queue)
        yield pb.ContainerEventResponse(container_id="nobody's")
        while True:
            yield await queue.get()

    async def ImageStatus(self, request: Any, context: Context) -> pb.ImageStatusResponse:
        await self._called("ImageStatus", request)
        name = request.image.image
        return pb.ImageStatusResponse(image=pb.Image(id=name) if name in self.images else None)

    async def PullImage(self, request: Any, context: Context) -> pb.PullImageResponse:
        await self._called("PullImage", request)
        self.images.add(request.image.image)
        return pb.PullImageResponse(image_ref=request.image.image)

    async def ListImages(self, request: Any, context: Context) -> pb.ListImagesResponse:
        await self._called("ListImages", request)
        return pb.ListImagesResponse(
            images=[
                pb.Image(id=name, repo_tags=[name], size=self.sizes.get(name, 100), pinned=name in self.pinned)
                for name in sorted(self.images)
            ]
        )

    async def ImageFsInfo(self, request: Any, context: Context) -> pb.ImageFsInfoResponse:
        await self._called("ImageFsInfo", request)
        place = pb.FilesystemUsage(fs_id=pb.FilesystemIdentifier(mountpoint=self.image_place))
        return pb.ImageFsInfoResponse(image_filesystems=[place])

    async def RemoveImage(self, request: Any, context: Context) -> pb.RemoveImageResponse:
        await self._called("RemoveImage", request)
        self.images.discard(request.image.image)
        return pb.RemoveImageResponse()
