"""The way of placed pods to their devices: allocated in the API, then made ready by whoever drives them.

A pod whose devices have conditions to reach waits for that beside the loop. Where one can never be reached, or not in
time, the devices are given back and the pod tries again.

Source: KEP-5007 (device binding conditions).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import has_binding_conditions
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import EventRecorder
from rayplane.control_plane.scheduler.binder import Binder
from rayplane.control_plane.scheduler.config import DEVICES, Profile
from rayplane.control_plane.scheduler.cycle import Failure, Placement
from rayplane.control_plane.scheduler.devices import DeviceIndex
from rayplane.control_plane.scheduler.plugins.args import DynamicResourcesArgs
from rayplane.control_plane.scheduler.waits import DeviceWaits
from rayplane.storage.env import Env

_Lost = Callable[[Placement, str], None]


class DevicePreparation:
    """The placed pods of one term that wait for their devices."""

    def __init__(
        self,
        devices: DeviceIndex,
        binder: Binder,
        recorder: EventRecorder,
        env: Env,
        profiles: Iterable[Profile],
        *,
        ready: Callable[[Placement], None],
        lost: _Lost,
        wake: Callable[[], None],
    ) -> None:
        """`ready` is told pods that have their devices, `lost` those that will not."""
        self._devices, self._binder, self._recorder, self._env = devices, binder, recorder, env
        arguments = {p.name: p.args.get(DEVICES) or DynamicResourcesArgs() for p in profiles}
        self._timeouts_s = {name: args.binding_timeout_s for name, args in arguments.items()}
        self._ready, self._lost, self._wake = ready, lost, wake
        self._failed: list[tuple[Placement, str]] = []
        self.waits = DeviceWaits(devices)

    async def prepare(self, placement: Placement) -> None:
        """Devices first: a pod that has a node has its devices."""
        await self._binder.expect(placement)
        error = await self._binder.allocate(placement, self._devices)
        if error is not None:
            self._lost(placement, _said(error.message))
            return
        waiting = [key for key in placement.devices if has_binding_conditions(self._devices.allocation(key))]
        if not waiting:
            self._ready(placement)
            return
        pod, text = placement.pod, f"waiting for binding conditions for device on node {placement.node}"
        self._recorder.event(pod.obj, "Normal", "BindingConditionsPending", text, component=pod.scheduler)
        self.waits.add(placement, waiting, asyncio.get_running_loop().time() + self._left_s(placement))
        for key in waiting:
            self.settle(key)
        self._wake()  # there is a deadline now

    def _left_s(self, placement: Placement) -> float:
        """Seconds that are left for the pod's devices; for those of a claim that others wait for too it may be less."""
        timeout_s, now = self._timeouts_s[placement.pod.scheduler], self._env.clock.now()
        left = [timeout_s]
        for key in placement.devices:
            since = (self._devices.allocation(key) or {}).get("allocationTimestamp")
            if since:
                left.append(timeout_s - (now - meta.parse_time(since)).total_seconds())
        return max(min(left), 0.0)

    def settle(self, claim: str) -> None:
        """A claim has changed."""
        for placement, problem in self.waits.claim_changed(claim):
            if problem:
                self._failed.append((placement, problem))
                self._wake()
            else:
                self._ready(placement)

    def failed(self, now: float) -> list[tuple[Placement, str]]:
        """Pods whose devices will not be ready, and why; each once."""
        failed, self._failed = self._failed, []
        return failed + [(placement, "device binding timeout") for placement in self.waits.expired(now)]

    async def give_back(self, placement: Placement, problem: str) -> None:
        """The pod does without these devices."""
        await self._binder.release(placement.pod, placement.devices)
        self._lost(placement, _said(problem))

    def stale(self, failure: Failure) -> Object | None:
        """A claim of the pod whose devices are given back, as the failure's message says."""
        if failure.is_fault or DEVICES not in failure.plugins:
            return None
        return self._devices.stale(failure.pod)


def _said(problem: str) -> str:
    return f'running PreBind plugin "{DEVICES}": {problem}'
