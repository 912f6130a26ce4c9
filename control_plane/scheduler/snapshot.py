"""The cluster as the scheduler assumes it: nodes as rows of NumPy arrays, pods added and removed in O(1).

Rows are reused when nodes go. Every row whose node or whose use changed is written to a bounded log (`node_changes`,
`use_changes`), so that what is cached per shape of pod is brought up to date by the few rows that changed since.

Invariant: `requested` is the sum over the pods of each row, always; pods of nodes not seen yet wait by node name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np

from rayplane.control_plane.api.machinery.selectors import EQUALS, IN, Requirement
from rayplane.control_plane.api.pods.ports import HostPorts
from rayplane.control_plane.api.taints import Taint
from rayplane.control_plane.scheduler.changes import ChangeLog
from rayplane.control_plane.scheduler.claim_use import ClaimUse
from rayplane.control_plane.scheduler.counters import HeldTerms, PodCounters, Scoped
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.pods import CPU, MEMORY, PODS, STORAGE, PodInfo, PodTerm, Shape
from rayplane.control_plane.scheduler.topology import Bools, Floats, Ints, NodeLabels, Rows

__all__ = ["Bools", "Floats", "Ints", "Rows", "Snapshot"]

VECTORS_MAX = 4096
_FIRST_COLUMNS = (CPU, MEMORY, STORAGE, PODS, "")
#: The column of whatever no node has: there is none of it, and nobody counts who wants it.
NOWHERE = _FIRST_COLUMNS.index("")
_NO_TAINTS: tuple[Taint, ...] = ()
_NO_PORTS = HostPorts()


def _reports(node: NodeInfo | None) -> bool:
    return node is not None and node.volume_bytes is not None


class Snapshot:
    """The nodes as arrays of rows. Not thread-safe; one owner."""

    def __init__(self) -> None:
        self.columns: dict[str, int] = {resource: i for i, resource in enumerate(_FIRST_COLUMNS)}
        self.index: dict[str, int] = {}
        self.infos: list[NodeInfo | None] = []
        self.pods: dict[str, PodInfo] = {}
        self.namespaces: dict[str, Mapping[str, str]] = {}
        #: Times that a namespace came, went or had other labels.
        self.namespace_changes = 0
        #: Rows whose pods changed, and rows whose node changed.
        self.use_changes, self.node_changes = ChangeLog[int](), ChangeLog[int]()
        #: Resources that devices stand behind on nodes that do not report them.
        self.delegated: frozenset[str] = frozenset()
        #: Told of the claims of pods that come and go.
        self.claim_use: ClaimUse | None = None
        self._volume_nodes = 0  # nodes that say how many bytes they have for volumes
        self._free_rows: list[int] = []
        self._by_node: dict[str, dict[str, PodInfo]] = {}
        self._ports: dict[int, HostPorts] = {}
        self._priorities: dict[int, int] = {}
        self._images: dict[str, dict[int, int]] = {}
        self._resolved: dict[PodTerm, tuple[str, ...]] = {}
        self._vectors: OrderedDict[Shape, tuple[Ints, Ints]] = OrderedDict()
        self._counters = PodCounters()
        #: Terms of pods on nodes: required anti-affinity, required affinity, preferred ones of either kind.
        self.anti, self.near, self.preferred = (HeldTerms(self.term_matches) for _ in range(3))
        #: Times that a node came or went.
        self.members = 0
        self._rank: Ints = np.zeros(0, dtype=np.int64)
        self._rank_of = -1
        rows, columns = 16, len(self.columns)
        self._labels = NodeLabels(rows)
        self.valid: Bools = np.zeros(rows, dtype=np.bool_)
        self.unschedulable: Bools = np.zeros(rows, dtype=np.bool_)
        #: Every distinct set of taints, and each row's number among them.
        self.taint_sets: list[tuple[Taint, ...]] = [_NO_TAINTS]
        self.taint_codes: Ints = np.zeros(rows, dtype=np.int64)
        self.allocatable: Ints = np.zeros((rows, columns), dtype=np.int64)
        self.requested: Ints = np.zeros((rows, columns), dtype=np.int64)
        #: Requested cpu and memory with defaults for pods that ask for none: for scores.
        self.scored: Ints = np.zeros((rows, 2), dtype=np.int64)

    # -- size ----------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Length of the arrays; rows without a node are not `valid`."""
        return len(self.valid)

    @property
    def node_version(self) -> int:
        """A number that grows with every change of a node."""
        return self.node_changes.count

    def __len__(self) -> int:
        return len(self.index)

    def numbers(self, rows: Rows) -> Ints:
        """Row numbers, where rows are given as a slice too."""
        return np.arange(self.rows)[rows] if isinstance(rows, slice) else rows

    def column(self, resource: str) -> int:
        """The array column of a resource."""
        return self.columns.get(resource, NOWHERE)

    def _set_columns(self, more: Iterable[str]) -> None:
        """Columns for what nodes have, and for `more`: pods may ask for anything, and make none."""
        known = {resource for info in self.infos if info is not None for resource in info.allocatable}
        old = self.columns
        names = dict.fromkeys((*_FIRST_COLUMNS, *(name for name in old if name in known), *more))
        self.columns = {name: at for at, name in enumerate(names)}
        self._vectors.clear()
        allocatable = np.zeros((self.rows, len(names)), dtype=np.int64)
        for name, at in self.columns.items():
            if name in old:
                allocatable[:, at] = self.allocatable[:, old[name]]
        self.allocatable, self.requested = allocatable, np.zeros_like(allocatable)
        for pod, row in self.placed():
            columns, amounts = self.request_vector(pod.shape)
            self.requested[row, columns] += amounts
        self.requested[:, NOWHERE] = 0

    def _grow(self) -> None:
        more = self.rows
        self.valid, self.unschedulable = np.pad(self.valid, (0, more)), np.pad(self.unschedulable, (0, more))
        self.taint_codes = np.pad(self.taint_codes, (0, more))
        pad = ((0, more), (0, 0))
        self.allocatable, self.requested = np.pad(self.allocatable, pad), np.pad(self.requested, pad)
        self.scored = np.pad(self.scored, pad)
        self._labels.grow(self.rows)
        self._counters.grow(more)
        for terms in (self.anti, self.near, self.preferred):
            terms.grow(more)

    def _row_for_new(self) -> int:
        if self._free_rows:
            return self._free_rows.pop()
        if len(self.infos) == self.rows:
            self._grow()
        self.infos.append(None)
        return len(self.infos) - 1

    # -- nodes ---------------------------------------------------------------------------------------------

    def set_node(self, node: NodeInfo) -> bool:
        """Add or replace a node; False when nothing that matters here changed."""
        row = self.index.get(node.name)
        old = None if row is None else self.infos[row]
        if old == node:
            return False
        new = [resource for resource in node.allocatable if resource not in self.columns]
        if new:
            self._set_columns(new)
        if row is None:
            row = self._row_for_new()
            self.index[node.name] = row
            self.members += 1
        self.infos[row] = node
        self.valid[row] = True
        self.unschedulable[row] = node.unschedulable
        self.taint_codes[row] = self._taint_code(node.taints)
        self._labels.set(row, node.labels)
        self._set_extras(row, old, node)
        self.allocatable[row] = 0
        for resource, count in node.allocatable.items():
            self.allocatable[row, self.columns[resource]] = count
        self.allocatable[row, NOWHERE] = 0
        self.node_changes.add(row)
        if old is None:
            for pod in self._by_node.get(node.name, {}).values():
                self._count(pod, row, 1)
        return True

    def remove_node(self, name: str) -> None:
        """Its pods are kept by name, should it come back."""
        row = self.index.pop(name, None)
        if row is None:
            return
        for pod in self._by_node.get(name, {}).values():
            self._count(pod, row, -1)
        self._set_extras(row, self.infos[row], None)
        self.infos[row] = None
        self.valid[row] = self.unschedulable[row] = False
        self.taint_codes[row] = 0
        self._labels.set(row, None)
        self.allocatable[row] = 0
        self._free_rows.append(row)
        self.members += 1
        self.node_changes.add(row)

    def set_delegated(self, resources: Collection[str]) -> None:
        """Devices stand behind these resources, and no others: whatever is known of nodes may be so no more."""
        now = frozenset(resources)
        if now != self.delegated:
            self.delegated = now
            for row in self.index.values():
                self.node_changes.add(row)

    def _taint_code(self, taints: tuple[Taint, ...]) -> int:
        if not taints:
            return 0
        if taints not in self.taint_sets:
            if len(self.taint_sets) > 2 * len(self.index) + len(_FIRST_COLUMNS):
                self._renumber_taints()
            self.taint_sets.append(taints)
        return self.taint_sets.index(taints)

    def _renumber_taints(self) -> None:
        """Forget the sets that no node has any more."""
        self.taint_sets = [_NO_TAINTS]
        for name, row in self.index.items():
            self.taint_codes[row] = 0
            info = self.infos[row]
            if info is not None and name == info.name and info.taints:
                if info.taints not in self.taint_sets:
                    self.taint_sets.append(info.taints)
                self.taint_codes[row] = self.taint_sets.index(info.taints)

    @property
    def has_taints(self) -> bool:
        return len(self.taint_sets) > 1

    @property
    def reports_volume_bytes(self) -> bool:
        """Whether any node says how many bytes it has for volumes."""
        return self._volume_nodes > 0

    def _set_extras(self, row: int, old: NodeInfo | None, new: NodeInfo | None) -> None:
        self._volume_nodes += _reports(new) - _reports(old)
        before, after = old.images if old else {}, new.images if new else {}
        if before == after:
            return
        for name in before:
            del self._images[name][row]
            if not self._images[name]:
                del self._images[name]
        for name, size in after.items():
            self._images.setdefault(name, {})[row] = size

    @property
    def has_images(self) -> bool:
        return bool(self._images)

    def image_sizes(self, name: str) -> Mapping[int, int]:
        """Sizes of an image by the rows that have it."""
        return self._images.get(name, {})

    def info(self, row: int) -> NodeInfo:
        found = self.infos[row]
        if found is None:
            raise KeyError(f"row {row} holds no node")
        return found

    def nodes(self) -> list[tuple[str, int]]:
        """(name, row) of every node, by name."""
        return sorted(self.index.items())

    def name_rank(self) -> Ints:
        """Position of each row's node in the order of names; for ties."""
        if self._rank_of != self.members or len(self._rank) != self.rows:
            self._rank = np.full(self.rows, len(self.index), dtype=np.int64)
            for position, (_, row) in enumerate(self.nodes()):
                self._rank[row] = position
            self._rank_of = self.members
        return self._rank

    # -- labels of nodes -----------------------------------------------------------------------------------

    def has_label(self, key: str) -> Bools:
        found: Bools = self._labels.column(key).codes > 0
        return found

    def knows_label(self, key: str) -> bool:
        """Whether any node has it."""
        return key in self._labels

    @property
    def label_changes(self) -> int:
        """Times that a label came to the first node, or was lost by the last."""
        return self._labels.key_changes

    def label_mask(self, requirement: Requirement) -> Bools:
        """Rows whose labels meet a requirement."""
        return self._labels.column(requirement.key).mask(requirement)

    def name_mask(self, rule: Requirement) -> Bools:
        """Rows whose node's name meets a rule."""
        found = np.zeros(self.rows, dtype=np.bool_)
        if rule.operator in (IN, EQUALS):
            found[[row for name in rule.values if (row := self.index.get(name)) is not None]] = True
            return found
        for name, row in self.index.items():
            found[row] = rule.matches({rule.key: name})
        return found

    def domain_sums(self, key: str, rows: Ints, among: Bools | None = None) -> Ints:
        """For each row the sum of `rows`, of the rows `among`, over its domain of `key`; 0 without the label."""
        return self._labels.column(key).sums(rows if among is None else np.where(among, rows, 0))

    def domains(self, key: str, among: Bools) -> int:
        """How many domains of `key` the rows `among` make."""
        return self._labels.column(key).domains(among)

    # -- pods ----------------------------------------------------------------------------------------------

    def set_pod(self, pod: PodInfo) -> None:
        """Add a pod that has a node, or replace what is known of it (an assumption, an older version)."""
        old = self.pods.get(pod.key)
        if old is not None:
            self.remove_pod(pod.key)
        self.pods[pod.key] = pod
        self._by_node.setdefault(pod.node, {})[pod.key] = pod
        row = self.index.get(pod.node)
        if row is not None:
            self._count(pod, row, 1)

    def remove_pod(self, key: str) -> PodInfo | None:
        """Forget a pod; what was known of it."""
        pod = self.pods.pop(key, None)
        if pod is None:
            return None
        on_node = self._by_node[pod.node]
        del on_node[key]
        if not on_node:
            del self._by_node[pod.node]
        row = self.index.get(pod.node)
        if row is not None:
            self._count(pod, row, -1)
        return pod

    def set_terminating(self, pod: PodInfo, terminating: bool) -> None:
        """A pod is to go, or is not after all: counts of live pods hang on that."""
        if self.pods.get(pod.key) is not pod:
            pod.terminating = terminating
        elif pod.terminating != terminating:
            self.remove_pod(pod.key)
            pod.terminating = terminating
            self.set_pod(pod)

    def pods_on(self, node: str) -> Mapping[str, PodInfo]:
        """Pods of a node by key; do not change pods while iterating."""
        return self._by_node.get(node, {})

    def placed(self) -> Iterator[tuple[PodInfo, int]]:
        """(pod, row) of every pod on a node that is there."""
        for pod in self.pods.values():
            row = self.index.get(pod.node)
            if row is not None:
                yield pod, row

    def _count(self, pod: PodInfo, row: int, sign: int) -> None:
        shape = pod.shape
        columns, amounts = self.request_vector(shape)
        self.requested[row, columns] += sign * amounts
        self.requested[row, NOWHERE] = 0
        self.scored[row, 0] += sign * shape.scored_cpu
        self.scored[row, 1] += sign * shape.scored_memory
        for port in shape.ports:
            if (used := self._ports.get(row)) is None:
                used = self._ports[row] = HostPorts()
            used.count(port, sign)
        priorities = self._priorities
        priorities[pod.priority] = priorities.get(pod.priority, 0) + sign
        if not priorities[pod.priority]:
            del priorities[pod.priority]
        self._counters.count(pod, row, sign)
        if (pod.claims or pod.attached) and self.claim_use is not None:
            self.claim_use.count((*pod.claims, *pod.attached), pod.node, sign)
        if pod.has_terms:
            self.anti.count(pod.anti_affinity, row, sign, self.rows)
            self.near.count(pod.affinity, row, sign, self.rows)
            self.preferred.count(pod.preferred, row, sign, self.rows)
        self.use_changes.add(row)

    def ports(self, row: int) -> HostPorts:
        """Host ports in use."""
        return self._ports.get(row, _NO_PORTS)

    def has_lower_priority(self, priority: int) -> bool:
        """Whether any pod on a node could be a victim for one of `priority`."""
        return any(other < priority for other in self._priorities)

    def request_vector(self, shape: Shape) -> tuple[Ints, Ints]:
        """(columns, amounts) of what a shape asks for."""
        found = self._vectors.get(shape)
        if found is None:
            columns = np.array([self.column(resource) for resource in shape.requests], dtype=np.int64)
            found = self._vectors[shape] = columns, np.array([*shape.requests.values()], dtype=np.int64)
            if len(self._vectors) > VECTORS_MAX:
                self._vectors.popitem(last=False)
        return found

    # -- pods by label -------------------------------------------------------------------------------------

    def matching(self, *wanted: Scoped, live_only: bool = False) -> Ints:
        """How many pods of each row match all of some selectors in their namespaces. Do not write to it."""
        return self._counters.get(wanted, self.rows, self.placed, live_only=live_only)

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """A namespace has these labels; None when it is gone."""
        if labels is None:
            self.namespaces.pop(name, None)
        else:
            self.namespaces[name] = labels
        self.namespace_changes += 1
        for terms in (self.anti, self.near, self.preferred):
            terms.namespaces_changed()
        self._resolved.clear()

    def resolve(self, term: PodTerm) -> tuple[str, ...] | None:
        """The namespaces a term speaks of; None for all."""
        wanted = term.namespace_selector
        if wanted is None:
            return term.namespaces
        if wanted.everything:
            return None
        found = self._resolved.get(term)
        if found is None:
            named = (name for name, labels in self.namespaces.items() if wanted.matches(labels))
            found = tuple(sorted({*term.namespaces, *named}))
            if len(self._resolved) >= VECTORS_MAX:
                self._resolved.clear()
            self._resolved[term] = found
        return found

    def term_matches(self, term: PodTerm, pod: PodInfo) -> bool:
        """Whether a pod is one that a term speaks of."""
        if not term.selector.matches(pod.labels):
            return False
        wanted = term.namespace_selector
        if wanted is None or pod.namespace in term.namespaces:
            return pod.namespace in term.namespaces
        labels = self.namespaces.get(pod.namespace)
        return wanted.everything or (labels is not None and wanted.matches(labels))
