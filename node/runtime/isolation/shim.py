"""The shim of a node host whose pods are isolated: as `node.shim`, in the machine's namespaces.

Started as `shim.py CONTROL MEMBERS DIRECTORY...`: the descriptor of its control socket; the file that names the shims
which share the machine's user and network namespaces; the directories of the machine that hold files of pods. Those
appear in `STAGE`, as 0, 1 and so on: the way to them may be closed to whom root is in the namespace. It is two
processes: one outside, which waits, and the first of a process namespace, which does the work.

further orders:
in:  {op: services, cidr}
     {op: node, address, cidr}
     {op: pod, id, of, address, gateway, host_name, kinds, sysctls, memory}
                                                         answered with {ev: done} or {ev: failed}; kinds: of namespaces
                                                         (see `namespaces`); memory: what it keeps there (see `memory`)
     {op: limit, id, memory_max}                         of a container that runs
     {op: unpod, id, of}                                 of: the pod's uid
     {op: wire, id}                                      answered with {ev: wire, header} and a descriptor, once
     {op: route, cidr} {op: unroute, cidr}               to the device of the last `wire`
     {op: socket, id, kind}                              answered with {ev: socket} and a descriptor; kind: of _KINDS
     {op: start} and {op: exec} also have `pod`, `identity` and `oom_score`, a start `mounts`, `host_pid` and `beside`
                                                         (a container)
out: {ev: isolated} once, {ev: failed, id: ""} when the kernel does not let it
"""

import errno
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(os.path.abspath(__file__)).parents[4]))

from rayplane.node.runtime.isolation import hogs, launch, memory, namespaces, processes, strays, syscalls
from rayplane.node.runtime.isolation.launch import Forked
from rayplane.node.runtime.isolation.members import joining
from rayplane.node.runtime.isolation.namespaces import PodNamespaces
from rayplane.node.runtime.isolation.network import WIRE_HEADER, MachineNetwork, prepare_pod
from rayplane.node.runtime.isolation.rootfs import NEW_ROOT, OWN, PROC, STAGE
from rayplane.node.runtime.isolation.users import RANGE_COUNT, RANGE_FIRST, maps_many
from rayplane.node.shim.child import OOM_KILLED, Child
from rayplane.node.shim.shim import WATCH_S, Shim, kill_group

_NETFILTER = 12
_KINDS = {
    "tcp": (socket.AF_INET, socket.SOCK_STREAM, 0),
    "udp": (socket.AF_INET, socket.SOCK_DGRAM, 0),
    "netfilter": (socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER),
}
_JOINED = (("user", syscalls.CLONE_NEWUSER), ("net", syscalls.CLONE_NEWNET))
_SHARED = syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET
#: What each shim has for itself, so that it may come back to it.
_OWN = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS


