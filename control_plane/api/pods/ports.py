"""Ports of a pod: what it takes of its node, and what its names stand for.

Source: Kubernetes API reference core/v1 ContainerPort; concepts "Service" (port definitions by name).
"""

from collections.abc import Iterator
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


def ports_conflict(one: HostPort, other: HostPort) -> bool:
    """Same protocol and port, on the same address or on all."""
    if one[0] != other[0] or one[2] != other[2]:
        return False
    return one[1] == other[1] or _ALL in (one[1], other[1])


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
