"""Placed pods that wait for what must be so before they are bound: volumes bound, devices ready.

Pure: claims and the time come in, verdicts go out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import SELECTED_NODE, is_bound
from rayplane.control_plane.api.device_claims import readiness
from rayplane.control_plane.scheduler.cycle import Placement
from rayplane.control_plane.scheduler.devices import DeviceIndex
from rayplane.control_plane.scheduler.volumes import VolumeIndex


@dataclass(slots=True)
class _Wait:
    placement: Placement
    deadline: float
    claims: frozenset[str]
    missing: set[str]
    #: Claims that were seen to be of the placement: if they no longer are, that has failed.
    shown: set[str] = field(default_factory=set)


class _Waits:
    """Placements by the claims that they wait for."""

    def __init__(self) -> None:
        self._waits: dict[str, _Wait] = {}
        self._by_claim: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def add(self, placement: Placement, claims: Iterable[str], deadline: float) -> None:
        key, wanted = placement.pod.key, frozenset(claims)
        self.remove(key)  # of a namesake that is gone
        self._waits[key] = _Wait(placement, deadline, wanted, set(wanted))
        for claim in wanted:
            self._by_claim.setdefault(claim, {})[key] = None

    def remove(self, pod_key: str) -> Placement | None:
        wait = self._waits.pop(pod_key, None)
        if wait is None:
            return None
        for claim in wait.claims:
            waiting = self._by_claim[claim]
            del waiting[pod_key]
            if not waiting:
                del self._by_claim[claim]
        return wait.placement

    def claim_changed(self, key: str) -> list[tuple[Placement, str]]:
        """Placements that this settles: with an empty text when nothing is missing, else with what went wrong."""
        settled = []
        for pod_key in [*self._by_claim.get(key, ())]:
            wait = self._waits[pod_key]
            verdict = self._verdict(wait, key)
            if verdict is None:
                wait.missing.add(key)
                continue
            wait.missing.discard(key)
            if verdict or not wait.missing:
                self.remove(pod_key)
                settled.append((wait.placement, verdict))
        return settled

    def _verdict(self, wait: _Wait, key: str) -> str | None:
        """Empty when the claim is as it has to be, None while it is not, or what went wrong."""
        raise NotImplementedError

    def expired(self, now: float) -> list[Placement]:
        late = [key for key, wait in self._waits.items() if wait.deadline <= now]
        return [placement for key in late if (placement := self.remove(key)) is not None]

    def next_deadline(self) -> float | None:
        return min((wait.deadline for wait in self._waits.values()), default=None)


class VolumeWaits(_Waits):
    """Placed pods whose volumes are being bound."""

    def __init__(self, volumes: VolumeIndex) -> None:
        super().__init__()
        self._volumes = volumes

    def _verdict(self, wait: _Wait, key: str) -> str | None:
        claim, name = self._volumes.claims.get(key), key.partition("/")[2]
        if claim is None:
            return f'persistentvolumeclaim "{name}" not found'
        if is_bound(claim):
            volume = self._volumes.volumes.get(meta.spec(claim)["volumeName"])
            if volume is None:
                return None  # its object is on its way
            if volume.is_elsewhere(wait.placement.node):
                # What is made from a snapshot is made where that is.
                text = f'pv "{volume.name}" node affinity doesn\'t match node "{wait.placement.node}"'
                return f"binding volumes: {text}"
            return ""
        if meta.annotations(claim).get(SELECTED_NODE) == wait.placement.node:
            wait.shown.add(key)
        elif key in wait.shown:
            return f'binding volumes: provisioning failed for PVC "{name}"'
        return None


class DeviceWaits(_Waits):
    """Placed pods whose devices are being made ready."""

    def __init__(self, devices: DeviceIndex) -> None:
        super().__init__()
        self._devices = devices

    def _verdict(self, wait: _Wait, key: str) -> str | None:
        claim = self._devices.claims.get(key)
        if claim is None or not meta.status(claim).get("allocation"):
            # What was written before the wait may not be seen yet.
            return f"claim {key.partition('/')[2]} has lost its devices" if key in wait.shown else None
        wait.shown.add(key)
        return readiness(claim)
