"""Addresses of one node's pods, out of its pod CIDR. Pure.

The first address is the node's own; pods get the others in rotation, so that an address that was given back is not
used again before all others were: a peer that still dials it finds nobody, never a stranger.
"""

import ipaddress
from collections.abc import Callable

from rayplane.node.errors import AddressesExhausted


class AddressPool:
    """The pod addresses of a node.

    `offset` is where the rotation starts (any number): a node that comes back starts elsewhere.
    """

    def __init__(self, cidr: str, *, offset: int = 0) -> None:
        network = ipaddress.ip_network(cidr)
        self.node_address = str(network.network_address + 1)
        self._first = int(network.network_address) + 2
        # Without the network's own address, the node's and the broadcast address.
        self._size = max(0, network.num_addresses - 3)
        self._next = offset % self._size if self._size else 0
        self._used: set[int] = set()
        self._avoid: set[int] = set()
        self._last = -1

    def avoid(self, address: str) -> None:
        """Do not give this address to anybody in this life: a pod had it just before. What is none is ignored."""
        try:
            index = int(ipaddress.ip_address(address)) - self._first
        except ValueError:
            return
        # Half of the pool stays free whatever happened before.
        if 0 <= index < self._size and 2 * len(self._avoid) < self._size:
            self._avoid.add(index)

    def take(self) -> str:
        """An address nobody has, and not what was given back last while another is free. Raises AddressesExhausted."""
        for unwanted in ({*self._avoid, self._last}, self._avoid, frozenset[int]()):
            for _ in range(self._size):
                index = self._next
                self._next = (self._next + 1) % self._size
                if index not in self._used and index not in unwanted:
                    self._used.add(index)
                    return str(ipaddress.ip_address(self._first + index))
        raise AddressesExhausted(
            f"all {self._size} pod addresses of this node are in use: run fewer pods on it or give it a larger pod CIDR"
        )

    def give_back(self, address: str) -> None:
        self._last = int(ipaddress.ip_address(address)) - self._first
        self._used.discard(self._last)


class NodeAddresses:
    """A node's pool, from the moment on that its pod CIDR is known; until then pods wait for it."""

    def __init__(self) -> None:
        self._pool: AddressPool | None = None
        self._stale: dict[str, None] = {}
        self._waiting: dict[Callable[[], None], None] = {}

    @property
    def node_ip(self) -> str:
        """The node's own address; empty until it is known."""
        return self._pool.node_address if self._pool is not None else ""

    @property
    def known(self) -> bool:
        return self._pool is not None

    def assign(self, cidr: str, *, offset: int) -> None:
        """The pod CIDR is known now. Raises ValueError when it is none."""
        self._pool = AddressPool(cidr, offset=offset)
        for address in self._stale:
            self._pool.avoid(address)

    def avoid(self, address: str) -> None:
        """A pod of an earlier life of this node had this address."""
        self._stale[address] = None
        if self._pool is not None:
            self._pool.avoid(address)

    def take(self) -> str:
        """An address nobody has. Raises AddressesExhausted."""
        assert self._pool is not None
        return self._pool.take()

    def give_back(self, address: str) -> None:
        if self._pool is not None:
            self._pool.give_back(address)

    def wait(self, waiter: Callable[[], None]) -> None:
        """Call `waiter` at the first `tell` after the CIDR is known."""
        self._waiting[waiter] = None

    def forget(self, waiter: Callable[[], None]) -> None:
        self._waiting.pop(waiter, None)

    def tell(self) -> None:
        if self._pool is not None and self._waiting:
            waiting, self._waiting = self._waiting, {}
            for waiter in waiting:
                waiter()
