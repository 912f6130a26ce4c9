"""Making room for a pod by deleting pods of lower priority.

On each node that could be helped so: take all pods of lower priority away; if the pod fits then, put back as many as
still let it fit, those first whose deletion would break a disruption budget, and the most important first. What stays
away are the victims. The node is chosen whose victims matter least. Where only resources count, what was found for a
shape and a priority is kept, and worked out again for the nodes that changed.

Source: Kubernetes concepts "Pod Priority and Preemption".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from rayplane.control_plane.scheduler import report
from rayplane.control_plane.scheduler.nominations import Nominations
from rayplane.control_plane.scheduler.plugins.args import FitArgs, PreemptionArgs
from rayplane.control_plane.scheduler.plugins.base import Cluster, Plugin, PluginSet, PodView, Scope
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.snapshot import Ints, Snapshot

_BY_RESOURCES = frozenset({"NodePorts", "NodeResourcesFit"})
_TABLES_MAX = 64
_COSTS = 5
_NO_COST = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Preemption:
    """The pods `victims`: without them the pod fits on `node`. The least important there comes first; last come, of
    groups that are disrupted as one, their pods on other nodes."""

    node: str
    victims: tuple[PodInfo, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Pods whose deletion would let a pod onto a node."""

    victims: tuple[PodInfo, ...]
    """The least important first."""
    breaking: int
    """How many of them break a disruption budget."""

    def cost(self) -> tuple[int, int, int, int, int]:
        """Smallest is best: budgets broken, the most important victim's priority, sum of priorities, victims, and of
        the most important ones the one that started first should have started late.
        """
        priorities = [victim.priority for victim in self.victims]
        highest = max(priorities)
        # Priorities may be negative: shifted, so that more victims never make a smaller sum.
        shifted = sum(priority + (1 << 31) for priority in priorities)
        earliest = min(_started(victim) for victim in self.victims if victim.priority == highest)
        return self.breaking, highest, shifted, len(priorities), -earliest


def _started(pod: PodInfo) -> int:
    """A number that grows with the time at which the pod started, or else was created."""
    stamp = pod.obj.get("status", {}).get("startTime") or pod.obj.get("metadata", {}).get("creationTimestamp") or ""
    digits = "".join(c for c in stamp if c in "0123456789")[:14]
    return int(digits) if digits else 0


def importance(pod: PodInfo) -> tuple[int, bool, int, str]:
    """Ascending: lower priority, then pods of no group, then the younger, then by name."""
    return pod.priority, pod.group != "", -_started(pod), pod.key


def choose(candidates: Mapping[str, Candidate]) -> Preemption | None:
    """The candidate that costs least, of those with anybody to delete."""
    found = [(one.cost(), node) for node, one in candidates.items() if one.victims]
    if not found:
        return None
    _, node = min(found)
    return Preemption(node, candidates[node].victims)


def whole(found: Preemption, cluster: Cluster) -> Preemption:
    """The preemption, of whole groups where they are disrupted as one."""
    victims = cluster.groups.with_all(found.victims, cluster.snapshot)
    return found if victims is found.victims else replace(found, victims=victims)


def not_eligible(pod: PodInfo, snapshot: Snapshot, nominated: str) -> str:
    """Why nobody is deleted for the pod, whatever that would help; empty when nothing is against it."""
    if not pod.may_preempt:
        return report.NOT_ELIGIBLE_POLICY
    on_nominated = snapshot.pods_on(nominated) if nominated else {}
    if any(other.terminating and other.priority < pod.priority for other in on_nominated.values()):
        return report.NOT_ELIGIBLE_TERMINATING
    return ""


def _by_name(snapshot: Snapshot, rows: Ints) -> list[int]:
    """The rows in the order of their nodes' names."""
    found: list[int] = rows[snapshot.name_rank()[rows].argsort()].tolist()
    return found


def _nobody(snapshot: Snapshot, helpful: Ints) -> str:
    count = len(snapshot)
    return report.preemption_failed(count, count - len(helpful), len(helpful))


