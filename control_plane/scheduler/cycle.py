"""The scheduling cycle: decisions on one pod after the other, each seeing the placements before it."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

from rayplane.control_plane.scheduler import report
from rayplane.control_plane.scheduler.config import DEVICES, SchedulerConfig
from rayplane.control_plane.scheduler.framework import PluginError
from rayplane.control_plane.scheduler.groups import GANGS
from rayplane.control_plane.scheduler.nominations import Nominations
from rayplane.control_plane.scheduler.plugins import (
    IN_TREE,
    Cluster,
    PluginSet,
    PodView,
    Refusal,
    Registry,
    Scope,
    make,
)
from rayplane.control_plane.scheduler.plugins.args import PreemptionArgs
from rayplane.control_plane.scheduler.plugins.base import ALL
from rayplane.control_plane.scheduler.pods import PodInfo, Shape
from rayplane.control_plane.scheduler.preemption import (
    Candidate,
    Preemption,
    Preemptor,
    assumed,
    not_eligible,
    whole,
)
from rayplane.control_plane.scheduler.shapes import NEVER, ShapeState, worth
from rayplane.control_plane.scheduler.snapshot import Bools, Ints

log = logging.getLogger(__name__)

SHAPE_STATES_MAX = 1024
_NO_ROWS: Ints = np.zeros(0, dtype=np.int64)
#: Of a node that no plug-in of this scheduler is against.
_KEPT = Refusal("NodeResourcesFit", ("node(s) are kept for pods of higher priority",), True)


class _Terms(TypedDict):
    helpful: Ints
    nominated: str
    args: PreemptionArgs


@dataclass(frozen=True, slots=True)
class Placement:
    """The pod goes to `node`, and is assumed there already. `claims` first need their node selected."""

    pod: PodInfo
    node: str
    claims: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    """Claims to devices: what they were promised must be written first, and that this pod uses them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """No node will do. `preemption` names the pods to delete so that one will."""

    pod: PodInfo
    message: str
    preemption: Preemption | None = None
    is_fault: bool = False
    """The scheduler failed, not the nodes."""
    is_kept_out: bool = False
    """No node was looked at: a plug-in does not let it into the queue."""
    plugins: frozenset[str] = frozenset()
    """The plug-ins that refused nodes: what changes for them may help. None when there was no node to refuse."""
    keeps_nomination: bool = False
    """It stays nominated where it is, though nobody was deleted for it now: it waits for who was, say."""
    soon: bool = False
    """It is one that was left over of a group that got its nodes: its turn for a preemption comes at once."""


