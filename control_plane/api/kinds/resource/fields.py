"""Fields that the kinds of devices share: drivers, pools, names, taints, configurations, lists with a bound."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from rayplane.control_plane.api.errors import duplicate, invalid, not_supported, required, too_long, too_many
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.machinery import names

CONFIGS_MAX: Final = 32
SELECTORS_MAX: Final = 32
TAINTS_MAX: Final = 16
PARAMETERS_MAX_BYTES: Final = 10 * 1024
_DRIVER_MAX, _POOL_MAX, _IDENTIFIER_MAX = 63, 253, 32
EXPRESSION_MAX_BYTES: Final = 10 * 1024
_BINDING_CONDITIONS_MAX: Final = 4
_EFFECTS: Final = ("NoExecute", "NoSchedule", "None")
_OPERATORS: Final = ("Equal", "Exists")
_IDENTIFIER_TEXT: Final = "[A-Za-z_][A-Za-z0-9_]*"
_IDENTIFIER: Final = re.compile(_IDENTIFIER_TEXT)
_IDENTIFIER_ERROR: Final = names.regex_error(
    "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric "
    "characters or '_'",
    _IDENTIFIER_TEXT,
    "my_name",
    "MY_NAME",
    "MyName",
)
_UID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UID_LENGTH: Final = 36

ItemCheck = Callable[[Any, str, Errors], None]
"""Adds the problems of one item of a list, whose path it gets."""


def each(items: Sequence[Any], maximum: int, path: str, errs: Errors, check: ItemCheck) -> bool:
    """Check every item of a list; one that is too long is refused whole. False where it was."""
    if len(items) > maximum:
        errs.append(too_many(path, len(items), maximum))
        return False
    for index, item in enumerate(items):
        check(item, f"{path}[{index}]", errs)
    return True


def distinct(keys: Iterable[Hashable], path: str, errs: Errors) -> None:
    """Duplicate value for each key of a list's items that was there before."""
    seen: set[Hashable] = set()
    for index, key in enumerate(keys):
        if key in seen:
            errs.append(duplicate(f"{path}[{index}]", key))
        seen.add(key)


def validate_driver(name: str, path: str, errs: Errors) -> None:
    if not name:
        errs.append(required(path))
        return
    if len(name) > _DRIVER_MAX:
        errs.append(too_long(path, _DRIVER_MAX))
    checked(names.subdomain_errors(name.lower()), name, path, errs)


def validate_pool(name: str, path: str, errs: Errors) -> None:
    """Subdomains, separated by slashes."""
    if not name:
        errs.append(required(path))
        return
    if len(name) > _POOL_MAX:
        errs.append(too_long(path, _POOL_MAX))
    for part in name.split("/"):
        checked(names.subdomain_errors(part), part, path, errs)


def validate_label(name: str, path: str, errs: Errors) -> None:
    """Names of devices, requests and counters."""
    checked(names.label_errors(name), name, path, errs)


def validate_uid(uid: str, path: str, errs: Errors) -> None:
    if _UID.fullmatch(uid):
        return
    if len(uid) == _UID_LENGTH and _UID.fullmatch(uid.lower()):
        form = "`xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters"
        errs.append(invalid(path, uid, f"uid must be in RFC 4122 normalized form, {form}"))
    elif len(uid) == _UID_LENGTH:
        errs.append(invalid(path, uid, "error validating uid: invalid UUID format"))
    else:
        errs.append(invalid(path, uid, f"error validating uid: invalid UUID length: {len(uid)}"))


def validate_qualified_name(name: str, path: str, errs: Errors) -> None:
    """The name of an attribute or capacity: an identifier, after the domain of whose it is."""
    match name.split("/"):
        case [own]:
            _identifier(own, path, errs)
        case [domain, own]:
            if domain:
                validate_driver(domain, path, errs)
            else:
                errs.append(invalid(path, "", "the domain must not be empty"))
            if own:
                _identifier(own, path, errs)
            else:
                errs.append(invalid(path, "", "the name must not be empty"))
        case _:
            errs.append(invalid(path, name, "must not contain more than one slash"))


