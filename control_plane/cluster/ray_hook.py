"""A hook for what `ray start` has no option for: run through RAY_START_HOOK before it uses its parameters."""

from typing import Any


def settle(parameters: Any, head: bool) -> None:
    """Leave out the server for Ray's own clients, which nothing here uses."""
    parameters.ray_client_server_port = None
