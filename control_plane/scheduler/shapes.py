"""Answers of a profile's plug-ins about one shape of pods, brought up to date by the rows that changed.

Answers that depend on the node, or on the pods of that node alone, are kept per shape: a further pod of a known shape
costs a few NumPy calls on the rows that changed since the last one.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from rayplane.control_plane.scheduler.plugins.base import ALL, Plugin, PluginSet, PodView, Scope
from rayplane.control_plane.scheduler.snapshot import Bools, Ints, Rows, Snapshot

#: The worth of a row that is not allowed.
NEVER = -(1 << 62)
_RANKS = 1 << 24


def worth(total: Ints, allowed: Bools, rank: Ints) -> Ints:
    """Numbers whose greatest is at the best row: the highest score, of equal ones the first name."""
    return np.where(allowed, total * _RANKS - rank, NEVER)


class ShapeState:
    """Knowledge of one shape under one profile, as of two change counts."""

    __slots__ = (
        "_filters",
        "_members",
        "_node_total",
        "_nodes_at",
        "_plain",
        "_scores",
        "_use_at",
        "allowed_by_nodes",
        "failure",
        "failure_at",
        "fits",
        "raw",
        "total",
        "worth",
    )

    def __init__(self, plugins: PluginSet) -> None:
        self._filters = tuple(
            tuple(p for p in plugins.filters if p.scope is scope) for scope in (Scope.NODE, Scope.USE)
        )
        self._scores = tuple(
            tuple((p, weight) for p, weight in plugins.scores if p.scope is scope) for scope in (Scope.NODE, Scope.USE)
        )
        self._plain = not any(plugin.normalizes for plugin, _ in self._scores[Scope.USE])
        self._nodes_at = self._use_at = self._members = -1
        self.failure: tuple[str, frozenset[str]] | None = None  # message and plug-ins, as of `failure_at`
        self.failure_at = (-1, -1)
        self.allowed_by_nodes: Bools = np.zeros(0, dtype=np.bool_)
        self.fits: Bools = self.allowed_by_nodes
        self._node_total: Ints = np.zeros(0, dtype=np.int64)
        self.total: Ints = self._node_total
        self.worth: Ints = self._node_total
        #: Scores that are not comparable yet, of plug-ins that have any.
        self.raw: dict[Plugin, Ints] = {}

    def refresh(self, view: PodView) -> None:
        """Bring masks and scores up to date with the snapshot."""
        snapshot = view.snapshot
        nodes = use = None
        if len(self.fits) == snapshot.rows:
            nodes = snapshot.node_changes.since(self._nodes_at)
            use = snapshot.use_changes.since(self._use_at)
        if nodes is None or use is None or 4 * (len(nodes) + len(use)) > snapshot.rows:
            self._refresh_all(view)
        elif nodes or use:
            if nodes:
                self._refresh_nodes(view, _rows(nodes))
                use = {*nodes, *use}
            if len(use) == 1 and self._plain and self._members == snapshot.members:
                (row,) = use
                self._refresh_row(view, row)
            else:
                self._refresh_use(view, _rows(use))
        self._nodes_at, self._use_at = snapshot.node_changes.count, snapshot.use_changes.count

    def _refresh_all(self, view: PodView) -> None:
        rows = view.snapshot.rows
        self.allowed_by_nodes, self.fits = np.zeros(rows, dtype=np.bool_), np.zeros(rows, dtype=np.bool_)
        self._node_total, self.total = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
        self.worth = np.full(rows, NEVER, dtype=np.int64)
        self.raw.clear()
        self._members = -1
        self._refresh_nodes(view, ALL)
        self._refresh_use(view, ALL)

    def _refresh_nodes(self, view: PodView, rows: Rows) -> None:
        allowed = view.snapshot.valid[rows]
        for plugin in self._filters[Scope.NODE]:
            of_plugin = plugin.allowed(view, rows)
            if of_plugin is not None:
                allowed = allowed & of_plugin
        self.allowed_by_nodes[rows] = allowed
        self._node_total[rows] = self._scored(view, rows, Scope.NODE)

    def _refresh_use(self, view: PodView, rows: Rows) -> None:
        allowed = self.allowed_by_nodes[rows]
        for plugin in self._filters[Scope.USE]:
            of_plugin = plugin.allowed(view, rows)
            if of_plugin is not None:
                allowed = allowed & of_plugin
        self.fits[rows] = allowed
        total = self._node_total[rows] + self._scored(view, rows, Scope.USE)
        self.total[rows] = total
        snapshot = view.snapshot
        rank = snapshot.name_rank()
        if self._members != snapshot.members:
            self._members = snapshot.members
            self.worth = worth(self.total, self.fits, rank)
        else:
            self.worth[rows] = worth(total, allowed, rank[rows])

    def _refresh_row(self, view: PodView, row: int) -> None:
        """As `_refresh_use`, of one row, with plain numbers."""
        fits = bool(self.allowed_by_nodes[row]) and all(p.allows(view, row) for p in self._filters[Scope.USE])
        total = int(self._node_total[row])
        for plugin, weight in self._scores[Scope.USE]:
            total += weight * plugin.score_at(view, row)
        self.fits[row] = fits
        self.total[row] = total
        self.worth[row] = total * _RANKS - int(view.snapshot.name_rank()[row]) if fits else NEVER

    def _scored(self, view: PodView, rows: Rows, scope: Scope) -> Ints | int:
        """The weighted sum of the scores that are comparable as they are; the others are put aside."""
        total: Ints | int = 0
        for plugin, weight in self._scores[scope]:
            found = plugin.score(view, rows, None)
            if not plugin.normalizes:
                total = total if found is None else total + weight * found
            elif plugin in self.raw and found is not None:
                self.raw[plugin][rows] = found
            elif found is not None:
                every = plugin.score(view, ALL, None)  # it had nothing to say till now
                self.raw[plugin] = np.zeros(view.snapshot.rows, dtype=np.int64) if every is None else every.copy()
            else:
                self.raw.pop(plugin, None)
        return total

    def is_failed(self, snapshot: Snapshot) -> bool:
        """Whether the last failure still holds: nothing has changed since."""
        return self.failure is not None and self.failure_at == (snapshot.node_version, snapshot.use_changes.count)

    def failed(self, snapshot: Snapshot, message: str, plugins: frozenset[str]) -> None:
        self.failure, self.failure_at = (message, plugins), (snapshot.node_version, snapshot.use_changes.count)


def _rows(changed: Collection[int]) -> Rows:
    """One row as a slice, which NumPy is fastest with."""
    if len(changed) == 1:
        (row,) = changed
        return slice(row, row + 1)
    return np.fromiter(changed, dtype=np.int64, count=len(changed))
