"""The way of a container from fork to exec, inside the child: its namespaces, its root, its identity.

Runs in the shim's children, which have one thread. What fails is told through a pipe, as `subprocess` does, so that the
shim can say why; a child never returns from here.
"""

import base64
import contextlib
import errno
import fcntl
import functools
import json
import os
import resource
import signal
import stat
import termios
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from rayplane.node.runtime.isolation import syscalls
from rayplane.node.runtime.isolation.mounts import build
from rayplane.node.runtime.isolation.namespaces import PodNamespaces
from rayplane.node.runtime.isolation.terminals import make_terminal
from rayplane.node.runtime.isolation.users import known_groups, maps_many
from rayplane.node.shim.child import reset_signals

FAILED = 126
_ERROR_MAX = 16 * 1024
_USERS_MAX = 1 << 20
_TEXT_MAX = 300  # of characters, which JSON may take twelve bytes for
#: What a process of a container may have. A limit of one byte is the one that keeps programs for core dumps, which run
#: outside, from being started.
LIMITS = {
    resource.RLIMIT_NOFILE: (65536, 1 << 20),
    resource.RLIMIT_CORE: (1, 1),
}
_OF_CONTAINER = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWCGROUP
)


class Forked:
    """A child that is on its way to a program. `pending`: what it says before; closed by its exec.

    `among_others`: what it starts may outlive it.
    """

    def __init__(self, pid: int, pending: int) -> None:
        self.pid = pid
        self.pending = pending
        self.among_others = False
        self.returncode: int | None = None
        self.user: list[Any] | None = None
        self._said = b""

    def arrived(self) -> bool:
        """Whether it has said all that it says, once `pending` can be read."""
        part = os.read(self.pending, _ERROR_MAX)
        self._said += part
        return not part

    def failure(self) -> OSError | None:
        """Why there is no program. Waits for one."""
        while not self.arrived():
            pass
        os.close(self.pending)
        self.pending = -1
        failure = None
        # What is killed in the midst of a line has not said it.
        for said in map(json.loads, self._said.split(b"\n")[:-1]):
            if isinstance(said, list):
                self.user = said
            else:
                failure = OSError(said["errno"], said["text"], said["path"])
        return failure


def start(message: dict[str, Any], pod: PodNamespaces, stdio: Sequence[int], *, beside: int = 0) -> Forked:
    """Start a container's main process in the namespaces of its pod.

    It is the first one of a process namespace of its own, unless its pod has one for all containers, or `message` says
    `host_pid`: then it is among the machine's. `beside`: a process whose process numbers it shares.
    """
    own = syscalls.CLONE_NEWNS
    if not (beside or message["host_pid"] or "pid" in pod.fds):
        own |= syscalls.CLONE_NEWPID
    other = os.pidfd_open(beside) if beside else -1
    groups = message.get("groups") or ()

    def join() -> int:
        if other >= 0:
            syscalls.setns(other, syscalls.CLONE_NEWPID)
        pod.enter()
        return own

    def inside(tell: int) -> None:
        own = message.get("console")
        _stand_alone(stdio, tty=message["tty"] and own is None)
        build(message["mounts"])
        if own is not None:
            make_terminal(own, message["identity"]["uid"], is_console=True)
        _join_groups(groups)
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)
        _run(message, tell)

    try:
        forked = _fork(message, join, inside, (other, *groups, *stdio, *pod.fds.values()))
        forked.among_others = not own & syscalls.CLONE_NEWPID
        return forked
    finally:
        if other >= 0:
            os.close(other)


def enter(message: dict[str, Any], pod: PodNamespaces, main: int, stdio: Sequence[int]) -> Forked:
    """Start a command in the container whose main process is `main`. Raises OSError when that is gone."""
    container = os.pidfd_open(main)
    groups = message.get("groups") or ()

    def join() -> int:
        syscalls.setns(container, _OF_CONTAINER)
        pod.enter_users()
        return 0

    def inside(tell: int) -> None:
        own = message.get("console")
        _stand_alone(stdio, tty=message["tty"] and own is None)
        if own is not None:
            make_terminal(own, message["identity"]["uid"])
        _join_groups(groups)
        _run(message, tell)

    try:
        return _fork(message, join, inside, (container, *groups, *stdio, *pod.fds.values()))
    finally:
        os.close(container)


def _fork(
    message: dict[str, Any], join: Callable[[], int], inside: Callable[[int], None], kept: Iterable[int]
) -> Forked:
    """A child in other namespaces. One between goes there first, and has a child for this process, which stays outside.

    `join`: go to namespaces, return those (flags) that the child has for itself. `inside` is given the descriptor by
    which the child tells as whom it runs. `kept`: descriptors they need: the child may be seen by processes of the pod
    from then on, and has nothing that is not the pod's.
    """
    _know_machine()
    read, write = os.pipe2(os.O_CLOEXEC)
    told, tell = os.pipe2(os.O_CLOEXEC)
    try:
        between = syscalls.clone(0)  # cheaper than `os.fork`, which sees to what such a child never uses
        if between == 0:

            def there() -> None:
                syscalls.close_all_but({write, tell, *(fd for fd in kept if fd >= 0)})
                _score(message["oom_score"])
                pid = syscalls.clone(join() | syscalls.CLONE_PARENT)
                if pid == 0:
                    inside(write)
                os.write(tell, pid.to_bytes(8))
                os._exit(0)

            _child(there, write)
    except BaseException:
        os.close(read)
        os.close(told)
        raise
    finally:
        os.close(write)
        os.close(tell)
    with open(told, "rb") as answer:
        pid = int.from_bytes(answer.read(8))
    os.waitpid(between, 0)
    forked = Forked(pid, read)
    if not pid:
        raise forked.failure() or OSError(errno.ESRCH, "the container does not run", message["argv"][0])
    return forked


