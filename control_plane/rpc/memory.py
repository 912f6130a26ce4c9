"""Calls without sockets: for the simulation, and for components that share a process.

A `Fabric` is the wire: it knows who listens where, and a `Link` policy says how long a message takes or whether
it cannot pass. `MemoryNetwork` is one host's end of it. Messages are serialised on the way, so that nothing mutable
is shared. A handler runs as a task in the context of the component that serves it, and dies with its server.
"""

import asyncio
import contextlib
import contextvars
import errno
import itertools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

from rayplane.control_plane.rpc.callers import Identity
from rayplane.control_plane.rpc.errors import RpcError, error_of
from rayplane.control_plane.rpc.network import Channel, Server, Traffic, WebHandler
from rayplane.control_plane.rpc.passages import DirectLink, Link, Pipe, Tap, departure, limit, passage, unavailable
from rayplane.control_plane.rpc.service import Context, Encoded, Method, Service
from rayplane.control_plane.rpc.tls import expiry
from rayplane.control_plane.tasks import cancel_and_wait


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
        self.is_closed = False
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
            raise OSError(errno.EADDRINUSE, f"cannot listen on {address}: is the port in use?")
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
        """Whoever goes on all the same neither hears nor says anything from now on."""
        self.is_closed = True
        for call in [c for c in self.fabric.calls if c.client is self]:
            call.break_off()
        for server in self._servers:
            await server.stop()
        self._servers.clear()


