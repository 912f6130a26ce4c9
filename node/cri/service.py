"""RuntimeService: sandboxes, containers and streams of this host, as CRI asks for them.

What is not there ends with NOT_FOUND, except where CRI wants a call to be repeatable: to stop or remove what has gone
is no error. The kubelets' containers may be stopped, and their kubelets see to what follows; they are not removed here.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from rayplane.control_plane.rpc import Context
from rayplane.node.cri.events import EventFeed
from rayplane.node.cri.images import ImageStore
from rayplane.node.cri.inventory import ContainerEntry, Inventory, SandboxEntry
from rayplane.node.cri.log_copies import LogCopies
from rayplane.node.cri.own_pods import Ground, OwnPods
from rayplane.node.cri.selection import container_item, sandbox_item, wants_container, wants_sandbox
from rayplane.node.cri.streams import Opening, StreamServer, shown_streams
from rayplane.node.errors import Malformed, NotHere, NotRunning, RuntimeFailed, TimedOut
from rayplane.node.runtime import ContainerRun, ExecSession
from rayplane.node.streaming.service import port_run
from rayplane.proto.cri import cri_pb2 as pb
from rayplane.proto.rayplane.v1 import node_pb2

API_VERSION = "v1"
RUNTIME_NAME = "rayplane"
RUNTIME_VERSION = "1.0.0"
#: Of each of its streams; what a command writes beyond that is dropped.
OUTPUT_MAX = 16 * 1024 * 1024
#: No container is waited for longer, whatever grace is asked for.
GRACE_MAX_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that the service is made of. `now`: nanoseconds since 1970."""

    inventory: Inventory
    own: OwnPods
    ground: Ground
    images: ImageStore
    streams: StreamServer
    events: EventFeed
    logs: LogCopies
    now: Callable[[], int]


