"""The network that pods are in: connections to them, and sockets at addresses of services."""

import socket
from typing import Protocol

from rayplane.control_plane.rpc.sockets import connected, tcp_socket


class PodNetwork(Protocol):
    """A network in which pods, nodes and services have their addresses.

    `spans_machines`: it leads to pods of all machines, else pods of others are reached by way of their node host.
    """

    spans_machines: bool

    async def connect(self, ip: str, port: int) -> socket.socket:
        """A TCP connection, not blocking. Raises OSError."""

    async def connect_udp(self, ip: str, port: int) -> socket.socket:
        """A UDP socket that speaks with nobody else, not blocking. Raises OSError."""

    async def listen(self, ip: str, port: int) -> socket.socket:
        """A TCP socket bound there, which other hosts of this machine may bind too. Raises OSError."""

    async def listen_udp(self, ip: str, port: int) -> socket.socket:
        """The same for UDP."""


class OwnNetwork:
    """This machine's own network: pods have loopback addresses."""

    spans_machines = False

    async def connect(self, ip: str, port: int) -> socket.socket:
        return await connected(tcp_socket(ip), (ip, port))

    async def connect_udp(self, ip: str, port: int) -> socket.socket:
        return joined(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), ip, port)

    async def listen(self, ip: str, port: int) -> socket.socket:
        return bound(socket.socket(socket.AF_INET, socket.SOCK_STREAM), ip, port)

    async def listen_udp(self, ip: str, port: int) -> socket.socket:
        return bound(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), ip, port)


DIRECT = OwnNetwork()


def bound(sock: socket.socket, ip: str, port: int) -> socket.socket:
    """`sock` when it is bound to an address that others of this machine may have too. Raises OSError."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setblocking(False)
        sock.bind((ip, port))
    except BaseException:
        sock.close()
        raise
    return sock


def joined(sock: socket.socket, ip: str, port: int) -> socket.socket:
    """A UDP socket when it speaks with one peer. Raises OSError; it is closed then."""
    try:
        sock.setblocking(False)
        sock.connect((ip, port))
    except BaseException:
        sock.close()
        raise
    return sock
