"""The pods' network as a node host has it from outside: sockets, devices and ways that its shim makes."""

import socket
from collections.abc import Sequence
from typing import Any

from rayplane.control_plane.rpc.sockets import connected
from rayplane.node.runtime.pod_network import bound, joined
from rayplane.node.runtime.shim_client import ShimClient


class ShimNetwork:
    """A network (`PodNetwork`, `overlay.carrier.Wire`, `egress.relay.TransparentNetwork`) by way of a shim."""

    spans_machines = True
    shim: ShimClient
    header: bytes

    async def of_network(self, op: str, **order: Any) -> dict[str, Any]:
        """The shim's answer with something of the pods' network. Raises OSError."""
        raise NotImplementedError

    async def connect(self, ip: str, port: int) -> socket.socket:
        return await connected(await self._socket(), (ip, port))

    async def connect_udp(self, ip: str, port: int) -> socket.socket:
        return joined(await self._socket("udp"), ip, port)

    async def open_netfilter(self) -> int:
        """A descriptor by which the pods' network takes packet rules (see `nftables.kernel`). Raises OSError."""
        return (await self._socket("netfilter")).detach()

    async def listen(self, ip: str, port: int) -> socket.socket:
        """A socket bound to an address of the machine's network, which other hosts may bind too. Raises OSError."""
        return bound(await self._socket(), ip, port)

    async def listen_udp(self, ip: str, port: int) -> socket.socket:
        return bound(await self._socket("udp"), ip, port)

    async def open_wire(self) -> int:
        """A descriptor of packets to and from other machines (see `overlay.carrier.Wire`). Raises OSError."""
        answer = await self.of_network("wire")
        self.header = bytes.fromhex(answer["header"])
        fd: int = answer["fds"][0]
        return fd

    def route(self, cidr: str, *, shared: bool) -> None:
        self.shim.order("", op="route", cidr=cidr, shared=shared)

    def unroute(self, cidr: str, *, shared: bool) -> None:
        self.shim.order("", op="unroute", cidr=cidr, shared=shared)

    async def transparent(self, kind: str, ip: str, port: int) -> socket.socket:
        """A socket, tcp or udp, bound to an address that need not be this machine's. Raises OSError."""
        return bound(await self._socket(kind, transparent=True), ip, port)

    def add_egress(self) -> None:
        self.shim.order("", op="egress")

    def lead_out(self, networks: Sequence[str], source: str) -> None:
        self.shim.order("", op="lead", networks=[*networks], source=source)

    async def _socket(self, kind: str = "tcp", *, transparent: bool = False) -> socket.socket:
        answer = await self.of_network("socket", kind=kind, transparent=transparent)
        return socket.socket(fileno=answer["fds"][0])
