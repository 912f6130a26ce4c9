"""Ports of a pod: what it takes of its node, and what its names stand for.

Source: Kubernetes API reference core/v1 ContainerPort; concepts "Service" (port definitions by name).
"""

from collections.abc import Iterable, Iterator
from typing import Any

from rayplane.control_plane.api.pods.containers import Spec, lasting

HostPort = tuple[str, str, int]
"""(protocol, address of the node or 0.0.0.0 for all, number)."""
_ALL = "0.0.0.0"


def host_ports(spec: Spec) -> Iterator[HostPort]:
    """Ports of the node that containers and sidecars take; with the host's network each of their ports is one."""
    host = bool(spec.get("hostNetwork"))
    for container in lasting(spec):
        for port in container.get("ports") or ():
            number = port.get("hostPort") or (port.get("containerPort") if host else 0)
            if number:
                yield port.get("protocol") or "TCP", port.get("hostIP") or _ALL, number


def port_mappings(spec: Spec) -> Iterator[tuple[HostPort, int]]:
    """Ports of the node, and those of a pod with a network of its own that they lead to."""
    if spec.get("hostNetwork"):
        return
    for container in lasting(spec):
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                taken = port.get("protocol") or "TCP", port.get("hostIP") or _ALL, port["hostPort"]
                yield taken, port["containerPort"]


class HostPorts:
    """Ports of a node that are in use, by how many: thousands are compared with thousands in one pass."""

    __slots__ = ("_addresses",)

    def __init__(self, ports: Iterable[HostPort] = ()) -> None:
        self._addresses: dict[tuple[str, int], dict[str, int]] = {}
        for port in ports:
            self.count(port, 1)

    def count(self, port: HostPort, sign: int) -> None:
        """One more takes the port, or one less."""
        protocol, address, number = port
        users = self._addresses.setdefault((protocol, number), {})
        users[address] = users.get(address, 0) + sign
        if not users[address]:
            del users[address]
            if not users:
                del self._addresses[protocol, number]

    def conflict(self, wanted: Iterable[HostPort]) -> bool:
        """Whether one of these is in use: same protocol and number, on the same address or, on either side, on all."""
        if not self._addresses:
            return False
        for protocol, address, number in wanted:
            users = self._addresses.get((protocol, number))
            if users is not None and (address == _ALL or address in users or _ALL in users):
                return True
        return False


def named_port(spec: Spec, name: str, protocol: str = "TCP") -> int | None:
    """The number of a port that a container or sidecar names."""
    for container in lasting(spec):
        found = container_port(container, name, protocol)
        if found is not None:
            return found
    return None


def container_port(container: Any, name: str, protocol: str = "") -> int | None:
    """The number of a port that one container names; of any protocol when none is given."""
    for port in container.get("ports") or ():
        if port.get("name") == name and protocol in ("", port.get("protocol") or "TCP"):
            return int(port["containerPort"])
    return None
