"""The shim of a node host whose pods are isolated: as `node.shim`, in the machine's namespaces.

Started as `shim.py CONTROL MEMBERS DIRECTORY...`: the descriptor of its control socket; the file that names the shims
which share the machine's user and network namespaces; the directories of the machine that hold files of pods. Those
appear in `STAGE`, as 0, 1 and so on: the way to them may be closed to whom root is in the namespace.

further orders:
in:  {op: services, cidr}
     {op: node, address, cidr}
     {op: pod, id, of, address, gateway, host_name}      answered with {ev: done} or {ev: failed}
     {op: unpod, id, of}                                 of: the pod's uid
     {op: wire, id}                                      answered with {ev: wire, header} and a descriptor, once
     {op: route, cidr} {op: unroute, cidr}               to the device of the last `wire`
     {op: socket, id, kind}                              answered with {ev: socket} and a descriptor; kind: tcp or udp
     {op: start} and {op: exec} also have `identity`, a start `pod` (empty: the machine's own network) and `mounts`
out: {ev: isolated} once, {ev: failed, id: ""} when the kernel does not let it
"""

import errno
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(os.path.abspath(__file__)).parents[4]))

from rayplane.node.runtime.isolation import launch, syscalls
from rayplane.node.runtime.isolation.launch import Forked
from rayplane.node.runtime.isolation.members import joining
from rayplane.node.runtime.isolation.network import WIRE_HEADER, MachineNetwork, PodNamespaces
from rayplane.node.runtime.isolation.rootfs import NEW_ROOT, STAGE
from rayplane.node.runtime.isolation.users import RANGE_COUNT, RANGE_FIRST, maps_many
from rayplane.node.shim.shim import Shim

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_JOINED = (("user", syscalls.CLONE_NEWUSER), ("net", syscalls.CLONE_NEWNET))
_SHARED = syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET
#: What each shim has for itself, so that it may come back to it.
_OWN = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS


class IsolatedShim(Shim):
    """A shim that knows the namespaces of its pods."""

    def __init__(self, control: socket.socket, network: MachineNetwork) -> None:
        super().__init__(control)
        self._network = network
        self._pods: dict[str, PodNamespaces] = {"": PodNamespaces()}
        self._orders |= {
            "services": self._services,
            "node": self._node,
            "pod": self._pod,
            "unpod": self._unpod,
            "socket": self._socket,
            "wire": self._wire,
            "route": self._route,
            "unroute": self._unroute,
        }

    def spawn(self, message: dict[str, Any], stdio: tuple[int, int, int]) -> Forked:
        if message["op"] == "exec":
            return launch.enter(message, self._main_of(message["of"]), stdio)
        pod = self._pods.get(message["pod"])
        if pod is None:
            raise OSError(errno.ESRCH, "the pod has no sandbox", None)
        return launch.start(message, pod.fds, stdio)

    def _main_of(self, container: str) -> int:
        child = self._children.get(container)
        if child is None:
            raise OSError(errno.ESRCH, "the container does not run", None)
        return child.pid

    def _services(self, message: dict[str, Any], fds: list[int]) -> None:
        self._network.add_services(message["cidr"])

    def _node(self, message: dict[str, Any], fds: list[int]) -> None:
        self._network.add_node(message["address"], message["cidr"])

    def _pod(self, message: dict[str, Any], fds: list[int]) -> None:
        ident, uid = message["id"], message["of"]
        try:
            if uid in self._pods:
                self._pods.pop(uid).close()
            self._pods[uid] = self._network.add_pod(uid, message["address"], message["gateway"], message["host_name"])
        except Exception as e:  # NetlinkError is no OSError
            self._send(ev="failed", id=ident, error=f"cannot make the pod's network: {e}")
        else:
            self._send(ev="done", id=ident)

    def _unpod(self, message: dict[str, Any], fds: list[int]) -> None:
        pod = self._pods.pop(message["of"], None)
        if pod is not None:
            pod.close()
            self._network.remove_pod(message["of"])

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
        with socket.socket(socket.AF_INET, _KINDS[message["kind"]]) as one:
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
    os.mkdir(NEW_ROOT)
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


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    try:
        with joining(sys.argv[2]) as peer:
            isolate(peer, sys.argv[3:])
        network = MachineNetwork()
    except Exception as e:
        control.send(Shim.encode(ev="failed", id="", error=str(e)))
        return
    shim = IsolatedShim(control, network)
    control.send(Shim.encode(ev="isolated", id=""))
    shim.run()


if __name__ == "__main__":
    main()
