"""A cluster in memory: applies actions as an API server would, feeds controllers, and plays kubelet on request."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from rayplane.control_plane.api import errors, meta
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_active, pod_is_ready, pod_is_terminated
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    Event,
    IfAbsent,
    IfAlive,
    IfUnclaimed,
    IfUnused,
    Patch,
    Update,
    UpdateStatus,
    Write,
)
from rayplane.control_plane.controllers.attachdetach import in_use
from rayplane.control_plane.controllers.core import Controller, Moment, Result
from rayplane.control_plane.controllers.indexes import indexes_of
from rayplane.control_plane.controllers.volumeprotection import Uses
from tests.controllers import rights
from tests.fakes import START, Store

STEPS_MAX = 20_000
CONDITIONAL = (IfAbsent, IfAlive, IfUnclaimed, IfUnused)


#: Beside what users do.
HAPPENINGS = ("kill", "fail", "kubelet", "step")


class Cluster(Store):
    """A store with controllers on it, run by hand: `settle` until nobody has work, `advance` the time."""

    def __init__(self, *controllers: Controller) -> None:
        super().__init__(lambda: self.now.wall)
        self.seconds = 0.0
        self._indexes: dict[str, dict[str, dict[str, dict[str, None]]]] = {}
        self.listeners.append(self._reindex)
        self.controllers = controllers
        self.queue: dict[tuple[int, str], None] = {}
        self.timers: dict[tuple[int, str], float] = {}
        self.events: list[tuple[str, str, str]] = []  # (about, reason, message)
        self.specials: list[Action] = []
        self.on_special: Any = None
        self.admit: Callable[[Action], None] | None = None
        """Raises Forbidden for what is not admitted."""
        self.refusal = ""
        self.listeners.append(self._dispatch)
        for n, controller in enumerate(controllers):
            for key in controller.resync_keys:
                self.queue[n, key] = None

    @property
    def now(self) -> Moment:
        return Moment(START + timedelta(seconds=self.seconds), self.seconds)

    # --- view -----------------------------------------------------------------------------------

    def indexed(self, resource: str, index: str, value: str) -> Sequence[Object]:
        pool = self.objects.get(resource, {})
        keys = self._indexes.get(resource, {}).get(index, {}).get(value, {})
        return [pool[key] for key in keys]

    def values(self, resource: str, index: str) -> Sequence[str]:
        return [value for value, keys in self._indexes.get(resource, {}).get(index, {}).items() if keys]

    def _reindex(self, resource: str, kind: str, old: Object | None, new: Object) -> None:
        key = meta.key(new)
        for name, index in indexes_of(resource).items():
            table = self._indexes.setdefault(resource, {}).setdefault(name, {})
            for value in index(old) if old else ():
                table.get(value, {}).pop(key, None)
            for value in index(new) if kind != "DELETED" else ():
                table.setdefault(value, {})[key] = None

    def _dispatch(self, resource: str, kind: str, old: Object | None, obj: Object) -> None:
        for n, controller in enumerate(self.controllers):
            for watch in controller.watches:
                if watch.resource != resource:
                    continue
                if watch.observe and kind != "DELETED":
                    watch.observe(obj, self.seconds)
                if watch.keys is None or (kind == "MODIFIED" and not watch.changed(old, obj)):  # type: ignore[arg-type]
                    continue
                for one in (obj, old) if old else (obj,):
                    for key in watch.keys(one, self):
                        self.queue[n, key] = None

    # --- running --------------------------------------------------------------------------------

    def settle(self) -> None:
        """Reconcile until every queue is empty."""
        for _ in range(STEPS_MAX):
            if not self.step():
                return
        raise AssertionError(f"controllers do not come to rest: {list(self.queue)[:5]}")

    def steps(self, most: int) -> None:
        """As many reconciles as that, while controllers try again and again."""
        for _ in range(most):
            self.step()

    def step(self) -> bool:
        """One reconcile; False when there is nothing to do."""
        if not self.queue:
            return False
        n, key = next(iter(self.queue))
        del self.queue[n, key]
        done = self.controllers[n].reconcile(key, self, self.now)
        rights.check(self.controllers[n], done)
        before = self.version
        if not self.apply(done) or self.version != before:
            self.queue[n, key] = None
        if done.requeue_after is not None:
            when = self.seconds + done.requeue_after
            self.timers[n, key] = min(when, self.timers.get((n, key), when))
        return True

    def advance(self, seconds: float, *, heartbeats: Iterable[str] = ()) -> None:
        """Let time pass, timer by timer; the named nodes renew their leases all the while."""
        self.settle()
        end = self.seconds + seconds
        nodes = list(heartbeats)
        beat = self.seconds
        while self.seconds < end:
            due = min([*self.timers.values(), *([beat + 1.0] if nodes else ()), end])
            self.seconds = max(self.seconds, min(due, end))
            if nodes and self.seconds >= beat + 1.0:
                beat += 1.0
                for node in nodes:
                    self.heartbeat(node)
            for timer in [t for t, when in self.timers.items() if when <= self.seconds]:
                del self.timers[timer]
                self.queue[timer] = None
            self.settle()

    def apply(self, done: Result) -> bool:
        """Apply the stages; False when a write failed and the key has to come again."""
        self.refusal = ""
        for stage in done.stages:
            fine = True
            for action in stage:
                fine = self.act(action) and fine
            if not fine:
                for action in done.refused(self.refusal) if self.refusal and done.refused else ():
                    self.act(action)
                return False
        return True

    def act(self, action: Action) -> bool:
        if isinstance(action, Event):
            self._event(action)
            return True
        if isinstance(action, CONDITIONAL):
            return self.holds(action) and all([self.act(write) for write in action.writes])
        if not isinstance(action, (Create, Update, UpdateStatus, Patch, Delete)):
            self.specials.append(action)
            return self.on_special(action) if self.on_special else True
        try:
            if self.admit is not None:
                self.admit(action)
            name = meta.name(self.write(action))
        except errors.NotFound:
            return isinstance(action, Delete) or (isinstance(action, Patch) and action.may_fail)
        except errors.AlreadyExists:
            return isinstance(action, Create) and action.exists_ok
        except errors.Conflict:
            return False
        except errors.Forbidden as e:
            self.refusal = self.refusal or e.message
            if failed := getattr(action, "failed", None):
                self._event(failed, error=e.message)
            return False
        if action.done:
            self._event(action.done, name)
        return True

    def holds(self, action: IfAbsent | IfAlive | IfUnclaimed | IfUnused) -> bool:
        """What an action presumes of objects is so."""
        if isinstance(action, IfUnclaimed):
            return not Uses(self.list("pods")).has(action.claim)
        if isinstance(action, IfUnused):
            return action.volume not in in_use(self.get("nodes", "", action.node))
        if isinstance(action, IfAlive):
            owner = self.get(action.resource, meta.namespace(action.owner), meta.name(action.owner))
            return owner is not None and meta.uid(owner) == meta.uid(action.owner) and not meta.is_deleting(owner)
        found = [(self.get(*place), uid) for *place, uid in action.absent]
        return all(o is None or (uid and meta.uid(o) != uid) for o, uid in found)

    def write(self, action: Write) -> Object:
        """Do a write, and give back what the server answers."""
        if isinstance(action, Create):
            return self.create(action.resource, action.obj)
        if isinstance(action, Patch):
            options: dict[str, Any] = {"kind": action.kind, "subresource": action.subresource}
            return self.patch(action.resource, action.name, action.namespace, action.patch, **options)
        if isinstance(action, Delete):
            self.delete_object(
                action.resource, action.obj, grace_s=action.grace_seconds, propagation=action.propagation
            )
            return action.obj
        subresource = "status" if isinstance(action, UpdateStatus) else ""
        return self.update(action.resource, action.obj, subresource=subresource)

    def _event(self, event: Event, name: str = "", error: str = "") -> None:
        text = event.message.replace("{name}", name).replace("{error}", error)
        self.events.append((meta.name(event.about), event.reason, text))

    # --- users, kubelet -------------------------------------------------------------------------

    def add(self, resource: str, name: str, /, namespace: str = "default", **fields: Any) -> Object:
        info = builtin_registry().by_name(resource)
        own: dict[str, Any] = {"name": name}
        if info.namespaced:
            own["namespace"] = namespace
        own.update(fields.pop("metadata", {}))
        obj = {"apiVersion": info.api_version, "kind": info.kind, "metadata": own, **fields}
        made = self.create(resource, obj)
        if "status" in fields and made.get("status") != fields["status"]:
            made = self.update(resource, {**made, "status": fields["status"]}, subresource="status")
        return made

    def change(self, resource: str, name: str, /, namespace: str = "default", **fields: Any) -> Object:
        """A merge patch as a user would send it."""
        space = namespace if builtin_registry().by_name(resource).namespaced else ""
        sub = "status" if set(fields) == {"status"} else ""
        return self.patch(resource, name, space, fields, subresource=sub)

    def delete_object(self, resource: str, obj: Object, *, grace_s: int | None = None, propagation: str = "") -> None:
        """Delete the object that `obj` is, and no namesake."""
        name, space, uid = meta.name(obj), meta.namespace(obj), meta.uid(obj)
        self.delete(resource, name, space, uid=uid, grace_s=grace_s, propagation=propagation)

    def remove_object(self, resource: str, obj: Object) -> None:
        self.remove(resource, meta.key(obj))

    def pods(self, *, active: bool = True) -> list[Object]:
        found = sorted(self.list("pods"), key=meta.name)
        return [pod for pod in found if pod_is_active(pod)] if active else found

    def place(self, pod: Object, node: str = "n1") -> Object:
        changed = copy.deepcopy(self.require("pods", meta.namespace(pod), meta.name(pod)))
        changed.setdefault("spec", {})["nodeName"] = node
        return self.put("pods", changed)

    def set_pod(self, pod: Object, *, ready: bool, phase: str = "Running", ip: str = "") -> Object:
        pod = self.require("pods", meta.namespace(pod), meta.name(pod))
        status: dict[str, Any] = copy.deepcopy(pod.get("status") or {})
        status["phase"] = phase
        status["podIP"] = ip or status.get("podIP") or f"127.64.1.{len(self.list('pods')) % 250 + 2}"
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        meta.set_condition(status.setdefault("conditions", []), condition, self.now.stamp)
        return self.update("pods", {**pod, "status": status}, subresource="status")

    def kubelet(self, *, node: str = "n1", pods: Iterable[Object] | None = None) -> None:
        """Start what waits and end what is deleted, at once."""
        for pod in list(self.list("pods") if pods is None else pods):
            if meta.is_deleting(pod):
                self.remove("pods", meta.key(pod))
            elif not pod_is_terminated(pod) and not pod_is_ready(pod):
                if not meta.node_name(pod):
                    pod = self.place(pod, node)
                self.set_pod(pod, ready=True)

    def happen(self, what: str, data: st.DataObject) -> None:
        """One of HAPPENINGS, to a pod that is drawn."""
        pods = self.pods()
        if what == "kill" and pods:
            self.delete_object("pods", data.draw(st.sampled_from(pods)))
        elif what == "fail" and pods:
            self.set_pod(data.draw(st.sampled_from(pods)), ready=False, phase="Failed")
        elif what == "kubelet":
            self.kubelet()
        elif what == "step":
            for _ in range(data.draw(st.integers(1, 5))):
                self.step()

    def converge(self, rounds: int = 60) -> None:
        """Controllers and kubelet in turn until nothing changes."""
        for _ in range(rounds):
            before = self.version
            self.settle()
            self.kubelet()
            if self.version == before:
                return
        raise AssertionError("the cluster does not converge")

    def node(self, name: str, *, cpu: str = "", **fields: Any) -> Object:
        node = self.add("nodes", name, **fields)
        self.heartbeat(name)
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": self.now.stamp}
        status = {"conditions": [ready], **({"allocatable": {"cpu": cpu}} if cpu else {})}
        return self.update("nodes", {**node, "status": status}, subresource="status")

    def heartbeat(self, node: str) -> None:
        spec = {"holderIdentity": node, "renewTime": f"{self.seconds:.6f}"}
        if self.get("leases.coordination.k8s.io", "kube-node-lease", node) is None:
            self.add("leases.coordination.k8s.io", node, namespace="kube-node-lease", spec=spec)
        else:
            self.change("leases.coordination.k8s.io", node, namespace="kube-node-lease", spec=spec)

    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.events]
