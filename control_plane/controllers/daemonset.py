"""DaemonSet: one pod on every node that its pod fits.

Pods are bound by the scheduler, through a node affinity that names the node.
Source: Kubernetes concepts "DaemonSet", API reference apps/v1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.apps.daemon_set import TEMPLATE_GENERATION
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_affinity import admits, required_terms
from rayplane.control_plane.api.pods.state import pod_is_available, pod_is_ready, pod_is_terminated, pod_phase
from rayplane.control_plane.api.taints import (
    DISK_PRESSURE,
    MEMORY_PRESSURE,
    NETWORK_UNAVAILABLE,
    NO_EXECUTE,
    NO_SCHEDULE,
    NOT_READY,
    PID_PRESSURE,
    UNREACHABLE,
    UNSCHEDULABLE,
    tolerates,
)
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.controllers import history
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    Event,
    Patch,
    UpdateStatus,
)
from rayplane.control_plane.controllers.adoption import claim, owner_or_adopters, selector_of
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    controller_key,
    result,
    slow_start,
    soonest,
)
from rayplane.control_plane.controllers.rollout import int_or_percent
from rayplane.control_plane.controllers.templates import next_available, pod_from, replica_changed

SETS = "daemonsets.apps"
HASH = "controller-revision-hash"
GENERATION_LABEL = "pod-template-generation"
BURST = 250  # most pods made, and most deleted, in one reconcile
BACKOFF = Backoff(first_s=1.0, max_s=900.0)
Failures = dict[str, tuple[float, float]]
"""Per node: the pause after the last failed pod that was replaced, and when that was."""
_KEPT_ON = (NOT_READY, UNREACHABLE)
_SCHEDULED_ON = (DISK_PRESSURE, MEMORY_PRESSURE, PID_PRESSURE, UNSCHEDULABLE)


def _all_sets(_node: Object, view: View) -> Iterable[str]:
    return [meta.key(ds) for ds in view.list(SETS)]


def _pod_changed(old: Object, new: Object) -> bool:
    return meta.node_name(old) != meta.node_name(new) or replica_changed(old, new)


def _placement_changed(old: Object, new: Object) -> bool:
    return meta.labels(old) != meta.labels(new) or meta.spec(old) != meta.spec(new)


class DaemonSetController(BaseController):
    """The controller of DaemonSets. Between calls it keeps when it replaced failed pods last; a new one begins anew."""

    name = "daemonset"
    component = "daemonset-controller"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self._failed: dict[str, Failures] = {}
        self.watches = (
            Watch(SETS),
            Watch("pods", owner_or_adopters("DaemonSet", "apps", SETS), delay_s=coalesce_s, changed=_pod_changed),
            Watch("nodes", _all_sets, delay_s=coalesce_s, changed=_placement_changed),
            Watch(history.REVISIONS, controller_key("DaemonSet", "apps"), delay_s=coalesce_s),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        ds = view.get(SETS, *meta.split_key(key))
        if ds is None or meta.is_deleting(ds):
            self._forget(view)
            return NOTHING
        selector = selector_of(ds)
        if selector.everything:
            text = "This daemon set is selecting all pods. A non-empty selector is required."
            return result([Event(ds, "Warning", "SelectingAll", text)])
        kept = history.recorded(view, ds, owners=SETS, release=True)
        claimed = claim(view, "pods", ds, owners=SETS, selector=selector)
        if kept.steps or claimed.steps:
            return result([*kept.steps, *claimed.steps])
        current = history.find_equal(kept.owned, history.revision_data(ds))
        if current is None:
            return result([history.new_revision(ds, kept.owned, view=view, owners=SETS, hash_label=HASH)])
        newest = history.next_number(kept.owned) - 1
        if history.number_of(current) < newest:
            return result([history.renumbered(current, newest + 1)])
        if doubled := history.doubles(kept.owned, current):
            return result(_relabelled(claimed.owned, doubled, current), [Delete(history.REVISIONS, r) for r in doubled])
        nodes = _Nodes(ds, view.list("nodes"), failed=self._failed.setdefault(meta.uid(ds), {}))
        return _Sync(ds, claimed.owned, kept.owned, current=current, nodes=nodes, now=now).run()

    def _forget(self, view: View) -> None:
        gone = self._failed.keys() - {meta.uid(ds) for ds in view.list(SETS)}
        for uid in gone:
            del self._failed[uid]


class _Nodes:
    """The nodes as they are to one DaemonSet: where its pods are wanted, and where those that run may stay."""

    def __init__(self, ds: Object, nodes: Iterable[Object], *, failed: Failures) -> None:
        self.names = {meta.name(node) for node in nodes}
        self.failed = failed
        template = (meta.spec(ds).get("template") or {}).get("spec") or {}
        tolerations = _tolerations(template)
        fitting = [node for node in nodes if _fits(template, node)]
        self.wanted = {meta.name(n) for n in fitting if _tolerated(n, tolerations, NO_SCHEDULE, NO_EXECUTE)}
        self.kept = {meta.name(n) for n in fitting if _tolerated(n, tolerations, NO_EXECUTE)}
        for gone in failed.keys() - self.names:
            del failed[gone]


class _Sync:
    """One reconcile of one DaemonSet, with its revisions recorded."""

    def __init__(
        self,
        ds: Object,
        pods: Sequence[Object],
        revisions: Sequence[Object],
        *,
        current: Object,
        nodes: _Nodes,
        now: Moment,
    ) -> None:
        self.ds, self.revisions, self.nodes, self.now = ds, revisions, nodes, now
        self.hash = meta.labels(current)[HASH]
        self.generation = meta.annotations(ds).get(TEMPLATE_GENERATION)
        self.pods: dict[str, list[Object]] = {}
        for pod in sorted(pods, key=_age):
            if not (pod_is_terminated(pod) and meta.is_deleting(pod)):
                self.pods.setdefault(_target_node(pod), []).append(pod)
        self.min_ready = meta.spec(ds).get("minReadySeconds") or 0
        strategy = meta.spec(ds).get("updateStrategy") or {}
        self.rolls = (strategy.get("type") or "RollingUpdate") == "RollingUpdate"
        self.rolling = (strategy.get("rollingUpdate") or {}) if self.rolls else {}
        self.surges = int_or_percent(self.rolling.get("maxSurge"), 1, up=True) > 0
        self.deletes: list[Action] = []
        self.creates: list[Action] = []
        self.wait: float | None = None

    def run(self) -> Result:
        self._place()
        if not self.deletes and not self.creates and self.rolls:
            self._roll()
        if self.deletes or self.creates:
            return result(self.deletes[:BURST], *slow_start(self.creates[:BURST]), requeue_after=self.wait)
        status = self._status()
        writes: list[Action] = []
        if status != meta.status(self.ds):
            writes.append(UpdateStatus(SETS, {**self.ds, "status": status}))
        else:
            writes += self._surplus()
        pods = [pod for pods in self.pods.values() for pod in pods]
        return result(writes, requeue_after=soonest(self.wait, next_available(pods, self.min_ready, self.now)))

    def _surplus(self) -> list[Delete]:
        """Revisions beyond the history limit. Those that pods still have count towards it, and stay."""
        used = {meta.labels(pod).get(HASH) for pods in self.pods.values() for pod in pods}
        old = [r for r in self.revisions if meta.labels(r).get(HASH) != self.hash]
        live = {meta.name(r) for r in old if meta.labels(r).get(HASH) in used}
        return history.surplus(old, live=live, limit=meta.spec(self.ds).get("revisionHistoryLimit"), counted=len(live))

    # --- one pod on each node -------------------------------------------------------------------

    def _place(self) -> None:
        """Make missing pods; delete failed ones, second ones, and those of nodes they no longer fit."""
        for name in sorted(self.nodes.wanted | self.pods.keys()):
            pods = self.pods.get(name, [])
            staying = [pod for pod in pods if not meta.is_deleting(pod)]
            if name not in self.nodes.names:  # what ran on a node that is gone is the pod collector's
                self.deletes += [self._delete(pod) for pod in staying if not meta.node_name(pod)]
            elif name not in self.nodes.kept:
                self.deletes += [self._delete(pod) for pod in staying]
            elif not pods:
                self.creates.append(self._create(name))
            else:
                self._tend(name, staying)

    def _tend(self, name: str, pods: Sequence[Object]) -> None:
        """The pods of one node, the oldest first: those that ended go, and of the others all but the one or two that a
        rollout needs."""
        ended = [pod for pod in pods if pod_is_terminated(pod)]
        for pod in ended:
            self._bury(name, pod)
        running = [pod for pod in pods if pod not in ended]
        if not self.surges:
            self.deletes += [self._delete(pod) for pod in running[1:]]
        elif not pods and name in self.nodes.wanted:
            self.creates.append(self._create(name))
        else:
            new = [pod for pod in running if self._is_new(pod)]
            old = [pod for pod in running if pod not in new]
            spare = [*new[1:], *old[1:]]
            if new and old and (not pod_is_ready(old[0]) or self._available(new[0])):
                spare.append(old[0])
            self.deletes += [self._delete(pod) for pod in spare]

    def _bury(self, name: str, pod: Object) -> None:
        """Delete a pod that ended, so that it is made anew; less and less often where it fails again and again."""
        if pod_phase(pod) == "Failed":
            pause_s, since = self.nodes.failed.get(name, (0.0, 0.0))
            left = since + pause_s - self.now.mono
            if left > 0:
                self.wait = soonest(self.wait, left)
                return
            forgotten = self.now.mono > since + 2 * BACKOFF.max_s
            self.nodes.failed[name] = (BACKOFF.after_s(0.0 if forgotten else pause_s), self.now.mono)
            text = f"Found failed daemon pod {meta.key(pod)} on node {name}, will try to kill it"
            self.deletes.append(Event(self.ds, "Warning", "FailedDaemonPod", text))
        else:
            text = f"Found succeeded daemon pod {meta.key(pod)} on node {name}, will try to delete it"
            self.deletes.append(Event(self.ds, "Normal", "SucceededDaemonPod", text))
        self.deletes.append(self._delete(pod))

    # --- rolling out ----------------------------------------------------------------------------

    def _is_new(self, pod: Object) -> bool:
        labels = meta.labels(pod)
        return labels.get(HASH) == self.hash or (
            self.generation is not None and labels.get(GENERATION_LABEL) == self.generation
        )

    def _available(self, pod: Object) -> bool:
        return pod_is_available(pod, self.min_ready, self.now.wall)

    def _pairs(self) -> Iterator[tuple[str, Object | None, Object | None]]:
        """Each node that matters with its new and its old pod."""
        for name in sorted(self.nodes.wanted | self.pods.keys()):
            staying = [pod for pod in self.pods.get(name, []) if not meta.is_deleting(pod)]
            new = next((pod for pod in staying if self._is_new(pod)), None)
            old = next((pod for pod in staying if not self._is_new(pod)), None)
            yield name, new, old

    def _roll(self) -> None:
        """Replace pods of older revisions as far as availability allows."""
        want = len(self.nodes.wanted)
        surge = int_or_percent(self.rolling.get("maxSurge"), want, up=True)
        most = self.rolling.get("maxUnavailable")
        unavailable = int_or_percent(1 if most is None else most, want, up=True)
        if surge:
            self._roll_by_surge(surge)
        else:
            self._roll_by_deleting(max(1, unavailable))

    def _roll_by_deleting(self, budget: int) -> None:
        """Replacing what is down costs nothing, and is done at once."""
        candidates = []
        for _, new, old in self._pairs():
            if new is None and old is not None and self._available(old):
                candidates.append(old)
                continue
            if new is None and old is not None:
                self.deletes.append(self._delete(old))
            if new is None or old is not None or not self._available(new):
                budget -= 1
        self.deletes += [self._delete(pod) for pod in candidates[: max(0, budget)]]

    def _roll_by_surge(self, surge: int) -> None:
        """New pods beside old ones; on nodes where they are not wanted any more the old ones go once enough others are
        available."""
        available = 0
        candidates: list[str] = []
        leaving: list[Object] = []
        for name, new, old in self._pairs():
            first = old or new
            available += first is not None and self._available(first)
            if old is None:
                continue
            if new is not None:
                surge -= not self._available(new)
            elif not self._available(old):
                if name in self.nodes.wanted:
                    self.creates.append(self._create(name))
                else:
                    self.deletes.append(self._delete(old))
            elif name in self.nodes.wanted:
                candidates.append(name)
            else:
                leaving.append(old)
        spare = max(0, available - len(self.nodes.wanted))
        self.deletes += [self._delete(pod) for pod in leaving[:spare]]
        self.creates += [self._create(name) for name in candidates[: max(0, surge)]]

    # --- writes ---------------------------------------------------------------------------------

    def _create(self, node: str) -> Create:
        pod = pod_for_node(self.ds, node)
        labels = {**(pod["metadata"].get("labels") or {}), HASH: self.hash}
        if self.generation:
            labels[GENERATION_LABEL] = self.generation
        pod["metadata"]["labels"] = labels
        return Create(
            "pods",
            pod,
            done=Event(self.ds, "Normal", "SuccessfulCreate", "Created pod: {name}"),
            failed=Event(self.ds, "Warning", "FailedCreate", "Error creating: {error}"),
        )

    def _delete(self, pod: Object) -> Delete:
        done = Event(self.ds, "Normal", "SuccessfulDelete", "Deleted pod: {name}")
        return Delete("pods", pod, done=done)

    def _status(self) -> dict[str, Any]:
        scheduled = ready = available = updated = misplaced = 0
        for name in self.nodes.names:
            pods = self.pods.get(name)
            if not pods:
                continue
            if name not in self.nodes.wanted:
                misplaced += 1
                continue
            oldest = pods[0]  # while a rollout surges, the pod it replaces is the one that counts
            scheduled += 1
            ready += pod_is_ready(oldest)
            available += self._available(oldest)
            updated += self._is_new(oldest)
        want = len(self.nodes.wanted)
        status: dict[str, Any] = {
            "currentNumberScheduled": scheduled,
            "numberMisscheduled": misplaced,
            "desiredNumberScheduled": want,
            "numberReady": ready,
        }
        optional = {
            "observedGeneration": meta.generation(self.ds),
            "updatedNumberScheduled": updated,
            "numberAvailable": available,
            "numberUnavailable": want - available,
        }
        status.update({field: count for field, count in optional.items() if count})
        kept = {k: v for k, v in meta.status(self.ds).items() if k in ("collisionCount", "conditions")}
        return {**status, **kept}


def _relabelled(pods: Sequence[Object], doubled: Sequence[Object], current: Object) -> list[Patch]:
    """Pods of revisions that say the same as the current one become its own: they need no new template."""
    theirs, wanted = {meta.labels(one).get(HASH) for one in doubled} - {None}, meta.labels(current).get(HASH)
    return [
        Patch(
            "pods", meta.namespace(pod), meta.name(pod), {"metadata": {"uid": meta.uid(pod), "labels": {HASH: wanted}}}
        )
        for pod in pods
        if meta.labels(pod).get(HASH) in theirs
    ]


def _age(pod: Object) -> tuple[bool, str, str]:
    created = meta.metadata(pod).get("creationTimestamp") or ""
    return (not meta.node_name(pod), created, meta.name(pod))


def _target_node(pod: Object) -> str:
    """The node a pod is on, or is meant for by its affinity."""
    if name := meta.node_name(pod):
        return name
    node_affinity = (meta.spec(pod).get("affinity") or {}).get("nodeAffinity") or {}
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return ""


def wants_node(ds: Object, node: Object) -> bool:
    """Whether a DaemonSet is to have a pod on a node."""
    return meta.name(node) in _Nodes(ds, [node], failed={}).wanted


def pod_for_node(ds: Object, node: str) -> Object:
    """The pod of a DaemonSet that is for one node, without the marks of its revision."""
    pod = pod_from(meta.spec(ds).get("template") or {}, ds)
    spec = pod["spec"]
    spec["affinity"] = _pinned(spec.get("affinity"), node)
    spec["tolerations"] = _tolerations(spec)
    return pod


def _pinned(affinity: Mapping[str, Any] | None, node: str) -> dict[str, Any]:
    """The affinity with its required node terms replaced by the one node (which satisfies them)."""
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    found = dict(affinity or {})
    node_affinity = dict(found.get("nodeAffinity") or {})
    node_affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": [term]}
    found["nodeAffinity"] = node_affinity
    return found


def _tolerations(pod_spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a DaemonSet's pods tolerate: what they say, and what all of them do without being told."""
    taints = [(key, NO_EXECUTE) for key in _KEPT_ON]
    taints += [(key, NO_SCHEDULE) for key in _SCHEDULED_ON]
    if pod_spec.get("hostNetwork"):
        taints.append((NETWORK_UNAVAILABLE, NO_SCHEDULE))
    found = list(pod_spec.get("tolerations") or ())
    for key, effect in taints:
        toleration = {"key": key, "operator": "Exists", "effect": effect}
        if toleration not in found:
            found.append(toleration)
    return found


def _fits(pod_spec: Mapping[str, Any], node: Object) -> bool:
    """Node name, node selector and required node affinity admit the node."""
    if pod_spec.get("nodeName") not in (None, "", meta.name(node)):
        return False
    labels = meta.labels(node)
    if not (pod_spec.get("nodeSelector") or {}).items() <= labels.items():
        return False
    return admits(required_terms(pod_spec), labels, meta.name(node))


def _tolerated(node: Object, tolerations: Sequence[Mapping[str, Any]], *effects: str) -> bool:
    return all(
        any(tolerates(t, taint) for t in tolerations)
        for taint in meta.spec(node).get("taints") or ()
        if taint.get("effect") in effects
    )
