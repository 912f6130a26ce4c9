"""A shim as two processes: one outside, which waits, and the first of a process namespace, which does the work."""

import os
import select
import signal
import socket
from typing import NoReturn

from rayplane.node.runtime.isolation import memory, syscalls
from rayplane.node.runtime.isolation.rootfs import OWN, PROC

_WATCH_S = 1.0


def go_apart(control: socket.socket | None = None) -> None:
    """Go on as the first process of a namespace: whatever is below it, whoever it belongs to, ends with it, and none of
    them can end it. The process before stays outside to wait, and has nothing of `control` any more."""
    syscalls.unshare(syscalls.CLONE_NEWPID)
    host = os.getppid()
    pid = os.fork()
    if pid:
        if control is not None:
            control.close()
        _wait(pid, host)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    syscalls.mount("proc", PROC, "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    syscalls.mount("own", OWN, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=711,size=8m")
    memory.keep(memory.MACHINE, {memory.SHM: {"size": memory.SHM_BYTES}})


def _wait(pid: int, host: int) -> NoReturn:
    ended = os.pidfd_open(pid)
    while os.getppid() == host and not select.select([ended], [], [], _WATCH_S)[0]:
        pass
    os._exit(0)
