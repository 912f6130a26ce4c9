"""Calls without sockets: for the simulation, and for components that share a process.

A `Fabric` is the wire: it knows who listens where, and a `Link` policy says how long a message takes or whether
it cannot pass. `MemoryNetwork` is one host's end of it. Messages are serialised on the way, so that nothing mutable
is shared. A handler runs as a task in the context of the component that serves it, and dies with its server.
"""

import asyncio
import contextlib
import contextvars
import itertools
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message

from rayplane.control_plane.rpc.callers import Identity
from rayplane.control_plane.rpc.errors import RpcError, error_of
from rayplane.control_plane.rpc.network import Channel, Server, Traffic, WebHandler
from rayplane.control_plane.rpc.service import Context, Encoded, Method, Service
from rayplane.control_plane.rpc.tls import expiry
from rayplane.control_plane.tasks import cancel_and_wait

STREAM_BUFFER_MESSAGES = 64
# How often a sender looks whether a broken link has healed; TCP would retransmit.
RETRANSMIT_S = 0.2
# A host that cannot be reached for so long counts as gone: the real transport's keep-alive.
GIVE_UP_S = 6.0


class Link(Protocol):
    """The weather between two hosts."""

    def delay(self, source: str, target: str) -> float | None:
        """Seconds until a message sent now arrives; None while none can pass."""


class DirectLink:
    """No delay, no loss: two components of one process."""

    def delay(self, source: str, target: str) -> float | None:
        return 0.0


Tap = Callable[[str, str, bytes], None]


class Fabric:
    """Everything that listens, by address, and every call under way. `tap(source, target, data)` sees each message."""

    def __init__(self, link: Link | None = None, *, tap: Tap | None = None) -> None:
        self.link = link or DirectLink()
        self.tap = tap
        self.servers: dict[str, MemoryServer] = {}
        # Dicts are sets that keep their order: nothing here may depend on where objects lie in memory.
        self.calls: dict[_Call, None] = {}
        self._ports = itertools.count(20_000)

    def free_port(self) -> int:
        return next(self._ports)

    def sever(self, parted: Callable[[str, str], bool]) -> None:
        """Break every connection between hosts for which `parted(client, server)` holds."""
        for call in [c for c in self.calls if parted(c.client.host, c.server.host)]:
            call.break_off()


class _Call:
    """One call under way. The network breaks it when either end dies."""

    __slots__ = ("client", "lost", "server", "task")

    def __init__(self, client: "MemoryNetwork", server: "MemoryServer", lost: Callable[[], None]) -> None:
        self.client = client
        self.server = server
        self.lost = lost  # tells the caller
        self.task: asyncio.Task[Any] | None = None

    def break_off(self) -> None:
        self.lost()
        if self.task is not None:
            self.task.cancel()


class MemoryServer:
    """A listening endpoint in a fabric."""

    def __init__(self, network: "MemoryNetwork", address: str, services: Sequence[Service]) -> None:
        self.address = address
        self.network, self.host = network, network.host
        self.traffic = Traffic()
        self.handlers = {p: h for s in services for p, h in s.handlers.items()}
        self.callers = {p: c for s in services for p, c in s.callers.items()}
        self._fabric = network.fabric
        self._context = contextvars.copy_context()
        self.tasks: dict[asyncio.Task[Any], None] = {}

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        """Run a handler in the serving component's context, to be cancelled with this server."""
        task = asyncio.get_running_loop().create_task(coroutine, context=self._context.copy())
        self.tasks[task] = None
        task.add_done_callback(self._done, context=self._context)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)

    async def stop(self, grace_s: float = 0.0) -> None:
        if self._fabric.servers.get(self.address) is self:
            del self._fabric.servers[self.address]
        if self.tasks and grace_s > 0:
            await asyncio.wait(self.tasks, timeout=grace_s)
        tasks = list(self.tasks)
        await cancel_and_wait(*tasks)


class MemoryNetwork:
    """One component's end of a fabric. `host` names where it runs, for the link policy."""

    def __init__(self, fabric: Fabric, host: str, identity: Identity | None = None) -> None:
        self.fabric = fabric
        self.host = host
        self.identity = identity
        self.is_expired = False
        """Whether nobody accepts its certificate any more."""
        self._servers: list[MemoryServer] = []

    async def serve(
        self, address: str, services: Sequence[Service], *, web: WebHandler | None = None, strangers: bool = False
    ) -> Server:
        name, _, port = address.rpartition(":")
        if port == "0":
            address = f"{name}:{self.fabric.free_port()}"
        return self.register(address, services)

    def register(self, address: str, services: Sequence[Service]) -> MemoryServer:
        """Listen on exactly this address."""
        if address in self.fabric.servers:
            raise OSError(f"cannot listen on {address}: is the port in use?")
        server = MemoryServer(self, address, services)
        self.fabric.servers[address] = server
        self._servers = [s for s in self._servers if self.fabric.servers.get(s.address) is s] + [server]
        return server

    def reaches(self, address: str) -> bool:
        """Whether something of this fabric listens there now."""
        return address in self.fabric.servers

    def channel(self, address: str) -> Channel:
        return MemoryChannel(self, address)

    def detach(self) -> None:
        """What a killed process does: its ports and connections close at once, nothing is waited for."""
        for server in self._servers:
            if self.fabric.servers.get(server.address) is server:
                del self.fabric.servers[server.address]
        for call in [c for c in self.fabric.calls if c.client is self or c.server in self._servers]:
            call.break_off()
        for server in self._servers:
            for task in list(server.tasks):
                task.cancel()
        self._servers.clear()

    async def close(self) -> None:
        for server in self._servers:
            await server.stop()
        self._servers.clear()


