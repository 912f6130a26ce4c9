"""All controllers of the catalogue over a cluster in memory, each with caches that lag, and with writes that may fail.

Every controller has caches of its own: events of one resource come in order, as informers guarantee it, and nothing
else is certain. They may come late, twice, or not at all until the next list, which may be one that is asked for
because own writes do not show. Writes may meet a conflict, or get no answer, done or not. The manager may die between
any two writes, and starts again with empty memory.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from rayplane.control_plane.api import errors, meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_labels import ZONE
from rayplane.control_plane.api.pods.state import pod_is_ready, pod_is_terminated
from rayplane.control_plane.api.pods.volumes import claims_of
from rayplane.control_plane.api.quotas import used
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    DeleteVolume,
    Event,
    Expand,
    Patch,
    Provision,
    PurgeNamespace,
    Recount,
    Rescale,
    Update,
    UpdateStatus,
    Write,
)
from rayplane.control_plane.controllers.catalog import build_controllers
from rayplane.control_plane.controllers.config import ControllersConfig, Timing
from rayplane.control_plane.controllers.core import Controller, Result
from rayplane.control_plane.controllers.indexes import indexes_of
from rayplane.control_plane.controllers.manager.expectations import Barrier, Shown
from rayplane.control_plane.timings import KUBERNETES
from tests.controllers import rights
from tests.controllers.cluster import CONDITIONAL, Cluster

CLAIMS, VOLUMES = "persistentvolumeclaims", "persistentvolumes"
NODES = {"n1": "z1", "n2": "z2", "n3": "z2"}
"""With the zone of each."""
IDLE_S = 40.0
"""So long nothing may happen before all counts as done: longer than any pause of a controller in these scenarios."""
KILLS_MAX = 12
LATE_S = 20.0
"""No event of a watch that works comes later."""
BARRIER_S, STALLED_S = 0.5, 5.0
"""Who waits so long for his own writes to show has all listed anew; so long a watch tells nothing, if nobody does."""
FAULTS = ("late", "twice", "relist", "stalled", "conflict", "unknown", "restart", "kill")


# Nodes are not the matter here: none is ever lost.
CONFIG = ControllersConfig("test", timing=Timing(replace(KUBERNETES.nodes, grace_s=1e9, fence_s=1e9), pod_gc_s=20.0))


class Died(Exception):
    """The controller manager is killed."""


class Cache:
    """What one controller knows."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Object]] = {}
        self._indexes: dict[tuple[str, str, str], dict[str, Object]] = {}

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        return self.objects.get(resource, {}).get(f"{namespace}/{name}" if namespace else name)

    def list(self, resource: str) -> Sequence[Object]:
        return [*self.objects.get(resource, {}).values()]

    def indexed(self, resource: str, index: str, value: str) -> Sequence[Object]:
        return [*self._indexes.get((resource, index, value), {}).values()]

    def values(self, resource: str, index: str) -> Sequence[str]:
        return [value for (of, by, value), found in self._indexes.items() if (of, by) == (resource, index) and found]

    def take(self, resource: str, kind: str, obj: Object) -> Object | None:
        """Take in an event; what was known before."""
        key, pool = meta.key(obj), self.objects.setdefault(resource, {})
        old = pool.pop(key, None)
        if kind != "DELETED":
            pool[key] = obj
        for name, index in indexes_of(resource).items():
            for value in index(old) if old else ():
                self._indexes[resource, name, value].pop(key, None)
            for value in index(obj) if kind != "DELETED" else ():
                self._indexes.setdefault((resource, name, value), {})[key] = obj
        return old


@dataclass
class Outcome:
    """As `executor.Outcome`."""

    written: list[tuple[str, Object]] = field(default_factory=list)
    deleted: list[tuple[str, Object]] = field(default_factory=list)
    unanswered: list[Create] = field(default_factory=list)
    failed: bool = False
    retry_s: float | None = None


