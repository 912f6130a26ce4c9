"""DaemonSet: one pod on every node that its pod fits.

Pods are bound by the scheduler, through a node affinity that names the node.
Source: Kubernetes concepts "DaemonSet", API reference apps/v1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.apps.daemon_set import TEMPLATE_GENERATION
from rayplane.control_plane.api.machinery.selectors import from_label_selector
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
from rayplane.control_plane.controllers import history
from rayplane.control_plane.controllers.adoption import claim, orphan_matches
from rayplane.control_plane.controllers.core import (
    NOTHING,
    Action,
    BaseController,
    Create,
    Delete,
    Event,
    Moment,
    Result,
    UpdateStatus,
    View,
    Watch,
    controlled,
    controller_key,
    result,
)
from rayplane.control_plane.controllers.rollout import int_or_percent
from rayplane.control_plane.controllers.templates import next_available, pod_from, replica_changed

SETS = "daemonsets.apps"
HASH = "controller-revision-hash"
_KEPT_ON = (NOT_READY, UNREACHABLE)
_SCHEDULED_ON = (DISK_PRESSURE, MEMORY_PRESSURE, PID_PRESSURE, UNSCHEDULABLE)
_owner = controller_key("DaemonSet", "apps")


def _pod_keys(pod: Object, view: View) -> Iterable[str]:
    if meta.controller_of(pod) is not None:
        return _owner(pod, view)
    return orphan_matches(view, SETS, pod)


def _all_sets(_node: Object, view: View) -> Iterable[str]:
    return [meta.key(ds) for ds in view.list(SETS)]


def _pod_changed(old: Object, new: Object) -> bool:
    return meta.node_name(old) != meta.node_name(new) or replica_changed(old, new)


def _placement_changed(old: Object, new: Object) -> bool:
    return meta.labels(old) != meta.labels(new) or meta.spec(old) != meta.spec(new)


class DaemonSetController(BaseController):
    name = "daemonset"
    component = "daemonset-controller"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self.watches = (
            Watch(SETS),
            Watch("pods", _pod_keys, delay_s=coalesce_s, changed=_pod_changed),
            Watch("nodes", _all_sets, delay_s=coalesce_s, changed=_placement_changed),
            Watch(history.REVISIONS, _owner, delay_s=coalesce_s),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        ds = view.get(SETS, *meta.split_key(key))
        if ds is None:
            return NOTHING
        selector = from_label_selector(meta.spec(ds).get("selector"))
        if selector.everything:
            text = "This daemon set is selecting all pods. A non-empty selector is required."
            return result([Event(ds, "Warning", "SelectingAll", text)])
        claimed = claim(view, "pods", ds, selector=selector)
        if claimed.patches:
            return result(claimed.patches)
        revisions = list(controlled(view, history.REVISIONS, ds))
        current = history.find_equal(revisions, history.revision_data(ds))
        if current is None:
            if meta.is_deleting(ds):
                return NOTHING
            return result([history.new_revision(ds, revisions, hash_label=HASH)])
        newest = history.next_number(revisions) - 1
        if history.number_of(current) < newest:
            return result([history.renumbered(current, newest + 1)])
        return _Sync(ds, claimed.owned, revisions, current=current, view=view, now=now).run()


class _Sync:
    """One reconcile of one DaemonSet, with its revisions recorded."""

    def __init__(
        self,
        ds: Object,
        pods: Sequence[Object],
        revisions: Sequence[Object],
        *,
        current: Object,
        view: View,
        now: Moment,
    ) -> None:
        self.ds, self.revisions, self.now = ds, revisions, now
        self.hash = meta.labels(current)[HASH]
        self.pods: dict[str, list[Object]] = {}
        for pod in pods:
            self.pods.setdefault(_target_node(pod), []).append(pod)
        self.nodes = {meta.name(node): node for node in view.list("nodes")}
        template = (meta.spec(ds).get("template") or {}).get("spec") or {}
        tolerations = [*(template.get("tolerations") or ()), *_tolerations(template)]
        self.wanted = {
            name
            for name, node in self.nodes.items()
            if _fits(template, node) and _tolerated(node, tolerations, NO_SCHEDULE, NO_EXECUTE)
        }
        self.kept = {
            name
            for name, node in self.nodes.items()
            if _fits(template, node) and _tolerated(node, tolerations, NO_EXECUTE)
        }
        self.min_ready = meta.spec(ds).get("minReadySeconds") or 0

    def run(self) -> Result:
        steps = [] if meta.is_deleting(self.ds) else self._place() or self._roll()
        if steps:
            return result(steps)
        status = self._status()
        writes: list[Action] = []
        if status != meta.status(self.ds):
            writes.append(UpdateStatus(SETS, {**self.ds, "status": status}))
        elif not meta.is_deleting(self.ds):
            used = {meta.labels(pod).get(HASH) for pods in self.pods.values() for pod in pods}
            live = {meta.name(r) for r in self.revisions if meta.labels(r).get(HASH) in {*used, self.hash}}
            limit = meta.spec(self.ds).get("revisionHistoryLimit")
            writes += history.surplus(self.revisions, live=live, limit=limit)
        pods = [pod for pods in self.pods.values() for pod in pods]
        return result(writes, requeue_after=next_available(pods, self.min_ready, self.now))

    def _place(self) -> list[Action]:
        """Make missing pods; delete failed ones, second ones, and those of nodes they no longer fit."""
        steps: list[Action] = []
        for name in sorted(self.wanted | self.pods.keys()):
            pods = self.pods.get(name, [])
            staying = [pod for pod in pods if not meta.is_deleting(pod)]
            if name not in self.wanted and name not in self.kept:
                steps += [self._delete(pod) for pod in staying]
                continue
            ended = [pod for pod in staying if pod_is_terminated(pod)]
            for pod in ended:
                if pod_phase(pod) == "Failed":
                    text = f"Found failed daemon pod {meta.key(pod)} on node {name}, will try to kill it"
                    steps.append(Event(self.ds, "Warning", "FailedDaemonPod", text))
                steps.append(self._delete(pod))
            good = sorted((p for p in staying if p not in ended), key=_age)
            steps += [self._delete(pod) for pod in good[self._most_on(good) :]]
            if not pods and name in self.wanted:
                steps.append(self._create(name))
        return steps

    def _most_on(self, pods: Sequence[Object]) -> int:
        """One pod on a node, two while a surge replaces the old one."""
        hashes = {meta.labels(pod).get(HASH) == self.hash for pod in pods}
        return 2 if self._surge() and len(hashes) == 2 else 1

    def _rolling(self) -> Mapping[str, Any]:
        return (meta.spec(self.ds).get("updateStrategy") or {}).get("rollingUpdate") or {}

    def _surge(self) -> int:
        return int_or_percent(self._rolling().get("maxSurge"), len(self.wanted), up=True)

    def _roll(self) -> list[Action]:
        """Replace pods of older revisions as far as availability allows."""
        kind = (meta.spec(self.ds).get("updateStrategy") or {}).get("type") or "RollingUpdate"
        if kind != "RollingUpdate":
            return []
        surge = self._surge()
        budget = int_or_percent(self._rolling().get("maxUnavailable", 1), len(self.wanted), up=True)
        if not surge:
            budget = max(1, budget)
        steps: list[Action] = []
        outdated: list[tuple[str, Object]] = []
        for name in sorted(self.wanted):
            pods = [p for p in self.pods.get(name, []) if not meta.is_deleting(p)]
            new = [p for p in pods if meta.labels(p).get(HASH) == self.hash]
            old = [p for p in pods if meta.labels(p).get(HASH) != self.hash]
            if not any(pod_is_available(p, self.min_ready, self.now.wall) for p in pods):
                budget -= 1
                steps += [self._delete(p) for p in old]  # replacing what is down costs nothing
            elif any(pod_is_available(p, self.min_ready, self.now.wall) for p in new):
                steps += [self._delete(p) for p in old]
            elif new and old:
                surge -= 1
            elif old:
                outdated.append((name, old[0]))
        for name, pod in outdated:
            if surge > 0:
                surge -= 1
                steps.append(self._create(name))
            elif budget > 0 and not self._surge():
                budget -= 1
                steps.append(self._delete(pod))
        return steps

    def _create(self, node: str) -> Create:
        pod = pod_from(meta.spec(self.ds).get("template") or {}, self.ds)
        labels = {**(pod["metadata"].get("labels") or {}), HASH: self.hash}
        if generation := meta.annotations(self.ds).get(TEMPLATE_GENERATION):
            labels["pod-template-generation"] = generation
        pod["metadata"]["labels"] = labels
        spec = pod["spec"]
        spec["affinity"] = _pinned(spec.get("affinity"), node)
        spec["tolerations"] = [*(spec.get("tolerations") or ()), *_tolerations(spec)]
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
        for name in self.nodes:
            pods = [p for p in self.pods.get(name, []) if not pod_is_terminated(p)]
            if not pods:
                continue
            if name not in self.wanted:
                misplaced += 1
                continue
            scheduled += 1
            ready += any(pod_is_ready(p) for p in pods)
            available += any(pod_is_available(p, self.min_ready, self.now.wall) for p in pods)
            updated += any(meta.labels(p).get(HASH) == self.hash for p in pods)
        want = len(self.wanted)
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
        return status


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


def _pinned(affinity: Mapping[str, Any] | None, node: str) -> dict[str, Any]:
    """The affinity with its required node terms replaced by the one node (which satisfies them)."""
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    found = dict(affinity or {})
    node_affinity = dict(found.get("nodeAffinity") or {})
    node_affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": [term]}
    found["nodeAffinity"] = node_affinity
    return found


def _tolerations(pod_spec: Mapping[str, Any]) -> list[dict[str, str]]:
    """What pods of DaemonSets tolerate without being told."""
    taints = [(key, NO_EXECUTE) for key in _KEPT_ON]
    taints += [(key, NO_SCHEDULE) for key in _SCHEDULED_ON]
    if pod_spec.get("hostNetwork"):
        taints.append((NETWORK_UNAVAILABLE, NO_SCHEDULE))
    return [{"key": key, "operator": "Exists", "effect": effect} for key, effect in taints]


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
        # The scheduler holds pods back from nodes that are not ready for them yet; they are wanted there all the same.
        and not _is_transient(taint)
    )


def _is_transient(taint: Mapping[str, Any]) -> bool:
    return taint.get("key") in _KEPT_ON
