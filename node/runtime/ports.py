"""Ports of containers by name."""

from typing import Any

from rayplane.control_plane.api.machinery.names import is_number_of_port
from rayplane.control_plane.api.pods.ports import container_port
from rayplane.node.errors import NodeError


def port_number(port: int | str | None, container: dict[str, Any]) -> int:
    """A port given by number or by its name in the container. Raises NodeError for an unknown name."""
    if isinstance(port, str) and not is_number_of_port(port):
        number = container_port(container, port)
        if number is not None:
            return number
        raise NodeError(f"container {container['name']} has no port named {port!r}")
    return int(port or 0)
