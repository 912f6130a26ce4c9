"""Attaching to a container's own process: its output from now on, and its input where the container asks for one."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable

from rayplane.node.runtime import LogOptions
from rayplane.node.runtime.pipes import connect_input, set_size

#: Only what comes from now on.
FROM_NOW = LogOptions(follow=True, tail_lines=0)
_END_OF_TRANSMISSION = b"\x04"


class StandardInput:
    """The standard input of a container with `stdin: true`: it stays open as long as somebody may attach.

    `theirs`: descriptors for its process, which whoever starts that closes.
    """

    def __init__(self) -> None:
        theirs, self._ours = os.pipe2(os.O_CLOEXEC)
        self.theirs = [theirs]
        self._writer: asyncio.StreamWriter | None = None

    async def write(self, data: bytes) -> None:
        if self._writer is None and self._ours >= 0:
            ours, self._ours = self._ours, -1
            self._writer = await connect_input(ours)
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(data)
            # The process may have closed its input.
            with contextlib.suppress(OSError):
                await self._writer.drain()

    def end(self) -> None:
        """There is no more to come."""
        self.close()

    def resize(self, width: int, height: int) -> None:
        """Do nothing: it is no terminal."""

    def close(self) -> None:
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1
        if self._writer is not None:
            self._writer.close()


class Terminal(StandardInput):
    """The terminal of a container with `tty: true`. `theirs`: the process's end, and ours to read its output from."""

    def __init__(self) -> None:
        ours, slave = os.openpty()
        self.theirs = [slave, ours]
        self._have(os.dup(ours))

    def _have(self, ours: int) -> None:
        self._ours, self._terminal = ours, os.dup(ours)
        self._writer = None

    def end(self) -> None:
        # As its user would type it. Where it cannot be taken, more is waiting than anybody reads.
        with contextlib.suppress(OSError):
            os.write(self._terminal, _END_OF_TRANSMISSION)

    def resize(self, width: int, height: int) -> None:
        if self._terminal >= 0:
            set_size(self._terminal, width, height)

    def close(self) -> None:
        super().close()
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1


class OwnTerminal(Terminal):
    """A terminal that the container's process makes for itself: its other end comes when it has started."""

    def __init__(self) -> None:
        self.theirs = []
        self._ours = self._terminal = -1
        self._writer = None
        self._size = (0, 0)
        self._settled = asyncio.Event()

    def connect(self, ours: int) -> None:
        """Have the other end, which is this one's from now on."""
        if self._settled.is_set():
            os.close(ours)
            return
        self._have(ours)
        self._settled.set()
        if all(self._size):
            self.resize(*self._size)

    async def write(self, data: bytes) -> None:
        await self._settled.wait()
        await super().write(data)

    def resize(self, width: int, height: int) -> None:
        self._size = (width, height)
        super().resize(width, height)

    def close(self) -> None:
        self._settled.set()
        super().close()


class Attached:
    """An `ExecSession` on a container's own process, which goes on when the session ends."""

    def __init__(
        self,
        output: AsyncIterator[tuple[bytes, bytes]],
        stdin: StandardInput | None = None,
        *,
        once: bool = False,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """`once`: the input ends with the first session that had it (`stdinOnce`). `close` gives the output back."""
        self._output = output
        self._stdin = stdin
        self._once = once
        self._close = close

    async def write(self, data: bytes) -> None:
        if self._stdin is not None:
            await self._stdin.write(data)

    def close_input(self) -> None:
        if self._stdin is not None and self._once:
            self._stdin.end()

    def resize(self, width: int, height: int) -> None:
        if self._stdin is not None:
            self._stdin.resize(width, height)

    async def output(self) -> AsyncIterator[tuple[bytes, bytes]]:
        async with contextlib.aclosing(self._output) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk

    async def wait(self) -> int:
        """Return 0: how the process ended stands in the pod's status."""
        return 0

    def kill(self) -> None:
        """Detach: the container goes on."""
        self._close()
