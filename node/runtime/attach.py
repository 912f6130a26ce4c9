"""Attaching to a container's own process: its output from now on, and its input where the container asks for one."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import BinaryIO

from rayplane.node.runtime import LogOptions

#: Only what comes from now on.
FROM_NOW = LogOptions(follow=True, tail_lines=0)


class StandardInput:
    """The standard input of a container with `stdin: true`: it stays open as long as somebody may attach.

    `theirs` is the end that the process gets; whoever starts it closes that one.
    """

    def __init__(self) -> None:
        self.theirs, self._ours = os.pipe2(os.O_CLOEXEC)
        self._writer: asyncio.StreamWriter | None = None

    async def write(self, data: bytes) -> None:
        if self._writer is None and self._ours >= 0:
            pipe: BinaryIO = os.fdopen(self._ours, "wb", 0)  # type: ignore[assignment]
            self._ours = -1
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
            self._writer = asyncio.StreamWriter(transport, protocol, None, loop)
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(data)
            # The process may have closed its input.
            with contextlib.suppress(OSError):
                await self._writer.drain()

    def close(self) -> None:
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1
        if self._writer is not None:
            self._writer.close()


class Attached:
    """An `ExecSession` on a container's own process, which goes on when the session ends."""

    def __init__(self, output: AsyncIterator[bytes], stdin: StandardInput | None = None, *, once: bool = False) -> None:
        """`once`: the input ends with the first session that had it (`stdinOnce`)."""
        self._output = output
        self._stdin = stdin
        self._once = once

    async def write(self, data: bytes) -> None:
        if self._stdin is not None:
            await self._stdin.write(data)

    def close_input(self) -> None:
        if self._stdin is not None and self._once:
            self._stdin.close()

    def resize(self, width: int, height: int) -> None:
        """Do nothing: a container's own process has no terminal here."""

    async def output(self) -> AsyncIterator[tuple[bytes, bytes]]:
        async with contextlib.aclosing(self._output) as chunks:  # type: ignore[type-var]
            async for data in chunks:
                yield data, b""

    async def wait(self) -> int:
        """Return 0: how the process ended stands in the pod's status."""
        return 0

    def kill(self) -> None:
        """Do nothing: the container goes on."""
