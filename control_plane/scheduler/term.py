"""One term of leadership: the loop that takes pods from the queue, decides them, and starts the writes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, Conflict, NotFound, ServerTimeout, ServiceUnavailable, Timeout
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.client import ApiClient, EventRecorder
from rayplane.control_plane.scheduler import report
from rayplane.control_plane.scheduler.binder import Binder
from rayplane.control_plane.scheduler.config import SchedulerConfig
from rayplane.control_plane.scheduler.cycle import Cycle, Explanation, Failure, Placement
from rayplane.control_plane.scheduler.events import Action, Event, Resource
from rayplane.control_plane.scheduler.explaining import Explainer
from rayplane.control_plane.scheduler.extended import ExtendedScheduling, clients_of
from rayplane.control_plane.scheduler.extenders import ExtenderError
from rayplane.control_plane.scheduler.extensions import Extensions, Rejection
from rayplane.control_plane.scheduler.framework import PluginError
from rayplane.control_plane.scheduler.gangs import GroupCycle
from rayplane.control_plane.scheduler.gates import with_objects
from rayplane.control_plane.scheduler.hints import Hints
from rayplane.control_plane.scheduler.metrics import ERROR, SCHEDULED, UNSCHEDULABLE, SchedulerMetrics
from rayplane.control_plane.scheduler.observer import Observer
from rayplane.control_plane.scheduler.plugins import Cluster
from rayplane.control_plane.scheduler.plugins.args import VolumeBindingArgs
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.preemption import Preemption
from rayplane.control_plane.scheduler.preparation import DevicePreparation
from rayplane.control_plane.scheduler.queue import QueuedPod, SchedulingQueue
from rayplane.control_plane.scheduler.waits import VolumeWaits
from rayplane.control_plane.tasks import end_each
from rayplane.storage.env import Env

log = logging.getLogger(__name__)

#: Pods that may wait at the same time for what plug-ins do before binding.
ALONE_MAX = 1024
#: A turn takes no further pod after this, and is followed by this pause then.
TURN_S, PAUSE_S = 0.25, 0.05
#: After this long no call without an answer can bind a pod any more: API servers and members have given it up.
UNKNOWN_S = 60.0
_UNKNOWN = (ServerTimeout, ServiceUnavailable, Timeout)
_AGAIN = Backoff(0.1, 5.0)
_BINDING = 'running PreBind plugin "VolumeBinding": '


class Term:
    """One term of leadership: the caches, queue and cycle that this replica has while it leads."""

    def __init__(
        self,
        config: SchedulerConfig,
        env: Env,
        client: ApiClient,
        metrics: SchedulerMetrics,
        extensions: Extensions,
    ) -> None:
        self._config = config
        self._extensions = extensions
        self._metrics = metrics
        self.cluster = Cluster()
        self.snapshot, self.volumes = self.cluster.snapshot, self.cluster.volumes
        self.cycle = Cycle(replace(config, profiles=extensions.profiles), self.cluster, extensions.registry)
        hints = Hints(self.snapshot, extensions.hints())
        self.queue = self._new_queue(hints)
        self.synced = False
        """Whether all that there is has been seen."""
        self._bind_timeouts_s = _bind_timeouts_s(config)
        self._client = client
        self._recorder = EventRecorder(client, env, component="default-scheduler", correlates=False)
        self._binder = Binder(client, self._recorder, env)
        self._waits = VolumeWaits(self.volumes)
        self._ready: list[Placement] = []
        self._wake = asyncio.Event()
        self._devices = DevicePreparation(
            self.cluster.devices, self._binder, self._recorder, env, config.profiles,
            ready=self._prepared, lost=self._lost, wake=self._wake.set,
        )  # fmt: skip
        self._alone = 0  # pods that are being bound by themselves
        self._broken: list[Failure] = []  # placements that came to nothing, to be told
        self._calls = asyncio.Semaphore(config.bind_calls_max)
        self._extended = ExtendedScheduling(
            clients_of(config.extenders), self.cycle, self.queue, decided=self._decided_elsewhere
        )
        self._decided: list[Placement | Failure] = []  # decisions in which extenders had a say
        self._observer = Observer(
            self.cycle,
            self.queue,
            resources=hints.resources({*self.cycle.plugins, *self.cycle.groups_plugins, *extensions.hints()}),
            settle=self._settle,
            withdrawn=self._withdrawn,
            wake=self._wake.set,
        )
        groups = GroupCycle(self.cycle, extended=self._extended.concern)
        self.explainer = Explainer(
            self.cycle, self.queue, env, groups=groups, parse=self._observer.parse, extended=self._extended.concern
        )

    def _new_queue(self, hints: Hints) -> SchedulingQueue:
        config, extensions = self._config, self._extensions
        return SchedulingQueue(
            hints,
            backoff=config.backoff,
            retry_after_s=config.unschedulable_retry_s,
            order=extensions.order,
            gate=with_objects(extensions.gate, self.cluster.groups, self.cluster.devices, extensions.profiles),
            incoming=self._metrics.incoming,
        )

    async def run(self) -> None:
        self._recorder.start()
        await self._observer.start(self._client)
        self.synced = True
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._turn(tasks)

    async def stop(self) -> None:
        await end_each(self._observer.stop, self._extended.close, self._recorder.stop)

    # -- the loop ------------------------------------------------------------------------------------------

    async def _turn(self, tasks: asyncio.TaskGroup) -> None:
        """One batch of pods decided and its writes started; or a wait until there is something to do."""
        now = _now()
        await self._give_up(tasks, now)
        if kept_out := self.queue.kept_out(self._config.bind_batch_max, now):
            await self._start(tasks, self._binder.report([_not_ready(*one) for one in kept_out], self.cluster.groups))
        found, verdicts = self.explainer.decide(self._pods(tasks, now))
        decisions = [*self._taken(), *found]
        if not (decisions or self._ready or self._broken):
            await self._rest(now)
            return
        failures, self._broken = [one for one in self._broken if self._is_queued(one.pod)], []
        spent_s = _now() - now
        self._count(decisions, spent_s)
        for decision in decisions:
            if isinstance(decision, Failure):
                failures.append(self._failed(decision, now))
            elif self._is_reserved(decision):
                await self._prepare(tasks, decision, now)
        await self._bind_ready(tasks)
        if failures:
            await self._start(tasks, self._report(failures))
        if verdicts:
            self._metrics.groups_decided(verdicts)
            told = [verdict for verdict, _ in verdicts]
            await self._start(tasks, self._binder.tell_groups(told, self.cluster.groups))
        # After a long turn others have the loop for a while: the Lease must be renewed, however slow the pods are.
        await asyncio.sleep(PAUSE_S if spent_s > TURN_S else 0)

    async def _give_up(self, tasks: asyncio.TaskGroup, now: float) -> None:
        """Take back placements whose volumes or devices do not come; and tell who holds up the loop."""
        for slow in self._extensions.watch.slow():
            log.warning("pod %s: %s", meta.key(slow.pod), slow)
            self._recorder.event(slow.pod, "Warning", "SlowSchedulerPlugin", str(slow))
        for placement in self._waits.expired(now):
            self._lost(placement, f"{_BINDING}binding volumes: timed out")
        for placement, problem in self._devices.failed(now):
            await self._start(tasks, self._devices.give_back(placement, problem))

    async def _prepare(self, tasks: asyncio.TaskGroup, placement: Placement, now: float) -> None:
        """Volumes come before all else."""
        if placement.claims:
            self._waits.add(placement, placement.claims, now + self._bind_timeouts_s[placement.pod.scheduler])
            await self._start(tasks, self._select_node(placement))
        else:
            self._ready.append(placement)

    async def _bind_ready(self, tasks: asyncio.TaskGroup) -> None:
        """Start to bind the placed pods that wait for nothing, and to have the devices of others made ready."""
        devices = [placement for placement in self._ready if placement.devices]
        self._ready = [placement for placement in self._ready if not placement.devices]
        for placement in devices:
            await self._start(tasks, self._devices.prepare(placement))
        ready = self._bound_alone(tasks)
        size = self._config.bind_batch_max
        for first in range(0, len(ready), size):
            await self._start(tasks, self._bind(ready[first : first + size]))

    def _pods(self, tasks: asyncio.TaskGroup, now: float) -> Iterator[Sequence[PodInfo]]:
        """The next pods to decide, as many as a turn has time for: one by one, or those of a pod group together."""
        for _ in range(self._config.cycle_pods_max):
            pods = self.queue.pop(1, now)
            if pods and pods[0].group:
                yield self.queue.with_others(pods[0])
            elif mine := self._extended.take(tasks, pods):
                yield mine
            if not pods or _now() - now > TURN_S:
                return

    def _count(self, decisions: Sequence[Placement | Failure], seconds: float) -> None:
        each = seconds / max(len(decisions), 1)
        for decision in decisions:
            result = SCHEDULED
            if isinstance(decision, Failure):
                result = ERROR if decision.is_fault else UNSCHEDULABLE
                if decision.preemption is not None and not decision.pod.group:
                    self._metrics.preempted(len(decision.preemption.victims))
            self._metrics.decided(result, decision.pod.scheduler, each)

    async def _start(self, tasks: asyncio.TaskGroup, work: Coroutine[Any, Any, Any]) -> None:
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
        deadlines = (self._waits.next_deadline(), self._devices.waits.next_deadline())
        return min((max(0.0, deadline - now) for deadline in deadlines if deadline is not None), default=None)

    # -- outcomes ------------------------------------------------------------------------------------------

    def _failed(self, failure: Failure, now: float) -> Failure:
        pod = failure.pod
        if failure.preemption is None and not (failure.is_fault or pod.group) and self._extensions.has_post_filter(pod):
            failure = self._helped(failure)
        found = failure.preemption
        if found is not None:
            for victim in found.victims:
                # It will be: no further preemption on the node meanwhile.
                self.snapshot.set_terminating(victim, True)
            self.cycle.nominate(pod, found.node)
        elif not failure.keeps_nomination:  # what was kept for it is of no use to it
            self._observer.forget_nomination(pod.key)
        self.queue.failed(pod.key, now, failure.plugins, retry=failure.is_fault, soon=failure.soon)
        return failure

    async def _report(self, failures: Sequence[Failure]) -> None:
        # Before anything is awaited: the same pod may be decided again, and then needs what it gets.
        stale = [(one.pod, claim) for one in failures if (claim := self._devices.stale(one)) is not None]
        # A victim that was not deleted is gone already, or the preemptor fails again and asks again.
        for victim in await self._binder.report(failures, self.cluster.groups):
            self.snapshot.set_terminating(victim, meta.is_deleting(victim.obj))
        for pod, claim in stale:
            await self._binder.release_seen(pod, claim)

    def _helped(self, failure: Failure) -> Failure:
        """A plug-in may have found a way to a node."""
        try:
            node = self._extensions.post_filter(failure.pod, self.cycle.explain(failure.pod))
        except PluginError as e:
            return replace(failure, message=str(e), is_fault=True)
        return replace(failure, preemption=Preemption(node, ())) if node else failure

    def _decided_elsewhere(self, decision: Placement | Failure, detail: Explanation | None) -> None:
        self.explainer.remember(decision, detail)
        self._decided.append(decision)
        self._wake.set()

    def _taken(self) -> list[Placement | Failure]:
        """Decisions that were taken beside the loop; a pod that is gone since needs no room made for it."""
        decided, self._decided = self._decided, []
        return [one for one in decided if isinstance(one, Placement) or self._is_queued(one.pod)]

    def _is_queued(self, pod: PodInfo) -> bool:
        waiting = self.queue.get(pod.key)
        return waiting is not None and waiting.uid == pod.uid

    # -- pods that plug-ins in Python have to do with once they have a node -----------------------------------

    def _is_reserved(self, placement: Placement) -> bool:
        """Whether all plug-ins have taken what the pod needs; else it has lost its node."""
        if not self._extensions.concern(placement.pod):
            self.queue.placed(placement.pod.key)
            return True
        # Until it is bound a plug-in may refuse it: what happens meanwhile may help then.
        try:
            self._extensions.reserve(placement)
        except (PluginError, Rejection) as e:
            self._refused(placement, e)
            return False
        return True

    def _bound_alone(self, tasks: asyncio.TaskGroup) -> list[Placement]:
        """Start to bind the pods that are bound by themselves; the others, that are bound together."""
        ready, self._ready = self._ready, []
        together = []
        for placement in ready:
            if not (self._extensions.concern(placement.pod) or self._extended.binds(placement.pod)):
                together.append(placement)
            elif self._alone >= ALONE_MAX:
                self._lost(placement, f"{ALONE_MAX} pods wait for their plug-ins already")
            else:
                self._alone += 1
                tasks.create_task(self._bind_alone(placement))
        return together

    async def _bind_alone(self, placement: Placement) -> None:
        try:
            if self._extensions.may_wait(placement.pod):
                await self._binder.expect(placement)
            await self._extensions.prepare(placement)
            if await self._bound_by_others(placement):
                await self._extensions.bound(placement)
        except (PluginError, Rejection) as e:
            self._refused(placement, e)
        except ExtenderError as e:
            self._lost(placement, str(e))
        finally:
            self._alone -= 1

    async def _bound_by_others(self, placement: Placement) -> bool:
        """Have the pod bound by an extender, else a plug-in, else as all others; whether it is bound."""
        queued = self.queue.find(placement.pod.key)
        if await self._extended.bind(placement):
            self._is_bound(placement, queued)
            return True
        if await self._extensions.bind(placement):
            return True
        async with self._calls:
            return await self._bind([placement])

    def _refused(self, placement: Placement, why: PluginError | Rejection) -> None:
        if isinstance(why, Rejection):
            self._lost(placement, report.fit_error(1, {why.message: 1}), frozenset((why.plugin,)))
        else:
            self._lost(placement, str(why))

    async def _bind(self, placements: Sequence[Placement]) -> bool:
        """Bind pods together; whether all are bound.

        A call without an answer may have bound its pods, now or in a while: they keep their room, and are bound again
        there until an answer comes, or none can come any more.
        """
        all_bound, pause_s, give_up_at = True, 0.0, _now() + UNKNOWN_S
        # The informer may be faster than the answer.
        queued = {placement.pod.uid: self.queue.find(placement.pod.key) for placement in placements}
        while placements:
            errors = await self._binder.bind(placements)
            unknown = []
            for placement, answer in zip(placements, errors, strict=True):
                error = await self._binder.beyond(answer, placement) if isinstance(answer, Conflict) else answer
                if error is None or self._is_seen_bound(placement):
                    self._is_bound(placement, queued[placement.pod.uid])
                elif isinstance(error, _UNKNOWN) and self._is_queued(placement.pod) and _now() < give_up_at:
                    self._broken.append(Failure(placement.pod, _not_bound(error), is_fault=True))
                    unknown.append(placement)
                else:
                    # Refused, or it has another node, is being deleted, or gone: the informer tells. Until then it
                    # backs off.
                    told = isinstance(error, (Conflict, NotFound))
                    self._lost(placement, "" if told else _not_bound(error))
                    all_bound = False
            placements = unknown
            if unknown:
                self._wake.set()
                pause_s = _AGAIN.after_s(pause_s)
                await asyncio.sleep(pause_s)
        return all_bound

    def _is_seen_bound(self, placement: Placement) -> bool:
        """Whether the informer has shown the pod on its node: what is only assumed there is queued still."""
        known = self.snapshot.pods.get(placement.pod.key)
        is_there = known is not None and (known.uid, known.node) == (placement.pod.uid, placement.node)
        return is_there and not self._is_queued(placement.pod)

    def _is_bound(self, placement: Placement, queued: QueuedPod | None) -> None:
        self._binder.tell(placement)
        if queued is not None:
            self._metrics.bound(queued.attempts, _now() - queued.came_at)
        if self._is_queued(placement.pod):
            self.queue.remove(placement.pod.key)

    def _prepared(self, placement: Placement) -> None:
        """The pod's devices are its own."""
        self._ready.append(replace(placement, devices=()))
        self._wake.set()

    async def _select_node(self, placement: Placement) -> None:
        claims = [self.volumes.claims[key] for key in placement.claims if key in self.volumes.claims]
        error = await self._binder.select_node(placement, claims)
        if error is not None and self._waits.remove(placement.pod.key):
            self._lost(placement, f"{_BINDING}{error.message}")
            return
        for key in placement.claims:  # it may have been bound before the wait was known
            self._settle(Resource.CLAIM, key)

    def _lost(self, placement: Placement, message: str, plugins: frozenset[str] = frozenset()) -> None:
        """A placement came to nothing: the pod tries again later, or when something changes for those that said no.

        Not so when the informer has settled the pod's fate meanwhile: a call without an answer may have bound it.
        """
        pod = placement.pod
        self._metrics.bind_failed(pod.scheduler)
        self._extensions.unreserve(placement)
        if not self._is_queued(pod):
            return
        if message:  # of the pod as it is now: it was told meanwhile where it was to go
            newest = self.queue.get(pod.key) or pod
            self._broken.append(Failure(newest, message, is_fault=not plugins, plugins=plugins))
        freed = replace(pod)  # as it was assumed: its node is taken from the pod itself
        self.cycle.forget(pod)
        self.queue.failed(pod.key, _now(), plugins, retry=not plugins, patient=True)
        self._observer.happened(Event(Resource.ASSIGNED_POD, Action.DELETE, freed, None))
        self._wake.set()

    def _settle(self, resource: Resource, claim: str) -> None:
        """A claim to a volume, or to devices, has changed."""
        if resource is Resource.RESOURCE_CLAIM:
            self._devices.settle(claim)
            return
        for placement, problem in self._waits.claim_changed(claim):
            if problem:
                self._lost(placement, f"{_BINDING}{problem}")
            else:
                self._ready.append(placement)
                self._wake.set()

    def _withdrawn(self, pod: str) -> None:
        """A pod is not to be bound any more."""
        placement = self._waits.remove(pod) or self._devices.waits.remove(pod)
        if placement is not None:
            self._extensions.unreserve(placement)


def _not_ready(pod: PodInfo, message: str) -> Failure:
    return Failure(pod, message, is_kept_out=True, keeps_nomination=True)


def _bind_timeouts_s(config: SchedulerConfig) -> dict[str, float]:
    """By profile."""
    arguments = {p.name: p.args.get("VolumeBinding") or VolumeBindingArgs() for p in config.profiles}
    return {name: args.bind_timeout_s for name, args in arguments.items()}


def _not_bound(error: ApiError) -> str:
    return f'running Bind plugin "DefaultBinder": {error.message}'


def _now() -> float:
    return asyncio.get_running_loop().time()
