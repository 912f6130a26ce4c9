"""The way of a message in memory: when it may leave, how long it is under way, and streams of them in order.

A `Link` policy decides. What it holds back is sent again later, as TCP does, and given up in the end.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import grpc
from google.protobuf.message import Message

from rayplane.control_plane.rpc.errors import RpcError

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


class Wire(Protocol):
    """The link between all hosts, and who sees what leaves."""

    link: Link
    tap: Tap | None


def departure(wire: Wire, source: str, target: str, data: bytes) -> float | None:
    """The delay of a message that is sent now; None when the link lets none pass."""
    delay = wire.link.delay(source, target)
    if delay is not None and wire.tap is not None:
        wire.tap(source, target, data)
    return delay


async def passage(wire: Wire, source: str, target: str, data: bytes) -> float:
    """The delay of a message that the link held back, once it passes. Raises UNAVAILABLE when it never does."""
    waited = 0.0
    while waited < GIVE_UP_S:
        await asyncio.sleep(RETRANSMIT_S)
        waited += RETRANSMIT_S
        delay = departure(wire, source, target, data)
        if delay is not None:
            return delay
    raise unavailable("the connection was lost: keep-alive timed out")


class Pipe:
    """One direction of a stream: ordered, bounded, delayed by the link, broken with either end. One sender."""

    def __init__(self, wire: Wire, source: str, target: str) -> None:
        self._wire = wire
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
        data = item if isinstance(item, bytes) else b""
        delay = departure(self._wire, self._source, self._target, data)
        if delay is None:
            try:
                delay = await passage(self._wire, self._source, self._target, data)
            except RpcError:
                self.break_off()
                raise
        loop = asyncio.get_running_loop()
        while len(self._flying) + len(self._arrived) >= STREAM_BUFFER_MESSAGES and not self._broken:
            self._sender = loop.create_future()
            await self._sender
        if self._broken:
            raise unavailable("the connection was lost")
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
                if deadline is None:
                    await self._wait()
                else:
                    # The limit holds while this waits, never while the reader works.
                    async with limit(deadline):
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
                raise unavailable("the connection was lost")
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


def limit(deadline: float | None) -> contextlib.AbstractAsyncContextManager[None]:
    """DEADLINE_EXCEEDED at this time of the loop; None is never."""
    return contextlib.nullcontext() if deadline is None else _limited(deadline)


def unavailable(message: str) -> RpcError:
    """The error of a connection that is lost."""
    return RpcError(grpc.StatusCode.UNAVAILABLE, message)
