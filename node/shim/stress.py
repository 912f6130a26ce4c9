"""Work beside a container: processes that take its share of processors and memory, in its control groups.

They are the shim's own forks, outside of the container's namespaces: an image need not have a program for it, and
nothing in the container can end it.
"""

import ctypes
import mmap
import os
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from rayplane.node.shim.child import reset_signals

SLICE_S = 0.1
"""In which a process that is busy for a part of its time is that."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Stressor:
    """A process group that works; it was forked and comes to no program."""

    pending = -1
    user: list[Any] | None = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def arrived(self) -> bool:
        return True

    def failure(self) -> OSError | None:
        return None


def begin(order: Mapping[str, Any], groups: Iterable[int]) -> Stressor:
    """Fork the first of them, whose end is that of all. `groups`: descriptors of control groups. Raises OSError."""
    pid = os.fork()
    if pid:
        return Stressor(pid)
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        reset_signals()
        for fd in groups:
            os.write(fd, b"0")
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
        _lead(order)
    finally:
        os._exit(1)


def _lead(order: Mapping[str, Any]) -> NoReturn:
    """Start the others. When one of them ends (the kernel may be out of memory) all do, and their host hears it."""
    holding = order["holding"]
    for number in range(holding):
        size = order["hold_bytes"] // holding + (number < order["hold_bytes"] % holding)
        if os.fork() == 0:
            _hold(size)
    for _ in range(order["burning"]):
        if os.fork() == 0:
            _burn(order["load"] / 100)
    os.wait()
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _hold(size: int) -> NoReturn:
    """Have so many bytes in memory."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    held = mmap.mmap(-1, size) if size else b""
    for at in range(0, len(held), mmap.PAGESIZE):
        held[at] = 1  # type: ignore[index]
    while True:
        signal.pause()


def _burn(share: float) -> NoReturn:
    """Be busy for this part of each slice."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    while True:
        until = time.monotonic() + SLICE_S
        while time.monotonic() < until - SLICE_S * (1 - share):
            pass
        time.sleep(max(0.0, until - time.monotonic()))
