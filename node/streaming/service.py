"""gRPC service `rayplane.v1.Node`: logs, exec, port-forward and stats of the pods of a host, and its nodes' pages."""

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from typing import Protocol, TypeVar

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.rpc import Context, RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.errors import ConnectFailed, Malformed, NotHere, NotRunning
from rayplane.node.lifecycle import PodMachine
from rayplane.node.runtime import ContainerRun, ExecSession, LogOptions
from rayplane.node.streaming.sessions import Sessions
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from rayplane.storage.env import Clock

M = TypeVar("M")

log = logging.getLogger(__name__)

CHUNK = 64 * 1024
_SINCE_MAX_S = 10 * 365 * 86_400
_PREFERRED = "kubectl.kubernetes.io/default-container"


Page = tuple[bytes, str, int]
"""What is on it, its type, and the status of the answer."""


class StreamedPod(Protocol):
    """A pod of this host: its object, its state, and the runs of its containers by name."""

    @property
    def pod(self) -> Object: ...

    @property
    def machine(self) -> PodMachine: ...

    @property
    def runs(self) -> Mapping[str, ContainerRun]: ...

    @property
    def previous(self) -> Mapping[str, ContainerRun]:
        """The runs before those."""


class PodLookup(Protocol):
    """An index of the pods of this host; NotHere for a node or a pod that is not here."""

    def worker(self, node: str, namespace: str, name: str) -> StreamedPod: ...

    def workers(self, node: str) -> Iterable[StreamedPod]: ...


class NodeService:
    """Handlers of `rayplane.v1.Node`. Failures are NodeErrors, whose `code` travels as the gRPC status."""

    def __init__(
        self,
        pods: PodLookup,
        sessions: Sessions,
        clock: Clock,
        page: Callable[[str, str, str, str], Awaitable[Page]],
        prepare: Callable[[], Awaitable[None]],
    ) -> None:
        """`page` gives what a node's kubelet has at a path with a query, in a format that the client takes; NotHere
        elsewhere.

        `prepare` is awaited before usage is looked at.
        """
        self._pods = pods
        self._sessions = sessions
        self._clock = clock
        self._page = page
        self._prepare = prepare

    # --- logs -------------------------------------------------------------------------------------

    async def Logs(self, request: pb.LogsRequest, context: Context) -> AsyncIterator[pb.LogChunk]:
        worker = self._worker(request.ref)
        name = _container_name(worker, request.ref.container)
        runs = worker.previous if request.previous else worker.runs
        run = runs.get(name)
        if run is None:
            pod = meta.name(worker.pod)
            if request.previous:
                raise NotHere(f'previous terminated container "{name}" in pod "{pod}" not found')
            waiting = f'container "{name}" in pod "{pod}" is waiting to start'
            fault = worker.machine.by_name[name].fault
            raise NotRunning(f"{waiting}: {fault[0] if fault else 'ContainerCreating'}")
        with self._sessions.one(meta.key(worker.pod)):
            async with contextlib.aclosing(run.logs(self._options(request))) as chunks:  # type: ignore[type-var]
                async for data in chunks:
                    yield pb.LogChunk(data=data)

    def _options(self, request: pb.LogsRequest) -> LogOptions:
        since = request.since_time
        if request.HasField("since_seconds"):
            moment = self._clock.now() - timedelta(seconds=min(max(request.since_seconds, 0), _SINCE_MAX_S))
            since = meta.format_micro_time(moment)
        elif since:
            try:
                meta.parse_time(since)
            except ValueError as e:
                raise Malformed(f"since_time: {e}") from e
        return LogOptions(
            follow=request.follow and not request.previous,
            timestamps=request.timestamps,
            tail_lines=request.tail_lines if request.HasField("tail_lines") else None,
            since=since,
            limit_bytes=max(0, request.limit_bytes) if request.HasField("limit_bytes") else None,
            previous=request.previous,
        )

    # --- exec -------------------------------------------------------------------------------------

    async def Exec(self, requests: AsyncIterator[pb.ExecRequest], context: Context) -> AsyncIterator[pb.ExecResponse]:
        first = await first_of(requests)
        with self._sessions.one(meta.key(self._worker(first.ref).pod)):
            async with contextlib.aclosing(run_command(self._running(first.ref), first, requests)) as responses:
                async for response in responses:
                    yield response

    # --- port-forward -----------------------------------------------------------------------------

    async def PortForward(
        self, requests: AsyncIterator[pb.PortForwardRequest], context: Context
    ) -> AsyncIterator[pb.PortForwardResponse]:
        first = await first_of(requests)
        if not 0 < first.port < 65536:
            raise Malformed(f"port {first.port} is not between 1 and 65535")
        worker = self._worker(first.ref)
        with self._sessions.one(meta.key(worker.pod)):
            pod = meta.key(worker.pod)
            run = port_run(pod, worker.runs)
            async with contextlib.aclosing(forward_port(run, pod, worker.machine.ip, first, requests)) as responses:
                async for response in responses:
                    yield response

    # --- stats ------------------------------------------------------------------------------------

    async def Stats(self, request: pb.StatsRequest, context: Context) -> pb.StatsResponse:
        await self._prepare()
        response = pb.StatsResponse()
        for worker in self._pods.workers(request.node):
            namespace, name = meta.namespace(worker.pod), meta.name(worker.pod)
            for container, run in worker.runs.items():
                if not worker.machine.by_name[container].started_stamp:
                    continue
                usage = run.usage(worker.pod)
                response.containers.add(
                    namespace=namespace,
                    pod=name,
                    container=container,
                    cpu_nanocores=usage.cpu_nanocores,
                    memory_bytes=usage.memory_bytes,
                )
                response.cpu_nanocores += usage.cpu_nanocores
                response.memory_bytes += usage.memory_bytes
        return response

    async def Page(self, request: pb.PageRequest, context: Context) -> pb.PageResponse:
        await self._prepare()
        page, content_type, status = await self._page(request.node, request.path, request.query, request.accept)
        return pb.PageResponse(page=page, content_type=content_type, status=status)

    # --- look-up ----------------------------------------------------------------------------------

    def _worker(self, ref: pb.ContainerRef) -> StreamedPod:
        return self._pods.worker(ref.node, ref.namespace, ref.pod)

    def _running(self, ref: pb.ContainerRef) -> ContainerRun:
        worker = self._worker(ref)
        name = _container_name(worker, ref.container)
        run = worker.runs.get(name)
        if run is None or not worker.machine.by_name[name].started_stamp:
            raise NotRunning(f'container "{name}" of pod {meta.key(worker.pod)} does not run')
        return run


