"""The socket by which a network namespace is told of interfaces, addresses and routes (rtnetlink(7))."""

import os
import socket
from collections.abc import Sequence

from rayplane.node.netlink import CAP_ACK, ERROR, SOL_NETLINK, error_number, parsed
from rayplane.node.runtime.isolation.links import Order

_RECEIVE_BYTES = 1 << 16
_ANSWER_S = 30.0
_NUMBERS = 1 << 31  # of orders, before they begin anew


class RouteSocket:
    """A socket of the network namespace that this process is in when it is made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(SOL_NETLINK, CAP_ACK, 1)
        self._socket.settimeout(_ANSWER_S)
        self._next = 1

    def __enter__(self) -> "RouteSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def tell(self, *orders: Order, but: int = 0) -> None:
        """Have orders carried out, in one datagram. `but`: a number (errno) of a refusal that is as good.

        Raises OSError with what was refused first; the others are done.
        """
        for order, number in self._refused(orders):
            if number != but:
                raise OSError(number, f"{order.about}: {os.strerror(number)}")

    def _refused(self, orders: Sequence[Order]) -> list[tuple[Order, int]]:
        if not orders:
            return []
        first = self._next
        self._next = (first + len(orders)) % _NUMBERS
        self._socket.send(b"".join(order.packed(number) for number, order in enumerate(orders, first)))
        refused = []
        waiting = dict(enumerate(orders, first))
        while waiting:
            for kind, sequence, body in parsed(self._socket.recv(_RECEIVE_BYTES)):
                order = waiting.pop(sequence, None) if kind == ERROR else None
                if order is not None and (number := error_number(body)):
                    refused.append((order, number))
        return refused
