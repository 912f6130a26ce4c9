"""Standard input as an async iterator, and the terminal in raw mode while a command in a container has it."""

import asyncio
import contextlib
import os
import sys
import termios
import threading
import tty
from collections.abc import AsyncIterator, Iterator

from rayplane.control_plane.cli.containers import Input
from rayplane.control_plane.cluster.errors import UsageError

CHUNK_BYTES = 16 * 1024
# Chunks read ahead of what the node takes.
AHEAD = 16


@contextlib.contextmanager
def typed(*, terminal: bool) -> Iterator[Input]:
    """What is typed from now on. With `terminal` each key goes through as it is pressed."""
    source = sys.stdin.fileno()
    if not terminal:
        yield Input(chunks(source))
        return
    if not os.isatty(source):
        raise UsageError("-t: standard input is no terminal; leave it out")
    before = termios.tcgetattr(source)
    size = os.get_terminal_size(source)
    tty.setraw(source)
    try:
        yield Input(chunks(source), (size.columns, size.lines))
    finally:
        termios.tcsetattr(source, termios.TCSADRAIN, before)


async def chunks(source: int) -> AsyncIterator[bytes]:
    """What can be read from a file descriptor, until its end.

    A thread reads: event loops cannot wait for regular files. It is a daemon, so that a read that never returns does
    not keep the command from ending.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes] = asyncio.Queue(AHEAD)

    def read() -> None:
        # A closed loop means that nobody listens any more.
        with contextlib.suppress(RuntimeError):
            while True:
                data = os.read(source, CHUNK_BYTES)
                asyncio.run_coroutine_threadsafe(queue.put(data), loop).result()
                if not data:
                    return

    threading.Thread(target=read, name="standard input", daemon=True).start()
    while data := await queue.get():
        yield data
