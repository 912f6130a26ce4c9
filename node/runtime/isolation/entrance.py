"""The way of a shim into the machine's namespaces, before it is one.

Started as `entrance.py CONTROL MEMBERS DIRECTORY...` (see `shim`). Who is no root goes through one more exec: of the
interpreter as it is mounted in `STAGE`, read-only to all below. A container can always reach the file of the program
that its first process was before (/proc/self/exe), and may own that file outside: it must not write to it. Where the
interpreter itself stands nothing is mounted: that would be locked for pods' namespaces, and the kernel takes no
directory with such a mount in it, /usr or /opt, as a layer of their roots.
"""

import errno
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(os.path.abspath(__file__)).parents[4]))

from rayplane.node.runtime.isolation import syscalls
from rayplane.node.runtime.isolation.members import joining
from rayplane.node.runtime.isolation.mounts import make_read_only
from rayplane.node.runtime.isolation.rootfs import NEW_ROOT, OWN, PROC, STAGE
from rayplane.node.runtime.isolation.users import RANGE_COUNT, RANGE_FIRST, maps_many

_PROGRAM = f"{STAGE}/program"
_SHIM = str(Path(os.path.abspath(__file__)).with_name("shim.py"))
_JOINED = (("user", syscalls.CLONE_NEWUSER), ("net", syscalls.CLONE_NEWNET))
_SHARED = syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET
#: What each shim has for itself, so that it may come back to it.
_OWN = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS


def isolate(peer: int, directories: Sequence[str], *, network: bool = True) -> None:
    """Go into the machine's namespaces: those of `peer`, else new ones. `network`: have one apart. Raises OSError."""
    is_root = os.geteuid() == 0
    shared = _SHARED if network else syscalls.CLONE_NEWUSER
    if is_root:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        _show(directories)
    if peer:
        fds = [(os.open(f"/proc/{peer}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), kind) for name, kind in _JOINED]
        for fd, kind in fds:
            syscalls.setns(fd, kind)
            os.close(fd)
        syscalls.unshare(_OWN)
        if maps_many():
            os.setgroups([])
    elif is_root:
        _unshare_with_range(shared)
    else:
        uid, gid = os.geteuid(), os.getegid()
        syscalls.unshare(shared | _OWN)
        _write_maps("self", "deny", f"0 {uid} 1", f"0 {gid} 1")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    if not is_root:
        _show(directories)
        _keep(os.path.realpath(sys.executable))


def _show(directories: Sequence[str]) -> None:
    """Have directories in `STAGE`."""
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", STAGE, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755,size=64k")
    for place in (NEW_ROOT, PROC, OWN):
        os.mkdir(place)
    for number, directory in enumerate(directories):
        os.mkdir(f"{STAGE}/{number}")
        syscalls.mount(directory, f"{STAGE}/{number}", "", syscalls.MS_BIND | syscalls.MS_REC)


def _keep(program: str) -> None:
    """Have the interpreter where nobody can write it by any way that leads through here."""
    os.close(os.open(_PROGRAM, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    syscalls.mount(program, _PROGRAM, "", syscalls.MS_BIND)
    make_read_only(_PROGRAM)


def _unshare_with_range(shared: int) -> None:
    """As root: a child that stays outside gives the namespace a range of numbers."""
    ready, go = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.read(ready, 1)
            line = f"0 {RANGE_FIRST} {RANGE_COUNT}"
            _write_maps(str(os.getppid()), "allow", line, line)
            code = 0
        finally:
            os._exit(code)
    try:
        syscalls.unshare(shared | _OWN)
    finally:
        os.write(go, b".")
        os.close(go)
        os.close(ready)
        _, status = os.waitpid(child, 0)
    if status:
        raise OSError(errno.EPERM, "user numbers cannot be mapped", "/proc/self/uid_map")
    os.setgroups([])


def _write_maps(process: str, groups: str, uids: str, gids: str) -> None:
    for name, text in (("setgroups", groups), ("uid_map", uids), ("gid_map", gids)):
        with open(f"/proc/{process}/{name}", "w") as f:
            f.write(text)


def main() -> None:
    number = int(sys.argv[1])
    is_root = os.geteuid() == 0
    if is_root:
        # Nobody who is root in the namespace may be able to read it later.
        from rayplane.node.runtime.isolation.shim import serve
    try:
        syscalls.leave_session_keys()
        with joining(sys.argv[2]) as peer:
            isolate(peer, sys.argv[3:])
    except Exception as e:
        socket.socket(fileno=number).send(json.dumps({"ev": "failed", "id": "", "error": str(e)}).encode())
        return
    if is_root:
        serve(socket.socket(fileno=number))
    else:
        os.set_inheritable(number, True)
        go_on(_SHIM, str(number))


def go_on(script: str, *words: str) -> NoReturn:
    """Be another program of this interpreter, as it is mounted where `isolate` was."""
    os.execve(_PROGRAM, [sys.executable, "-I", script, *words], {**os.environ, **_own_libraries()})


def _own_libraries() -> dict[str, str]:
    """Where the interpreter's own library is: it may be named by where the program stands ($ORIGIN, ld.so(8))."""
    with open("/proc/self/maps") as f:
        paths = {line.split(maxsplit=5)[-1].strip() for line in f if "/libpython" in line}
    found = [os.path.dirname(path) for path in sorted(paths)]
    return {"LD_LIBRARY_PATH": ":".join([*found, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])} if found else {}


if __name__ == "__main__":
    main()