class IsolatedShim(Shim):
    """A shim that knows the namespaces of its pods."""

    proc = PROC
    can_be_stopped = False  # by containers that see it

    def __init__(self, control: socket.socket, network: MachineNetwork) -> None:
        super().__init__(control)
        self._network = network
        self._pods: dict[str, PodNamespaces] = {}
        self._orders |= {
            "services": self._services,
            "node": self._node,
            "pod": self._pod,
            "unpod": self._unpod,
            "limit": self._limit,
            "socket": self._socket,
            "wire": self._wire,
            "route": self._route,
            "unroute": self._unroute,
        }

    def spawn(self, message: dict[str, Any], stdio: tuple[int, int, int]) -> Forked:
        pod = self._pods.get(message["pod"])
        if pod is None:
            raise OSError(errno.ESRCH, "the pod has no sandbox", None)
        if message["op"] == "exec":
            main = self._main_of(message["of"])
            return launch.enter(message | {"groups": main.groups}, pod, main.pid, stdio)
        if message.get("memory_max"):
            self.look_at = min(self.look_at, time.monotonic() + hogs.PAUSE_S)
        beside = self._main_of(message["beside"]).pid if message["beside"] else 0
        return launch.start(message, pod, stdio, beside=beside)

    def _main_of(self, container: str) -> Child:
        child = self._children.get(container)
        if child is None or child.of:
            raise OSError(errno.ESRCH, "the container does not run", None)
        return child

    def _limit(self, message: dict[str, Any], fds: list[int]) -> None:
        child = self._children.get(message["id"])
        if child is not None:
            child.memory_max = message["memory_max"]
            self.look_at = time.monotonic()

    def look(self) -> None:
        """End containers that have more memory than they may."""
        limited = {child.id: child for child in self._children.values() if child.memory_max}
        if not limited:
            self.look_at = float("inf")
            return
        found, pause = processes.over({ident: self._roots(child) for ident, child in limited.items()}, limited)
        for ident in found:
            limited[ident].why = OOM_KILLED
            kill_group(limited[ident].pid, signal.SIGKILL)
        self.look_at = time.monotonic() + pause

    def _roots(self, child: Child) -> list[int]:
        """Processes of a container that all others of it are below."""
        beside = [other.pid for other in self._children.values() if other.of == child.id]
        adopted = strays.sharing("mnt", child.spaces) if child.spaces else []
        return [child.pid, *beside, *adopted]

    def shown(self, child: Child) -> int:
        """The number that a child has outside."""
        try:
            if isinstance(child.process, Forked) and child.process.among_others:
                child.spaces = os.stat(f"{PROC}/{child.pid}/ns/mnt").st_ino
            fd = os.pidfd_open(child.pid)
        except OSError:
            return 0  # its end is told next
        try:
            with open(f"/proc/self/fdinfo/{fd}") as f:
                return next(int(line.split()[1]) for line in f if line.startswith("Pid:"))
        finally:
            os.close(fd)

    def left(self, child: Child) -> None:
        """Kill what a container has left behind: with a first process of its own the others went, else they did not."""
        if child.spaces:
            strays.kill_sharing("mnt", child.spaces)

    def _services(self, message: dict[str, Any], fds: list[int]) -> None:
        self._network.add_services(message["cidr"])

    def _node(self, message: dict[str, Any], fds: list[int]) -> None:
        self._network.add_node(message["address"], message["cidr"])

    def _pod(self, message: dict[str, Any], fds: list[int]) -> None:
        ident, uid = message["id"], message["of"]

        def furnish() -> None:
            syscalls.set_host_name(message["host_name"])
            if "net" in message["kinds"]:
                prepare_pod()
            for name, value in message["sysctls"].items():
                with open(f"/proc/sys/{name}", "w") as f:
                    f.write(value)

        try:
            if uid in self._pods:
                self._remove(uid)
            pod = self._pods[uid] = namespaces.make(message["kinds"], furnish)
            memory.keep(uid, message["memory"])
            if "net" in pod.fds:
                self._network.add_pod(uid, message["address"], message["gateway"], pod.fds["net"])
        except Exception as e:  # NetlinkError is no OSError
            if uid in self._pods:
                self._remove(uid)
            self._send(ev="failed", id=ident, error=f"cannot make the pod's namespaces: {e}")
        else:
            self._send(ev="done", id=ident)

    def _unpod(self, message: dict[str, Any], fds: list[int]) -> None:
        if message["of"] in self._pods:
            self._remove(message["of"])

    def _remove(self, uid: str) -> None:
        pod = self._pods.pop(uid)
        users = os.fstat(pod.fds["user"]).st_ino if "user" in pod.fds else 0
        pod.close()
        if users:
            strays.kill_below(users)
        self._network.remove_pod(uid)
        memory.drop(uid)

    def _wire(self, message: dict[str, Any], fds: list[int]) -> None:
        try:
            self._send(ev="wire", id=message["id"], header=WIRE_HEADER.hex(), fds=[self._network.open_wire()])
        except Exception as e:  # NetlinkError is no OSError
            self._send(ev="failed", id=message["id"], error=str(e))

    def _route(self, message: dict[str, Any], fds: list[int]) -> None:
        self._network.route(message["cidr"])

    def _unroute(self, message: dict[str, Any], fds: list[int]) -> None:
        self._network.unroute(message["cidr"])

    def _socket(self, message: dict[str, Any], fds: list[int]) -> None:
        with socket.socket(*_KINDS[message["kind"]]) as one:
            self._send(ev="socket", id=message["id"], fds=[os.dup(one.fileno())])


def isolate(peer: int, directories: Sequence[str]) -> None:
    """Go into the machine's namespaces: those of `peer`, else new ones. Raises OSError."""
    is_root = os.geteuid() == 0
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
        _unshare_with_range()
    else:
        uid, gid = os.geteuid(), os.getegid()
        syscalls.unshare(_SHARED | _OWN)
        _write_maps("self", "deny", f"0 {uid} 1", f"0 {gid} 1")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    if not is_root:
        _show(directories)


def _show(directories: Sequence[str]) -> None:
    """Have directories in `STAGE`."""
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", STAGE, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755,size=64k")
    for place in (NEW_ROOT, PROC, OWN):
        os.mkdir(place)
    for number, directory in enumerate(directories):
        os.mkdir(f"{STAGE}/{number}")
        syscalls.mount(directory, f"{STAGE}/{number}", "", syscalls.MS_BIND | syscalls.MS_REC)


def _unshare_with_range() -> None:
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
        syscalls.unshare(_SHARED | _OWN)
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
    while os.getppid() == host and not select.select([ended], [], [], WATCH_S)[0]:
        pass
    os._exit(0)


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        syscalls.leave_session_keys()
        with joining(sys.argv[2]) as peer:
            isolate(peer, sys.argv[3:])
        go_apart(control)
        network = MachineNetwork()
    except Exception as e:
        control.send(Shim.encode(ev="failed", id="", error=str(e)))
        return
    shim = IsolatedShim(control, network)
    control.send(Shim.encode(ev="isolated", id=""))
    shim.run()


if __name__ == "__main__":
    main()
