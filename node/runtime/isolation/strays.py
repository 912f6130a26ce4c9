"""Processes that are left of a container or pod, found by the namespaces that they cannot leave, and killed.

Where the first process of a container is the first of a process namespace the kernel does this. A process that makes
mount namespaces of its own is found no later than its pod ends: user namespaces have parents.
"""

import contextlib
import fcntl
import os
import signal
from collections.abc import Callable, Iterator

from rayplane.node.runtime.isolation.rootfs import PROC

_PASSES = 100  # whoever forks meanwhile is met again
_DEPTH = 32  # as deep as user namespaces go
_NS_GET_PARENT = 0xB702


def sharing(kind: str, number: int) -> list[int]:
    """Processes that are in a namespace of this kind."""
    found = []
    for pid in [int(name) for name in os.listdir(PROC) if name.isdigit()]:
        with contextlib.suppress(OSError):  # it went
            if os.stat(f"{PROC}/{pid}/ns/{kind}").st_ino == number:
                found.append(pid)
    return found


def kill_sharing(kind: str, number: int) -> None:
    """Kill what is in a namespace of this kind."""
    _kill(lambda pid: os.stat(f"{PROC}/{pid}/ns/{kind}").st_ino == number)


def kill_below(users: int) -> None:
    """Kill what is in a user namespace, or in one that was made there."""
    _kill(lambda pid: users in _above(pid))


def _kill(belongs: Callable[[int], bool]) -> None:
    own = os.getpid()
    for _ in range(_PASSES):
        found = False
        for pid in [int(name) for name in os.listdir(PROC) if name.isdigit()]:
            with contextlib.suppress(OSError):  # it went
                if pid != own and belongs(pid) and _runs(pid):
                    os.kill(pid, signal.SIGKILL)
                    found = True
        if not found:
            return


def _runs(pid: int) -> bool:
    with open(f"{PROC}/{pid}/stat", "rb") as f:
        return f.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def _above(pid: int) -> Iterator[int]:
    """Numbers of a process' user namespace and of those above it."""
    fd = os.open(f"{PROC}/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(_DEPTH):
            yield os.fstat(fd).st_ino
            above = fcntl.ioctl(fd, _NS_GET_PARENT)
            os.close(fd)
            fd = above
    finally:
        os.close(fd)
