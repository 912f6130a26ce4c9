"""Capacity that several claims share of one device: what a request takes of it, by the policy of the device.

Source: Kubernetes concepts "Dynamic Resource Allocation" (consumable capacity, KEP-5075); API reference resource/v1
DeviceCapacity, CapacityRequestPolicy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.machinery.quantity import Quantity

_MILLI: Final = 1_000_000
_MOST: Final = (2**63 - 1) * 1_000_000_000
Amounts = Mapping[str, Quantity]
"""By name."""


class AllocationError(Exception):
    """A claim, class or device that no choice of devices can be right for: whoever wrote it must change it."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """One capacity of a device; `written` is its name as the slice has it."""

    written: str
    whole: Quantity
    default: Quantity | None = None
    options: tuple[Quantity, ...] = ()
    low: Quantity | None = None
    high: Quantity | None = None
    step: Quantity | None = None

    def taken(self, asked: Quantity | None) -> Quantity | None:
        """What of it a request takes; None where the policy allows no such request. Raises AllocationError."""
        if asked is None:
            return self.whole if self.default is None else self.default
        found = self._rounded(asked)
        if self.options and found not in self.options and found != self.default:
            return None
        return None if self.high is not None and found > self.high else found

    def _rounded(self, asked: Quantity) -> Quantity:
        """The next amount that the policy has."""
        if self.low is None:
            return next((option for option in self.options if asked <= option), asked)
        if asked < self.low:
            return self.low
        if self.step is None or self.step.nano <= 0:
            return asked
        steps = -(-(asked.nano - self.low.nano) // self.step.nano)
        found = self.low.nano + steps * self.step.nano
        if asked.nano % _MILLI or found > _MOST:
            raise AllocationError(
                f'capacity "{self.written}": capacity request cannot be represented in the device\'s range arithmetic: '
                f"{asked}"
            )
        return Quantity(found, self.step.format)


def capacities(driver: str, given: Mapping[str, Any] | None) -> dict[str, Capacity]:
    """The capacities of a device by their full names: of two spellings the one with the driver's domain counts."""
    found: dict[str, Capacity] = {}
    for name, one in sorted((given or {}).items(), key=lambda item: "/" in item[0]):
        policy = one.get("requestPolicy") or {}
        span = policy.get("validRange") or {}
        found[full_name(driver, name)] = Capacity(
            name,
            quantity.parse(one.get("value") or "0"),
            _parsed(policy.get("default")),
            tuple(quantity.parse(option) for option in policy.get("validValues") or ()),
            *(_parsed(span.get(bound)) for bound in ("min", "max", "step")),
        )
    return found


def _parsed(written: Any) -> Quantity | None:
    return None if written is None else quantity.parse(written)


def full_name(driver: str, name: str) -> str:
    """A name with its domain, which is the driver's where it has none."""
    return name if "/" in name else f"{driver}/{name}"


def consumption(driver: str, has: Mapping[str, Capacity], asked: Amounts) -> dict[str, Quantity] | None:
    """What a request takes of a device, by full name; None where the device does not have it. AllocationError."""
    by_name: dict[str, Quantity] = {}
    for name, amount in asked.items():
        full = full_name(driver, name)
        if full not in has:
            return None
        if full in by_name:
            raise AllocationError(f'capacity "{full.rpartition("/")[2]}" requested with and without its domain')
        by_name[full] = amount
    found: dict[str, Quantity] = {}
    for full, capacity in has.items():
        taken = capacity.taken(by_name.get(full))
        if taken is not None and taken.nano < 0:
            raise AllocationError(f'capacity "{capacity.written}": capacity value is negative')
        if taken is None or taken > capacity.whole:
            return None
        found[full] = taken
    return found