class MemoryChannel:
    """A connection of one host to an address of the fabric."""

    def __init__(self, network: MemoryNetwork, address: str) -> None:
        self._network = network
        self._fabric = network.fabric
        self._host = network.host
        self._address = address

    async def unary(
        self, method: Method, request: Message, timeout: float, metadata: Mapping[str, str] | None
    ) -> Message:
        data = request.SerializeToString(deterministic=True)
        try:
            async with asyncio.timeout(timeout):
                return await self._unary(method, data, metadata)
        except TimeoutError:
            raise RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None

    async def _unary(self, method: Method, data: bytes, metadata: Mapping[str, str] | None) -> Message:
        server = await self._reach(data)
        function = self._function(server, method)
        request = method.request_type.FromString(data)
        reply: asyncio.Future[bytes | RpcError] = asyncio.get_running_loop().create_future()
        call = _Call(self._network, server, lambda: _resolve(reply, _unavailable("the connection was lost")))
        task = call.task = server.spawn(_run(function, request, self._call_context(method, metadata)))
        task.add_done_callback(lambda t: _resolve(reply, _outcome(t)))
        self._fabric.calls[call] = None
        try:
            result = await reply
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            del self._fabric.calls[call]
        if isinstance(result, RpcError):
            # Made anew: the handler's own would drag its traceback along.
            raise RpcError(result.code, result.message, result.details, google_status=result.google_status)
        await self._travel(server.host, self._host, result)
        return method.response_type.FromString(result)

    async def stream(
        self,
        method: Method,
        request: Message | AsyncIterable[Message],
        timeout: float | None,
        metadata: Mapping[str, str] | None,
    ) -> AsyncIterator[Message]:
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        first = request.SerializeToString(deterministic=True) if isinstance(request, Message) else b""
        async with _limit(deadline):
            server = await self._reach(first)
        function = self._function(server, method)
        there = _Pipe(self._fabric, self._host, server.host)
        back = _Pipe(self._fabric, server.host, self._host)
        pump: asyncio.Task[Any] | None = None
        if isinstance(request, Message):
            argument: Any = method.request_type.FromString(first)
        else:
            argument = there.receive(method.request_type)
            pump = loop.create_task(_pump(request, there))

        def lost() -> None:
            there.break_off()
            back.break_off()

        call = _Call(self._network, server, lost)
        context = self._call_context(method, metadata)
        task = call.task = server.spawn(_serve_stream(function, argument, context, back, method.server_streaming))
        task.add_done_callback(lambda t: back.break_off() if t.cancelled() else None)
        self._fabric.calls[call] = None
        try:
            async for response in back.receive(method.response_type, deadline):
                yield response
        finally:
            del self._fabric.calls[call]
            if pump is not None:
                pump.cancel()
            there.break_off()
            task.cancel()

    async def _reach(self, data: bytes) -> MemoryServer:
        """The server, once `data` has travelled to it."""
        server = self._fabric.servers.get(self._address)
        host = server.host if server else self._address.rpartition(":")[0]
        try:
            await self._travel(self._host, host, data)
        except RpcError:
            text = f"failed to connect to {self._address}: connection timed out"
            raise RpcError(grpc.StatusCode.UNAVAILABLE, text, unsent=True) from None
        server = self._fabric.servers.get(self._address)
        if server is None:
            text = f"failed to connect to {self._address}: connection refused"
            raise RpcError(grpc.StatusCode.UNAVAILABLE, text, refused=True)
        if any(one.is_expired or expiry(one.identity) for one in (self._network, server.network)):
            # Both ends show theirs before anything else is said.
            text = f"failed to connect to {self._address}: certificate has expired"
            raise RpcError(grpc.StatusCode.UNAVAILABLE, text, unsent=True)
        return server

    async def _travel(self, source: str, target: str, data: bytes) -> None:
        delay = await _passage(self._fabric, source, target, data)
        if delay > 0:
            await asyncio.sleep(delay)

    def _function(self, server: MemoryServer, method: Method) -> Any:
        handler = server.handlers.get(method.path)
        if handler is None:
            raise RpcError(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {method.path}")
        refusal = server.callers[method.path].refusal(self._network.identity, method.path)
        if refusal is not None:
            raise refusal
        return handler[1]

    def _call_context(self, method: Method, metadata: Mapping[str, str] | None) -> Context:
        return Context(dict(metadata or {}), self._network.identity, self._host, method.path)


async def _passage(fabric: Fabric, source: str, target: str, data: bytes) -> float:
    """The delay of a message that is sent as soon as the link lets it pass. Raises UNAVAILABLE when it never does."""
    waited = 0.0
    while (delay := fabric.link.delay(source, target)) is None:
        if waited >= GIVE_UP_S:
            raise _unavailable("the connection was lost: keep-alive timed out")
        await asyncio.sleep(RETRANSMIT_S)
        waited += RETRANSMIT_S
    if fabric.tap is not None:
        fabric.tap(source, target, data)
    return delay


def _resolve(reply: "asyncio.Future[bytes | RpcError]", result: bytes | RpcError) -> None:
    if not reply.done():
        reply.set_result(result)


def _outcome(task: "asyncio.Task[bytes | RpcError]") -> bytes | RpcError:
    if task.cancelled():
        return _unavailable("the server went away")
    error = task.exception()
    return error_of(error) if isinstance(error, Exception) else task.result()


async def _run(function: Any, request: Message, context: Context) -> bytes | RpcError:
    try:
        return _encoded(await function(request, context))
    except Exception as e:
        return error_of(e)


def _encoded(response: Message | Encoded) -> bytes:
    # Maps in the same order every time: the simulation repeats bytes too.
    return response.data if isinstance(response, Encoded) else response.SerializeToString(deterministic=True)


class _Pipe:
    """One direction of a stream: ordered, bounded, delayed by the link, broken with either end. One sender."""

    def __init__(self, fabric: Fabric, source: str, target: str) -> None:
        self._fabric = fabric
        self._source = source
        self._target = target
        self._flying: deque[bytes | RpcError | None] = deque()
        self._arrived: deque[bytes | RpcError | None] = deque()
        self._last_arrival = 0.0
        self._broken = False
        self._reader: asyncio.Future[None] | None = None
        self._sender: asyncio.Future[None] | None = None

    async def send(self, item: bytes | RpcError | None) -> None:
        """None ends the stream well, an RpcError ends it badly. Raises UNAVAILABLE when the connection is lost."""
        try:
            delay = await _passage(self._fabric, self._source, self._target, item if isinstance(item, bytes) else b"")
        except RpcError:
            self.break_off()
            raise
        loop = asyncio.get_running_loop()
        while len(self._flying) + len(self._arrived) >= STREAM_BUFFER_MESSAGES and not self._broken:
            self._sender = loop.create_future()
            await self._sender
        if self._broken:
            raise _unavailable("the connection was lost")
        if delay <= 0 and not self._flying:
            self._arrived.append(item)
            _wake(self._reader)
            return
        # What was sent later may not arrive earlier.
        self._last_arrival = max(self._last_arrival, loop.time() + delay)
        self._flying.append(item)
        loop.call_at(self._last_arrival, self._land)

    def _land(self) -> None:
        self._arrived.append(self._flying.popleft())
        _wake(self._reader)

    def break_off(self) -> None:
        """The connection is lost: the reader gets what has arrived, then UNAVAILABLE."""
        self._broken = True
        _wake(self._reader)
        _wake(self._sender)

    async def receive(self, kind: type[Message], deadline: float | None = None) -> AsyncIterator[Message]:
        while True:
            if not self._arrived:
                # The limit holds while this waits, never while the reader works.
                async with _limit(deadline):
                    await self._wait()
            item = self._arrived.popleft()
            _wake(self._sender)
            if item is None:
                return
            if isinstance(item, RpcError):
                raise RpcError(item.code, item.message, item.details, google_status=item.google_status)
            yield kind.FromString(item)

    async def _wait(self) -> None:
        while not self._arrived:
            if self._broken:
                raise _unavailable("the connection was lost")
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader


def _wake(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


@contextlib.asynccontextmanager
async def _limited(deadline: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(deadline) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None


def _limit(deadline: float | None) -> contextlib.AbstractAsyncContextManager[None]:
    """DEADLINE_EXCEEDED at this time of the loop; None is never."""
    return contextlib.nullcontext() if deadline is None else _limited(deadline)


async def _pump(requests: AsyncIterable[Message], pipe: _Pipe) -> None:
    end: RpcError | None = None
    try:
        async for request in requests:
            await pipe.send(request.SerializeToString(deterministic=True))
    except Exception as e:
        end = RpcError(grpc.StatusCode.CANCELLED, f"the caller's requests failed: {error_of(e)}")
    await _end(pipe, end)


async def _serve_stream(function: Any, argument: Any, context: Context, pipe: _Pipe, server_streaming: bool) -> None:
    end: RpcError | None = None
    try:
        answer = function(argument, context)
        if server_streaming:
            async with contextlib.aclosing(answer) as responses:
                async for response in responses:
                    await pipe.send(_encoded(response))
        else:
            await pipe.send(_encoded(await answer))
    except Exception as e:
        end = error_of(e)
    await _end(pipe, end)


async def _end(pipe: _Pipe, how: RpcError | None) -> None:
    # On a lost connection the other side knows already.
    with contextlib.suppress(RpcError):
        await pipe.send(how)


def _unavailable(message: str) -> RpcError:
    return RpcError(grpc.StatusCode.UNAVAILABLE, message)
