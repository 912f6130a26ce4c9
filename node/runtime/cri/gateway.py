"""The way of another runtime's pods to services: a network namespace of the host's own, in which the proxy listens.

Such a pod is in its runtime's network, where addresses of 127/8 are the pod itself. It gets a second interface, by
which the cluster's part of 127/8 (and of 10/8, where it has isolated pods) leads to the gateway and nothing else does;
the proxy sees the pod's own address. The machine's own network is not touched. The namespace and its interfaces go
with the host's process.

One thread lives in the namespace and makes all that is made there. It takes root.
"""

import asyncio
import errno
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Any, TypeVar

from rayplane.node.runtime.isolation import syscalls
from rayplane.node.runtime.isolation.links import (
    EVERYWHERE,
    IFF_UP,
    LOOPBACK,
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RT_TABLE_LOCAL,
    RTN_LOCAL,
    End,
    Route,
    delete_link,
    new_pair,
    set_flags,
)
from rayplane.node.runtime.isolation.network import MTU, interface_of, lead_out_of_loopback, set_parameter
from rayplane.node.runtime.isolation.rtnetlink import RouteSocket
from rayplane.node.runtime.pod_network import OwnNetwork, bound

T = TypeVar("T")
INTERFACE = "services0"
"""In a pod, the way to services."""


class ServiceGateway(OwnNetwork):
    """The network that services are asked in. Pods themselves are reached from the machine's own.

    `networks`: those that lead here.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = networks
        self._thread = ThreadPoolExecutor(1, "service gateway")
        self._outside = _inode("/proc/self/ns/net")
        self._mine = -1

    async def open(self) -> None:
        """Make the namespace. Raises OSError; it is closed then."""
        try:
            await self._do(self._enter)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Leave it: without the thread and its sockets it is no more."""
        self._thread.submit(self._leave)
        self._thread.shutdown()

    async def add_sandbox(self, ident: str, ip: str, namespace: str) -> None:
        """Lead a sandbox here, whose network namespace has this path. Raises OSError."""
        await self._do(self._add, interface_of(ident), ip, namespace)

    async def remove_sandbox(self, ident: str) -> None:
        """Take its way back. What went with its namespace is no error."""
        await self._do(self._remove, interface_of(ident))

    async def listen(self, ip: str, port: int) -> socket.socket:
        return bound(await self._do(socket.socket, socket.AF_INET, socket.SOCK_STREAM), ip, port)

    async def listen_udp(self, ip: str, port: int) -> socket.socket:
        return bound(await self._do(socket.socket, socket.AF_INET, socket.SOCK_DGRAM), ip, port)

    async def _do(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    # --- in the thread ----------------------------------------------------------------------------

    def _enter(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        self._mine = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        # Pods find services here, and not each other.
        set_parameter("net/ipv4/ip_forward", "0")
        with RouteSocket() as routes:
            routes.tell(set_flags(LOOPBACK, IFF_UP))
            for network in self._networks:
                # Of 127/8 all is this namespace anyway.
                if not IPv4Network(network).is_loopback:
                    here = Route(network, LOOPBACK, kind=RTN_LOCAL, scope=RT_SCOPE_HOST, table=RT_TABLE_LOCAL)
                    routes.tell(here.new())

    def _leave(self) -> None:
        if self._mine >= 0:
            os.close(self._mine)

    def _add(self, name: str, ip: str, namespace: str) -> None:
        try:
            own = IPv4Address(ip)
        except AddressValueError as e:
            raise OSError(errno.EAFNOSUPPORT, f"services are there for IPv4 alone: {e}") from e
        if taken := next((one for one in self._networks if own in IPv4Network(one)), ""):
            raise OSError(errno.EADDRINUSE, f"{ip} is in {taken}, which is the cluster's: give its runtime another")
        net = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(net).st_ino in (self._outside, os.fstat(self._mine).st_ino):
                raise OSError(errno.EINVAL, "it has no network of its own", namespace)
            with RouteSocket() as routes:
                routes.tell(new_pair(End(name, flags=IFF_UP), End(INTERFACE, net), MTU))
                try:
                    self._connect(routes, name, ip, net)
                except OSError:
                    routes.tell(delete_link(name), but=errno.ENODEV)
                    raise
        finally:
            os.close(net)

    def _connect(self, routes: RouteSocket, name: str, ip: str, net: int) -> None:
        # No pod speaks with another's address, and all of 127/8 is this namespace.
        for key in ("rp_filter", "route_localnet"):
            set_parameter(f"net/ipv4/conf/{name}/{key}", "1")
        # The interface of one that had the address before may still be there.
        routes.tell(Route(f"{ip}/32", socket.if_nametoindex(name), scope=RT_SCOPE_LINK).replace())
        syscalls.setns(net, syscalls.CLONE_NEWNET)
        try:
            self._lead(ip)
        finally:
            syscalls.setns(self._mine, syscalls.CLONE_NEWNET)

    def _lead(self, ip: str) -> None:
        index = socket.if_nametoindex(INTERFACE)
        with RouteSocket() as routes:
            routes.tell(set_flags(index, IFF_UP))
            way = Route(EVERYWHERE, index, source=ip, scope=RT_SCOPE_LINK)
            lead_out_of_loopback(routes, INTERFACE, self._networks, way)

    def _remove(self, name: str) -> None:
        with RouteSocket() as routes:
            routes.tell(delete_link(name), but=errno.ENODEV)


def network_namespace(info: Mapping[str, str]) -> str:
    """The path of a sandbox's network namespace, in what containerd and CRI-O tell of it. Raises OSError.

    That of its process would not do: another may have the number by now.
    """
    try:
        for namespace in json.loads(info["info"])["runtimeSpec"]["linux"]["namespaces"]:
            if namespace["type"] == "network" and namespace.get("path"):
                return str(namespace["path"])
    except (LookupError, TypeError, ValueError, AttributeError):
        pass
    raise OSError(errno.ENODATA, "the runtime does not tell which network its sandbox has")


def _inode(path: str) -> int:
    return os.stat(path).st_ino
