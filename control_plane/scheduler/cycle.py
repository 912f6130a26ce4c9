"""The scheduling cycle: decisions on one pod after the other, each seeing the placements before it.

What depends on a pod's shape and the nodes alone is computed once per shape; what depends on the nodes' use is
brought up to date by the rows that changed since. A further pod of a known shape costs a few NumPy calls on one row
and one arg-max.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from rayplane.control_plane.scheduler import filters, interpod, preemption, report, scores
from rayplane.control_plane.scheduler.config import Profile, SchedulerConfig
from rayplane.control_plane.scheduler.filters import PodView, Refusal
from rayplane.control_plane.scheduler.pods import PodInfo, Shape
from rayplane.control_plane.scheduler.preemption import Preemption
from rayplane.control_plane.scheduler.snapshot import Bools, Floats, Ints, Snapshot
from rayplane.control_plane.scheduler.volumes import VolumeIndex

log = logging.getLogger(__name__)

SHAPE_STATES_MAX = 1024


@dataclass(frozen=True, slots=True)
class Placement:
    """The pod goes to `node`, and is assumed there already. `claims` first need their node selected."""

    pod: PodInfo
    node: str
    claims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """No node will do. `preemption` names the pods to delete so that one will."""

    pod: PodInfo
    message: str
    preemption: Preemption | None = None
    is_fault: bool = False
    """The scheduler failed, not the nodes."""
    plugins: frozenset[str] = frozenset()
    """The plug-ins that refused nodes: what changes for them may help. None when there was no node to refuse."""


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


class _ShapeState:
    """Knowledge of one shape under one profile, as of a node version and a change count."""

    __slots__ = (
        "amounts",
        "changes",
        "columns",
        "failure",
        "failure_at",
        "fits",
        "node_version",
        "preference",
        "score",
        "shape",
        "static",
        "taints",
    )

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.node_version = -1
        self.changes = -1
        self.failure: tuple[str, frozenset[str]] | None = None  # message and plug-ins, as of `failure_at`
        self.failure_at = (-1, -1, False)
        self.static: Bools
        self.fits: Bools
        self.score: Floats
        self.columns: Ints
        self.amounts: Ints
        self.preference: Floats | None = None
        self.taints: Floats | None = None

    def refresh(self, snapshot: Snapshot, profile: Profile) -> None:
        """Bring masks and scores up to date with the snapshot."""
        changed: list[int] | None = None
        if self.node_version != snapshot.node_version:
            self.columns, self.amounts = snapshot.request_vector(self.shape)
            self.node_version = snapshot.node_version  # after the columns: making one moves it
            self._refresh_static(snapshot)
        else:
            changed = snapshot.changed_since(self.changes)
        if changed is None or 4 * len(changed) > snapshot.rows:
            self._refresh_rows(snapshot, profile, np.arange(snapshot.rows))
        elif changed:
            self._refresh_rows(snapshot, profile, np.array(changed, dtype=np.int64))
        self.changes = snapshot.change_count

    def _refresh_static(self, snapshot: Snapshot) -> None:
        self.static = np.zeros(snapshot.rows, dtype=np.bool_)
        for _, row in snapshot.nodes():
            self.static[row] = filters.refused_by_node(self.shape, snapshot.info(row)) is None
        self.fits = np.zeros(snapshot.rows, dtype=np.bool_)
        self.score = np.zeros(snapshot.rows, dtype=np.float64)
        self.preference = scores.node_preference(snapshot, self.shape)
        self.taints = scores.soft_taints(snapshot, self.shape)

    def _refresh_rows(self, snapshot: Snapshot, profile: Profile, rows: Ints) -> None:
        shape = self.shape
        cells = np.ix_(rows, self.columns)
        fits = (snapshot.requested[cells] + self.amounts <= snapshot.allocatable[cells]).all(axis=1)
        self.fits[rows] = fits & self.static[rows]
        if shape.ports:
            for row in rows.tolist():
                if self.fits[row] and filters.refused_by_ports(shape, snapshot, row):
                    self.fits[row] = False
        self.score[rows] = profile.resources_weight * scores.resources(snapshot, shape, profile.strategy, rows)


class Cycle:
    """A cycle that decides pods against a snapshot that it shares with its owner.

    Pure: no clock, no chance, no waiting.
    """

    def __init__(self, config: SchedulerConfig, snapshot: Snapshot, volumes: VolumeIndex) -> None:
        self.snapshot = snapshot
        self.volumes = volumes
        self._config = config
        self._profiles = {profile.name: profile for profile in config.profiles}
        self._states: OrderedDict[tuple[str, Shape], _ShapeState] = OrderedDict()
        self._nominated: dict[str, tuple[PodInfo, str]] = {}

    def handles(self, pod: PodInfo) -> bool:
        """Whether a profile bears the pod's schedulerName."""
        return pod.scheduler in self._profiles

    # -- nominations ---------------------------------------------------------------------------------------

    def nominate(self, pod: PodInfo, node: str) -> None:
        """Room on `node` is being made for the pod: others of no higher priority must leave it."""
        self._nominated[pod.key] = pod, node

    def forget_nomination(self, key: str) -> None:
        self._nominated.pop(key, None)

    def nominated_node(self, key: str) -> str:
        found = self._nominated.get(key)
        return found[1] if found else ""

    # -- decisions -----------------------------------------------------------------------------------------

    def schedule(self, pods: Iterable[PodInfo]) -> list[Placement | Failure]:
        """Decide pods in order. Placed ones are assumed in the snapshot."""
        return [self._guarded(pod) for pod in pods]

    def _guarded(self, pod: PodInfo) -> Placement | Failure:
        try:
            return self.schedule_one(pod)
        except Exception as e:
            # A pod, or what it refers to, that was written past the API must not end the term for all others.
            log.exception("pod %s cannot be scheduled", pod.key)
            return Failure(pod, f"the scheduler failed on this pod: {type(e).__name__}: {e}", is_fault=True)

    def schedule_one(self, pod: PodInfo) -> Placement | Failure:
        state = self._state(pod)
        snapshot = self.snapshot
        now = (snapshot.node_version, snapshot.change_count, pod.may_preempt)
        simple = (
            pod.is_plain
            and not snapshot.anti_terms()
            and not self._nominated
            and not snapshot.has_lower_priority(pod.priority)
        )
        if simple and state.failure is not None and state.failure_at == now:
            message, plugins = state.failure
            return Failure(pod, message, plugins=plugins)
        view = PodView.of(pod, snapshot, self.volumes)
        row = self._choose(pod, view, state)
        if row >= 0:
            return self._place(pod, view, row)
        failure = self._fail(pod, view)
        if simple:
            state.failure, state.failure_at = (failure.message, failure.plugins), now
        return failure

    def _state(self, pod: PodInfo) -> _ShapeState:
        key = (pod.scheduler, pod.shape)
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = _ShapeState(pod.shape)
            if len(self._states) > SHAPE_STATES_MAX:
                self._states.popitem(last=False)
        else:
            self._states.move_to_end(key)
        state.refresh(self.snapshot, self._profiles[pod.scheduler])
        return state

    def _choose(self, pod: PodInfo, view: PodView, state: _ShapeState) -> int:
        """The best allowed row, or -1."""
        if view.needs.problem:
            return -1
        allowed = self._allowed(pod, view, state)
        if not allowed.any():
            return -1
        if pod.nominated or pod.key in self._nominated:
            row = self.snapshot.index.get(self.nominated_node(pod.key) or pod.nominated)
            if row is not None and allowed[row]:
                return row
        total = state.score
        for _, weighted in self._extra_scores(pod, view, state, allowed):
            total = total + weighted
        total = np.where(allowed, total, -np.inf)
        best = np.flatnonzero(total == total.max())
        if len(best) == 1:
            return int(best[0])
        return int(best[self.snapshot.name_rank()[best].argmin()])

    def _allowed(self, pod: PodInfo, view: PodView, state: _ShapeState) -> Bools:
        allowed = state.fits
        extra = view.mask()
        if extra is not None:
            allowed = allowed & extra
        if self._nominated:
            allowed = self._leave_room(pod, state, allowed)
        return allowed

    def _leave_room(self, pod: PodInfo, state: _ShapeState, allowed: Bools) -> Bools:
        """Take out nodes that are full once those nominated pods come that this one must yield to."""
        snapshot = self.snapshot
        claimed: dict[int, Ints] = {}
        for other, node in self._nominated.values():
            row = snapshot.index.get(node)
            if row is None or other.key == pod.key or other.priority < pod.priority:
                continue
            wanted = np.array([other.shape.requests.get(r, 0) for r in pod.shape.requests], dtype=np.int64)
            claimed[row] = claimed[row] + wanted if row in claimed else wanted
        if claimed:
            allowed = allowed.copy()
            for row, wanted in claimed.items():
                used = snapshot.requested[row, state.columns] + wanted + state.amounts
                allowed[row] &= bool((used <= snapshot.allocatable[row, state.columns]).all())
        return allowed

    def _extra_scores(
        self, pod: PodInfo, view: PodView, state: _ShapeState, allowed: Bools
    ) -> Iterable[tuple[str, Floats]]:
        """Weighted scores beyond use of resources, of the plugins that have something to say."""
        profile = self._profiles[pod.scheduler]
        if state.preference is not None:
            yield "NodeAffinity", profile.affinity_weight * scores.normalized(state.preference, allowed)
        if state.taints is not None:
            yield "TaintToleration", profile.taint_weight * scores.normalized(state.taints, allowed, reverse=True)
        near = interpod.affinity_score(pod, self.snapshot)
        if near is not None:
            yield "InterPodAffinity", profile.interpod_weight * scores.spanned(near, allowed)
        if pod.spread:
            spread = interpod.spread_score(pod, self.snapshot, view.admitted())
            if spread is not None:
                yield "PodTopologySpread", profile.spread_weight * scores.spanned(spread, allowed, reverse=True)

    def _place(self, pod: PodInfo, view: PodView, row: int) -> Placement:
        snapshot = self.snapshot
        node = snapshot.info(row)
        claims = tuple(f"{c['metadata']['namespace']}/{c['metadata']['name']}" for c in view.needs.waiting)
        self.volumes.promise(claims, node)
        pod.node = node.name
        snapshot.set_pod(pod)
        self._nominated.pop(pod.key, None)
        return Placement(pod, node.name, claims)

    def forget(self, pod: PodInfo) -> None:
        """A placement came to nothing: take the assumption back."""
        if self.snapshot.pods.get(pod.key) is pod:
            self.snapshot.remove_pod(pod.key)
        self.volumes.forget(pod.claims)
        pod.node = ""

    # -- failures ------------------------------------------------------------------------------------------

    def _refusals(self, view: PodView) -> dict[int, Refusal]:
        """By row. A node with none is kept for a nominated pod: that counts as lack of room."""
        found = {}
        for _, row in self.snapshot.nodes():
            refusal = view.refusal(row)
            kept = Refusal("NodeResourcesFit", ("node(s) are kept for pods of higher priority",), True)
            found[row] = refusal or kept
        return found

    def _fail(self, pod: PodInfo, view: PodView) -> Failure:
        count = len(self.snapshot)
        if not count:
            return Failure(pod, report.NO_NODES)
        if view.needs.problem:
            after = report.preemption_failed(count, count, 0)
            message = report.fit_error(count, (), problem=view.needs.problem, after=after)
            return Failure(pod, message, plugins=frozenset(("VolumeBinding",)))
        refusals = self._refusals(view)
        found = preemption.plan(
            pod,
            view,
            refusals,
            nominated=self.nominated_node(pod.key) or pod.nominated,
            nodes_max=self._config.preemption_nodes_max,
        )
        after = found if isinstance(found, str) else ""
        message = report.fit_error(count, (r.reasons for r in refusals.values()), after=after)
        plugins = frozenset(r.plugin for r in refusals.values())
        return Failure(pod, message, None if isinstance(found, str) else found, plugins=plugins)

    # -- explanation ---------------------------------------------------------------------------------------

    def explain(self, pod: PodInfo) -> Explanation:
        """What would be decided now, per node and plugin. Changes nothing."""
        state = self._state(pod)
        view = PodView.of(pod, self.snapshot, self.volumes)
        allowed = self._allowed(pod, view, state)
        if view.needs.problem:
            allowed = np.zeros_like(allowed)
        parts = [("NodeResourcesFit", state.score), *self._extra_scores(pod, view, state, allowed)]
        row = self._choose(pod, view, state)
        nodes = []
        for name, at in self.snapshot.nodes():
            if allowed[at]:
                of_node = {plugin: float(weighted[at]) for plugin, weighted in parts}
                nodes.append(NodeExplanation(name, None, of_node, sum(of_node.values())))
            elif view.needs.problem:
                nodes.append(NodeExplanation(name, Refusal("VolumeBinding", (view.needs.problem,), False)))
            else:
                nodes.append(NodeExplanation(name, view.refusal(at)))
        if row >= 0:
            return Explanation(self.snapshot.info(row).name, "", tuple(nodes))
        return Explanation("", self._fail(pod, view).message, tuple(nodes))
