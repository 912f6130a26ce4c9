"""The namespaces of a pod, which its containers enter: users, network, IPC, host name; processes if they share them.

Every pod has a user namespace of its own below the machine's, with the same numbers: what a container may do in it, it
may do to nothing of its neighbours, privileged or not. A child makes the namespaces, since nobody comes back from one
of users. It stays only where containers share process numbers, as the first process, which takes in orphans.
"""

import json
import os
import resource
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from rayplane.node.runtime.isolation import syscalls
from rayplane.node.runtime.isolation.rootfs import PROC
from rayplane.node.runtime.isolation.users import write_maps

PROCESSES_MAX = 8192
"""Processes and threads of all pods of a machine's user namespace."""
_ANSWER_MAX = 4096
_KINDS = {
    "user": syscalls.CLONE_NEWUSER,
    "net": syscalls.CLONE_NEWNET,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "pid": syscalls.CLONE_NEWPID,
}


@dataclass(slots=True)
class PodNamespaces:
    """Open namespaces of a pod by kind: those it does not share with the machine. `pause`: its first process, or 0."""

    fds: dict[str, int] = field(default_factory=dict)
    pause: int = 0

    def enter(self) -> None:
        """Go there, where children go too. The first of them, users, gives the right to the others."""
        for kind, fd in self.fds.items():
            syscalls.setns(fd, _KINDS[kind])

    def enter_users(self) -> None:
        syscalls.setns(self.fds["user"], syscalls.CLONE_NEWUSER)

    def close(self) -> None:
        """Let them go; they are there until the last process is out of them."""
        while self.fds:
            os.close(self.fds.popitem()[1])
        if self.pause:
            os.kill(self.pause, signal.SIGKILL)
            self.pause = 0


def make(kinds: Sequence[str], furnish: Callable[[], None]) -> PodNamespaces:
    """Make namespaces of these kinds, `user` first. `furnish`: called within them. Raises OSError."""
    told, tell = os.pipe2(os.O_CLOEXEC)
    wait, go = os.pipe2(os.O_CLOEXEC)
    pod = PodNamespaces()
    stays = "pid" in kinds
    with _processes_limited():
        pid = syscalls.clone(sum(_KINDS[kind] for kind in kinds))
    if pid == 0:
        _hold(wait, tell, furnish, stays=stays)
    try:
        os.close(tell)
        os.close(wait)
        tell = wait = -1
        os.read(told, 1)
        write_maps(f"{PROC}/{pid}")
        for kind in kinds:
            pod.fds[kind] = os.open(f"{PROC}/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        os.write(go, b".")
        if said := os.read(told, _ANSWER_MAX):
            number, text, path = json.loads(said)
            raise OSError(number, text, path)
        if stays:
            pod.pause = pid
    except BaseException:
        pod.close()
        raise
    finally:
        for fd in (told, go):
            os.close(fd)
        if not pod.pause:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return pod


class _processes_limited:
    """A limit that a user namespace has from its maker: what is in it has no more processes than that one might."""

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_NPROC)
        most = self._before[1]
        soft = PROCESSES_MAX if most < 0 else min(most, PROCESSES_MAX)
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, most))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, self._before)


def _hold(wait: int, tell: int, furnish: Callable[[], None], *, stays: bool) -> NoReturn:
    code = 1
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.close_all_but((wait, tell))
        # Files of a process that nobody may look at are of the machine's root, and its namespaces cannot be opened.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        os.write(tell, b".")
        if not os.read(wait, 1):
            os._exit(code)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        try:
            furnish()
        except OSError as e:
            os.write(tell, json.dumps([e.errno, e.strerror, e.filename]).encode())
            os._exit(code)
        code = 0
        if stays:
            # The kernel buries the children of who does not care for them.
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            os.setsid()
            syscalls.close_all_but(())
            while True:
                signal.pause()
    finally:
        os._exit(code)
