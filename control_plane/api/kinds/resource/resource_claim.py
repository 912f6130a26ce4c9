"""Resource claims: devices that a pod asks for, and which of them it got."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from rayplane.control_plane.api.device_claims import RESERVED_MAX
from rayplane.control_plane.api.errors import forbidden, invalid, not_supported, required, too_long, too_many
from rayplane.control_plane.api.kinds.conditions import validate_conditions
from rayplane.control_plane.api.kinds.metadata import Errors, immutable
from rayplane.control_plane.api.kinds.pod_template.affinity import validate_node_selector
from rayplane.control_plane.api.kinds.resource.fields import (
    CONFIGS_MAX,
    distinct,
    each,
    validate_binding_conditions,
    validate_configuration,
    validate_driver,
    validate_label,
    validate_pool,
    validate_raw_object,
    validate_skipped,
    validate_toleration,
    validate_uid,
)
from rayplane.control_plane.api.kinds.resource.requests import (
    REQUESTS_MAX,
    RequestNames,
    default_claim,
    default_tolerations,
    request_names,
    validate_claim_spec,
    validate_reference,
    validate_references,
)
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age, spec_and_status
from rayplane.control_plane.api.meta import Object, is_deleting, name

_CONDITIONS_MAX: Final = 8
_ADDRESSES_MAX: Final = 16
_NETWORK_TEXTS: Final = (("interfaceName", 256), ("hardwareAddress", 128))
_SOURCES: Final = ("FromClaim", "FromClass")


def _default(obj: Object) -> None:
    spec, status = spec_and_status(obj)
    default_claim(spec)
    for result in ((status.get("allocation") or {}).get("devices") or {}).get("results") or ():
        default_tolerations(result)


def _prepare_status_update(new: Object, old: Object) -> None:
    """What a driver said of devices goes with them."""
    _, status = spec_and_status(new)
    _, before = spec_and_status(old)
    if not status.get("allocation") and before.get("allocation"):
        new["status"].pop("devices", None)


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    validate_claim_spec(obj.get("spec") or {}, "spec", errs)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    immutable(new.get("spec"), old.get("spec"), "spec", errs)
    return errs


# --- status -------------------------------------------------------------------------------------


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    _, status = spec_and_status(new)
    _, before = spec_and_status(old)
    allocation, reserved = status.get("allocation"), status.get("reservedFor") or []
    _reserved(reserved, errs)
    _devices(status.get("devices") or [], allocation, errs)
    if reserved and not allocation:
        errs.append(forbidden("status.reservedFor", "may not be specified when `allocated` is not set"))
    elif is_deleting(new) and any(one not in (before.get("reservedFor") or ()) for one in reserved):
        text = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"
        errs.append(forbidden("status.reservedFor", text))
    if allocation and before.get("allocation"):
        immutable(allocation, before["allocation"], "status.allocation", errs)
    elif allocation:
        _allocation(allocation, request_names(new.get("spec") or {}), errs)
    return errs


def _reserved(reserved: list[Mapping[str, Any]], errs: Errors) -> None:
    def consumer(one: Mapping[str, Any], path: str, found: Errors) -> None:
        found += [required(f"{path}.{field}") for field in ("resource", "name", "uid") if not one.get(field)]

    if each(reserved, RESERVED_MAX, "status.reservedFor", errs, consumer):
        distinct((one.get("uid") or "" for one in reserved), "status.reservedFor", errs)


def _allocation(allocation: Mapping[str, Any], known: RequestNames, errs: Errors) -> None:
    devices, at = allocation.get("devices") or {}, "status.allocation"

    def result(one: Mapping[str, Any], path: str, found: Errors) -> None:
        validate_reference(one.get("request") or "", f"{path}.request", known, found)
        validate_driver(one.get("driver") or "", f"{path}.driver", found)
        validate_pool(one.get("pool") or "", f"{path}.pool", found)
        validate_label(one.get("device") or "", f"{path}.device", found)
        validate_binding_conditions(one, path, found)
        for index, toleration in enumerate(one.get("tolerations") or ()):
            validate_toleration(toleration, f"{path}.tolerations[{index}]", found)
        if one.get("shareID") is not None:
            validate_uid(one["shareID"], f"{path}.shareID", found)
        validate_skipped(one.get("skipNodeOperations") or (), f"{path}.skipNodeOperations", found)

    def configuration(one: Mapping[str, Any], path: str, found: Errors) -> None:
        if not one.get("source"):
            found.append(required(f"{path}.source"))
        elif one["source"] not in _SOURCES:
            found.append(not_supported(f"{path}.source", one["source"], _SOURCES))
        validate_references(one.get("requests") or (), f"{path}.requests", known, found)
        validate_configuration(one, path, found)

    each(devices.get("results") or (), REQUESTS_MAX, f"{at}.devices.results", errs, result)
    # Those of the class and those of the claim.
    each(devices.get("config") or (), 2 * CONFIGS_MAX, f"{at}.devices.config", errs, configuration)
    if allocation.get("nodeSelector") is not None:
        validate_node_selector(allocation["nodeSelector"], f"{at}.nodeSelector", errs)


def _identity(device: Mapping[str, Any]) -> str:
    parts = [device.get(field) or "" for field in ("driver", "pool", "device")]
    return "/".join([*parts, *([device["shareID"]] if device.get("shareID") else [])])


def _devices(devices: list[Mapping[str, Any]], allocation: Mapping[str, Any] | None, errs: Errors) -> None:
    """What drivers say of the devices that the claim got."""
    results = ((allocation or {}).get("devices") or {}).get("results") or ()
    allocated = {_identity(one) for one in results}

    def device(one: Mapping[str, Any], path: str, found: Errors) -> None:
        validate_driver(one.get("driver") or "", f"{path}.driver", found)
        validate_pool(one.get("pool") or "", f"{path}.pool", found)
        validate_label(one.get("device") or "", f"{path}.device", found)
        if one.get("shareID") is not None:
            validate_uid(one["shareID"], f"{path}.shareID", found)
        if _identity(one) not in allocated:
            found.append(invalid(path, _identity(one), "must be an allocated device in the claim"))
        conditions = one.get("conditions") or []
        if len(conditions) > _CONDITIONS_MAX:
            found.append(too_many(f"{path}.conditions", len(conditions), _CONDITIONS_MAX))
        validate_conditions(conditions, f"{path}.conditions", found)
        if one.get("data") is not None:
            validate_raw_object(one["data"], f"{path}.data", found)
        if one.get("networkData") is not None:
            _network(one["networkData"], f"{path}.networkData", found)

    each(devices, len(devices), "status.devices", errs, device)
    distinct(map(_identity, devices), "status.devices", errs)


def _network(data: Mapping[str, Any], path: str, errs: Errors) -> None:
    for field, maximum in _NETWORK_TEXTS:
        if len((data.get(field) or "").encode()) > maximum:
            errs.append(too_long(f"{path}.{field}", maximum))
    addresses = data.get("ips") or []
    if each(addresses, _ADDRESSES_MAX, f"{path}.ips", errs, _interface_address):
        distinct(addresses, f"{path}.ips", errs)


def _interface_address(text: str, path: str, errs: Errors) -> None:
    """An address with the length of its network's prefix, in canonical form."""
    if not names.is_cidr(text):
        example = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"
        errs.append(invalid(path, text, example))
    elif (canonical := str(ipaddress.ip_interface(text))) != text:
        errs.append(invalid(path, text, f'must be in canonical form ("{canonical}")'))


# --- printing -----------------------------------------------------------------------------------


def _state(obj: Object) -> str:
    status = obj.get("status") or {}
    if not status.get("allocation"):
        return "deleted" if is_deleting(obj) else "pending"
    words = (("deleted", is_deleting(obj)), ("allocated", True), ("reserved", bool(status.get("reservedFor"))))
    return ",".join(word for word, so in words if so)


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), _state(obj), age(obj, now)]


_STATE = Column("State", description="Whether devices are allocated for it, and pods have reserved them.")
RULES = {
    "ResourceClaim": replace(
        AS_WRITTEN,
        defaults=_default,
        defaults_in_status=True,
        prepare_status_update=_prepare_status_update,
        validate=_validate,
        validate_update=_validate_update,
        validate_status_update=_validate_status,
        revalidates=False,
        status=Status({}, metadata=frozenset()),
        generation=False,
        printer=Printer((NAME, _STATE, AGE), _row),
    ),
}
