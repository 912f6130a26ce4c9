"""Endpoints: addresses behind a service, in one object."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, one_of
from rayplane.control_plane.api.kinds.pod_template.ports import PROTOCOLS
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.addresses import address_of, ip_warnings
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, SHOWN, Cell, Column, Printer, age, at_most
from rayplane.control_plane.api.meta import Object, name

PORT_RANGE = "must be between 1 and 65535, inclusive"
_LINK_MULTICAST: Final = tuple(map(ipaddress.ip_network, ("224.0.0.0/24", "ff02::/16")))


def _default(obj: Object) -> None:
    for subset in obj.get("subsets") or ():
        for port in subset.get("ports") or ():
            if not port.get("protocol"):
                port["protocol"] = "TCP"


def validate_address_use(address: str, path: str, errs: Errors) -> None:
    """An address, if it is one, must take traffic. Loopback ones are ours to use: pods live there."""
    parsed = address_of(address)
    if parsed is None:
        return
    if parsed.is_unspecified:
        errs.append(invalid(path, address, f"may not be unspecified ({address})"))
    if parsed.is_link_local:
        errs.append(invalid(path, address, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"))
    if any(parsed in block for block in _LINK_MULTICAST if block.version == parsed.version):
        text = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        errs.append(invalid(path, address, text))


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    for index, subset in enumerate(obj.get("subsets") or ()):
        at = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            text = "must specify `addresses` or `notReadyAddresses`"
            errs.append(required(at, text))
        for field in ("addresses", "notReadyAddresses"):
            for number, address in enumerate(subset.get(field) or ()):
                _address(address, f"{at}.{field}[{number}]", errs)
        ports = subset.get("ports") or ()
        for number, port in enumerate(ports):
            _endpoint_port(port, f"{at}.ports[{number}]", errs, named=len(ports) > 1)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    """Subsets that stay as they are stay good: rules were laxer once."""
    return [] if new.get("subsets") == old.get("subsets") else _validate(new)


def _address(address: Mapping[str, Any], path: str, errs: Errors) -> None:
    ip, host, node = address.get("ip") or "", address.get("hostname"), address.get("nodeName")
    problems = names.ip_errors(ip)
    checked(problems, ip, f"{path}.ip", errs)
    if host:
        checked(names.label_errors(host), host, f"{path}.hostname", errs)
    if node is not None:
        checked(names.subdomain_errors(node), node, f"{path}.nodeName", errs)
    if not problems:
        validate_address_use(ip, f"{path}.ip", errs)


def _endpoint_port(port: Mapping[str, Any], path: str, errs: Errors, *, named: bool) -> None:
    own, number, application = port.get("name"), port.get("port") or 0, port.get("appProtocol")
    if own:
        checked(names.label_errors(own), own, f"{path}.name", errs)
    elif named:
        errs.append(required(f"{path}.name"))
    if not 1 <= number <= 65535:
        errs.append(invalid(f"{path}.port", number, PORT_RANGE))
    one_of(port.get("protocol"), PROTOCOLS, f"{path}.protocol", errs)
    if application is not None:
        checked(names.qualified_name_errors(application), application, f"{path}.appProtocol", errs)


def _warnings(obj: Object, old: Object | None) -> list[str]:
    found: list[str] = []
    for index, subset in enumerate(obj.get("subsets") or ()):
        for field in ("addresses", "notReadyAddresses"):
            for number, address in enumerate(subset.get(field) or ()):
                found += ip_warnings(f"subsets[{index}].{field}[{number}].ip", address.get("ip") or "")
    return found


def _row(obj: Object, now: datetime) -> list[Cell]:
    listed: list[str] = []
    for subset in obj.get("subsets") or ():
        addresses = [one.get("ip") or "" for one in subset.get("addresses") or ()]
        ports = subset.get("ports")
        if not ports:
            listed += addresses
        for port in ports or ():
            for address in addresses:
                host = f"[{address}]" if ":" in address else address
                listed.append(f"{host}:{port.get('port')}")
    return [name(obj), at_most(listed, SHOWN) if obj.get("subsets") else NONE, age(obj, now)]


RULES = {
    "Endpoints": replace(
        AS_WRITTEN,
        made_by_update=True,
        warnings=_warnings,
        deprecated="v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
        defaults=_default,
        validate=_validate,
        validate_update=_validate_update,
        revalidates=False,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("Endpoints"), AGE), _row),
    ),
}
