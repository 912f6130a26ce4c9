"""Devices in use: which claims have them, and how much of those that are shared is taken.

Source: Kubernetes concepts "Dynamic Resource Allocation"; API reference resource/v1 DeviceRequestAllocationResult.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.scheduler.device_capacity import full_name
from rayplane.control_plane.scheduler.device_slices import DeviceId


class Use(NamedTuple):
    """A device that a claim has; of one that is shared, how much, by the full name of the capacity."""

    device: DeviceId
    shared: bool
    taken: tuple[tuple[str, int], ...]


def uses_of(allocation: Mapping[str, Any] | None) -> tuple[Use, ...]:
    """What an allocation takes; who administers a device takes nothing."""
    results = ((allocation or {}).get("devices") or {}).get("results") or ()
    return tuple(_use(one) for one in results if not one.get("adminAccess"))


def _use(result: Mapping[str, Any]) -> Use:
    driver = result.get("driver") or ""
    taken = result.get("consumedCapacity") or {}
    return Use(
        DeviceId(driver, result.get("pool") or "", result.get("device") or ""),
        bool(result.get("shareID")),
        tuple((full_name(driver, name), quantity.parse(amount).nano) for name, amount in taken.items()),
    )


class DeviceUse:
    """The use of devices by all claims together; kept current as claims get devices and give them back."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[Use, ...]] = {}  # by claim
        self._whole: Counter[DeviceId] = Counter()
        self._shares: Counter[DeviceId] = Counter()
        self._taken: dict[DeviceId, Counter[str]] = {}

    def set(self, claim: str, uses: tuple[Use, ...]) -> Iterable[DeviceId]:
        """A claim has these now; the devices for which that is news."""
        before = self._of.pop(claim, ())
        if uses:
            self._of[claim] = uses
        if before == uses:
            return ()
        for sign, some in ((-1, before), (1, uses)):
            for use in some:
                self._count(use, sign)
        return {use.device for use in (*before, *uses)}

    def _count(self, use: Use, sign: int) -> None:
        counts = self._shares if use.shared else self._whole
        counts[use.device] += sign
        if not counts[use.device]:
            del counts[use.device]
        taken = self._taken.setdefault(use.device, Counter())
        for name, amount in use.taken:
            taken[name] += sign * amount
        if use.device not in self._shares:
            self._taken.pop(use.device)

    def is_whole(self, device: DeviceId) -> bool:
        """Whether a claim has it for itself."""
        return device in self._whole

    def is_shared(self, device: DeviceId) -> bool:
        """Whether claims have shares of it."""
        return device in self._shares

    def taken(self, device: DeviceId, capacity: str) -> int:
        """How much the claims have of a capacity of a shared device."""
        found = self._taken.get(device)
        return found[capacity] if found else 0
