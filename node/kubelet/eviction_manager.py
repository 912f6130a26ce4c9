"""Eviction manager: looks now and then at what a node has left, and evicts pods when it is too little.

At most one pod goes at a time, and the next one not before it has gone, or had its time to.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.config import EvictionLimits
from rayplane.node.kubelet.pressure import (
    EVICTED,
    TERMINATION_BY_KUBELET,
    Observation,
    PodUse,
    Pressure,
    message,
    ranked,
    storage_limits,
    thresholds_of,
    too_much_disk,
)
from rayplane.node.lifecycle import Event, Evicted

log = logging.getLogger(__name__)

HARD_GRACE_S = 1.0
"""Grace of a pod that goes at once."""
MEASURING_PAUSE = 9.0
"""Between two measurements of what pods have written, in times of what the first took."""
GOING_MAX_S = 30.0
"""After so long the next pod may go, even if the last one has not ended."""


class Vitals(Protocol):
    """A teller of what a node has left, and what its pods use."""

    async def observe(self) -> Mapping[str, Observation]:
        """By signal; those that cannot be told are left out."""

    def use(self, pod: Object) -> PodUse:
        """Without its disk."""

    async def disk(self, pod: Object) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """Bytes of the pod's scratch volumes, and of its containers' logs and roots, each by name."""


class EvictedPod(Protocol):
    """A pod of the node."""

    pod: Object

    @property
    def takes_room(self) -> bool:
        """Tells whether it runs or is going to."""

    def post(self, event: Event) -> None: ...


async def nothing() -> bool:
    return False


class EvictionManager:
    """The task that looks after one node. `pods`: its pods; `changed`: its conditions have; `told`: an Event of it;
    `reclaim`: frees what no pod uses of the disk, and returns whether that was anything.
    """

    def __init__(
        self,
        limits: EvictionLimits,
        vitals: Vitals,
        pods: Callable[[], list[Any]],
        *,
        every_s: float,
        transition_s: float,
        changed: Callable[[], None],
        told: Callable[[str, str], None],
        reclaim: Callable[[], Awaitable[bool]] = nothing,
    ) -> None:
        self._limits, self._vitals, self._pods = limits, vitals, pods
        self._every_s = every_s
        self._pressure = Pressure(thresholds_of(limits), transition_s)
        self._changed, self._told, self._reclaim = changed, told, reclaim
        self._measure_at = 0.0
        self._going: tuple[EvictedPod, float] | None = None
        self._task: asyncio.Task[None] | None = None
        self.evictions: dict[str, int] = {}
        """How many pods went, by signal."""

    @property
    def conditions(self) -> frozenset[str]:
        return self._pressure.conditions

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="eviction manager")

    async def stop(self) -> None:
        await cancel_and_wait(self._task)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                # The node goes on without: the next look may do better.
                log.exception("pressure on the node cannot be told")
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Look once, and do what is to be done."""
        seen = await self._vitals.observe()
        before = self._pressure.conditions
        now = asyncio.get_running_loop().time()
        pressing = self._pressure.observe(seen, now)
        if self._pressure.conditions != before:
            self._changed()
        if self._is_going(now):
            return
        if await self._end_the_greedy(now) or not pressing:
            return
        threshold = pressing[0]
        left = seen[threshold.signal]
        pods: dict[str, EvictedPod] = {meta.uid(p.pod): p for p in self._pods() if p.takes_room}
        uses = {uid: self._vitals.use(p.pod) for uid, p in pods.items()}
        if threshold.signal.startswith(("nodefs", "imagefs")):
            if await self._reclaim():
                return  # the next look tells whether that was enough
            for uid, p in pods.items():
                volumes, containers = await self._vitals.disk(p.pod)
                uses[uid] = PodUse(disk=sum((*volumes.values(), *containers.values())))
        order = ranked((p.pod for p in pods.values()), threshold.signal, lambda pod: uses[meta.uid(pod)])
        if not order:
            log.warning("the node is low on %s, and no pod can be evicted", threshold.signal)
            return
        self._told("EvictionThresholdMet", f"Attempting to reclaim {threshold.resource}")
        chosen = order[0]
        text = message(threshold, left, chosen, uses[meta.uid(chosen)])
        grace = HARD_GRACE_S if threshold.is_hard else self._limits.soft_pod_grace_s
        self._evict(pods[meta.uid(chosen)], text, grace, now, threshold.signal, disrupts=True)

    def _is_going(self, now: float) -> bool:
        if self._going is not None:
            pod, since = self._going
            if pod.takes_room and now - since < GOING_MAX_S:
                return True
            self._going = None
        return False

    async def _end_the_greedy(self, now: float) -> bool:
        """Evict a pod that writes more than it may; whether there was one."""
        if now < self._measure_at:
            return False
        found = await self._greedy()
        loop = asyncio.get_running_loop()
        # However much they have written, looking at it takes a tenth of the time.
        self._measure_at = loop.time() + MEASURING_PAUSE * (loop.time() - now)
        if found is not None:
            self._evict(*found, HARD_GRACE_S, now, "ephemeralstorage", disrupts=False)
        return found is not None

    async def _greedy(self) -> tuple[EvictedPod, str] | None:
        for pod in self._pods():
            spec = meta.spec(pod.pod)
            sized = any((v.get("emptyDir") or {}).get("sizeLimit") for v in spec.get("volumes") or ())
            if not pod.takes_room or not (sized or storage_limits(pod.pod)):
                continue
            if text := too_much_disk(pod.pod, *await self._vitals.disk(pod.pod)):
                return pod, text
        return None

    def _evict(self, pod: EvictedPod, text: str, grace_s: float, now: float, signal: str, *, disrupts: bool) -> None:
        self.evictions[signal] = self.evictions.get(signal, 0) + 1
        self._going = (pod, now)
        disruption = (TERMINATION_BY_KUBELET, text) if disrupts else ("", "")
        pod.post(Evicted(EVICTED, text, grace_s, disruption))