class Slot:
    """One controller with its caches, its queue and its memory of own writes, as `runner.ControllerRunner` has them."""

    def __init__(self, controller: Controller, cluster: Disturbed) -> None:
        self.controller, self.cluster = controller, cluster
        self.cache, self.shown = Cache(), Shown()
        self.barrier = Barrier(BARRIER_S, self.shown)
        self.resources = {watch.resource for watch in controller.watches}
        self.pending: dict[str, deque[tuple[float, str, Object]]] = {resource: deque() for resource in self.resources}
        self.stalled: dict[str, float] = {}
        """Resources whose watch tells nothing, and since when."""
        self.queue: dict[str, None] = dict.fromkeys(controller.resync_keys)
        self.timers: dict[str, float] = {}
        self.failures: dict[str, int] = {}
        self.unsure: dict[str, list[Create]] = {}
        for resource in sorted(self.resources):
            for obj in cluster.list(resource):
                self.see(resource, "ADDED", obj)

    def see(self, resource: str, kind: str, obj: Object) -> None:
        old = self.cache.take(resource, kind, obj)
        kind = "MODIFIED" if old is not None and kind == "ADDED" else kind
        self.shown.note(resource, obj)
        self.queue.update(dict.fromkeys(self.barrier.seen(resource, kind, obj)))
        for watch in self.controller.watches:
            if watch.resource != resource:
                continue
            if watch.observe and kind != "DELETED":
                watch.observe(obj, self.cluster.seconds)
            if watch.keys is None or (kind == "MODIFIED" and old is not None and not watch.changed(old, obj)):
                continue
            for one in (obj, old) if old else (obj,):
                self.queue.update(dict.fromkeys(watch.keys(one, self.cache)))

    def deliver(self, resource: str, *, twice: bool = False) -> None:
        _, kind, obj = self.pending[resource].popleft()
        for _ in range(1 + twice):
            self.see(resource, kind, obj)

    def relist(self, resource: str) -> None:
        """The watch was cut: what came since is only seen by what became of it."""
        self.pending[resource].clear()
        self.stalled.pop(resource, None)
        now = {meta.key(obj): obj for obj in self.cluster.list(resource)}
        for key, known in [*self.cache.objects.get(resource, {}).items()]:
            if key not in now:
                self.see(resource, "DELETED", known)
        for obj in now.values():
            self.see(resource, "ADDED", obj)
        self.queue.update(dict.fromkeys(self.barrier.listed(resource, self.cluster.seconds)))

    def wake(self) -> None:
        for key in [key for key, when in self.timers.items() if when <= self.cluster.seconds]:
            del self.timers[key]
            self.queue[key] = None

    def later(self, key: str, seconds: float) -> None:
        when = self.cluster.seconds + seconds
        self.timers[key] = min(when, self.timers.get(key, when))

    def work(self, key: str) -> None:
        del self.queue[key]
        now = self.cluster.now
        self._look_up(key)
        if self.barrier.is_held(key):
            return
        wanted = self.controller.reconcile(key, self.cache, now)
        rights.check(self.controller, wanted)
        outcome = self.cluster.carry_out(wanted, self)
        self._expect(key, outcome)
        if (outcome.written or outcome.deleted) and not self.barrier.is_held(key):
            self.queue[key] = None
        if outcome.unanswered:
            self.unsure[key] = outcome.unanswered
        self.failures[key] = self.failures.get(key, 0) + 1 if outcome.failed else 0
        if outcome.failed:
            self.later(key, outcome.retry_s or min(10.0, 0.01 * 2.0 ** self.failures[key]))
        elif wanted.requeue_after is not None:
            self.later(key, wanted.requeue_after)

    def _look_up(self, key: str) -> None:
        for create in self.unsure.pop(key, ()):
            for obj in self.cluster.list(create.resource):
                if meta.labels(create.obj).items() <= meta.labels(obj).items():
                    self.barrier.wrote(key, create.resource, obj, now=self.cluster.seconds)

    def _expect(self, key: str, outcome: Outcome) -> None:
        for resource, answer in outcome.written:
            if resource in self.resources:
                self.barrier.wrote(key, resource, answer, now=self.cluster.seconds)
        for resource, gone in outcome.deleted:
            if resource in self.resources:
                cached = self.cache.get(resource, meta.namespace(gone), meta.name(gone))
                self.barrier.deleted(key, resource, gone, cached=cached, now=self.cluster.seconds)


