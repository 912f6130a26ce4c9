"""Validation of ports: of containers, of the node that they take, and of references to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import duplicate, invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, in_range, one_of
from rayplane.control_plane.api.machinery import names

PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_PORT_MAX: Final = 65535


def validate_ports(ports: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    """The ports of one container."""
    seen: set[str] = set()
    for index, port in enumerate(ports):
        at = f"{path}[{index}]"
        own = port.get("name")
        if own:
            problems = names.port_name_errors(own)
            checked(problems, own, f"{at}.name", errs)
            if not problems and own in seen:
                errs.append(duplicate(f"{at}.name", own))
            elif not problems:
                seen.add(own)
        number = port.get("containerPort")
        if not number:
            errs.append(required(f"{at}.containerPort"))
        elif not 0 < number <= _PORT_MAX:
            in_range(number, 1, _PORT_MAX, f"{at}.containerPort", errs)
        if port.get("hostPort"):
            in_range(port["hostPort"], 1, _PORT_MAX, f"{at}.hostPort", errs)
        protocol = port.get("protocol")
        if not protocol:
            errs.append(required(f"{at}.protocol"))
        elif protocol not in PROTOCOLS:
            one_of(protocol, PROTOCOLS, f"{at}.protocol", errs)


def validate_host_ports(containers: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    """No two of these containers, which run at the same time, take the same port of the node."""
    taken: set[str] = set()
    for number, container in enumerate(containers):
        for index, port in enumerate(container.get("ports") or ()):
            if not port.get("hostPort"):
                continue
            text = f"{port.get('protocol') or ''}/{port.get('hostIP') or ''}/{port['hostPort']}"
            if text in taken:
                errs.append(duplicate(f"{path}[{number}].ports[{index}].hostPort", text))
            taken.add(text)


def validate_host_network_ports(spec: Mapping[str, Any], path: str, errs: Errors, *, of_pod: bool) -> None:
    """With the node's network a port is the node's; a template may leave that for the pod's defaults to say."""
    for number, container in enumerate(spec.get("containers") or ()):
        for index, port in enumerate(container.get("ports") or ()):
            taken = port.get("hostPort") or 0
            if (of_pod or taken) and taken != (port.get("containerPort") or 0):
                text = "must match `containerPort` when `hostNetwork` is true"
                errs.append(invalid(f"{path}.containers[{number}].ports[{index}].hostPort", taken, text))


def validate_port_reference(port: Any, path: str, errs: Errors) -> None:
    """A port number 1-65535 or the name of a port."""
    if isinstance(port, str):
        checked(names.port_name_errors(port), port, path, errs)
    else:
        in_range(port or 0, 1, _PORT_MAX, path, errs)
