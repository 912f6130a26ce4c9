"""The way of packets between machines: from an address to the node that has it, and who may send what. Pure.

Source: RFC 791 (the header of IPv4).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network

HEADER_BYTES = 20


@dataclass(frozen=True, slots=True)
class Peer:
    """A node with the network of its pods. `host`: host:port of its host's services; `network`: see NETWORK."""

    node: str
    cidr: str
    host: str
    network: str


def source_of(packet: bytes) -> int:
    """The sender's address as a number; 0 for what is no packet of IPv4."""
    return int.from_bytes(packet[12:16]) if _is_ipv4(packet) else 0


def destination_of(packet: bytes) -> int:
    """The addressee's."""
    return int.from_bytes(packet[16:20]) if _is_ipv4(packet) else 0


def _is_ipv4(packet: bytes) -> bool:
    return len(packet) >= HEADER_BYTES and packet[0] >> 4 == 4


class Table:
    """Peers by the addresses of their pods.

    Networks of nodes do not overlap; of two that do the first by name counts.
    """

    def __init__(self, peers: Iterable[Peer] = ()) -> None:
        self.peers: Mapping[str, Peer] = {}
        self._found: dict[tuple[int, int], Peer] = {}
        self._masks: list[int] = []
        known: dict[str, Peer] = {}
        for peer in sorted(peers, key=lambda p: p.node):
            try:
                network = ip_network(peer.cidr)
            except ValueError:
                continue  # written past the API's validation
            if isinstance(network, IPv4Network):
                known[peer.node] = peer
                self._found.setdefault((int(network.network_address), int(network.netmask)), peer)
        self.peers = known
        self._masks = sorted({mask for _, mask in self._found}, reverse=True)

    def find(self, address: int) -> Peer | None:
        """Who has an address."""
        for mask in self._masks:
            peer = self._found.get((address & mask, mask))
            if peer is not None:
                return peer
        return None

    def elsewhere(self, network: str) -> dict[str, Peer]:
        """The peers of other machines, by the network of their pods."""
        return {peer.cidr: peer for peer in self.peers.values() if peer.network != network}

    def admits(self, packet: bytes, *, sender: frozenset[str], own: frozenset[str]) -> bool:
        """Whether a packet comes from one of the sender's nodes and is for one of our own."""
        source, destination = self.find(source_of(packet)), self.find(destination_of(packet))
        return source is not None and destination is not None and source.node in sender and destination.node in own