class RuntimeCalls:
    """Handlers of `runtime.v1.RuntimeService` but statistics; failures are NodeErrors, whose `code` travels."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # --- the runtime ------------------------------------------------------------------------------

    async def Version(self, request: pb.VersionRequest, context: Context) -> pb.VersionResponse:
        return pb.VersionResponse(
            version="0.1.0",
            runtime_name=RUNTIME_NAME,
            runtime_version=RUNTIME_VERSION,
            runtime_api_version=API_VERSION,
        )

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        ground = self._parts.ground
        trouble = next(iter(ground.runtimes.values())).trouble
        known = ground.addresses.known
        conditions = [
            pb.RuntimeCondition(
                type="RuntimeReady", status=not trouble, reason="RuntimeFailed" if trouble else "", message=trouble
            ),
            pb.RuntimeCondition(
                type="NetworkReady",
                status=known,
                reason="" if known else "NetworkNotReady",
                message="" if known else "the node has no addresses for pods yet",
            ),
        ]
        handlers = [pb.RuntimeHandler(name=name, features={}) for name in ("", *ground.runtimes)]
        info = {"config": json.dumps({"handlers": [*ground.runtimes]})} if request.verbose else {}
        return pb.StatusResponse(
            status=pb.RuntimeStatus(conditions=conditions),
            runtime_handlers=handlers,
            features=pb.RuntimeFeatures(supplemental_groups_policy=False),
            info=info,
        )

    async def RuntimeConfig(self, request: pb.RuntimeConfigRequest, context: Context) -> pb.RuntimeConfigResponse:
        return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=pb.CgroupDriver.CGROUPFS))

    async def UpdateRuntimeConfig(
        self, request: pb.UpdateRuntimeConfigRequest, context: Context
    ) -> pb.UpdateRuntimeConfigResponse:
        """Take note of nothing: the addresses of pods are the cluster's to give."""
        return pb.UpdateRuntimeConfigResponse()

    # --- sandboxes --------------------------------------------------------------------------------

    async def RunPodSandbox(self, request: pb.RunPodSandboxRequest, context: Context) -> pb.RunPodSandboxResponse:
        ident = await self._parts.own.run_sandbox(request.config, request.runtime_handler)
        return pb.RunPodSandboxResponse(pod_sandbox_id=ident)

    async def StopPodSandbox(self, request: pb.StopPodSandboxRequest, context: Context) -> pb.StopPodSandboxResponse:
        with contextlib.suppress(NotHere):
            entry = self._parts.inventory.sandbox(request.pod_sandbox_id)
            if entry.own is not None:
                await self._parts.own.stop_sandbox(entry.own)
            else:
                for run in entry.runs.values():
                    run.stop(0.0)
        return pb.StopPodSandboxResponse()

    async def RemovePodSandbox(
        self, request: pb.RemovePodSandboxRequest, context: Context
    ) -> pb.RemovePodSandboxResponse:
        with contextlib.suppress(NotHere):
            entry = self._parts.inventory.sandbox(request.pod_sandbox_id)
            await self._parts.own.remove_sandbox(entry.mine())
        return pb.RemovePodSandboxResponse()

    async def PodSandboxStatus(
        self, request: pb.PodSandboxStatusRequest, context: Context
    ) -> pb.PodSandboxStatusResponse:
        entry = self._parts.inventory.sandbox(request.pod_sandbox_id)
        found = [c.status for c in self._parts.inventory.containers() if c.sandbox_id == entry.status.id]
        info = {"info": json.dumps({"owner": "client" if entry.own is not None else "kubelet", "ip": entry.ip})}
        return pb.PodSandboxStatusResponse(
            status=entry.status,
            info=info if request.verbose else {},
            containers_statuses=found,
            timestamp=self._parts.now(),
        )

    def _sandboxes(self, asked: pb.PodSandboxFilter) -> Iterator[pb.PodSandbox]:
        for entry in self._parts.inventory.sandboxes():
            if wants_sandbox(asked, entry.status):
                yield sandbox_item(entry.status)

    async def ListPodSandbox(self, request: pb.ListPodSandboxRequest, context: Context) -> pb.ListPodSandboxResponse:
        return pb.ListPodSandboxResponse(items=self._sandboxes(request.filter))

    async def StreamPodSandboxes(
        self, request: pb.StreamPodSandboxesRequest, context: Context
    ) -> AsyncIterator[pb.StreamPodSandboxesResponse]:
        for item in [*self._sandboxes(request.filter)]:
            yield pb.StreamPodSandboxesResponse(pod_sandboxes=[item])

    async def UpdatePodSandboxResources(
        self, request: pb.UpdatePodSandboxResourcesRequest, context: Context
    ) -> pb.UpdatePodSandboxResourcesResponse:
        sandbox = self._parts.inventory.sandbox(request.pod_sandbox_id).mine()
        self._parts.own.resize_sandbox(sandbox, request.resources)
        sandbox.config.linux.overhead.CopyFrom(request.overhead)
        return pb.UpdatePodSandboxResourcesResponse()

    # --- containers -------------------------------------------------------------------------------

    async def CreateContainer(self, request: pb.CreateContainerRequest, context: Context) -> pb.CreateContainerResponse:
        parts, config = self._parts, request.config
        sandbox = parts.inventory.sandbox(request.pod_sandbox_id).mine()
        if not config.image.image:
            raise Malformed("config.image: name an image")
        image = await parts.images.image(config.image.image)
        if image is None:
            raise NotHere(f'image "{config.image.image}": not found: pull it first')
        return pb.CreateContainerResponse(container_id=parts.own.create(sandbox, config, image.id))

    async def StartContainer(self, request: pb.StartContainerRequest, context: Context) -> pb.StartContainerResponse:
        container = self._parts.inventory.container(request.container_id).mine()
        await self._parts.own.start(container)
        return pb.StartContainerResponse()

    async def StopContainer(self, request: pb.StopContainerRequest, context: Context) -> pb.StopContainerResponse:
        grace_s = min(max(float(request.timeout), 0.0), GRACE_MAX_S)
        with contextlib.suppress(NotHere):
            entry = self._parts.inventory.container(request.container_id)
            if entry.own is not None:
                await self._parts.own.stop(entry.own, grace_s)
            elif entry.run is not None and entry.status.state == pb.ContainerState.CONTAINER_RUNNING:
                entry.run.stop(grace_s)
        return pb.StopContainerResponse()

    async def RemoveContainer(self, request: pb.RemoveContainerRequest, context: Context) -> pb.RemoveContainerResponse:
        with contextlib.suppress(NotHere):
            await self._parts.own.remove(self._parts.inventory.container(request.container_id).mine())
        return pb.RemoveContainerResponse()

    def _containers(self, asked: pb.ContainerFilter) -> Iterator[pb.Container]:
        for entry in self._parts.inventory.containers():
            if wants_container(asked, entry.status, entry.sandbox_id):
                yield container_item(entry.status, entry.sandbox_id)

    async def ListContainers(self, request: pb.ListContainersRequest, context: Context) -> pb.ListContainersResponse:
        return pb.ListContainersResponse(containers=self._containers(request.filter))

    async def StreamContainers(
        self, request: pb.StreamContainersRequest, context: Context
    ) -> AsyncIterator[pb.StreamContainersResponse]:
        for item in [*self._containers(request.filter)]:
            yield pb.StreamContainersResponse(containers=[item])

    async def ContainerStatus(self, request: pb.ContainerStatusRequest, context: Context) -> pb.ContainerStatusResponse:
        entry = self._parts.inventory.container(request.container_id)
        status = entry.status
        if not status.log_path and entry.run is not None:
            status.log_path = await self._parts.logs.path_of(status.id, entry.run)
        info = {"info": json.dumps({"sandboxID": entry.sandbox_id, "runtimeType": RUNTIME_NAME})}
        return pb.ContainerStatusResponse(status=status, info=info if request.verbose else {})

    async def UpdateContainerResources(
        self, request: pb.UpdateContainerResourcesRequest, context: Context
    ) -> pb.UpdateContainerResourcesResponse:
        container = self._parts.inventory.container(request.container_id).mine()
        await self._parts.own.resize(container, request.linux)
        return pb.UpdateContainerResourcesResponse()

    async def ReopenContainerLog(
        self, request: pb.ReopenContainerLogRequest, context: Context
    ) -> pb.ReopenContainerLogResponse:
        container = self._parts.inventory.container(request.container_id).mine()
        if container.log is None or not container.running:
            raise NotRunning(f"container {container.status.id} does not run: its log is whole")
        try:
            container.log.reopen()
        except OSError as e:
            raise RuntimeFailed(f"the log of {container.status.id} cannot be opened: {e}") from e
        return pb.ReopenContainerLogResponse()

    # --- commands and streams ---------------------------------------------------------------------

    async def ExecSync(self, request: pb.ExecSyncRequest, context: Context) -> pb.ExecSyncResponse:
        if not request.cmd:
            raise Malformed("cmd: give a command")
        run = self._parts.inventory.container(request.container_id).running()
        session = await run.exec([*request.cmd], tty=False, stdin=False)
        try:
            async with asyncio.timeout(request.timeout if request.timeout > 0 else None):
                return await _outcome(session)
        except TimeoutError:
            raise TimedOut(f"command {request.cmd[:1]} did not end within {request.timeout} s") from None
        finally:
            session.kill()

    async def Exec(self, request: pb.ExecRequest, context: Context) -> pb.ExecResponse:
        if not request.cmd:
            raise Malformed("cmd: give a command")
        entry = self._parts.inventory.container(request.container_id)
        return pb.ExecResponse(url=await self._command("exec", entry, request, [*request.cmd]))

    async def Attach(self, request: pb.AttachRequest, context: Context) -> pb.AttachResponse:
        entry = self._parts.inventory.container(request.container_id)
        return pb.AttachResponse(url=await self._command("attach", entry, request, []))

    async def _command(
        self, kind: str, entry: ContainerEntry, asked: pb.ExecRequest | pb.AttachRequest, command: list[str]
    ) -> str:
        shown = shown_streams(stdin=asked.stdin, stdout=asked.stdout, stderr=asked.stderr, tty=asked.tty)
        entry.running()
        first = node_pb2.ExecRequest(command=command, tty=asked.tty, stdin_open=asked.stdin)
        ident, pod = entry.status.id, f"{entry.sandbox_id}"
        opening = Opening(kind, pod, lambda: self._parts.inventory.container(ident).running(), first=first, shown=shown)
        return await self._parts.streams.url(opening)

    async def PortForward(self, request: pb.PortForwardRequest, context: Context) -> pb.PortForwardResponse:
        entry = self._parts.inventory.sandbox(request.pod_sandbox_id)
        if entry.status.state != pb.PodSandboxState.SANDBOX_READY:
            raise NotRunning(f"sandbox {entry.status.id} is not ready")
        if not all(0 < port < 65536 for port in request.port):
            raise Malformed("port: give numbers between 1 and 65535")
        opening = Opening("portforward", entry.status.id, lambda: _real(entry), entry.ip, ports=(*request.port,))
        return pb.PortForwardResponse(url=await self._parts.streams.url(opening))

    async def GetContainerEvents(
        self, request: pb.GetEventsRequest, context: Context
    ) -> AsyncIterator[pb.ContainerEventResponse]:
        async with contextlib.aclosing(self._parts.events.watch()) as events:  # type: ignore[type-var]
            async for event in events:
                yield event


def _real(entry: SandboxEntry) -> ContainerRun:
    return port_run(entry.status.metadata.name, entry.runs)


async def _outcome(session: ExecSession) -> pb.ExecSyncResponse:
    out, err = bytearray(), bytearray()
    async with contextlib.aclosing(session.output()) as chunks:  # type: ignore[type-var]
        async for stdout, stderr in chunks:
            out += stdout[: OUTPUT_MAX - len(out)]
            err += stderr[: OUTPUT_MAX - len(err)]
    return pb.ExecSyncResponse(stdout=bytes(out), stderr=bytes(err), exit_code=await session.wait())
