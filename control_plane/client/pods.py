"""Streams to what runs in pods: logs, commands, connections. Failures raise ApiError."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.client.api import ApiClient, api_error
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import pods_pb2 as pb

# Messages that wait in each direction: who sends more waits, too.
_WAITING_MAX = 16
_CHUNK = 32 * 1024


@dataclass(frozen=True, slots=True)
class Finished:
    """The outcome of a command."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class PodClient:
    """The pods of an API client's servers."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def logs(self, request: pb.PodLogsRequest) -> AsyncGenerator[bytes, None]:
        """A container's log, in pieces as they come."""
        async with _answers(self._api, "Logs", request) as answers:
            async for answer in answers:
                yield answer.data

    async def command(self, command: pb.PodCommand, *, attach: bool = False) -> "Duplex":
        """A command in a container, or the container's own process. Requests are PodCommandRequest."""
        return Duplex(self._api, "Attach" if attach else "Exec", pb.PodCommandRequest(command=command))

    async def connection(self, connection: pb.PodConnection) -> "Duplex":
        """A connection to a port of a pod. Requests are PodForwardRequest."""
        return Duplex(self._api, "PortForward", pb.PodForwardRequest(connection=connection))

    async def run(self, command: pb.PodCommand, stdin: bytes) -> Finished:
        """A command, from its beginning to its end."""
        duplex, out, err, code = await self.command(command), bytearray(), bytearray(), -1

        async def type_in() -> None:
            for at in range(0, len(stdin), _CHUNK):
                await duplex.send(pb.PodCommandRequest(stdin=stdin[at : at + _CHUNK]))
            await duplex.send(None)

        typing = asyncio.create_task(type_in(), name="input of a command")
        try:
            while (answer := await duplex.receive()) is not None:
                out += answer.stdout
                err += answer.stderr
                code = answer.exit_code if answer.HasField("exit_code") else code
        finally:
            await cancel_and_wait(typing)
            await duplex.close()
        return Finished(code, bytes(out), bytes(err))


class Duplex:
    """A stream in two directions, open until `close`."""

    def __init__(self, api: ApiClient, method: str, opening: Any) -> None:
        self._requests: asyncio.Queue[Any] = asyncio.Queue(_WAITING_MAX)
        self._requests.put_nowait(opening)
        self._received: asyncio.Queue[Any] = asyncio.Queue(_WAITING_MAX)
        self._error: Exception | None = None
        self._over = False
        self._task = asyncio.create_task(self._pump(api, method), name=f"pod {method}")

    async def send(self, request: Any) -> None:
        """Send one more; None for the last. What nobody reads any more is lost."""
        if not self._over:
            await self._requests.put(request)

    async def receive(self) -> Any:
        """The next answer; None at the end."""
        answer = await self._received.get()
        if answer is None:
            self._received.put_nowait(None)
            if self._error is not None:
                raise self._error
        return answer

    async def close(self) -> None:
        await cancel_and_wait(self._task)

    async def _pump(self, api: ApiClient, method: str) -> None:
        try:
            async with _answers(api, method, self._sent()) as answers:
                async for answer in answers:
                    await self._received.put(answer)
        except Exception as e:
            self._error = e
        finally:
            self._over = True
            # Whoever waits for room goes on.
            while not self._requests.empty():
                self._requests.get_nowait()
        await self._received.put(None)

    async def _sent(self) -> AsyncIterator[Any]:
        while (request := await self._requests.get()) is not None:
            yield request


@contextlib.asynccontextmanager
async def _answers(api: ApiClient, method: str, request: Any) -> AsyncIterator[AsyncIterator[Any]]:
    try:
        async with contextlib.aclosing(await api.open_stream("Pods", method, request)) as answers:
            yield answers
    except RpcError as e:
        raise api_error(e) from e
