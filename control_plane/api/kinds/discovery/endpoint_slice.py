"""Endpoint slices."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import duplicate, invalid, required
from rayplane.control_plane.api.kinds.core.endpoints import validate_endpoint_address
from rayplane.control_plane.api.kinds.metadata import Errors, checked, one_of
from rayplane.control_plane.api.kinds.pod_template.containers import PROTOCOLS
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, SHOWN, UNSET, Cell, Column, Printer, age, at_most
from rayplane.control_plane.api.meta import Object, name

_SLICE_MAX_ENDPOINTS = 1000


def _default(obj: Object) -> None:
    for port in obj.get("ports") or ():
        if port.get("name") is None:
            port["name"] = ""
        if not port.get("protocol"):
            port["protocol"] = "TCP"


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    kind = obj.get("addressType")
    supported = ("FQDN", "IPv4", "IPv6")
    if not kind:
        errs.append(required("addressType"))
    else:
        one_of(kind, supported, "addressType", errs)
    listed = obj.get("endpoints") or ()
    if len(listed) > _SLICE_MAX_ENDPOINTS:
        text = f"must have at most {_SLICE_MAX_ENDPOINTS} items"
        errs.append(invalid("endpoints", len(listed), text))
    for index, endpoint in enumerate(listed):
        addresses = endpoint.get("addresses") or ()
        at = f"endpoints[{index}].addresses"
        if not addresses:
            errs.append(required(at, "must contain at least 1 address"))
        for number, address in enumerate(addresses):
            where = f"{at}[{number}]"
            if kind == "FQDN":
                checked(names.subdomain_errors(address), address, where, errs)
            else:
                validate_endpoint_address(address, where, errs)
    seen: set[str] = set()
    for index, port in enumerate(obj.get("ports") or ()):
        own, at = port.get("name") or "", f"ports[{index}]"
        if own:
            checked(names.label_errors(own), own, f"{at}.name", errs)
        if own in seen:
            errs.append(duplicate(f"{at}.name", own))
        seen.add(own)
        one_of(port.get("protocol"), PROTOCOLS, f"{at}.protocol", errs)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    if new.get("addressType") != old.get("addressType"):
        return [invalid("addressType", new.get("addressType"), "field is immutable")]
    return []


def _row(obj: Object, now: datetime) -> list[Cell]:
    ports = [
        str(one["port"]) if one.get("port") is not None else one.get("name", "*") for one in obj.get("ports") or ()
    ]
    addresses = [address for one in obj.get("endpoints") or () for address in one.get("addresses") or ()]
    return [
        name(obj),
        obj.get("addressType") or "",
        at_most(ports, SHOWN) or UNSET,
        at_most(addresses, SHOWN) or UNSET,
        age(obj, now),
    ]


_COLUMNS = (NAME, Column("AddressType"), Column("Ports"), Column("Endpoints"), AGE)  # fmt: skip


RULES = {
    "EndpointSlice": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=_validate_update,
        status=NO_STATUS,
        generation=True,
        printer=Printer(_COLUMNS, _row),
    ),
}
