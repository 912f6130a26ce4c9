"""Endpoint slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import duplicate, invalid, required, too_many
from rayplane.control_plane.api.kinds.core.endpoints import validate_address_use
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable, one_of
from rayplane.control_plane.api.kinds.pod_template.ports import PROTOCOLS
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS, content_differs
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.addresses import ip_warnings
from rayplane.control_plane.api.machinery.columns import AGE, NAME, SHOWN, UNSET, Cell, Column, Printer, age, at_most
from rayplane.control_plane.api.meta import Object, labels, name

_ENDPOINTS_MAX, _ADDRESSES_MAX, _PORTS_MAX, _HINTS_MAX = 1000, 100, 20_000, 8


def _default(obj: Object) -> None:
    for port in obj.get("ports") or ():
        if port.get("name") is None:
            port["name"] = ""
        if not port.get("protocol"):
            port["protocol"] = "TCP"


def _prepare_create(obj: Object) -> None:
    """What an older version of the kind told of places goes."""
    for endpoint in obj.get("endpoints") or ():
        endpoint.pop("deprecatedTopology", None)


def _prepare_update(new: Object, old: Object) -> None:
    if new.get("endpoints") != old.get("endpoints"):
        _prepare_create(new)


def _validate(obj: Object, old: Object | None = None) -> Errors:
    """Endpoints that stay as they are stay good: rules were laxer once."""
    errs: Errors = []
    kind, endpoints, ports = obj.get("addressType"), obj.get("endpoints") or (), obj.get("ports") or ()
    if not kind:
        errs.append(required("addressType"))
    else:
        one_of(kind, ("FQDN", "IPv4", "IPv6"), "addressType", errs)
    if old is not None and obj.get("endpoints") == old.get("endpoints"):
        pass
    elif len(endpoints) > _ENDPOINTS_MAX:
        errs.append(too_many("endpoints", len(endpoints), _ENDPOINTS_MAX))
    else:
        for index, endpoint in enumerate(endpoints):
            _endpoint(endpoint, kind or "", f"endpoints[{index}]", errs)
    if len(ports) > _PORTS_MAX:
        errs.append(too_many("ports", len(ports), _PORTS_MAX))
    else:
        _ports(ports, errs)
    return errs


def _endpoint(endpoint: Mapping[str, Any], kind: str, path: str, errs: Errors) -> None:
    addresses, at = endpoint.get("addresses") or (), f"{path}.addresses"
    if not addresses:
        errs.append(required(at, "must contain at least 1 address"))
    elif len(addresses) > _ADDRESSES_MAX:
        errs.append(too_many(at, len(addresses), _ADDRESSES_MAX))
    for index, address in enumerate(addresses):
        if kind == "FQDN":
            _full_name(address, f"{at}[{index}]", errs)
        elif kind in ("IPv4", "IPv6"):
            _address(address, kind, f"{at}[{index}]", errs)
    node, host, hints = endpoint.get("nodeName"), endpoint.get("hostname"), endpoint.get("hints") or {}
    if node is not None:
        checked(names.subdomain_errors(node), node, f"{path}.nodeName", errs)
    if host is not None:
        checked(names.label_errors(host), host, f"{path}.hostname", errs)
    for field, check in (("forZones", names.label_value_errors), ("forNodes", names.subdomain_errors)):
        _hints(hints.get(field) or (), check, f"{path}.hints.{field}", errs)


def _address(address: str, kind: str, path: str, errs: Errors) -> None:
    problems = names.ip_errors(address)
    checked(problems, address, path, errs)
    if problems:
        return
    if (":" in address) != (kind == "IPv6"):
        errs.append(invalid(path, address, f"must be an {kind} address"))
    validate_address_use(address, path, errs)


def _full_name(name: str, path: str, errs: Errors) -> None:
    """The name of a host, with its domain."""
    if not name:
        errs.append(required(path))
        return
    name = name.removesuffix(".")
    problems = names.subdomain_errors(name)
    if problems:
        errs.append(invalid(path, name, ",".join(problems)))
    elif "." not in name:
        errs.append(invalid(path, name, "should be a domain with at least two segments separated by dots"))
    else:
        label = next((one for one in name.split(".") if names.label_errors(one)), None)
        if label is not None:
            errs.append(invalid(path, label, ",".join(names.label_errors(label))))


def _hints(hints: Sequence[Mapping[str, Any]], check: Callable[[str], Sequence[str]], path: str, errs: Errors) -> None:
    if len(hints) > _HINTS_MAX:
        errs.append(too_many(path, len(hints), _HINTS_MAX))
        return
    seen: set[str] = set()
    for index, hint in enumerate(hints):
        own, at = hint.get("name") or "", f"{path}[{index}].name"
        if own in seen:
            errs.append(duplicate(at, own))
        seen.add(own)
        checked(check(own), own, at, errs)


def _ports(ports: Sequence[Mapping[str, Any]], errs: Errors) -> None:
    seen: set[str] = set()
    for index, port in enumerate(ports):
        own, at, application = port.get("name") or "", f"ports[{index}]", port.get("appProtocol")
        if own:
            checked(names.label_errors(own), own, f"{at}.name", errs)
        if own in seen:
            errs.append(duplicate(f"{at}.name", own))
        seen.add(own)
        one_of(port.get("protocol"), PROTOCOLS, f"{at}.protocol", errs)
        if application is not None:
            checked(names.qualified_name_errors(application), application, f"{at}.appProtocol", errs)


def _validate_update(new: Object, old: Object) -> Errors:
    errs = _validate(new, old)
    immutable(new.get("addressType"), old.get("addressType"), "addressType", errs)
    return errs


def _warnings(obj: Object, old: Object | None) -> list[str]:
    found: list[str] = []
    for index, endpoint in enumerate(obj.get("endpoints") or ()):
        for number, address in enumerate(endpoint.get("addresses") or ()):
            found += ip_warnings(f"endpoints[{index}].addresses[{number}]", address)
    return found


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


def _counts(new: Object, old: Object) -> bool:
    """Its labels say whose endpoints they are."""
    return content_differs(new, old) or labels(new) != labels(old)


RULES = {
    "EndpointSlice": replace(
        AS_WRITTEN,
        warnings=_warnings,
        defaults=_default,
        prepare_create=_prepare_create,
        prepare_update=_prepare_update,
        validate=_validate,
        validate_update=_validate_update,
        revalidates=False,
        status=NO_STATUS,
        generation=True,
        counts=_counts,
        printer=Printer(_COLUMNS, _row),
    ),
}
