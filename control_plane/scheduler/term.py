"""One term of leadership: the loop that takes pods from the queue, decides them, and starts the writes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from rayplane.control_plane.api.errors import Conflict, NotFound
from rayplane.control_plane.client import ApiClient, EventRecorder
from rayplane.control_plane.scheduler.binder import Binder, VolumeWaits
from rayplane.control_plane.scheduler.config import SchedulerConfig
from rayplane.control_plane.scheduler.cycle import Cycle, Failure, Placement
from rayplane.control_plane.scheduler.events import Action, Event, Resource
from rayplane.control_plane.scheduler.explaining import Explainer
from rayplane.control_plane.scheduler.gates import Gates
from rayplane.control_plane.scheduler.hints import Hints
from rayplane.control_plane.scheduler.metrics import ERROR, SCHEDULED, UNSCHEDULABLE, SchedulerMetrics
from rayplane.control_plane.scheduler.observer import Observer
from rayplane.control_plane.scheduler.plugins import Cluster
from rayplane.control_plane.scheduler.plugins.args import VolumeBindingArgs
from rayplane.control_plane.scheduler.queue import SchedulingQueue
from rayplane.storage.env import Env


class Term:
    """One term of leadership: the caches, queue and cycle that this replica has while it leads."""

    def __init__(self, config: SchedulerConfig, env: Env, client: ApiClient, metrics: SchedulerMetrics) -> None:
        self._config = config
        self._metrics = metrics
        self.cluster = Cluster()
        self.snapshot, self.volumes = self.cluster.snapshot, self.cluster.volumes
        self.cycle = Cycle(config, self.cluster)
        self.queue = SchedulingQueue(
            Hints(self.snapshot),
            backoff=config.backoff,
            retry_after_s=config.unschedulable_retry_s,
            gate=Gates(config.profiles),
            incoming=metrics.incoming,
        )
        arguments = {profile.name: profile.args.get("VolumeBinding") for profile in config.profiles}
        self._bind_timeouts_s = {name: (args or VolumeBindingArgs()).bind_timeout_s for name, args in arguments.items()}
        self._client = client
        self._recorder = EventRecorder(client, env, component="default-scheduler")
        self._binder = Binder(client, self._recorder, env)
        self._waits = VolumeWaits(self.volumes)
        self._ready: list[Placement] = []
        self._broken: list[Failure] = []  # placements that came to nothing, to be told
        self._calls = asyncio.Semaphore(config.bind_calls_max)
        self._wake = asyncio.Event()
        self._observer = Observer(self.cycle, self.queue, self._waits, settle=self._settle, wake=self._wake.set)
        self.explainer = Explainer(self.cycle, self.queue, env, self._observer.parse)

    async def run(self) -> None:
        self._recorder.start()
        await self._observer.start(self._client)
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._turn(tasks)

    async def stop(self) -> None:
        await self._observer.stop()
        await self._recorder.stop()

    # -- the loop ------------------------------------------------------------------------------------------

    async def _turn(self, tasks: asyncio.TaskGroup) -> None:
        """One batch of pods decided and its writes started; or a wait until there is something to do."""
        now = _now()
        for placement in self._waits.expired(now):
            self._lost(placement, 'running PreBind plugin "VolumeBinding": binding volumes: timed out')
        pods = self.queue.pop(self._config.cycle_pods_max, now)
        if not pods and not self._ready and not self._broken:
            await self._rest(now)
            return
        failures, self._broken = self._broken, []
        decisions = self.explainer.decide(pods)
        self._count(decisions, _now() - now)
        for decision in decisions:
            if isinstance(decision, Failure):
                failures.append(decision)
                self._failed(decision, now)
                continue
            self.queue.placed(decision.pod.key)
            if decision.claims:
                self._waits.add(decision, now + self._bind_timeouts_s[decision.pod.scheduler])
                await self._start(tasks, self._select_node(decision))
            else:
                self._ready.append(decision)
        ready, self._ready = self._ready, []
        size = self._config.bind_batch_max
        for first in range(0, len(ready), size):
            await self._start(tasks, self._bind(ready[first : first + size]))
        if failures:
            await self._start(tasks, self._binder.report(failures))
        await asyncio.sleep(0)

    def _count(self, decisions: Sequence[Placement | Failure], seconds: float) -> None:
        each = seconds / max(len(decisions), 1)
        for decision in decisions:
            result = SCHEDULED
            if isinstance(decision, Failure):
                result = ERROR if decision.is_fault else UNSCHEDULABLE
                if decision.preemption is not None:
                    self._metrics.preempted(len(decision.preemption.victims))
            self._metrics.decided(result, decision.pod.scheduler, each)

    async def _start(self, tasks: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
        """Run a write beside the loop; waits while too many are on their way."""
        try:
            await self._calls.acquire()
        except asyncio.CancelledError:
            work.close()
            raise
        tasks.create_task(work).add_done_callback(lambda _: self._calls.release())

    async def _rest(self, now: float) -> None:
        times = [t for t in (self.queue.next_wake(now), self._until_deadline(now)) if t is not None]
        self._wake.clear()
        try:
            async with asyncio.timeout(min(times) if times else None):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _until_deadline(self, now: float) -> float | None:
        deadline = self._waits.next_deadline()
        return None if deadline is None else max(0.0, deadline - now)

    # -- outcomes ------------------------------------------------------------------------------------------

    def _failed(self, failure: Failure, now: float) -> None:
        pod = failure.pod
        found = failure.preemption
        if found is not None:
            for victim in found.victims:
                victim.terminating = True  # will be: no further preemption on the node meanwhile
            self.cycle.nominate(pod, found.node)
        self.queue.failed(pod.key, now, failure.plugins, retry=failure.is_fault)

    async def _bind(self, placements: Sequence[Placement]) -> None:
        queued = [self.queue.find(p.pod.key) for p in placements]  # the informer may be faster than the answer
        errors = await self._binder.bind(placements)
        for placement, error, one in zip(placements, errors, queued, strict=True):
            if error is None:
                if one is not None:
                    self._metrics.bound(one.attempts, _now() - one.came_at)
                waiting = self.queue.get(placement.pod.key)
                if waiting is not None and waiting.uid == placement.pod.uid:
                    self.queue.remove(placement.pod.key)
            elif isinstance(error, (Conflict, NotFound)):
                # It has a node, is being deleted, or is gone: the informer tells. Until then it backs off.
                self._lost(placement, "")
            else:
                self._lost(placement, f'running Bind plugin "DefaultBinder": {error.message}')

    async def _select_node(self, placement: Placement) -> None:
        claims = [self.volumes.claims[key] for key in placement.claims if key in self.volumes.claims]
        error = await self._binder.select_node(placement, claims)
        if error is not None and self._waits.remove(placement.pod.key):
            self._lost(placement, f'running PreBind plugin "VolumeBinding": {error.message}')
            return
        for key in placement.claims:  # it may have been bound before the wait was known
            self._settle(key)

    def _lost(self, placement: Placement, message: str) -> None:
        """A placement came to nothing: the pod tries again later.

        Not so when the informer has settled the pod's fate meanwhile: a call without an answer may have bound it.
        """
        pod = placement.pod
        self._metrics.bind_failed(pod.scheduler)
        waiting = self.queue.get(pod.key)
        if waiting is None or waiting.uid != pod.uid:
            return
        if message:
            self._broken.append(Failure(pod, message, is_fault=True))
        freed = replace(pod)  # as it was assumed: its node is taken from the pod itself
        self.cycle.forget(pod)
        self.queue.failed(pod.key, _now(), retry=True)
        self._observer.happened(Event(Resource.ASSIGNED_POD, Action.DELETE, freed, None))
        self._wake.set()

    def _settle(self, claim: str) -> None:
        for placement, problem in self._waits.claim_changed(claim):
            if problem:
                self._lost(placement, problem)
            else:
                self._ready.append(placement)
                self._wake.set()


def _now() -> float:
    return asyncio.get_running_loop().time()
