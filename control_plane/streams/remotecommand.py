"""exec and attach as clients speak them: channels of a WebSocket, or streams of a SPDY connection.

The channels are 0 stdin, 1 stdout, 2 stderr, 3 the outcome, 4 the terminal's size; version 5 adds 255, which closes a
channel. In SPDY each of these is a stream that the client opens and names in its headers. From version 4 on the outcome
is a Status, before that text, and only where there is a failure.

Source: k8s.io/kubelet/pkg/cri/streaming/remotecommand.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

import orjson

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.streams import spdy
from rayplane.control_plane.streams.channels import Channels
from rayplane.control_plane.streams.wires import WebSocketWire, Wire
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import node_pb2

WEBSOCKET_PROTOCOLS: Final = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
)
SPDY_PROTOCOLS: Final = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_BY_NAME = {"stdin": _STDIN, "stdout": _STDOUT, "stderr": _STDERR, "error": _ERROR, "resize": _RESIZE}
_CHUNK = 32 * 1024
_QUEUE_MAX = 64
_OPEN_S = 30.0


class CommandClient(Protocol):
    """The client of a command: what it types comes as requests to the node host, and it is shown the output."""

    def requests(self) -> AsyncIterator[node_pb2.ExecRequest]: ...

    async def show(self, stdout: bytes, stderr: bytes) -> None: ...

    async def end(self, status: Object) -> None:
        """Tell the outcome, and end the connection."""


class WebSocketCommand:
    """Channels of a WebSocket."""

    def __init__(self, wire: WebSocketWire) -> None:
        self._channels = Channels(wire)
        self._status = self._channels.protocol.startswith("v")

    async def requests(self) -> AsyncIterator[node_pb2.ExecRequest]:
        async for channel, data in self._channels:
            if channel == _STDIN:
                yield node_pb2.ExecRequest(stdin=data)
            elif channel == _CLOSE and data[:1] == bytes((_STDIN,)):
                yield node_pb2.ExecRequest(stdin_closed=True)
            elif channel == _RESIZE:
                for size in _sizes(data):
                    yield size
        yield node_pb2.ExecRequest(stdin_closed=True)

    async def show(self, stdout: bytes, stderr: bytes) -> None:
        for channel, data in ((_STDOUT, stdout), (_STDERR, stderr)):
            if data:
                await self._channels.send(channel, data)

    async def end(self, status: Object) -> None:
        with contextlib.suppress(ConnectionError):
            outcome = _outcome(status, as_status=self._status)
            if outcome:
                await self._channels.send(_ERROR, outcome)
        await self._channels.close()


class SpdyCommand:
    """Streams of a SPDY connection. `open` before anything else, `close` at the end whatever happens."""

    def __init__(self, wire: Wire, wanted: frozenset[str], *, as_status: bool) -> None:
        """`wanted`: names of the streams that the client is going to open."""
        self._wire = wire
        self._wanted = wanted
        self._status = as_status
        self._decoder, self._encoder = spdy.Decoder(), spdy.Encoder()
        self._streams: dict[int, int] = {}  # by the name's number
        self._inbox: asyncio.Queue[node_pb2.ExecRequest | None] = asyncio.Queue(_QUEUE_MAX)
        self._opened = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    async def open(self) -> bool:
        """Wait until the client has opened its streams; False when it does not."""
        self._pump = asyncio.get_running_loop().create_task(self._receive(), name="SPDY command input")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_OPEN_S):
                await self._opened.wait()
        return len(self._streams) == len(self._wanted)

    async def close(self) -> None:
        if self._pump is not None:
            await cancel_and_wait(self._pump)

    async def requests(self) -> AsyncIterator[node_pb2.ExecRequest]:
        while (request := await self._inbox.get()) is not None:
            yield request
        yield node_pb2.ExecRequest(stdin_closed=True)

    async def show(self, stdout: bytes, stderr: bytes) -> None:
        for channel, data in ((_STDOUT, stdout), (_STDERR, stderr)):
            stream = self._streams.get(channel)
            for at in range(0, len(data) if stream else 0, _CHUNK):
                await self._wire.send(self._encoder.data(stream or 0, data[at : at + _CHUNK]))

    async def end(self, status: Object) -> None:
        with contextlib.suppress(ConnectionError):
            outcome = _outcome(status, as_status=self._status)
            if outcome and _ERROR in self._streams:
                await self._wire.send(self._encoder.data(self._streams[_ERROR], outcome))
            for stream in self._streams.values():
                await self._wire.send(self._encoder.data(stream, b"", last=True))
            await self._wire.send(self._encoder.goaway(max(self._streams.values(), default=0)))
        await self._wire.close()

    async def _receive(self) -> None:
        try:
            async for data in self._wire:
                for frame in self._decoder.feed(data):
                    await self._handle(frame)
        except (spdy.SpdyError, ConnectionError):
            pass  # the client is told nothing that it would understand: the command's input ends
        finally:
            self._opened.set()
        await self._inbox.put(None)

    async def _handle(self, frame: spdy.Frame) -> None:
        if frame.type == spdy.PING:
            await self._wire.send(self._encoder.ping(frame.data))
        elif frame.type == spdy.SYN_STREAM:
            await self._open(frame)
        elif frame.type == 0:
            await self._data(frame)

    async def _open(self, frame: spdy.Frame) -> None:
        name = frame.headers.get("streamtype", "")
        if name not in self._wanted or _BY_NAME[name] in self._streams:
            await self._wire.send(self._encoder.reset(frame.stream))
            return
        self._streams[_BY_NAME[name]] = frame.stream
        await self._wire.send(self._encoder.reply(frame.stream))
        if len(self._streams) == len(self._wanted):
            self._opened.set()

    async def _data(self, frame: spdy.Frame) -> None:
        if frame.stream == self._streams.get(_STDIN):
            if frame.data:
                await self._inbox.put(node_pb2.ExecRequest(stdin=frame.data))
            if frame.last:
                await self._inbox.put(node_pb2.ExecRequest(stdin_closed=True))
        elif frame.stream == self._streams.get(_RESIZE):
            for size in _sizes(frame.data):
                await self._inbox.put(size)
        if frame.data:
            # The windows are kept open: the queue is what holds the client back.
            for stream in (frame.stream, 0):
                await self._wire.send(self._encoder.window(stream, len(frame.data)))


def _sizes(data: bytes) -> list[node_pb2.ExecRequest]:
    """Terminal sizes, a JSON object a line; what is no size is left out."""
    found = []
    for line in data.splitlines():
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            size: Any = orjson.loads(line)
            found.append(node_pb2.ExecRequest(width=int(size.get("Width") or 0), height=int(size.get("Height") or 0)))
    return found


def _outcome(status: Object, *, as_status: bool) -> bytes:
    if as_status:
        return orjson.dumps(status)
    return b"" if status["status"] == "Success" else str(status.get("message") or "").encode()


def success() -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


def exit_status(code: int) -> Object:
    """The Status of a command that ended with `code`."""
    if code == 0:
        return success()
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