@dataclass(frozen=True, slots=True)
class NodeExplanation:
    """One node: its refusal by plugin, or its weighted scores by plugin and their sum."""

    node: str
    refusal: Refusal | None
    scores: dict[str, float] = field(default_factory=dict)
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision that a cycle would make now, and why. `node` is empty when no node will do."""

    node: str
    message: str
    nodes: tuple[NodeExplanation, ...]


def _helpful(refusals: Iterable[tuple[Refusal, Ints]]) -> Ints:
    """The rows where a deletion may help."""
    return np.concatenate([_NO_ROWS, *(rows for refusal, rows in refusals if refusal.resolvable)])


def fault(pod: PodInfo, error: Exception) -> Failure:
    """What is said of a pod on which the scheduler or a plug-in failed."""
    if isinstance(error, PluginError):
        return Failure(pod, str(error), is_fault=True)
    log.error("pod %s cannot be scheduled", pod.key, exc_info=error)
    return Failure(pod, f"the scheduler failed on this pod: {type(error).__name__}: {error}", is_fault=True)


class Cycle:
    """A cycle that decides pods against a snapshot that it shares with its owner.

    Pure: no clock, no chance, no waiting.
    """

    def __init__(self, config: SchedulerConfig, cluster: Cluster, registry: Registry = IN_TREE) -> None:
        self.cluster = cluster
        self.snapshot = cluster.snapshot
        self._profiles = {profile.name: profile for profile in config.profiles}
        self._plugins = {p.name: make(registry, p.filters, p.scores, p.args) for p in config.profiles}
        self._states: OrderedDict[tuple[str, Shape], ShapeState] = OrderedDict()
        self._nominated = Nominations(self.snapshot)
        self._preemptor = Preemptor(self._nominated)

    def handles(self, pod: PodInfo) -> bool:
        """Whether a profile bears the pod's schedulerName."""
        return pod.scheduler in self._profiles

    @property
    def needs_owners(self) -> bool:
        """Whether some profile has rules of its own for pods of one owner."""
        return any(plugin.needs_owners for plugins in self._plugins.values() for plugin in plugins.all)

    @property
    def plugins(self) -> frozenset[str]:
        """Names of the filters and scores of all profiles."""
        return frozenset(plugin.name for plugins in self._plugins.values() for plugin in plugins.all)

    def decides_groups(self, pod: PodInfo) -> bool:
        """Whether the pod's profile decides pods of a pod group together."""
        profile = self._profiles.get(pod.scheduler)
        return profile is not None and profile.gangs

    @property
    def groups_plugins(self) -> frozenset[str]:
        """The plug-in for pod groups, where a profile has it."""
        return frozenset((GANGS,)) if any(profile.gangs for profile in self._profiles.values()) else frozenset()

    @property
    def preempts(self) -> bool:
        """Whether some profile has pods deleted in favour of others."""
        return any(profile.preempts for profile in self._profiles.values())

    # -- nominations ---------------------------------------------------------------------------------------

    def nominate(self, pod: PodInfo, node: str) -> None:
        """Room on `node` is being made for the pod: others of no higher priority must leave it."""
        self._nominated.add(pod, node)

    def forget_nomination(self, key: str) -> None:
        self._nominated.remove(key)

    def nominated_node(self, key: str) -> str:
        return self._nominated.node_of(key)

    # -- decisions -----------------------------------------------------------------------------------------

    def schedule(self, pods: Iterable[PodInfo]) -> list[Placement | Failure]:
        """Decide pods in order. Placed ones are assumed in the snapshot."""
        return [self._guarded(pod) for pod in pods]

    def _guarded(self, pod: PodInfo) -> Placement | Failure:
        try:
            return self.schedule_one(pod)
        except Exception as e:
            # A pod, or what it refers to, that was written past the API must not end the term for all others.
            return fault(pod, e)

    def attempt(self, pod: PodInfo) -> Placement | Failure:
        """As `schedule_one`, but nobody is deleted for the pod, nor thought of."""
        plugins, view = self._plugins[pod.scheduler], PodView(pod, self.cluster)
        state = self._state(view)
        problem = plugins.problem(view)
        row = -1 if problem else self._choose(view, plugins, state)
        return self._place(view, plugins, row) if row >= 0 else self._fail(view, plugins, problem, preempts=False)

    def schedule_one(self, pod: PodInfo) -> Placement | Failure:
        plugins, view = self._plugins[pod.scheduler], PodView(pod, self.cluster)
        state = self._state(view)
        alone = state.is_failed(self.snapshot) and self._is_alone(view, plugins)
        if alone and state.failure is not None:
            message, blamed = state.failure
            return Failure(pod, message, plugins=blamed)
        problem = plugins.problem(view)
        row = -1 if problem else self._choose(view, plugins, state)
        if row >= 0:
            return self._place(view, plugins, row)
        failure = self._fail(view, plugins, problem)
        if self._is_alone(view, plugins):
            state.failed(self.snapshot, failure.message, failure.plugins)
        return failure

    def find(self, pod: PodInfo) -> Placement | None:
        """As `attempt`, without a word where there is no node."""
        plugins, view = self._plugins[pod.scheduler], PodView(pod, self.cluster)
        state = self._state(view)
        row = -1 if plugins.problem(view) else self._choose(view, plugins, state)
        return self._place(view, plugins, row) if row >= 0 else None

    def fits(self, pod: PodInfo, node: str) -> bool:
        """Whether the pod would do on a node as things are in the snapshot, and with those that are to come there."""
        row = self.snapshot.index[node]
        with assumed(self.snapshot, self._nominated.before(pod, node), node):
            return self._plugins[pod.scheduler].refusal(PodView(pod, self.cluster), row) is None

    def refusal(self, pod: PodInfo, node: str) -> Refusal | None:
        """What is against a pod on a node as things are in the snapshot, if anything is."""
        plugins, view = self._plugins[pod.scheduler], PodView(pod, self.cluster)
        return plugins.problem(view) or plugins.refusal(view, self.snapshot.index[node])

    def is_alike(self, pod: PodInfo) -> bool:
        """Whether all pods of the pod's shape fare as it does, while no room is freed."""
        view, plugins = PodView(pod, self.cluster), self._plugins[pod.scheduler]
        return not any(plugin.scope is Scope.CLUSTER and plugin.concerns(view) for plugin in plugins.filters)

    def _is_alone(self, view: PodView, plugins: PluginSet) -> bool:
        """Whether nothing but the pod's shape and the nodes decides that it finds none: no other pod can help."""
        pod = view.pod
        return not (
            self._nominated
            or any(plugin.scope is Scope.CLUSTER and plugin.concerns(view) for plugin in plugins.filters)
            or (pod.may_preempt and self.snapshot.has_lower_priority(pod.priority))
            or not pod.may_preempt
        )

    def _state(self, view: PodView) -> ShapeState:
        pod = view.pod
        key = (pod.scheduler, pod.shape)
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = ShapeState(self._plugins[pod.scheduler])
            if len(self._states) > SHAPE_STATES_MAX:
                self._states.popitem(last=False)
        else:
            self._states.move_to_end(key)
        state.refresh(view)
        return state

    def _choose(self, view: PodView, plugins: PluginSet, state: ShapeState) -> int:
        """The best allowed row, or -1."""
        allowed = self._allowed(view, plugins, state)
        row = self._nominated_row(view.pod)
        if row is not None and allowed[row]:
            return row
        total: Ints | None = None
        for _, weighted in self._compared(view, plugins, state, allowed):
            total = weighted if total is None else total + weighted
        if total is None and allowed is state.fits:
            best = int(state.worth.argmax())
            return best if state.worth[best] > NEVER else -1
        if not allowed.any():
            return -1
        total = state.total if total is None else total + state.total
        return int(worth(total, allowed, self.snapshot.name_rank()).argmax())

    def _nominated_row(self, pod: PodInfo) -> int | None:
        node = self.nominated_node(pod.key) or pod.nominated
        return self.snapshot.index.get(node) if node else None

    def _allowed(self, view: PodView, plugins: PluginSet, state: ShapeState) -> Bools:
        allowed = state.fits
        for plugin in plugins.of_cluster:
            of_plugin = plugin.allowed(view, ALL)
            if of_plugin is not None:
                allowed = allowed & of_plugin
        if self._nominated:
            allowed = self._leave_room(view, plugins, allowed)
        return allowed

    def _leave_room(self, view: PodView, plugins: PluginSet, allowed: Bools) -> Bools:
        """Take out nodes that do not do once those nominated pods come that this one must yield to."""
        coming = [*self._when_they_come(view, plugins, allowed)]
        if coming:
            allowed = allowed.copy()
        for row, refusal in coming:
            allowed[row] = refusal is None
        return allowed

    def _when_they_come(self, view: PodView, plugins: PluginSet, rows: Bools) -> Iterable[tuple[int, Refusal | None]]:
        """The rows, of these, to which pods come that this one must yield to, and what is against it then."""
        for row, others in self._nominated.rows_before(view.pod):
            if rows[row]:
                with assumed(self.snapshot, others, self.snapshot.info(row).name):
                    refusal = plugins.refusal(PodView(view.pod, self.cluster), row)
                yield row, refusal

    def _compared(
        self, view: PodView, plugins: PluginSet, state: ShapeState, allowed: Bools
    ) -> Iterable[tuple[str, Ints]]:
        """Weighted scores that depend on which nodes are allowed, or on more than one node."""
        for plugin, weight in plugins.scores:
            if plugin.scope is Scope.CLUSTER:
                raw = plugin.score(view, ALL, allowed)
            else:
                raw = state.raw.get(plugin)
                if raw is None or not raw.any():
                    continue  # the same for all nodes
            if raw is not None:
                yield plugin.name, weight * plugin.normalized(view, raw, allowed)

    def _place(self, view: PodView, plugins: PluginSet, row: int) -> Placement:
        pod, node = view.pod, self.snapshot.info(row).name
        claims: tuple[str, ...] = ()
        devices: tuple[str, ...] = ()
        for plugin in plugins.reserving:
            claims += plugin.waiting(view)
            devices += plugin.promised(view, row)
            plugin.reserve(view, row)
        pod.node = node
        self.snapshot.set_pod(pod)
        self._nominated.remove(pod.key)
        return Placement(pod, node, claims, devices)

    # -- decisions in which others have a say ----------------------------------------------------------------

    def scores(self, pod: PodInfo, nodes: Iterable[str]) -> dict[str, dict[str, float]]:
        """Weighted scores by plug-in of those of these nodes that will do. Changes nothing."""
        view, plugins, allowed = self._asked(pod)
        wanted = np.zeros_like(allowed)
        wanted[self._rows(nodes)] = True
        allowed = allowed & wanted
        parts = self._parts(view, plugins, self._state(view), allowed)
        rows = np.flatnonzero(allowed).tolist()
        return {self.snapshot.info(row).name: {name: float(found[row]) for name, found in parts} for row in rows}

    def place(self, pod: PodInfo, nodes: Iterable[str]) -> Placement | None:
        """The pod is placed on the first of these nodes that will do, and assumed there; None where none will."""
        view, plugins, allowed = self._asked(pod)
        for name in nodes:
            row = self.snapshot.index.get(name)
            if row is not None and allowed[row]:
                return self._place(view, plugins, row)
        return None

    def preempt(self, pod: PodInfo, nodes: Iterable[str]) -> Preemption | str:
        """Whom to delete so that one of these nodes will do, or the sentence that says why nobody is."""
        return self._preempt(PodView(pod, self.cluster), self._plugins[pod.scheduler], self._rows(nodes))

    def eligible(self, pod: PodInfo) -> str:
        """Why nobody may be deleted for the pod now; empty when somebody may."""
        if not self._profiles[pod.scheduler].preempts:
            return report.NO_PREEMPTION
        return not_eligible(pod, self.snapshot, self.nominated_node(pod.key) or pod.nominated)

    def helpful(self, pod: PodInfo) -> Ints:
        """The rows where a deletion may help the pod."""
        view, plugins = PodView(pod, self.cluster), self._plugins[pod.scheduler]
        return _helpful(self._refusals(view, plugins))

    def make_room(self, pod: PodInfo, helpful: Ints, *, candidates: int) -> Preemption | str:
        """As `preempt`, on one of these rows; the best of so many, where nodes have to be tried one by one."""
        terms = self._terms(pod, helpful)
        terms["args"] = PreemptionArgs(min_candidate_nodes_percentage=0, min_candidate_nodes_absolute=candidates)
        return self._preemptor.plan(PodView(pod, self.cluster), self._plugins[pod.scheduler], **terms)

    def whole(self, found: Preemption) -> Preemption:
        """The preemption, of whole groups where they are disrupted as one."""
        return whole(found, self.cluster)

    def candidates(self, pod: PodInfo, nodes: Iterable[str]) -> dict[str, Candidate] | str:
        """As `preempt`, all that there is to choose from."""
        if not self._profiles[pod.scheduler].preempts:
            return ""
        view, plugins = PodView(pod, self.cluster), self._plugins[pod.scheduler]
        return self._preemptor.candidates(view, plugins, **self._terms(pod, self._rows(nodes)))

    def _rows(self, nodes: Iterable[str]) -> Ints:
        return np.array([row for name in nodes if (row := self.snapshot.index.get(name)) is not None], dtype=np.int64)

    def _asked(self, pod: PodInfo) -> tuple[PodView, PluginSet, Bools]:
        """What the plug-ins allow now."""
        plugins, view = self._plugins[pod.scheduler], PodView(pod, self.cluster)
        state = self._state(view)
        if plugins.problem(view):
            return view, plugins, np.zeros_like(state.fits)
        return view, plugins, self._allowed(view, plugins, state)

    def forget(self, pod: PodInfo) -> None:
        """A placement came to nothing: take the assumption back."""
        if self.snapshot.pods.get(pod.key) is pod:
            self.snapshot.remove_pod(pod.key)
        for plugin in self._plugins[pod.scheduler].reserving:
            plugin.forget(self.cluster, pod)
        pod.node = ""

    # -- failures ------------------------------------------------------------------------------------------

    def _refusals(self, view: PodView, plugins: PluginSet) -> list[tuple[Refusal, Ints]]:
        """(reason, its rows). For a node with none somebody else has one: that counts as lack of room."""
        found = plugins.refusals(view)
        left = self.snapshot.valid.copy()
        for _, rows in found:
            left[rows] = False
        for row, refusal in self._when_they_come(view, plugins, left):
            if refusal is not None:
                found.append((refusal, np.array([row])))
                left[row] = False
        if left.any():
            found.append((_KEPT, np.flatnonzero(left)))
        return found

    def _fail(self, view: PodView, plugins: PluginSet, problem: Refusal | None, *, preempts: bool = True) -> Failure:
        pod, count = view.pod, len(self.snapshot)
        asked, preempts = preempts, preempts and self._profiles[pod.scheduler].preempts
        if not count:
            return Failure(pod, report.NO_NODES)
        if problem:
            found, blamed = report.preemption_failed(count, count, 0) if preempts else "", frozenset((problem.plugin,))
            after = self.after_filters(pod, found, blamed, problem.plugin) if asked else ""
            message = report.fit_error(count, {}, problem=problem.reasons[0], after=after)
            return Failure(pod, message, plugins=blamed)
        refusals = self._refusals(view, plugins)
        preemption = self._preempt(view, plugins, _helpful(refusals)) if preempts else ""
        blamed = frozenset(refusal.plugin for refusal, _ in refusals)
        after = self.after_filters(pod, preemption, blamed) if asked else ""
        reasons = Counter[str]()
        for refusal, rows in refusals:
            reasons.update(dict.fromkeys(refusal.reasons, len(rows)))
        message = report.fit_error(count, reasons, after=after)
        stays = preemption in (report.NOT_ELIGIBLE_POLICY, report.NOT_ELIGIBLE_TERMINATING)
        victims = None if isinstance(preemption, str) else preemption
        return Failure(pod, message, victims, plugins=blamed, keeps_nomination=stays)

    def after_filters(
        self, pod: PodInfo, found: Preemption | str, blamed: Collection[str], refused_by: str = ""
    ) -> str:
        """What plug-ins say after no node would do, unless preemption found somebody."""
        if not isinstance(found, str):
            return ""
        profile, claims = self._profiles[pod.scheduler], bool(pod.device_claims)
        stale = self.cluster.devices.stale(pod) if DEVICES in blamed else None
        return report.after_filters(profile, found, claims=claims, stale=stale, refused_by=refused_by)

    def _preempt(self, view: PodView, plugins: PluginSet, helpful: Ints) -> Preemption | str:
        profile = self._profiles[view.pod.scheduler]
        return self._preemptor.plan(view, plugins, **self._terms(view.pod, helpful)) if profile.preempts else ""

    def _terms(self, pod: PodInfo, helpful: Ints) -> _Terms:
        """What a preemption for the pod goes by."""
        return {
            "helpful": helpful,
            "nominated": self.nominated_node(pod.key) or pod.nominated,
            "args": self._profiles[pod.scheduler].args.get("DefaultPreemption") or PreemptionArgs(),
        }

    # -- explanation ---------------------------------------------------------------------------------------

    def explain(self, pod: PodInfo) -> Explanation:
        """What would be decided now, per node and plugin. Changes nothing."""
        plugins, view = self._plugins[pod.scheduler], PodView(pod, self.cluster)
        state = self._state(view)
        problem = plugins.problem(view)
        allowed = np.zeros_like(state.fits) if problem else self._allowed(view, plugins, state)
        parts = self._parts(view, plugins, state, allowed)
        row = -1 if problem else self._choose(view, plugins, state)
        kept = dict(self._when_they_come(view, plugins, ~allowed))
        nodes = []
        for name, at in self.snapshot.nodes():
            if allowed[at]:
                of_node = {plugin: float(weighted[at]) for plugin, weighted in parts}
                nodes.append(NodeExplanation(name, None, of_node, sum(of_node.values())))
            elif problem:
                nodes.append(NodeExplanation(name, problem))
            else:
                nodes.append(NodeExplanation(name, plugins.refusal(view, at) or kept.get(at) or _KEPT))
        if row >= 0:
            return Explanation(self.snapshot.info(row).name, "", tuple(nodes))
        return Explanation("", self._fail(view, plugins, problem).message, tuple(nodes))

    def _parts(self, view: PodView, plugins: PluginSet, state: ShapeState, allowed: Bools) -> list[tuple[str, Ints]]:
        """Every plug-in's weighted scores."""
        alone = [
            (plugin.name, weight * found)
            for plugin, weight in plugins.scores
            if plugin.scope is not Scope.CLUSTER
            and not plugin.normalizes
            and (found := plugin.score(view, ALL, None)) is not None
        ]
        return [*alone, *self._compared(view, plugins, state, allowed)]
