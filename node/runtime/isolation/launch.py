"""The way of a container from fork to exec, inside the child: its namespaces, its root, its identity.

Runs in the shim's children, which have one thread. What fails is told through a pipe, as `subprocess` does, so that the
shim can say why; a child never returns from here.
"""

import contextlib
import errno
import fcntl
import functools
import json
import os
import resource
import signal
import termios
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from rayplane.node.runtime.isolation import syscalls
from rayplane.node.runtime.isolation.mounts import build
from rayplane.node.runtime.isolation.users import maps_many

FAILED = 126
_ERROR_MAX = 16 * 1024
_TEXT_MAX = 300  # of characters, which JSON may take twelve bytes for
#: Processes and threads of all pods of a machine's user namespace: what a fork bomb comes to.
PROCESSES_MAX = 8192
_IN_CONTAINER = (("net", syscalls.CLONE_NEWNET), ("ipc", syscalls.CLONE_NEWIPC), ("uts", syscalls.CLONE_NEWUTS))


class Forked:
    """A child that is on its way to a program. `pending`: what it says before; closed by its exec."""

    def __init__(self, pid: int, pending: int) -> None:
        self.pid = pid
        self.pending = pending
        self.returncode: int | None = None

    def failure(self) -> OSError | None:
        """Why there is no program, once `pending` is at its end or has something to say."""
        data = os.read(self.pending, _ERROR_MAX)
        os.close(self.pending)
        self.pending = -1
        if not data:
            return None
        said = json.loads(data)
        return OSError(said["errno"], said["text"], said["path"])


def start(message: dict[str, Any], pod: Sequence[int], stdio: Sequence[int]) -> Forked:
    """Start a container's main process: the first one of a process namespace of its own.

    `pod`: descriptors of the pod's network, IPC and UTS namespaces.
    """
    _know_machine()
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = syscalls.clone(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWCGROUP)
    if pid == 0:

        def inside() -> None:
            _stand_alone(stdio, tty=message["tty"])
            for fd in pod:
                syscalls.setns(fd)
            build(message["mounts"])
            _run(message, die_with_parent=True)

        _child(inside, write)
    os.close(write)
    return Forked(pid, read)


def enter(message: dict[str, Any], main: int, stdio: Sequence[int]) -> Forked:
    """Start a command in the container whose main process is `main`. Raises OSError when that is gone."""
    kinds = (*_IN_CONTAINER, ("mnt", syscalls.CLONE_NEWNS), ("pid", syscalls.CLONE_NEWPID))
    spaces = [(os.open(f"/proc/{main}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), kind) for name, kind in kinds]
    _know_machine()
    read, write = os.pipe2(os.O_CLOEXEC)
    told, tell = os.pipe2(os.O_CLOEXEC)
    try:
        between = os.fork()
        if between == 0:

            def inside() -> None:
                # Processes of the container see this one from now on: it has nothing that is not the container's.
                kept = {write, tell, *stdio, *(fd for fd, _ in spaces)}
                for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
                    if fd not in kept:
                        with contextlib.suppress(OSError):  # that of the listing
                            os.close(fd)
                for fd, kind in spaces:
                    syscalls.setns(fd, kind)
                    os.close(fd)
                # A process namespace takes in only children of who enters it.
                pid = os.fork()
                if pid:
                    os.write(tell, pid.to_bytes(8))
                    os._exit(0)
                _stand_alone(stdio, tty=message["tty"])
                _run(message, die_with_parent=False)

            _child(inside, write)
    finally:
        os.close(write)
        os.close(tell)
        for fd, _ in spaces:
            os.close(fd)
    with open(told, "rb") as answer:
        pid = int.from_bytes(answer.read(8))
    os.waitpid(between, 0)
    forked = Forked(pid, read)
    if not pid:
        raise forked.failure() or OSError(errno.ESRCH, "the container does not run", message["argv"][0])
    return forked


def _child(work: Callable[[], None], write: int) -> NoReturn:
    try:
        # Until there is a program, memory and descriptors are those of the shim: nobody may look.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        work()
    except OSError as e:
        said = {"errno": e.errno or errno.EIO, "text": _short(e.strerror or e), "path": _short(e.filename)}
    except BaseException as e:
        said = {"errno": errno.EIO, "text": _short(f"{type(e).__name__}: {e}"), "path": None}
    try:
        os.write(write, json.dumps(said).encode())
    finally:
        os._exit(FAILED)


def _short(words: object) -> str | None:
    """Words as far as the pipe takes them whole: a pod chooses how long they are."""
    return str(words)[:_TEXT_MAX] if words is not None else None


def _stand_alone(stdio: Sequence[int], *, tty: bool) -> None:
    os.setsid()
    os.umask(0o022)
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP) and signal.getsignal(number) is not None:
            signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    # Copies first: a descriptor of the three may stand where another is to be.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in stdio]
    for number, fd in enumerate(copies):
        os.dup2(fd, number, inheritable=True)
    # The shim's own, first of all the socket that takes orders.
    syscalls.close_on_exec(3)
    if tty:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _run(message: dict[str, Any], *, die_with_parent: bool) -> NoReturn:
    cwd = message["cwd"]
    os.makedirs(cwd, exist_ok=True)
    _, most = resource.getrlimit(resource.RLIMIT_NPROC)
    most = min(most, PROCESSES_MAX) if most >= 0 else PROCESSES_MAX
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    become(message["identity"])
    os.chdir(cwd)
    if die_with_parent:
        # After the change of numbers, which would take it back.
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    argv: list[str] = message["argv"]
    try:
        os.execvpe(argv[0], argv, message["env"])
    except OSError as e:
        raise OSError(e.errno, e.strerror, argv[0]) from e


def become(identity: dict[str, Any]) -> None:
    """Take an identity (see `users.Identity`)."""
    uid, gid, kept = identity["uid"], identity["gid"], frozenset(identity["capabilities"])
    for number in range(_last_capability() + 1):
        if number not in kept:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    if maps_many():
        os.setgroups(identity["groups"])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    elif (uid, gid) != (0, 0):
        _see_as(uid, gid)
    if uid == 0:
        syscalls.set_capabilities(frozenset(n for n in kept if n <= _last_capability()))
    if identity["no_new_privileges"]:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


def _see_as(uid: int, gid: int) -> None:
    """Have other numbers for the one there is, in a namespace that owns nothing."""
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    # Files of a process that nobody may look at are root's of the machine. Whoever is in the container already is in
    # such a namespace too, beside this one, and without a right here.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} 0 1"), ("gid_map", f"{gid} 0 1")):
        with open(f"/proc/self/{name}", "w") as f:
            f.write(text)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.set_capabilities(frozenset())


def _know_machine() -> None:
    """Read of the machine's /proc what `become` needs: a container's may be of its own making."""
    maps_many()
    _last_capability()


@functools.cache
def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap") as f:
        return int(f.read())
