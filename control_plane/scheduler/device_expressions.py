"""Expressions that select devices, by driver, attributes and capacities.

Source: Kubernetes concepts "Dynamic Resource Allocation"; API reference resource/v1 CELDeviceSelector.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from rayplane.control_plane.cel import BOOL, CelError, Program, compile, evaluate
from rayplane.control_plane.cel.library.quantities import quantity_of, semver_of
from rayplane.control_plane.device_selectors import COST_MAX, DECLARATIONS

_PROGRAMS_MAX: Final = 1024
#: The cost of compiling, for each character, in units of that of evaluation.
_COMPILING: Final = 8


class _Domains(dict[str, Any]):
    """Attributes or capacities by domain; of a domain that a device has none of, an empty map."""

    def __missing__(self, domain: str) -> Any:
        return {}

    def __contains__(self, domain: object) -> bool:
        return True

    def get(self, domain: str, default: Any = None) -> Any:
        return self[domain]


def device_value(driver: str, device: Mapping[str, Any]) -> dict[str, Any]:
    """The variable `device` of expressions."""
    attributes, capacity = _Domains(), _Domains()
    for name, attribute in (device.get("attributes") or {}).items():
        _put(attributes, driver, name, attribute_value(attribute))
    for name, amount in (device.get("capacity") or {}).items():
        _put(capacity, driver, name, quantity_of(amount.get("value") or "0"))
    return {
        "driver": driver,
        "attributes": attributes,
        "capacity": capacity,
        "allowMultipleAllocations": bool(device.get("allowMultipleAllocations")),
    }


def _put(into: dict[str, Any], driver: str, name: str, value: Any) -> None:
    domain, _, own = name.rpartition("/")
    dict.setdefault(into, domain or driver, {})[own] = value


def attribute_value(attribute: Mapping[str, Any]) -> Any:
    """The one value that an attribute has."""
    for field, value in attribute.items():
        if value is not None:
            return semver_of(value) if field == "version" else value
    return None


class DeviceExpressions:
    """Compiled expressions that were used lately; of those that cannot be compiled what is wrong with them."""

    def __init__(self) -> None:
        self._programs: OrderedDict[str, Program | str] = OrderedDict()

    def matches(self, expression: str, device: Mapping[str, Any]) -> tuple[bool | str, int]:
        """Whether a device is selected, or why that cannot be said; and what it cost to find out."""
        program, cost = self._program(expression)
        if isinstance(program, str):
            return f"CEL compile error: {program}", cost
        outcome = evaluate(program, {"device": device}, COST_MAX)
        if outcome.error is not None:
            return f"CEL runtime error: {outcome.error}", cost + outcome.cost
        return outcome.value is True, cost + outcome.cost

    def _program(self, expression: str) -> tuple[Program | str, int]:
        """The program, and what it cost to make."""
        found = self._programs.get(expression)
        if found is not None:
            self._programs.move_to_end(expression)
            return found, 0
        try:
            found = compile(expression, DECLARATIONS, results=(BOOL,))
        except CelError as error:
            found = str(error)
        self._programs[expression] = found
        if len(self._programs) > _PROGRAMS_MAX:
            self._programs.popitem(last=False)
        return found, _COMPILING * len(expression)
