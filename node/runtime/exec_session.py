"""A command in a real container: its pipes or terminal, and its end."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

from rayplane.node.errors import RuntimeFailed
from rayplane.node.runtime.command import CommandLine
from rayplane.node.runtime.pipes import connect_input, connect_output, merged, set_size
from rayplane.node.runtime.shim_client import ShimClient

_ids = iter(range(1, 1 << 62))


class ProcessExec:
    """A command in a running container: `begin` once; then an `ExecSession`.

    With a terminal all output is standard output.
    """

    def __init__(self, shim: ShimClient, container_id: str, *, tty: bool, size: tuple[int, int] = (0, 0)) -> None:
        self._shim = shim
        self._container_id = container_id
        self._id = f"exec-{next(_ids)}"
        self._tty, self._size = tty, size
        self._terminal = -1
        self._input: asyncio.StreamWriter | None = None
        self._readers: list[asyncio.StreamReader] = []
        self._transports: list[tuple[asyncio.BaseTransport, Callable[[], None]]] = []
        """Each with what ends it at once: what waits for the command to read is not waited for."""
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._on_end: Callable[[], None] | None = None
        self._said = b""
        """Why the command did not run."""

    async def begin(self, command: list[str], line: CommandLine, *, stdin: bool, on_end: Callable[[], None]) -> None:
        """Start the command; one that cannot run exits with 126 or 127. Raises RuntimeFailed when the order fails."""
        self._on_end = on_end
        theirs: list[int] = []
        try:
            theirs = await (self._open_terminal() if self._tty else self._open_pipes(stdin))
            self._shim.order(
                self._id,
                self._report,
                fds=theirs,
                op="exec",
                of=self._container_id,
                **line.to_json() | {"argv": command},
                **self._terminal_of(),
            )
        except (OSError, RuntimeFailed) as e:
            self._end(126)
            self.kill()
            raise RuntimeFailed(f"cannot run {command[:1]}: {e}") from e
        finally:
            for fd in theirs:
                os.close(fd)

    def _terminal_of(self) -> dict[str, Any]:
        """What is told of its terminal."""
        return {"tty": self._tty}

    async def _open_pipes(self, stdin: bool) -> list[int]:
        input_read, input_write = os.pipe2(os.O_CLOEXEC)
        if stdin:
            await self._connect_input(input_write)
        else:
            os.close(input_write)
        theirs = [input_read]
        for _ in range(2):
            read, write = os.pipe2(os.O_CLOEXEC)
            theirs.append(write)
            await self._connect_output(read)
        return theirs

    async def _open_terminal(self) -> list[int]:
        ours, slave = os.openpty()
        await self._connect(ours)
        if all(self._size):
            self.resize(*self._size)
        return [slave, os.dup(slave), os.dup(slave)]

    async def _connect(self, terminal: int) -> None:
        self._terminal = terminal
        await self._connect_output(os.dup(terminal))
        await self._connect_input(os.dup(terminal))

    async def _connect_input(self, fd: int) -> None:
        self._input = await connect_input(fd)
        self._transports.append((self._input.transport, self._input.transport.abort))

    async def _connect_output(self, fd: int) -> None:
        reader, transport = await connect_output(fd)
        self._transports.append((transport, transport.close))
        self._readers.append(reader)

    def _report(self, message: dict[str, Any]) -> None:
        if message["ev"] == "failed":
            self._said = f"exec failed: unable to start container process: {message['error']}\n".encode()
            self._end(message.get("code", 126))
        elif message["ev"] == "exited":
            self._end(int(message["code"]))

    def _end(self, code: int) -> None:
        if not self._exit.done():
            self._exit.set_result(code)
            if self._on_end is not None:
                self._on_end()

    # --- ExecSession ------------------------------------------------------------------------------

    async def write(self, data: bytes) -> None:
        if self._input is None:
            return
        self._input.write(data)
        try:
            await self._input.drain()
        except OSError:
            # The command closed its input, as `head` does.
            self._input.close()
            self._input = None

    def close_input(self) -> None:
        writer, self._input = self._input, None
        if writer is None:
            return
        if self._tty:
            writer.write(b"\x04")  # end of transmission, as a user would type it
        writer.close()

    def resize(self, width: int, height: int) -> None:
        if self._terminal >= 0:
            set_size(self._terminal, width, height)

    async def output(self) -> AsyncIterator[tuple[bytes, bytes]]:
        async with contextlib.aclosing(merged(self._readers)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk
        await asyncio.wait([self._exit])
        if self._said:
            yield (self._said, b"") if self._tty else (b"", self._said)

    async def wait(self) -> int:
        return await self._exit

    def kill(self) -> None:
        if not self._exit.done():
            self._shim.order(self._id, op="kill", grace=0.0)
        for transport, end in self._transports:
            if not transport.is_closing():
                end()
        self._transports.clear()
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1


class ConsoleExec(ProcessExec):
    """A command that makes its terminal itself, where it runs: the other end comes when it has started."""

    _given: asyncio.Future[int] | None = None

    def _terminal_of(self) -> dict[str, Any]:
        return {"tty": True, "console": [*self._size]}

    async def _open_terminal(self) -> list[int]:
        self._given = asyncio.get_running_loop().create_future()
        return []

    async def begin(self, command: list[str], line: CommandLine, *, stdin: bool, on_end: Callable[[], None]) -> None:
        await super().begin(command, line, stdin=stdin, on_end=on_end)
        assert self._given is not None
        try:
            terminal = await self._given
        except asyncio.CancelledError:
            self.kill()
            raise
        if terminal >= 0:
            await self._connect(terminal)

    def _report(self, message: dict[str, Any]) -> None:
        for fd in message.get("fds") or ():
            if self._given is None or self._given.done():
                os.close(fd)
            else:
                self._given.set_result(fd)
        if message["ev"] == "started" and self._given is not None and not self._given.done():
            self._given.set_result(-1)
        super()._report(message)

    def _end(self, code: int) -> None:
        super()._end(code)
        if self._given is not None and not self._given.done():
            self._given.set_result(-1)