def _join_groups(groups: Sequence[int]) -> None:
    """Go to control groups, at last: what is still to be done there has the time that the container has."""
    for fd in groups:
        os.write(fd, b"0")


def _score(value: int) -> None:
    """How soon the kernel ends it when memory is short. Nobody but root may make that later than it was."""
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    with contextlib.suppress(PermissionError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(value))
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


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
        _say(write, said)
    finally:
        os._exit(FAILED)


def _say(write: int, said: object) -> None:
    os.write(write, f"{json.dumps(said)}\n".encode())


def _short(words: object) -> str | None:
    """Words as far as the pipe takes them whole: a pod chooses how long they are."""
    return str(words)[:_TEXT_MAX] if words is not None else None


def _stand_alone(stdio: Sequence[int], *, tty: bool) -> None:
    os.setsid()
    os.umask(0o022)
    reset_signals()
    # Copies first: a descriptor of the three may stand where another is to be.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in stdio]
    for number, fd in enumerate(copies):
        os.dup2(fd, number, inheritable=True)
    # The shim's own, first of all the socket that takes orders.
    syscalls.close_on_exec(3)
    if tty:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _run(message: dict[str, Any], tell: int) -> NoReturn:
    cwd = message["cwd"]
    os.makedirs(os.path.realpath(cwd), exist_ok=True)
    _limit({resource.RLIMIT_NPROC: (message["processes"], message["processes"]), **LIMITS})
    user = become(message["identity"])
    os.chdir(cwd)
    # After the change of numbers, which would take it back.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if message["identity"]["no_new_privileges"]:
        _confine(message["identity"])
    argv: list[str] = message["argv"]
    _say(tell, user)
    try:
        os.execvpe(argv[0], argv, message["env"])
    except OSError as e:
        raise OSError(e.errno, e.strerror, argv[0]) from e


def _limit(limits: Mapping[int, tuple[int, int]]) -> None:
    for which, (soft, hard) in limits.items():
        _, most = resource.getrlimit(which)
        hard = min(most, hard) if most >= 0 else hard
        resource.setrlimit(which, (min(soft, hard), hard))


def become(identity: dict[str, Any]) -> tuple[int, int, list[int]]:
    """Take an identity (see `users.Identity`): user, group and further groups, as the container sees them.

    A filter of system calls needs a right to be set, unless nothing after it can have more rights: then it comes last.
    """
    uid, kept = identity["uid"], frozenset(identity["capabilities"])
    gid, groups = _groups(identity)
    if maps_many():
        _bound(kept, identity)
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    else:
        groups = []  # that it has are nobody's here
        if (uid, gid) != (0, 0):
            _see_as(uid, gid)
        _bound(kept, identity)
    if uid == 0:
        syscalls.set_capabilities(frozenset(n for n in kept if n <= _last_capability()))
    elif not maps_many():
        syscalls.set_capabilities(frozenset())
    if identity["no_new_privileges"]:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    return uid, gid, groups


def _bound(kept: frozenset[int], identity: dict[str, Any]) -> None:
    """Let go for good of capabilities, while there still are such that allow it."""
    for number in range(_last_capability() + 1):
        if number not in kept:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    if not identity["no_new_privileges"]:
        _confine(identity)


def _confine(identity: dict[str, Any]) -> None:
    if identity["filter"]:
        syscalls.set_filter(base64.b64decode(identity["filter"]))


def _groups(identity: dict[str, Any]) -> tuple[int, list[int]]:
    """Group and further groups, as far as an identity leaves them to the container's files."""
    gid, groups = identity["gid"], identity["groups"]
    if gid is not None and not identity["merges"]:
        return gid, groups
    own, more = known_groups(_text_of("/etc/passwd"), _text_of("/etc/group"), identity["uid"])
    if identity["merges"]:
        groups = [*dict.fromkeys([*groups, *more])]
    return (own or 0) if gid is None else gid, groups


def _text_of(path: str) -> str:
    """A small file of the container's; empty for what is none."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
            return (
                file.read(_USERS_MAX).decode(errors="replace") if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else ""
            )
    except OSError:
        return ""


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


def _know_machine() -> None:
    """Read of the machine's /proc what `become` needs: a container's may be of its own making."""
    maps_many()
    _last_capability()


@functools.cache
def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap") as f:
        return int(f.read())
