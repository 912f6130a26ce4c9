"""Placement of a volume's replicas: each on a machine of its own, where there are enough. Pure.

Nodes of one machine are lost together, and a node that lost its machine comes back on another: what was apart when it
was placed may share a machine later.
"""

from collections.abc import Iterable, Mapping


def machine_of(address: str) -> str:
    """The machine of a host's address (host:port)."""
    return address.rpartition(":")[0] or address


def machines_of(addresses: Mapping[str, str | None]) -> dict[str, str]:
    """The machine of each node whose host's address is known."""
    return {node: machine_of(address) for node, address in addresses.items() if address}


def best(free: Mapping[str, int], machines: Mapping[str, str], beside: Iterable[str]) -> str:
    """The node for the next replica beside others: on a machine without one, if any is, with most bytes free.

    `free`: bytes of the nodes to choose from, at least one.
    """
    used = {machines.get(node) for node in beside}
    return min(free, key=lambda node: (machines[node] in used, -free[node], node))


def doubled(replicas: Iterable[str], writer: str, machines: Mapping[str, str]) -> str:
    """A replica that shares its machine with another one and may leave it: not the writer's. Empty: there is none."""
    places = [machines[node] for node in replicas if node in machines]
    shared = [node for node in replicas if node != writer and node in machines and places.count(machines[node]) > 1]
    return shared[0] if shared else ""
