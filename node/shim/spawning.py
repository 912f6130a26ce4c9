"""The start of a process that is kept apart by nothing: in a session, in control groups where there are some."""

import ctypes
import fcntl
import os
import resource
import signal
import subprocess
import termios
from typing import Any

from rayplane.node.shim.child import reset_signals

PROCESSES_MAX = 8192
"""Processes and threads of a user that one of his containers may add to: none for root, whom the kernel never stops."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Spawned(subprocess.Popen):  # type: ignore[type-arg]
    """A process that has come to its program: `subprocess` waits for that."""

    pending = -1
    user: list[Any] | None = None

    def arrived(self) -> bool:
        return True

    def failure(self) -> OSError | None:
        return None


def spawn(message: dict[str, Any], stdio: tuple[int, int, int], *, tty: bool) -> Spawned:
    def before_exec() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        reset_signals()
        for fd in message.get("groups") or ():
            os.write(fd, b"0")
        _bound_processes()
        if tty:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    return Spawned(
        message["argv"],
        env=message["env"],
        cwd=message["cwd"],
        stdin=stdio[0],
        stdout=stdio[1],
        stderr=stdio[2],
        start_new_session=True,
        preexec_fn=before_exec,
    )


def _bound_processes() -> None:
    """What is looked for once a second may be many in between."""
    soft, most = resource.getrlimit(resource.RLIMIT_NPROC)
    soft, most = (PROCESSES_MAX if limit < 0 else min(limit, PROCESSES_MAX) for limit in (soft, most))
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, most))