class Disturbed(Cluster):
    """The cluster. `faults`: what goes wrong, of FAULTS; `rng` decides when."""

    def __init__(self, rng: random.Random, faults: Iterable[str] = ()) -> None:
        super().__init__()
        self.rng, self.faults = rng, frozenset(faults)
        self.slots: list[Slot] = []
        self.kills = KILLS_MAX
        self.listeners.append(self._announce)
        for node, zone in NODES.items():
            notes = {"rayplane.io/volume-capacity": "1000000000000", "rayplane.io/host-address": f"host-{node}:1"}
            self.node(node, cpu="4", metadata={"annotations": notes, "labels": {ZONE: zone}})
        self.start()

    # --- the manager ----------------------------------------------------------------------------

    def start(self) -> None:
        """A new manager, that remembers nothing."""
        self.slots = []
        self.slots = [Slot(controller, self) for controller in build_controllers(CONFIG)]

    def _announce(self, resource: str, kind: str, _old: Object | None, obj: Object) -> None:
        for slot in self.slots:
            if resource in slot.resources:
                slot.pending[resource].append((self.seconds, kind, obj))

    def _hits(self, fault: str, chance: float) -> bool:
        return fault in self.faults and self.rng.random() < chance

    def carry_out(self, wanted: Result, slot: Slot) -> Outcome:
        outcome = Outcome()
        for stage in wanted.stages:
            writes: list[Write] = []
            for action in stage:
                if isinstance(action, (Create, Update, UpdateStatus, Patch, Delete)):
                    writes.append(action)
                elif not isinstance(action, Event):
                    writes += self._prepare(action, outcome)
            self._batch(writes, outcome, slot)
            if outcome.failed:
                break
        return outcome

    def _batch(self, writes: Sequence[Write], outcome: Outcome, slot: Slot) -> None:
        answered = not (writes and self._hits("unknown", 0.05))
        for write in writes:
            if self._hits("restart", 0.01):
                raise Died
            if not answered and self.rng.random() < 0.5:
                continue  # it never arrived
            if self._hits("conflict", 0.03):
                outcome.failed = True
                continue
            self._one(write, outcome if answered else Outcome(), slot)
        if not answered:
            outcome.failed, outcome.retry_s = True, 1.0
            outcome.unanswered = [w for w in writes if isinstance(w, Create) and not meta.name(w.obj)]

    def _one(self, write: Write, outcome: Outcome, slot: Slot) -> None:
        try:
            space = meta.namespace(write.obj) if isinstance(write, Create) else ""
            if space and meta.is_deleting(self.require("namespaces", "", space)):
                return  # refused, and nobody tries again
            answer = self.write(write)
        except errors.NotFound:
            if isinstance(write, Delete):
                outcome.deleted.append((write.resource, write.obj))
            else:
                outcome.failed = True
        except errors.AlreadyExists:
            outcome.failed |= not (isinstance(write, Create) and write.exists_ok)
        except errors.Conflict:
            outcome.failed = True
        else:
            if isinstance(write, Delete):
                outcome.deleted.append((write.resource, answer))
                return
            known = slot.cache.get(write.resource, meta.namespace(answer), meta.name(answer))
            if known is None or meta.resource_version(known) != meta.resource_version(answer):
                outcome.written.append((write.resource, answer))

    def _prepare(self, action: Action, outcome: Outcome) -> list[Write]:
        """The outside part of a special action; the writes that follow it."""
        if isinstance(action, CONDITIONAL):
            if self.holds(action):
                return [*action.writes]
            outcome.failed, outcome.retry_s = True, 1.0
        elif isinstance(action, Provision):
            return [Create(VOLUMES, action.volume, exists_ok=True)]
        elif isinstance(action, DeleteVolume):
            return [Delete(VOLUMES, action.volume)]
        elif isinstance(action, Expand):
            return [Patch(VOLUMES, "", meta.name(action.volume), {"spec": {"capacity": {"storage": action.storage}}})]
        elif isinstance(action, Recount):
            return self._recount(action.quota, action.resources)
        elif isinstance(action, Rescale):
            return self._rescale(action, outcome)
        elif isinstance(action, PurgeNamespace):
            self._purge(action.namespace, outcome)
        return []

    def _recount(self, quota: Object, resources: Iterable[str]) -> list[Write]:
        held = {r: [o for o in self.list(r) if meta.namespace(o) == meta.namespace(quota)] for r in resources}
        status = {"hard": quota["spec"]["hard"], "used": used(quota, held, self.now.wall, {})}
        return [UpdateStatus("resourcequotas", {**quota, "status": status})] if meta.status(quota) != status else []

    def _rescale(self, action: Rescale, outcome: Outcome) -> list[Write]:
        target = self.get(action.resource, meta.namespace(action.obj), meta.name(action.obj))
        if target is None or (target["spec"].get("replicas") or 0) != action.before:
            outcome.failed = True
            return []
        self.put(action.resource, {**target, "spec": {**target["spec"], "replicas": action.replicas}})
        return [action.done]

    def _purge(self, namespace: Object, outcome: Outcome) -> None:
        name, left = meta.name(namespace), 0
        for resource in [*self.objects]:
            for obj in [o for o in self.list(resource) if meta.namespace(o) == name]:
                left += 1
                if not meta.is_deleting(obj):
                    self.delete_object(resource, obj, propagation="Background")
        if left:
            outcome.failed, outcome.retry_s = True, 1.0
        elif (found := self.get("namespaces", "", name)) is not None:
            self.update("namespaces", {**found, "spec": {"finalizers": []}}, subresource="finalize")

    # --- scheduler, kubelets --------------------------------------------------------------------

    def tend(self, pod: Object) -> None:
        """What scheduler and kubelet would do next with a pod."""
        if meta.is_deleting(pod):
            self.delete("pods", meta.name(pod), meta.namespace(pod), uid=meta.uid(pod), grace_s=0)
        elif pod_is_terminated(pod) or not self._has_volumes(pod):
            return
        elif not meta.node_name(pod):
            self.put("pods", _bound(pod, _pinned(pod) or self.rng.choice([*NODES])))
        elif (meta.controller_of(pod) or {}).get("kind") == "Job" and pod_is_ready(pod):
            self.set_pod(pod, ready=False, phase="Succeeded")
        elif not pod_is_ready(pod):
            self.set_pod(pod, ready=True, ip=f"127.64.1.{self.rng.randrange(2, 250)}")

    def _has_volumes(self, pod: Object) -> bool:
        claims = (self.get(CLAIMS, *claim.split("/")) for claim in claims_of(pod))
        return all(claim is not None and meta.status(claim).get("phase") == "Bound" for claim in claims)

    # --- running --------------------------------------------------------------------------------

    def run(self, users: Sequence[Callable[[Disturbed], None]]) -> None:
        """Let users do all that, one after the other, while everything else goes its way; then let all come to rest."""
        for act in users:
            act(self)
            if not self.faults:
                self.rest()
            for _ in range(self.rng.randrange(120)):
                self.happen_something()
        self.faults = frozenset()
        for slot in self.slots:
            for resource in [*slot.stalled]:
                slot.relist(resource)
        self.rest()

    def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(20_000):
            if holds():
                return
            self.happen_something()
        raise AssertionError("it never came to pass")

    def happen_something(self) -> None:
        slot = self.rng.choice(self.slots)
        if self._hits("stalled", 0.02) and slot.resources:
            slot.stalled.setdefault(self.rng.choice(sorted(slot.resources)), self.seconds)
        late = [r for r, events in sorted(slot.pending.items()) if events and r not in slot.stalled]
        what = self.rng.random()
        try:
            if what < 0.35 and late:
                if self._hits("relist", 0.05):
                    slot.relist(self.rng.choice(late))
                else:
                    slot.deliver(self.rng.choice(late), twice=self._hits("twice", 0.2))
            elif what < 0.7 and slot.queue:
                if "late" not in self.faults:
                    self._deliver_all()
                slot.work(self.rng.choice([*slot.queue]))
            elif what < 0.9:
                self._nodes()
            elif what < 0.97:
                self.pass_time(self.rng.uniform(0.0, 0.5))
            elif self._hits("restart", 0.1):
                raise Died
        except Died:
            self.start()

    def _nodes(self) -> None:
        pods = self.list("pods")
        if not pods:
            return
        pod = self.rng.choice(pods)
        lives_on = meta.controller_of(pod) is not None and not meta.is_deleting(pod)
        if self.kills and lives_on and self._hits("kill", 0.05):
            self.kills -= 1
            self.delete_object("pods", pod)
        else:
            self.tend(pod)

    def _deliver_all(self, *, older_than_s: float = -1.0) -> None:
        for slot in self.slots:
            for resource, events in slot.pending.items():
                while resource not in slot.stalled and events and events[0][0] < self.seconds - older_than_s:
                    slot.deliver(resource)

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds
        self._deliver_all(older_than_s=LATE_S)
        for slot in self.slots:
            for resource in [one for one, since in slot.stalled.items() if since < self.seconds - STALLED_S]:
                slot.relist(resource)
            for resource in slot.barrier.overdue(self.seconds):
                slot.relist(resource)
            slot.wake()

    def rest(self) -> None:
        """Go on without disturbance until nothing happens any more."""
        quiet_since = self.seconds
        for _ in range(1500):
            before = self.version
            self._deliver_all()
            for slot in self.slots:
                for key in [*slot.queue]:
                    if key in slot.queue:
                        slot.work(key)
            for pod in self.list("pods"):
                self.tend(pod)
            if self.version != before:
                quiet_since = self.seconds
            if any(slot.queue or any(slot.pending.values()) for slot in self.slots):
                continue
            due = min((when for slot in self.slots for when in slot.timers.values()), default=float("inf"))
            if due - quiet_since >= IDLE_S:
                return
            self.pass_time(max(0.0, due - self.seconds))
        raise AssertionError("the controllers do not come to rest")


def _bound(pod: Object, node: str) -> Object:
    return {**pod, "spec": {**meta.spec(pod), "nodeName": node}}


def _pinned(pod: Object) -> str:
    affinity = (meta.spec(pod).get("affinity") or {}).get("nodeAffinity") or {}
    for term in (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or ():
        for rule in term.get("matchFields") or ():
            return str(rule["values"][0])
    return ""
