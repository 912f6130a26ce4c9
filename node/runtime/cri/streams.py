"""The client's end of a runtime's streams: commands and connections over SPDY/3.1, at the URL that the runtime gave.

SPDY, since every runtime speaks it, and an input can end in it while the output goes on.
"""

import asyncio
import contextlib
import json
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from rayplane.control_plane.streams import spdy
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.errors import RuntimeAway, RuntimeFailed

CONNECT_S = 10.0
HEAD_BYTES_MAX = 64 * 1024
CHUNK = 32 * 1024
#: Pieces of output that nobody has taken; then the runtime is not read.
QUEUE_MAX = 16
#: What a command that could not be run, or whose end nobody told, exits with.
FAILED_CODE = 126
_STATUS_BYTES_MAX = 64 * 1024
_COMMAND = "v4.channel.k8s.io"
_PORT_FORWARD = "portforward.k8s.io"


class SpdyClient:
    """One connection; streams have odd numbers. What comes for a stream is what `frames` gives."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._encoder, self._decoder = spdy.Encoder(), spdy.Decoder()
        self._next = 1

    @staticmethod
    async def connect(url: str, protocol: str) -> "SpdyClient":
        """Raises RuntimeAway, RuntimeFailed."""
        parts = urlsplit(url)
        try:
            host, port = parts.hostname or "", parts.port or 80
        except ValueError as e:
            raise RuntimeFailed(f"the runtime answered with {url!r}: {e}") from e
        if parts.scheme != "http" or not host:
            raise RuntimeFailed(f"the runtime answered with {url!r}: streams go over http here")
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(host, port, limit=HEAD_BYTES_MAX)
                path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
                head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
                writer.write(f"{head}X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n".encode())
                answer = await reader.readuntil(b"\r\n\r\n")
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as e:
            raise RuntimeAway(f"the runtime's streams at {host}:{port} do not answer: {e or 'in time'}") from e
        if b" 101 " not in answer.split(b"\r\n", 1)[0]:
            writer.close()
            line = answer.split(b"\r\n", 1)[0].decode(errors="replace")
            raise RuntimeFailed(f"the runtime's streams at {host}:{port} refuse: {line}")
        return SpdyClient(reader, writer)

    def open(self, kind: str, **headers: str) -> int:
        """A new stream."""
        number, self._next = self._next, self._next + 2
        self._writer.write(self._encoder.open(number, {"streamtype": kind, **headers}))
        return number

    async def send(self, stream: int, data: bytes, *, last: bool = False) -> None:
        """Raises OSError."""
        for at in range(0, len(data), CHUNK):
            self._writer.write(self._encoder.data(stream, data[at : at + CHUNK]))
            await self._writer.drain()
        if last:
            self.end(stream)

    def end(self, stream: int) -> None:
        if not self._writer.is_closing():
            self._writer.write(self._encoder.data(stream, b"", last=True))

    async def frames(self) -> AsyncIterator[spdy.Frame]:
        """Until the connection ends. Raises SpdyError, OSError."""
        while data := await self._reader.read(2 * CHUNK):
            for frame in self._decoder.feed(data):
                if frame.type == spdy.PING:
                    self._writer.write(self._encoder.ping(frame.data))
                elif frame.type == spdy.GOAWAY:
                    return
                else:
                    yield frame
                    if frame.type == 0 and frame.data:
                        # The windows are kept open: who takes the frames is what holds the runtime back.
                        for stream in (frame.stream, 0):
                            self._writer.write(self._encoder.window(stream, len(frame.data)))

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()


class StreamedCommand:
    """A command of a container, or its own process: an `ExecSession`. `begin` once."""

    def __init__(self, client: SpdyClient, *, tty: bool, stdin: bool) -> None:
        self._client = client
        self._error = client.open("error")
        self._input = client.open("stdin") if stdin else 0
        self._streams = {client.open("stdout"): 0}
        if not tty:
            self._streams[client.open("stderr")] = 1
        self._tty = tty
        self._sizes = client.open("resize") if tty else 0
        self._queue: asyncio.Queue[tuple[bytes, bytes] | None] = asyncio.Queue(QUEUE_MAX)
        self._status = bytearray()
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.get_running_loop().create_task(self._read(), name="output of a command")

    async def _read(self) -> None:
        told = False
        try:
            async with contextlib.aclosing(self._client.frames()) as frames:  # type: ignore[type-var]
                async for frame in frames:
                    if frame.type != 0:
                        continue
                    if frame.stream == self._error:
                        self._status += frame.data[: _STATUS_BYTES_MAX - len(self._status)]
                        told = told or frame.last
                    elif frame.data and frame.stream in self._streams:
                        await self._queue.put((b"", frame.data) if self._streams[frame.stream] else (frame.data, b""))
                    if frame.last:
                        self._streams.pop(frame.stream, None)
                    if told and not self._streams:
                        break
        except (spdy.SpdyError, OSError):
            pass  # it ends as one whose end nobody told
        finally:
            code, why = end_of(bytes(self._status), told=told)
            if not self._exit.done():
                self._exit.set_result(code)
            self._client.close()
        if why:
            await self._queue.put((f"{why}\r\n".encode(), b"") if self._tty else (b"", f"{why}\n".encode()))
        await self._queue.put(None)

    async def write(self, data: bytes) -> None:
        if self._input:
            # The command may have closed its input, or ended.
            with contextlib.suppress(OSError):
                await self._client.send(self._input, data)

    def close_input(self) -> None:
        stream, self._input = self._input, 0
        if stream:
            self._client.end(stream)

    def resize(self, width: int, height: int) -> None:
        if self._sizes and not self._exit.done():
            size = json.dumps({"Width": width, "Height": height}).encode()
            asyncio.get_running_loop().create_task(self._resize(size))

    async def _resize(self, size: bytes) -> None:
        with contextlib.suppress(OSError):
            await self._client.send(self._sizes, size)

    async def output(self) -> AsyncIterator[tuple[bytes, bytes]]:
        while (chunk := await self._queue.get()) is not None:
            yield chunk

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    def kill(self) -> None:
        self._reading.cancel()
        self._client.abort()


def end_of(status: bytes, *, told: bool) -> tuple[int, str]:
    """What the error stream says of a command's end: a Status, with its exit code among the causes, or why there is
    none.
    """
    if not status:
        return 0 if told else FAILED_CODE, ""
    with contextlib.suppress(ValueError, AttributeError, TypeError, KeyError):
        found = json.loads(status)
        if found.get("status") == "Success":
            return 0, ""
        for cause in (found.get("details") or {}).get("causes") or ():
            if cause.get("reason") == "ExitCode":
                return int(cause["message"]), ""
        return FAILED_CODE, str(found.get("message") or "")
    return FAILED_CODE, ""


class FinishedCommand:
    """A command that has run to its end already: an `ExecSession` over what it wrote."""

    def __init__(self, stdout: bytes, stderr: bytes, code: int) -> None:
        self._output, self._code = (stdout, stderr), code

    async def write(self, data: bytes) -> None:
        return

    def close_input(self) -> None:
        return

    def resize(self, width: int, height: int) -> None:
        return

    async def output(self) -> AsyncIterator[tuple[bytes, bytes]]:
        if any(self._output):
            yield self._output

    async def wait(self) -> int:
        return self._code

    def kill(self) -> None:
        return


async def open_command(url: str, *, tty: bool, stdin: bool) -> StreamedCommand:
    """Raises RuntimeAway, RuntimeFailed."""
    return StreamedCommand(await SpdyClient.connect(url, _COMMAND), tty=tty, stdin=stdin)


class Forwarder:
    """Connections into pods by way of the runtime: sockets of this process, whose bytes are carried by tasks."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[asyncio.Task[None], None] = OrderedDict()

    async def connect(self, url: str, port: int) -> socket.socket:
        """Raises RuntimeAway, RuntimeFailed."""
        client = await SpdyClient.connect(url, _PORT_FORWARD)
        headers = {"port": str(port), "requestid": "0"}
        error, data = client.open("error", **headers), client.open("data", **headers)
        client.end(error)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._carry(client, ours, error, data), name="port-forward")
        self._tasks[task] = None
        task.add_done_callback(lambda t: self._tasks.pop(t, None))
        return theirs

    async def _carry(self, client: SpdyClient, ours: socket.socket, error: int, data: int) -> None:
        reader, writer = await asyncio.open_connection(sock=ours)

        async def out() -> None:
            with contextlib.suppress(OSError):
                while piece := await reader.read(CHUNK):
                    await client.send(data, piece)
                client.end(data)

        sending = asyncio.get_running_loop().create_task(out(), name="port-forward input")
        failed = False
        try:
            async with contextlib.aclosing(client.frames()) as frames:  # type: ignore[type-var]
                async for frame in frames:
                    failed = failed or (frame.stream == error and bool(frame.data)) or frame.type == spdy.RST_STREAM
                    if failed or (frame.type == 0 and frame.stream == data and not await _give(writer, frame)):
                        break
        except (spdy.SpdyError, OSError):
            failed = True
        finally:
            await cancel_and_wait(sending)
            client.abort()
            # A connection that broke is seen to have broken.
            writer.transport.abort() if failed else writer.close()

    async def close(self) -> None:
        await cancel_and_wait(*self._tasks)


async def _give(writer: asyncio.StreamWriter, frame: spdy.Frame) -> bool:
    """False when there is no more to come."""
    writer.write(frame.data)
    await writer.drain()
    return not frame.last