def port_run(pod: str, runs: Mapping[str, ContainerRun]) -> ContainerRun:
    """A run of a pod through which its ports are reached, a real one where there is one. Raises NotRunning."""
    run = min(runs.values(), key=lambda one: not one.real, default=None)
    if run is None:
        raise _listens_nowhere(pod)
    return run


def _listens_nowhere(pod: str) -> NotRunning:
    return NotRunning(f"pod {pod} has no real process that could listen")


async def run_command(
    run: ContainerRun, first: pb.ExecRequest, requests: AsyncIterator[pb.ExecRequest]
) -> AsyncGenerator[pb.ExecResponse, None]:
    """The command that `first` names, or the container's own process where it names none. Raises NodeError."""
    if first.command:
        size = (first.width, first.height)
        session = await run.exec(list(first.command), tty=first.tty, stdin=first.stdin_open, size=size)
    else:
        session = await run.attach(stdin=first.stdin_open)
    feeder = asyncio.create_task(_feed(session, first, requests), name="exec input")
    try:
        async with contextlib.aclosing(session.output()) as chunks:  # type: ignore[type-var]
            async for out, err in chunks:
                yield pb.ExecResponse(stdout=out, stderr=err)
        yield pb.ExecResponse(exit_code=await session.wait())
    finally:
        session.kill()
        await cancel_and_wait(feeder)


async def forward_port(
    run: ContainerRun, pod: str, ip: str, first: pb.PortForwardRequest, requests: AsyncIterator[pb.PortForwardRequest]
) -> AsyncGenerator[pb.PortForwardResponse, None]:
    """A connection to the port that `first` names. Raises ConnectFailed, NotRunning."""
    try:
        reader, writer = await asyncio.open_connection(sock=await run.forward(ip, first.port))
    except OSError as e:
        if not run.real and e.errno == errno.ECONNREFUSED:
            raise _listens_nowhere(pod) from e
        why = e.strerror or str(e)
        raise ConnectFailed(f"cannot connect to {ip}:{first.port}: {why}") from e
    # An empty answer says that the connection stands.
    yield pb.PortForwardResponse()
    feeder = asyncio.create_task(_forward(writer, first, requests), name="port-forward input")
    try:
        while data := await reader.read(CHUNK):
            yield pb.PortForwardResponse(data=data)
        yield pb.PortForwardResponse(closed=True)
        await feeder
    except OSError as e:
        raise ConnectFailed(f"connection to {ip}:{first.port} broke: {e.strerror}") from e
    finally:
        await cancel_and_wait(feeder)
        writer.close()


async def first_of(requests: AsyncIterator[M]) -> M:
    async for request in requests:
        return request
    raise Malformed("the first message must name the container")


def _container_name(worker: StreamedPod, name: str) -> str:
    if not name:
        preferred = meta.annotations(worker.pod).get(_PREFERRED)
        first = worker.machine.spec["containers"][0]["name"]
        name = preferred if preferred in worker.machine.by_name else first
    if name not in worker.machine.by_name:
        raise NotHere(f"container {name} is not valid for pod {meta.name(worker.pod)}")
    return name


async def _feed(session: ExecSession, first: pb.ExecRequest, requests: AsyncIterator[pb.ExecRequest]) -> None:
    message: pb.ExecRequest | None = first
    try:
        while message is not None:
            if message.width and message.height:
                session.resize(message.width, message.height)
            if message.stdin:
                await session.write(message.stdin)
            if message.stdin_closed:
                session.close_input()
            message = await anext(requests, None)
    except (OSError, RpcError) as e:
        # Whoever typed went away: that ends every command that is left by closing a window.
        log.debug("no more input comes: %s", e)
    session.close_input()


async def _forward(
    writer: asyncio.StreamWriter,
    first: pb.PortForwardRequest,
    requests: AsyncIterator[pb.PortForwardRequest],
) -> None:
    message: pb.PortForwardRequest | None = first
    try:
        while message is not None:
            if message.data:
                writer.write(message.data)
                await writer.drain()
            if message.closed:
                break
            message = await anext(requests, None)
        writer.write_eof()
    except (OSError, RpcError) as e:
        # The pod has closed the connection, which its other direction tells, or whoever forwards went away.
        log.debug("no more input comes: %s", e)
