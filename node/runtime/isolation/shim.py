"""The shim of a node host whose pods are isolated: as `node.shim`, in the machine's namespaces.

Started as `entrance.py CONTROL MEMBERS DIRECTORY...`: the descriptor of its control socket; the file with the shims
which share the machine's user and network namespaces; the directories of the machine that hold files of pods. Those
appear in `STAGE`, as 0, 1 and so on: the way to them may be closed to whom root is in the namespace. It is two
processes: one outside, which waits, and the first of a process namespace, which does the work.

further orders:
in:  {op: skeleton, steps}                               of what is below roots (see `rootfs.skeleton`)
     {op: services, cidr, outer}                         outer: networks of 127/8 that are the cluster's
     {op: node, address, cidr}
     {op: pod, id, of, address, gateway, closed, host_name, kinds, sysctls, memory}
                                                         answered with {ev: done} or {ev: failed}; kinds: of namespaces
                                                         (see `namespaces`); memory: what it keeps there (see `memory`)
     {op: open, of, address, gateway}                    of a pod whose `closed` was true: lets it speak
     {op: unpod, id, of}                                 of: the pod's uid
     {op: wire, id}                                      answered with {ev: wire, header} and a descriptor, once
     {op: route, cidr, shared} {op: unroute, cidr, shared}   to the device of the last `wire`
     {op: egress}
     {op: lead, networks, source}
     {op: socket, id, kind, transparent}                 answered with {ev: socket} and a descriptor; kind: of _KINDS
     {op: start} and {op: exec} also have `pod`, `identity`, `oom_score` and `processes` (of a user of the pod at most),
                                                         a start `mounts`, `host_pid` and `beside` (a container)
out: {ev: isolated} once, {ev: failed, id: ""} when the kernel does not let it
"""

import errno
import os
import socket
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(os.path.abspath(__file__)).parents[4]))

from rayplane.node.runtime.isolation import launch, memory, mounts, namespaces, strays, syscalls
from rayplane.node.runtime.isolation.apart import go_apart
from rayplane.node.runtime.isolation.launch import Forked
from rayplane.node.runtime.isolation.namespaces import PodNamespaces
from rayplane.node.runtime.isolation.network import WIRE_HEADER, MachineNetwork, prepare_pod
from rayplane.node.runtime.isolation.rootfs import PROC, SKELETON
from rayplane.node.shim.child import Child
from rayplane.node.shim.shim import Shim

_NETFILTER = 12
_KINDS = {
    "tcp": (socket.AF_INET, socket.SOCK_STREAM, 0),
    "udp": (socket.AF_INET, socket.SOCK_DGRAM, 0),
    "netfilter": (socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER),
}


class IsolatedShim(Shim):
    """A shim that knows the namespaces of its pods."""

    proc = PROC
    can_be_stopped = False  # by containers that see it
    makes_consoles = True

    def __init__(self, control: socket.socket, network: MachineNetwork) -> None:
        super().__init__(control)
        self._network = network
        self._pods: dict[str, PodNamespaces] = {}
        self._orders |= {
            "skeleton": self._skeleton,
            "services": self._services,
            "node": self._node,
            "pod": self._pod,
            "open": self._open,
            "unpod": self._unpod,
            "socket": self._socket,
            "wire": self._wire,
            "egress": self._egress,
            "lead": self._lead,
            "route": self._route,
            "unroute": self._unroute,
        }

    def spawn(self, message: dict[str, Any], stdio: tuple[int, int, int]) -> Forked:
        pod = self._pods.get(message["pod"])
        if pod is None:
            raise OSError(errno.ESRCH, "the pod has no sandbox", None)
        if message["op"] == "exec":
            main = self._main_of(message["of"])
            return launch.enter(message, pod, main.pid, stdio)
        beside = self._main_of(message["beside"]).pid if message["beside"] else 0
        return launch.start(message, pod, stdio, beside=beside)

    def _main_of(self, container: str) -> Child:
        child = self._children.get(container)
        if child is None or child.of:
            raise OSError(errno.ESRCH, "the container does not run", None)
        return child

    def adopted(self, children: Collection[Child]) -> Iterator[tuple[str, int]]:
        for child in children:
            if child.spaces:
                yield from ((child.id, pid) for pid in strays.sharing("mnt", child.spaces))

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

    def _skeleton(self, message: dict[str, Any], fds: list[int]) -> None:
        mounts.furnish(SKELETON, message["steps"])

    def _services(self, message: dict[str, Any], fds: list[int]) -> None:
        self._network.add_services(message["cidr"], message["outer"])

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
                self._network.add_pod(
                    uid, message["address"], message["gateway"], pod.fds["net"], closed=message["closed"]
                )
        except Exception as e:  # whatever it met: nothing of the pod stays
            if uid in self._pods:
                self._remove(uid)
            self._send(ev="failed", id=ident, error=f"cannot make the pod's namespaces: {e}")
        else:
            self._send(ev="done", id=ident)

    def _open(self, message: dict[str, Any], fds: list[int]) -> None:
        self._network.open_pod(message["of"], message["address"], message["gateway"])

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
        except OSError as e:
            self._send(ev="failed", id=message["id"], error=str(e))

    def _egress(self, message: dict[str, Any], fds: list[int]) -> None:
        self._network.add_egress()

    def _lead(self, message: dict[str, Any], fds: list[int]) -> None:
        self._network.lead_out(message["networks"], message["source"])

    def _route(self, message: dict[str, Any], fds: list[int]) -> None:
        self._network.route(message["cidr"], shared=message["shared"])

    def _unroute(self, message: dict[str, Any], fds: list[int]) -> None:
        self._network.unroute(message["cidr"], shared=message["shared"])

    def _socket(self, message: dict[str, Any], fds: list[int]) -> None:
        with socket.socket(*_KINDS[message["kind"]]) as one:
            if message["transparent"]:
                one.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
            self._send(ev="socket", id=message["id"], fds=[os.dup(one.fileno())])


def serve(control: socket.socket) -> None:
    """Be the shim of pods in the namespaces that this process is in."""
    try:
        go_apart(control)
        network = MachineNetwork()
    except Exception as e:
        control.send(Shim.encode(ev="failed", id="", error=str(e)))
        return
    shim = IsolatedShim(control, network)
    control.send(Shim.encode(ev="isolated", id=""))
    shim.run()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
