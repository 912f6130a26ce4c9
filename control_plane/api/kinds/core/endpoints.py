"""Endpoints: addresses behind a service, in one object."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, one_of
from rayplane.control_plane.api.kinds.pod_template.containers import PROTOCOLS
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS, NO_UPDATE_RULES
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, SHOWN, Cell, Column, Printer, age, at_most
from rayplane.control_plane.api.meta import Object, name

IP_TEXT = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
PORT_RANGE = "must be between 1 and 65535, inclusive"


def _default(obj: Object) -> None:
    for subset in obj.get("subsets") or ():
        for port in subset.get("ports") or ():
            if not port.get("protocol"):
                port["protocol"] = "TCP"


def validate_endpoint_address(address: str, path: str, errs: Errors, *, loopback: bool = False) -> None:
    """An address traffic may be sent to. Loopback ones are ours to use: pods live there."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        errs.append(invalid(path, address or "", IP_TEXT))
        return
    if parsed.is_unspecified:
        text = f"may not be unspecified ({address})"
        errs.append(invalid(path, address, text))
    if not loopback and parsed.is_link_local:
        text = "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
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
                where = f"{at}.{field}[{number}].ip"
                validate_endpoint_address(address.get("ip") or "", where, errs)
        ports = subset.get("ports") or ()
        for number, port in enumerate(ports):
            _endpoint_port(port, f"{at}.ports[{number}]", errs, named=len(ports) > 1)
    return errs


def _endpoint_port(port: Mapping[str, Any], path: str, errs: Errors, *, named: bool) -> None:
    own = port.get("name")
    if not own:
        if named:
            errs.append(required(f"{path}.name"))
    else:
        checked(names.label_errors(own), own, f"{path}.name", errs)
    number = port.get("port")
    if number is not None and not 1 <= number <= 65535:
        errs.append(invalid(f"{path}.port", number, PORT_RANGE))
    one_of(port.get("protocol"), PROTOCOLS, f"{path}.protocol", errs)


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
        deprecated="v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
        defaults=_default,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("Endpoints"), AGE), _row),
    ),
}
