"""The first process of a machine, or of the switch that joins machines.

    python -m rayplane.control_plane.testing.machines.inside machine NAME FOLDER PLACE
    python -m rayplane.control_plane.testing.machines.inside switch

It is started in new namespaces, takes orders as lines of JSON from its standard input and answers each by a line. The
end of its input is the end of whoever made it: then it ends, and with the first of its processes all of a machine's.
"""

import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from rayplane.node.runtime.isolation import syscalls
from rayplane.node.runtime.isolation.links import (
    IFF_UP,
    LOOPBACK,
    End,
    delete_link,
    join_bridge,
    new_address,
    new_bridge,
    new_pair,
    set_flags,
)
from rayplane.node.runtime.isolation.rtnetlink import RouteSocket

INTERFACE = "eth0"
BRIDGE = "machines"
MTU = 1500
_ARP, _EVERYBODY = 0x0806, b"\xff" * 6
_REQUEST = bytes.fromhex("0001 0800 06 04 0001")  # Ethernet, IPv4, lengths of their addresses, request (RFC 826)
# Objects of Ray, of which there are none, and what pods share.
_SHARED_MEMORY = "size=1g,mode=1777"
_PRIVATE = syscalls.MS_REC | syscalls.MS_PRIVATE

Orders = dict[str, Callable[..., Any]]


def main() -> None:
    role, *arguments = sys.argv[1:]
    orders = _machine(*arguments) if role == "machine" else _switch()
    for line in sys.stdin:
        order, *words = json.loads(line)
        try:
            answer = {"answer": orders[order](*words)}
        except Exception as e:  # whatever it is: whoever ordered it is told
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), flush=True)


def _machine(name: str, folder: str, place: str) -> Orders:
    """Put `folder` at `place`, which is the same path on all machines."""
    # By the process file system of whoever made this machine: the number that it knows this process by.
    pid = int(os.readlink("/proc/self"))
    syscalls.mount("", "/", flags=_PRIVATE)
    syscalls.mount(folder, place, flags=syscalls.MS_BIND)
    syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    syscalls.mount("tmpfs", "/dev/shm", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, _SHARED_MEMORY)
    socket.sethostname(name)
    # The kernel buries the children of who does not care for them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    routes = RouteSocket()
    routes.tell(set_flags(LOOPBACK, IFF_UP))

    def address(text: str, prefix: int) -> None:
        index = socket.if_nametoindex(INTERFACE)
        routes.tell(set_flags(index, IFF_UP), new_address(index, text, prefix))
        _announce(text)

    return {"pid": lambda: pid, "address": address}


def _announce(address: str) -> None:
    """Tell all neighbours whose the address is now (gratuitous ARP, RFC 5227): they may know it as another's."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((INTERFACE, _ARP))
        mac, ip = link.getsockname()[4], socket.inet_aton(address)
        head = _EVERYBODY + mac + _ARP.to_bytes(2)
        link.send(head + _REQUEST + mac + ip + bytes(len(mac)) + ip)


def _switch() -> Orders:
    routes = RouteSocket()
    routes.tell(new_bridge(BRIDGE))
    bridge = socket.if_nametoindex(BRIDGE)

    def plug(name: str, pid: int) -> None:
        """Connect the machine whose first process that is; out of its interface comes what this one's port takes in."""
        net = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            routes.tell(new_pair(End(name, flags=IFF_UP), End(INTERFACE, net), MTU))
        finally:
            os.close(net)
        join(name)

    def join(name: str) -> None:
        routes.tell(join_bridge(socket.if_nametoindex(name), bridge))

    def part(name: str) -> None:
        """Let a machine's packets end at its port: it sees a link that is up, and nobody behind it."""
        routes.tell(join_bridge(socket.if_nametoindex(name), 0))

    def unplug(name: str) -> None:
        """Remove the machine's port, and the far end with it, whose network the kernel may keep for a while."""
        routes.tell(delete_link(name), but=errno.ENODEV)

    return {"plug": plug, "join": join, "part": part, "unplug": unplug}


if __name__ == "__main__":
    main()