def validate_full_name(name: str, path: str, errs: Errors) -> None:
    """A qualified name whose domain is not left out."""
    validate_qualified_name(name, path, errs)
    if "/" not in name:
        errs.append(invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash"))


def _identifier(name: str, path: str, errs: Errors) -> None:
    if len(name) > _IDENTIFIER_MAX:
        errs.append(too_long(path, _IDENTIFIER_MAX))
    if not _IDENTIFIER.fullmatch(name):
        errs.append(invalid(path, name, _IDENTIFIER_ERROR))


def validate_selectors(selectors: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    each(selectors, SELECTORS_MAX, path, errs, _selector)


def _selector(selector: Mapping[str, Any], path: str, errs: Errors) -> None:
    cel = selector.get("cel")
    if cel is None:
        errs.append(required(f"{path}.cel"))
    elif not cel.get("expression"):
        errs.append(required(f"{path}.cel.expression"))
    elif len(cel["expression"].encode()) > EXPRESSION_MAX_BYTES:
        errs.append(too_long(f"{path}.cel.expression", EXPRESSION_MAX_BYTES))


def validate_taint(taint: Mapping[str, Any], path: str, errs: Errors) -> None:
    checked(names.qualified_name_errors(taint.get("key") or ""), taint.get("key") or "", f"{path}.key", errs)
    checked(names.label_value_errors(taint.get("value") or ""), taint.get("value"), f"{path}.value", errs)
    if not taint.get("effect"):
        errs.append(required(f"{path}.effect"))
    else:
        _effect(taint["effect"], path, errs)


def _effect(effect: str, path: str, errs: Errors) -> None:
    if effect not in _EFFECTS:
        errs.append(not_supported(f"{path}.effect", effect, _EFFECTS))


def validate_toleration(toleration: Mapping[str, Any], path: str, errs: Errors) -> None:
    if key := toleration.get("key"):
        checked(names.qualified_name_errors(key), key, f"{path}.key", errs)
    value = toleration.get("value") or ""
    match toleration.get("operator"):
        case "Exists":
            if value:
                errs.append(invalid(f"{path}.value", value, "must be empty for operator `Exists`"))
        case "Equal":
            checked(names.label_value_errors(value), value, f"{path}.value", errs)
        case None | "":
            errs.append(required(f"{path}.operator"))
        case other:
            errs.append(not_supported(f"{path}.operator", other, _OPERATORS))
    if toleration.get("effect"):
        _effect(toleration["effect"], path, errs)


def validate_configuration(config: Mapping[str, Any], path: str, errs: Errors) -> None:
    """Parameters that a driver alone understands."""
    opaque = config.get("opaque")
    if opaque is None:
        errs.append(required(f"{path}.opaque"))
        return
    validate_driver(opaque.get("driver") or "", f"{path}.opaque.driver", errs)
    validate_raw_object(opaque.get("parameters"), f"{path}.opaque.parameters", errs)


def validate_raw_object(value: Any, path: str, errs: Errors) -> None:
    """A JSON object of any fields, not too large."""
    if value is None:
        errs.append(required(path))
    elif len(orjson.dumps(value)) > PARAMETERS_MAX_BYTES:
        errs.append(too_long(path, PARAMETERS_MAX_BYTES))
    elif not isinstance(value, dict):
        errs.append(invalid(path, "<value omitted>", "must be a valid JSON object"))


def validate_binding_conditions(device: Mapping[str, Any], path: str, errs: Errors) -> None:
    """Conditions that a device must reach before its pod is bound, and those that make it give up."""
    wanted, failures = device.get("bindingConditions") or [], device.get("bindingFailureConditions") or []
    for field, values in (("bindingConditions", wanted), ("bindingFailureConditions", failures)):
        each(values, _BINDING_CONDITIONS_MAX, f"{path}.{field}", errs, _condition)
    distinct(wanted, f"{path}.bindingConditions", errs)
    distinct(failures, f"{path}.bindingFailureConditions", errs)
    for index, one in enumerate(failures):
        if one in wanted:
            text = "bindingFailureConditions must not overlap with bindingConditions"
            errs.append(invalid(f"{path}.bindingFailureConditions[{index}]", one, text))
    for field, values, other, others in (
        ("bindingConditions", wanted, "bindingFailureConditions", failures),
        ("bindingFailureConditions", failures, "bindingConditions", wanted),
    ):
        if not values and others:
            errs.append(invalid(f"{path}.{field}", values, f"{field} are required to use {other}"))


def _condition(name: str, path: str, errs: Errors) -> None:
    checked(names.qualified_name_errors(name), name, path, errs)


def validate_skipped(operations: Sequence[str], path: str, errs: Errors) -> None:
    """What a kubelet need not ask the driver: preparing only together with its undoing."""
    if "NodePrepareResources" in operations and not {"NodeUnprepareResources", "*"} & set(operations):
        text = "NodePrepareResources cannot be skipped unless NodeUnprepareResources is also skipped"
        errs.append(invalid(path, list(operations), text))