def _enough(snapshot: Snapshot, args: PreemptionArgs) -> int:
    """Candidates after which no more are looked for."""
    return max(len(snapshot) * args.min_candidate_nodes_percentage // 100, args.min_candidate_nodes_absolute)


@dataclass(slots=True)
class Preemptor:
    """Knowledge that preemptions share: nominations, and victims by profile, shape and priority."""

    nominations: Nominations
    tables: dict[tuple[object, ...], _Table] = field(default_factory=dict)

    def plan(
        self, view: PodView, plugins: PluginSet, helpful: Ints, *, nominated: str, args: PreemptionArgs
    ) -> Preemption | str:
        """Whom to delete, or the sentence that says why nobody is. `helpful` are rows where a deletion may help."""
        pod, snapshot = view.pod, view.snapshot
        why_not = not_eligible(pod, snapshot, nominated)
        if why_not:
            return why_not
        nobody = _nobody(snapshot, helpful)
        if not snapshot.has_lower_priority(pod.priority):
            return nobody
        # A table is of pods that are nominated nowhere: room kept for the pod itself is not in its own way.
        if self._by_resources(view, plugins) and not self.nominations.node_of(pod.key):
            found = self._table(view, plugins).best(view, self.nominations, helpful)
        else:
            found = self._tried(view, plugins, helpful, args)
        return nobody if found is None else whole(found, view.cluster)

    def candidates(
        self, view: PodView, plugins: PluginSet, helpful: Ints, *, nominated: str, args: PreemptionArgs
    ) -> dict[str, Candidate] | str:
        """As `plan`, all that there is to choose from, by node. A node that does as it is has nobody to delete."""
        snapshot = view.snapshot
        why_not = not_eligible(view.pod, snapshot, nominated)
        if why_not:
            return why_not
        found = {}
        for row in _by_name(snapshot, helpful):
            if _fits(view, plugins, row):
                candidate: Candidate | None = Candidate((), 0)
            else:
                candidate = self._victims(view, plugins, row)
            if candidate is not None:
                found[snapshot.info(row).name] = candidate
                if len(found) >= _enough(snapshot, args):
                    break
        return found or _nobody(snapshot, helpful)

    # -- where anything may count --------------------------------------------------------------------------

    def _tried(self, view: PodView, plugins: PluginSet, helpful: Ints, args: PreemptionArgs) -> Preemption | None:
        """The best of as many candidates as the arguments want."""
        snapshot = view.snapshot
        found: dict[str, Candidate] = {}
        for row in _by_name(snapshot, helpful):
            candidate = self._victims(view, plugins, row)
            if candidate is not None:
                found[snapshot.info(row).name] = candidate
                if len(found) >= _enough(snapshot, args):
                    break
        return choose(found)

    def _victims(self, view: PodView, plugins: PluginSet, row: int) -> Candidate | None:
        """Whose deletion lets the pod onto the node; the snapshot is as before afterwards."""
        pod, snapshot = view.pod, view.snapshot
        lower = _lower(view, row)
        if not lower:
            return None
        coming = self.nominations.before(pod, snapshot.info(row).name)
        with _without(snapshot, lower), assumed(snapshot, coming, snapshot.info(row).name):
            if not _fits(view, plugins, row):
                return None
            breaking, others = view.cluster.budgets.split(reversed(lower))
            victims: list[PodInfo] = []
            broken = 0
            for other in (*breaking, *others):
                snapshot.set_pod(other)
                if not _fits(view, plugins, row):
                    snapshot.remove_pod(other.key)
                    victims.append(other)
                    broken += other in breaking
        return Candidate(tuple(sorted(victims, key=importance)), broken) if victims else None

    # -- where only resources count ------------------------------------------------------------------------

    def _by_resources(self, view: PodView, plugins: PluginSet) -> bool:
        """Whether no filter but the one for resources can tell victims apart."""
        return not view.pod.shape.ports and all(
            plugin.scope is Scope.NODE
            or (plugin.scope is Scope.USE and plugin.name in _BY_RESOURCES and not _leaves_out(plugin))
            or (plugin.scope is Scope.CLUSTER and not plugin.concerns(view))
            for plugin in plugins.filters
        )

    def _table(self, view: PodView, plugins: PluginSet) -> _Table:
        key = (id(plugins), view.pod.shape, view.pod.priority)
        found = self.tables.get(key)
        if found is None:
            if len(self.tables) >= _TABLES_MAX:
                self.tables.pop(next(iter(self.tables)))
            found = self.tables[key] = _Table()
        return found


class _Table:
    """Candidates by row for pods of one shape and priority, as of two change counts and two versions."""

    __slots__ = ("_as_of", "_candidates", "_costs")

    def __init__(self) -> None:
        self._as_of = (-1, -1, (-1, -1))
        self._candidates: dict[int, Candidate] = {}
        self._costs: Ints = np.zeros((_COSTS, 0), dtype=np.int64)

    def best(self, view: PodView, nominations: Nominations, helpful: Ints) -> Preemption | None:
        snapshot = view.snapshot
        self._refresh(view, nominations)
        rows = helpful[self._costs[0, helpful] != _NO_COST]
        for costs in self._costs:
            if len(rows) > 1:
                of_rows = costs[rows]
                rows = rows[of_rows == of_rows.min()]
        if not len(rows):
            return None
        row = int(rows[snapshot.name_rank()[rows].argmin()])
        return Preemption(snapshot.info(row).name, self._candidates[row].victims)

    def _refresh(self, view: PodView, nominations: Nominations) -> None:
        snapshot, others = view.snapshot, (view.cluster.budgets.version, view.cluster.groups.version)
        changed: Iterable[int] | None = None
        if self._costs.shape[1] == snapshot.rows and self._as_of[2] == others:
            nodes = snapshot.node_changes.since(self._as_of[0])
            use = snapshot.use_changes.since(self._as_of[1])
            if nodes is not None and use is not None:
                changed = {*nodes, *use}
        if changed is None:
            self._costs = np.full((_COSTS, snapshot.rows), _NO_COST, dtype=np.int64)
            self._candidates.clear()
            changed = snapshot.index.values()
        for row in changed:
            self._set(row, _by_room(view, nominations, row) if snapshot.valid[row] else None)
        self._as_of = snapshot.node_changes.count, snapshot.use_changes.count, others

    def _set(self, row: int, candidate: Candidate | None) -> None:
        if candidate is None:
            self._costs[:, row] = _NO_COST
            self._candidates.pop(row, None)
        else:
            self._costs[:, row] = candidate.cost()
            self._candidates[row] = candidate


def _by_room(view: PodView, nominations: Nominations, row: int) -> Candidate | None:
    """As trying out would find, by sums of the resources that the pod asks for."""
    pod, snapshot = view.pod, view.snapshot
    lower = _lower(view, row)
    if not lower:
        return None
    wanted = pod.shape.requests
    room = {
        name: int(snapshot.allocatable[row, column] - snapshot.requested[row, column]) - amount
        for name, amount in wanted.items()
        for column in (snapshot.column(name),)
    }
    for other in nominations.before(pod, snapshot.info(row).name):
        _take(room, other, 1)
    for other in lower:
        _take(room, other, -1)
    if min(room.values()) < 0:
        return None
    breaking, others = view.cluster.budgets.split(reversed(lower))
    victims: list[PodInfo] = []
    broken = 0
    for other in (*breaking, *others):
        _take(room, other, 1)
        if min(room.values()) < 0:
            _take(room, other, -1)
            victims.append(other)
            broken += other in breaking
    return Candidate(tuple(sorted(victims, key=importance)), broken) if victims else None


def _leaves_out(plugin: Plugin) -> bool:
    """Whether some resources do not count."""
    args = plugin.args
    return isinstance(args, FitArgs) and bool(args.ignored_resources or args.ignored_resource_groups)


def _take(room: dict[str, int], pod: PodInfo, sign: int) -> None:
    requests = pod.shape.requests
    for name in room:
        room[name] -= sign * requests.get(name, 0)


def _lower(view: PodView, row: int) -> list[PodInfo]:
    """Pods of a node that may be victims, the least important first."""
    priority, snapshot = view.pod.priority, view.snapshot
    there = snapshot.pods_on(snapshot.info(row).name).values()
    lower = [other for other in there if other.priority < priority]
    return sorted(view.cluster.groups.unspared(lower, priority), key=importance)


def _fits(view: PodView, plugins: PluginSet, row: int) -> bool:
    """With the pods as they are in the snapshot now."""
    return plugins.refusal(PodView(view.pod, view.cluster), row) is None


@contextmanager
def _without(snapshot: Snapshot, pods: Sequence[PodInfo]) -> Iterator[None]:
    """The pods are gone, within this block only."""
    for pod in pods:
        snapshot.remove_pod(pod.key)
    try:
        yield
    finally:
        for pod in pods:
            if pod.key not in snapshot.pods:
                snapshot.set_pod(pod)


@contextmanager
def assumed(snapshot: Snapshot, pods: Iterable[PodInfo], node: str) -> Iterator[None]:
    """The pods are on the node, within this block only."""
    there = [replace(pod, node=node) for pod in pods if pod.key not in snapshot.pods]
    for pod in there:
        snapshot.set_pod(pod)
    try:
        yield
    finally:
        for pod in there:
            snapshot.remove_pod(pod.key)
