"""A process below a shim, and those who are attached to it."""

import contextlib
import functools
import os
import signal
import time
from typing import Any, Protocol

from rayplane.node.shim.container_log import Log
from rayplane.node.shim.hogs import Most

OOM_KILLED = "OOMKilled"
CROWDED = "crowded"
"""It had more processes than it might."""


class Process(Protocol):
    """A process that was started; `pending`: what it says until it comes to its program, -1 once it has; `user`: its
    number, group and further groups then, None where they are the shim's.
    """

    pid: int
    returncode: int | None
    pending: int
    user: list[Any] | None

    def arrived(self) -> bool:
        """Whether all is said, once `pending` can be read."""

    def failure(self) -> OSError | None:
        """Read the rest of `pending` and close it: why there is no program; None when there is."""


class Child:
    """A container's main process, or a command beside it (`of` is the container then)."""

    def __init__(self, message: dict[str, Any], process: Process) -> None:
        self.id: str = message["id"]
        self.of: str = message.get("of", "")
        self.argv: list[str] = message["argv"]
        self.stop_signal: int = message.get("stop_signal") or signal.SIGTERM
        self.process = process
        self.begun = False
        self.failure: OSError | None = None  # why it did not come to its program
        self.pid = process.pid
        self.outputs: dict[int, bytes] = {}  # descriptors to the names of their streams
        self.log: Log | None = None
        self.kill_at: float | None = None
        self.most = Most()  # that is looked after here
        self.groups: list[int] = []  # descriptors of control groups
        self.why = ""  # it was ended, told with its end
        self.console = -1  # by which the other end of its own terminal comes
        self.spaces = 0  # a number of what its processes share, where they do not all go with its first


class Attached:
    """Somebody who gets a copy of a container's output. While he is behind, the container waits for him.

    `streams`: those that he gets.
    """

    def __init__(self, child: Child, fd: int, streams: tuple[bytes, ...]) -> None:
        self.child, self.fd, self.streams = child, fd, streams
        self.waiting = b""
        self.since = 0.0
        os.set_blocking(fd, False)

    def write(self, data: bytes = b"") -> None:
        """Hand on what can be taken now. OSError when he is gone."""
        if not self.waiting:
            self.since = time.monotonic()
        self.waiting += data
        try:
            taken = os.write(self.fd, self.waiting)
        except BlockingIOError:
            return
        self.waiting = self.waiting[taken:]
        self.since = time.monotonic()


@functools.cache
def changed_signals() -> tuple[int, ...]:
    """Signals that a shim does not meet as a program of its own does, once it meets them as it is going to.

    Whoever starts the host in a script's background has it ignore SIGINT and SIGQUIT.
    """
    kept = (signal.SIGKILL, signal.SIGSTOP)
    numbers = (number for number in range(1, signal.NSIG) if number not in kept)
    return tuple(number for number in numbers if signal.getsignal(number) is not signal.SIG_DFL)


def reset_signals() -> None:
    """Have a child meet every signal as a program of its own does, whatever its shim and its host make of them."""
    signal.set_wakeup_fd(-1)
    for number in changed_signals():
        with contextlib.suppress(OSError, ValueError):  # the C library keeps some for itself
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