class MemoryChannel:
    """A connection of one host to an address of the fabric."""

    def __init__(self, network: MemoryNetwork, address: str) -> None:
        self.network = network
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
        question = _Question(self, method, data, self._call_context(method, metadata))
        timer: asyncio.TimerHandle | None = None
        delay = await self._depart(data)
        if delay > 0:
            timer = asyncio.get_running_loop().call_later(delay, question.arrive)
        else:
            question.arrive()
        try:
            result = await question.reply
        finally:
            if timer is not None:
                timer.cancel()
            question.end()
        if isinstance(result, RpcError):
            # Made anew: the handler's own would drag its traceback along, and what its calls found does not travel.
            error = RpcError(result.code, result.message, result.details, google_status=result.google_status)
            if not question.is_served:
                error.refused, error.unsent = result.refused, result.unsent
            raise error
        if question.held_by:
            await asyncio.sleep(await passage(self._fabric, question.held_by, self._host, result))
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
        async with limit(deadline):
            server = await self._reach(first)
        function = self.function(server, method)
        there = Pipe(self._fabric, self._host, server.host)
        back = Pipe(self._fabric, server.host, self._host)
        pump: asyncio.Task[Any] | None = None
        if isinstance(request, Message):
            argument: Any = method.request_type.FromString(first)
        else:
            argument = there.receive(method.request_type)
            pump = loop.create_task(_pump(request, there))

        def lost() -> None:
            there.break_off()
            back.break_off()

        call = _Call(self.network, server, lost)
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
        delay = await self._depart(data)
        if delay > 0:
            await asyncio.sleep(delay)
        return self.server()

    async def _depart(self, data: bytes) -> float:
        """The delay of a message to the server, once the link lets it pass."""
        if self.network.is_closed:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, f"the network of {self._host} is closed", unsent=True)
        server = self._fabric.servers.get(self._address)
        host = server.host if server else self._address.rpartition(":")[0]
        delay = departure(self._fabric, self._host, host, data)
        if delay is not None:
            return delay
        try:
            return await passage(self._fabric, self._host, host, data)
        except RpcError:
            text = f"failed to connect to {self._address}: connection timed out"
            raise RpcError(grpc.StatusCode.UNAVAILABLE, text, unsent=True) from None

    def server(self) -> MemoryServer:
        """Who listens there now. RpcError."""
        server = self._fabric.servers.get(self._address)
        if server is None:
            text = f"failed to connect to {self._address}: connection refused"
            raise RpcError(grpc.StatusCode.UNAVAILABLE, text, refused=True)
        if any(one.is_expired or expiry(one.identity) for one in (self.network, server.network)):
            # Both ends show theirs before anything else is said.
            text = f"failed to connect to {self._address}: certificate has expired"
            raise RpcError(grpc.StatusCode.UNAVAILABLE, text, unsent=True)
        return server

    def function(self, server: MemoryServer, method: Method) -> Any:
        """What serves the method there. RpcError."""
        handler = server.handlers.get(method.path)
        if handler is None:
            raise RpcError(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {method.path}")
        refusal = server.callers[method.path].refusal(self.network.identity, method.path)
        if refusal is not None:
            raise refusal
        return handler[1]

    def _call_context(self, method: Method, metadata: Mapping[str, str] | None) -> Context:
        return Context(dict(metadata or {}), self.network.identity, self._host, method.path)


class _Question:
    """One unary call. It arrives, is answered and the answer arrives without its caller, which waits for `reply` only:
    most of what a cluster does is such calls."""

    __slots__ = ("_call", "_channel", "_context", "_data", "_fabric", "_method", "held_by", "reply")

    def __init__(self, channel: MemoryChannel, method: Method, data: bytes, context: Context) -> None:
        self.reply: asyncio.Future[bytes | RpcError] = asyncio.get_running_loop().create_future()
        self.held_by = ""
        """The host that could not send its answer at once: it is still there."""
        self._channel = channel
        self._fabric = channel.network.fabric
        self._method = method
        self._data = data
        self._context = context
        self._call: _Call | None = None

    @property
    def is_served(self) -> bool:
        """Whether a handler has seen it."""
        return self._call is not None

    def arrive(self) -> None:
        """Begin to serve it."""
        try:
            server = self._channel.server()
            function = self._channel.function(server, self._method)
        except RpcError as e:
            _resolve(self.reply, e)
            return
        request = self._method.request_type.FromString(self._data)
        call = self._call = _Call(self._channel.network, server, self._lost)
        call.task = server.spawn(_run(function, request, self._context))
        call.task.add_done_callback(self._answered)
        self._fabric.calls[call] = None

    def _lost(self) -> None:
        _resolve(self.reply, unavailable("the connection was lost"))

    def _answered(self, task: "asyncio.Task[bytes | RpcError]") -> None:
        call, result = self._call, _outcome(task)
        if call is None or self.reply.done():
            return  # nobody waits any more
        self._forget()
        if isinstance(result, RpcError):
            self.reply.set_result(result)
            return
        source, target = call.server.host, call.client.host
        delay = departure(self._fabric, source, target, result)
        if delay is None:
            self.held_by = source
        if not delay:
            self.reply.set_result(result)
            return
        asyncio.get_running_loop().call_later(delay, _resolve, self.reply, result)

    def _forget(self) -> None:
        if self._call is not None:
            self._fabric.calls.pop(self._call, None)

    def end(self) -> None:
        """Nobody waits for an answer any more."""
        self._forget()
        if self._call is not None and self._call.task is not None:
            self._call.task.cancel()


def _resolve(reply: "asyncio.Future[bytes | RpcError]", result: bytes | RpcError) -> None:
    if not reply.done():
        reply.set_result(result)


def _outcome(task: "asyncio.Task[bytes | RpcError]") -> bytes | RpcError:
    if task.cancelled():
        return unavailable("the server went away")
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


async def _pump(requests: AsyncIterable[Message], pipe: Pipe) -> None:
    end: RpcError | None = None
    try:
        async for request in requests:
            await pipe.send(request.SerializeToString(deterministic=True))
    except Exception as e:
        end = RpcError(grpc.StatusCode.CANCELLED, f"the caller's requests failed: {error_of(e)}")
    await _end(pipe, end)


async def _serve_stream(function: Any, argument: Any, context: Context, pipe: Pipe, server_streaming: bool) -> None:
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


async def _end(pipe: Pipe, how: RpcError | None) -> None:
    # On a lost connection the other side knows already.
    with contextlib.suppress(RpcError):
        await pipe.send(how)
