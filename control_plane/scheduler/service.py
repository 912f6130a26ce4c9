"""The scheduler's shell: leadership, informers, and the loop of cycles."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, Conflict, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.resources import resources_changed
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.client import ApiClient, EventRecorder, Informer, LeaderElector
from rayplane.control_plane.component_base.debugging import serve
from rayplane.control_plane.component_base.metrics import Family
from rayplane.control_plane.rpc import Network, Server
from rayplane.control_plane.scheduler.binder import Binder, VolumeWaits
from rayplane.control_plane.scheduler.config import SchedulerConfig
from rayplane.control_plane.scheduler.cycle import Cycle, Explanation, Failure, Placement
from rayplane.control_plane.scheduler.metrics import ERROR, SCHEDULED, UNSCHEDULABLE, SchedulerMetrics
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.pods import PodInfo, PodParser
from rayplane.control_plane.scheduler.queue import Place, SchedulingQueue
from rayplane.control_plane.scheduler.snapshot import Snapshot
from rayplane.control_plane.scheduler.volumes import VolumeIndex
from rayplane.storage.env import Env

log = logging.getLogger(__name__)
LEASE_NAME = "kube-scheduler"
CLASSES = "storageclasses.storage.k8s.io"
CAPACITIES = "csistoragecapacities.storage.k8s.io"


class Scheduler:
    """One replica. `start` returns at once; pods are scheduled from the time this replica leads."""

    def __init__(self, config: SchedulerConfig, env: Env, network: Network, *, client: ApiClient | None = None) -> None:
        self._config = config
        self._env = env
        self._client = client or ApiClient(network, config.api_endpoints, discovery=config.discovery)
        self._elector = LeaderElector(
            self._client, env, name=LEASE_NAME, identity=config.identity, timing=config.election
        )
        self._term: Term | None = None
        self._network = network
        self._metrics = SchedulerMetrics()
        self._server: Server | None = None

    @property
    def is_leader(self) -> bool:
        return self._elector.is_leader

    def pending(self) -> dict[Place, int]:
        """How many pods wait, and where; empty on a replica that does not lead."""
        return self._term.queue.places() if self._term else {}

    def explain(self, pod: Object) -> Explanation | None:
        """What this replica would decide for a pod now, per node and plugin; None when it does not lead."""
        return self._term.explain(pod) if self._term else None

    def collect(self) -> Iterable[Family]:
        """For Prometheus."""
        yield from self._elector.collect()
        yield from self._metrics.collect(self.pending())

    async def start(self) -> None:
        self._server = await serve(self._network, self._config.address, self.collect)
        self._elector.start(self._lead)

    async def stop(self) -> None:
        """Stop scheduling, then give the Lease back."""
        await self._elector.stop()
        if self._server is not None:
            await self._server.stop()

    async def _lead(self) -> None:
        self._term = term = Term(self._config, self._env, self._elector.fenced(self._client), self._metrics)
        try:
            await term.run()
        finally:
            self._term = None
            await term.stop()


class Term:
    """One term of leadership: the caches, queue and cycle that this replica has while it leads."""

    def __init__(self, config: SchedulerConfig, env: Env, client: ApiClient, metrics: SchedulerMetrics) -> None:
        self._config = config
        self._metrics = metrics
        self.snapshot = Snapshot()
        self.volumes = VolumeIndex()
        self.cycle = Cycle(config, self.snapshot, self.volumes)
        self.queue = SchedulingQueue(
            backoff=config.backoff,
            retry_after_s=config.unschedulable_retry_s,
        )
        self._parser = PodParser()
        self._recorder = EventRecorder(client, env, component="default-scheduler")
        self._binder = Binder(client, self._recorder, env)
        self._waits = VolumeWaits(self.volumes)
        self._ready: list[Placement] = []
        self._calls = asyncio.Semaphore(config.bind_calls_max)
        self._wake = asyncio.Event()
        # Pods come last: what they refer to is known by then.
        self._informers = {
            resource: Informer(client, resource)
            for resource in (
                "nodes",
                "namespaces",
                CLASSES,
                CAPACITIES,
                "persistentvolumes",
                "persistentvolumeclaims",
                "pods",
            )
        }

    def explain(self, pod: Object) -> Explanation:
        info = self._parser.parse(pod)
        known = self.snapshot.pods.get(info.key)
        if known is None:
            return self.cycle.explain(info)
        self.snapshot.remove_pod(info.key)
        try:
            return self.cycle.explain(info)
        finally:
            self.snapshot.set_pod(known)

    async def run(self) -> None:
        self._recorder.start()
        for informer in self._informers.values():
            informer.start()
        for informer in self._informers.values():
            await informer.synced()
        handlers = (
            self._on_node,
            self._on_namespace,
            self._on_class,
            self._on_capacity,
            self._on_volume,
            self._on_claim,
            self._on_pod,
        )
        for informer, handler in zip(self._informers.values(), handlers, strict=True):
            informer.add_handler(handler)
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._turn(tasks)

    async def stop(self) -> None:
        for informer in self._informers.values():
            await informer.stop()
        await self._recorder.stop()

    # -- the loop ------------------------------------------------------------------------------------------

    async def _turn(self, tasks: asyncio.TaskGroup) -> None:
        """One batch of pods decided and its writes started; or a wait until there is something to do."""
        now = _now()
        for placement in self._waits.expired(now):
            self._lost(placement, 'running PreBind plugin "VolumeBinding": binding volumes: timed out')
        pods = self.queue.pop(self._config.cycle_pods_max, now)
        if not pods and not self._ready:
            await self._rest(now)
            return
        failures: list[Failure] = []
        decisions = self.cycle.schedule(pods)
        self._count(decisions, _now() - now)
        for decision in decisions:
            if isinstance(decision, Failure):
                failures.append(decision)
                self._failed(decision, now)
            elif decision.claims:
                self._waits.add(decision, now + self._config.volume_bind_timeout_s)
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
        self.queue.failed(pod.key, now)

    async def _bind(self, placements: Sequence[Placement]) -> None:
        errors = await self._binder.bind(placements)
        for placement, error in zip(placements, errors, strict=True):
            if error is None:
                waiting = self.queue.get(placement.pod.key)
                if waiting is not None and waiting.uid == placement.pod.uid:
                    self.queue.remove(placement.pod.key)
            elif isinstance(error, (Conflict, NotFound)):
                # It has a node, is being deleted, or is gone: the informer tells. Until then it backs off.
                self._lost(placement, "")
            else:
                self._lost(placement, f"binding rejected: {error.message}")

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
            self._binder.tell(pod, message)
        self.cycle.forget(pod)
        self.queue.failed(pod.key, _now(), retry=True)
        self.queue.something_changed(_now())
        self._wake.set()

    def _settle(self, claim: str) -> None:
        for placement, problem in self._waits.claim_changed(claim):
            if problem:
                self._lost(placement, problem)
            else:
                self._ready.append(placement)
                self._wake.set()

    def _changed(self) -> None:
        self.queue.something_changed(_now())
        self._wake.set()

    # -- informers -----------------------------------------------------------------------------------------

    def _on_node(self, kind: str, _old: Object | None, node: Object) -> None:
        if kind == "DELETED":
            self.snapshot.remove_node(meta.name(node))
        elif self.snapshot.set_node(NodeInfo.of(node)):
            self._changed()

    def _on_namespace(self, kind: str, _old: Object | None, namespace: Object) -> None:
        if kind == "DELETED":
            self.snapshot.namespaces.pop(meta.name(namespace), None)
        else:
            self.snapshot.namespaces[meta.name(namespace)] = meta.labels(namespace)

    def _on_class(self, kind: str, _old: Object | None, storage: Object) -> None:
        if kind == "DELETED":
            self.volumes.classes.pop(meta.name(storage), None)
        else:
            self.volumes.classes[meta.name(storage)] = storage
            self._changed()

    def _on_capacity(self, kind: str, _old: Object | None, capacity: Object) -> None:
        if kind == "DELETED":
            self.volumes.capacities.pop(meta.key(capacity), None)
        else:
            self.volumes.capacities[meta.key(capacity)] = capacity
            self._changed()

    def _on_volume(self, kind: str, _old: Object | None, volume: Object) -> None:
        if kind == "DELETED":
            self.volumes.remove_volume(meta.name(volume))
        else:
            self.volumes.set_volume(volume)
            ref = meta.spec(volume).get("claimRef") or {}
            self._settle(f"{ref.get('namespace')}/{ref.get('name')}")
        self._changed()

    def _on_claim(self, kind: str, _old: Object | None, claim: Object) -> None:
        if kind == "DELETED":
            self.volumes.remove_claim(meta.key(claim))
        else:
            self.volumes.set_claim(claim)
        self._settle(meta.key(claim))
        self._changed()

    def _on_pod(self, kind: str, old: Object | None, pod: Object) -> None:
        key = meta.key(pod)
        gone = kind == "DELETED" or pod_is_terminated(pod)
        if not gone and meta.node_name(pod):
            self._on_assigned(old, pod)
        elif gone:
            self._on_gone(key)
        elif meta.is_deleting(pod) or meta.spec(pod).get("schedulingGates"):
            self._withdraw(key)
        else:
            self._on_pending(pod)

    def _on_assigned(self, old: Object | None, pod: Object) -> None:
        """A pod has its node, by us or by others. Most events are status only and change nothing here."""
        key = meta.key(pod)
        known = self.snapshot.pods.get(key)
        if known is not None and known.node == meta.node_name(pod) and known.uid == meta.uid(pod):
            same = known.terminating >= meta.is_deleting(pod) and known.labels == meta.labels(pod)
            if same and old is not None and not resources_changed(old, pod):
                known.obj = pod
                self.queue.remove(key)
                return
        info = self._parse(pod)
        if info is not None:
            self.snapshot.set_pod(info)
            self.queue.pod_came(_now())
            self._wake.set()
        self.queue.remove(key)
        self.cycle.forget_nomination(key)

    def _on_gone(self, key: str) -> None:
        self._withdraw(key)
        if self.snapshot.remove_pod(key) is not None:
            self._changed()

    def _withdraw(self, key: str) -> None:
        """No longer to be scheduled: a placement that was not confirmed is taken back."""
        self.cycle.forget_nomination(key)
        self._waits.remove(key)
        if self.queue.remove(key) is not None:
            assumed = self.snapshot.pods.get(key)
            if assumed is not None:
                self.cycle.forget(assumed)

    def _on_pending(self, pod: Object) -> None:
        assumed = self.snapshot.pods.get(meta.key(pod))
        if assumed is not None and assumed.uid == meta.uid(pod):
            if meta.key(pod) in self.queue:
                info = self._parse(pod)
                if info is not None:
                    self.queue.add(info)
            return  # placed: an event from before the binding
        if assumed is not None:  # a namesake of an earlier pod
            self._on_gone(meta.key(pod))
        info = self._parse(pod)
        if info is None or not self.cycle.handles(info):
            return
        if info.nominated and not self.cycle.nominated_node(info.key):
            self.cycle.nominate(info, info.nominated)
        self.queue.add(info)
        self._wake.set()

    def _parse(self, pod: Object) -> PodInfo | None:
        try:
            return self._parser.parse(pod)
        except (ApiError, ValueError) as error:
            log.error("pod %s cannot be read and is left alone: %s", meta.key(pod), error)
            return None


def _now() -> float:
    return asyncio.get_running_loop().time()
