"""The cluster as the scheduler assumes it: nodes as rows of NumPy arrays, pods added and removed in O(1).

Rows are reused when nodes go. What depends on nodes only (labels, taints, allocatable) carries `node_version`; every
row whose use changed is written to a bounded `changes` log, so that what is cached per shape of pod is brought up to
date by the few rows that changed since (`changed_since`).

Invariant: `requested` is the sum over the pods of each row, always; pods of nodes not seen yet wait by node name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from rayplane.control_plane.api.machinery.selectors import LabelSelector
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.pods import CPU, MEMORY, PODS, STORAGE, PodInfo, PodTerm, Shape

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

COUNTERS_MAX = 512
CHANGES_MAX = 8192
_FIRST_COLUMNS = (CPU, MEMORY, STORAGE, PODS)


class PodCounter:
    """Counts per row of the pods that match a selector in some namespaces; kept current by the snapshot."""

    __slots__ = ("_live_only", "_namespaces", "_selector", "rows")

    def __init__(
        self, selector: LabelSelector, namespaces: tuple[str, ...] | None, rows: int, *, live_only: bool
    ) -> None:
        self._selector = selector
        self._namespaces = None if namespaces is None else frozenset(namespaces)
        self._live_only = live_only
        self.rows: Ints = np.zeros(rows, dtype=np.int64)

    def matches(self, pod: PodInfo) -> bool:
        if self._namespaces is not None and pod.namespace not in self._namespaces:
            return False
        return not (self._live_only and pod.terminating) and self._selector.matches(pod.labels)


_CounterKey = tuple[LabelSelector, tuple[str, ...] | None, bool]


class Snapshot:
    """The nodes as arrays of rows. Not thread-safe; one owner."""

    def __init__(self) -> None:
        self.columns: dict[str, int] = {resource: i for i, resource in enumerate(_FIRST_COLUMNS)}
        self.index: dict[str, int] = {}
        self.infos: list[NodeInfo | None] = []
        self.pods: dict[str, PodInfo] = {}
        self.namespaces: dict[str, Mapping[str, str]] = {}
        self.node_version = 0
        self.change_count = 0  # of all times; the log holds the newest ones
        self._changes: list[int] = []
        self._free_rows: list[int] = []
        self._by_node: dict[str, dict[str, PodInfo]] = {}
        self._ports: dict[int, dict[tuple[str, str, int], int]] = {}
        self._priorities: dict[int, int] = {}
        self._counters: OrderedDict[_CounterKey, PodCounter] = OrderedDict()
        self._anti: dict[PodTerm, Ints] = {}
        self._codes: dict[str, tuple[Ints, int]] = {}
        self._codes_version = -1
        self._rank: Ints = np.zeros(0, dtype=np.int64)
        self._rank_version = -1
        rows, columns = 16, len(self.columns)
        self.valid: Bools = np.zeros(rows, dtype=np.bool_)
        self.allocatable: Ints = np.zeros((rows, columns), dtype=np.int64)
        self.requested: Ints = np.zeros((rows, columns), dtype=np.int64)
        #: Requested cpu and memory with defaults for pods that ask for none: for scores.
        self.scored: Ints = np.zeros((rows, 2), dtype=np.int64)

    # -- size ----------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Length of the arrays; rows without a node are not `valid`."""
        return len(self.valid)

    def __len__(self) -> int:
        return len(self.index)

    def column(self, resource: str) -> int:
        """The array column of a resource, made when new."""
        found = self.columns.get(resource)
        if found is None:
            found = self.columns[resource] = len(self.columns)
            pad = ((0, 0), (0, 1))
            self.allocatable, self.requested = np.pad(self.allocatable, pad), np.pad(self.requested, pad)
            self.node_version += 1
        return found

    def _grow(self) -> None:
        more = self.rows
        self.valid = np.pad(self.valid, (0, more))
        pad = ((0, more), (0, 0))
        self.allocatable, self.requested = np.pad(self.allocatable, pad), np.pad(self.requested, pad)
        self.scored = np.pad(self.scored, pad)
        for counter in self._counters.values():
            counter.rows = np.pad(counter.rows, (0, more))
        self._anti = {term: np.pad(rows, (0, more)) for term, rows in self._anti.items()}

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
        if row is not None and self.infos[row] == node:
            return False
        columns = [(self.column(resource), count) for resource, count in node.allocatable.items()]
        fresh = row is None
        if row is None:
            row = self._row_for_new()
            self.index[node.name] = row
        self.infos[row] = node
        self.valid[row] = True
        self.allocatable[row] = 0
        for column, count in columns:
            self.allocatable[row, column] = count
        self.node_version += 1
        if fresh:
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
        self.infos[row] = None
        self.valid[row] = False
        self.allocatable[row] = 0
        self._free_rows.append(row)
        self.node_version += 1

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
        if self._rank_version != self.node_version:
            self._rank = np.full(self.rows, np.iinfo(np.int64).max, dtype=np.int64)
            for position, (_, row) in enumerate(self.nodes()):
                self._rank[row] = position
            self._rank_version = self.node_version
        return self._rank

    def topology(self, key: str) -> tuple[Ints, int]:
        """For each row the number of its domain (value of label `key`), -1 without one; and how many there are."""
        if self._codes_version != self.node_version:
            self._codes = {}
            self._codes_version = self.node_version
        found = self._codes.get(key)
        if found is None:
            values: dict[str, int] = {}
            codes = np.full(self.rows, -1, dtype=np.int64)
            for _, row in self.nodes():
                value = self.info(row).labels.get(key)
                if value is not None:
                    codes[row] = values.setdefault(value, len(values))
            found = self._codes[key] = codes, len(values)
        return found

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

    def pods_on(self, node: str) -> Mapping[str, PodInfo]:
        """Pods of a node by key; do not change pods while iterating."""
        return self._by_node.get(node, {})

    def _count(self, pod: PodInfo, row: int, sign: int) -> None:
        shape = pod.shape
        for resource, count in shape.requests.items():
            column = self.columns.get(resource)
            if column is None:
                column = self.column(resource)
            self.requested[row, column] += sign * count
        self.scored[row, 0] += sign * shape.scored_cpu
        self.scored[row, 1] += sign * shape.scored_memory
        for port in shape.ports:
            used = self._ports.setdefault(row, {})
            used[port] = used.get(port, 0) + sign
            if not used[port]:
                del used[port]
        self._priorities[pod.priority] = self._priorities.get(pod.priority, 0) + sign
        if not self._priorities[pod.priority]:
            del self._priorities[pod.priority]
        for counter in self._counters.values():
            if counter.matches(pod):
                counter.rows[row] += sign
        for term in pod.anti_affinity:
            held = self._anti.get(term)
            if held is None:
                held = self._anti[term] = np.zeros(self.rows, dtype=np.int64)
            held[row] += sign
            if sign < 0 and not held.any():
                del self._anti[term]
        self._changed(row)

    def ports(self, row: int) -> Iterable[tuple[str, str, int]]:
        """Host ports in use."""
        return self._ports.get(row, {})

    def has_lower_priority(self, priority: int) -> bool:
        """Whether any pod on a node could be a victim for one of `priority`."""
        return any(other < priority for other in self._priorities)

    # -- pods by label -------------------------------------------------------------------------------------

    def matching(self, selector: LabelSelector, namespaces: tuple[str, ...] | None, *, live_only: bool = False) -> Ints:
        """How many pods of each row match; namespaces None means all. Do not write to it."""
        key = (selector, namespaces, live_only)
        counter = self._counters.get(key)
        if counter is not None:
            self._counters.move_to_end(key)
            return counter.rows
        counter = PodCounter(selector, namespaces, self.rows, live_only=live_only)
        for pod in self.pods.values():
            row = self.index.get(pod.node)
            if row is not None and counter.matches(pod):
                counter.rows[row] += 1
        self._counters[key] = counter
        if len(self._counters) > COUNTERS_MAX:
            self._counters.popitem(last=False)
        return counter.rows

    def anti_terms(self) -> Mapping[PodTerm, Ints]:
        """Required anti-affinity terms of pods on nodes, and how many pods of each row have them."""
        return self._anti

    def resolve(self, term: PodTerm) -> tuple[str, ...] | None:
        """The namespaces a term speaks of; None for all."""
        wanted = term.namespace_selector
        if wanted is None:
            return term.namespaces
        if wanted.everything:
            return None
        found = (name for name, labels in self.namespaces.items() if wanted.matches(labels))
        return tuple(sorted({*term.namespaces, *found}))

    def term_matches(self, term: PodTerm, pod: PodInfo) -> bool:
        """Whether a pod is one that a term speaks of."""
        namespaces = self.resolve(term)
        return (namespaces is None or pod.namespace in namespaces) and term.selector.matches(pod.labels)

    # -- changes -------------------------------------------------------------------------------------------

    def _changed(self, row: int) -> None:
        self.change_count += 1
        self._changes.append(row)
        if len(self._changes) > 2 * CHANGES_MAX:
            del self._changes[:-CHANGES_MAX]

    def changed_since(self, count: int) -> list[int] | None:
        """Rows whose use changed since `change_count` was `count`; None when that is too long ago."""
        behind = self.change_count - count
        if behind > len(self._changes):
            return None
        return sorted(set(self._changes[len(self._changes) - behind :])) if behind else []

    def request_vector(self, shape: Shape) -> tuple[Ints, Ints]:
        """(columns, amounts) of what a shape asks for."""
        columns = np.array([self.column(resource) for resource in shape.requests], dtype=np.int64)
        return columns, np.array([*shape.requests.values()], dtype=np.int64)
