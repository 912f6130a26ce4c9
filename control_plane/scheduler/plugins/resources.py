"""NodeResourcesFit and NodeResourcesBalancedAllocation: room for what a pod asks for.

Source: Kubernetes concepts "Resource Bin Packing"; API reference NodeResourcesFitArgs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np

from rayplane.control_plane.scheduler.plugins.args import BalancedArgs, FitArgs, Strategy
from rayplane.control_plane.scheduler.plugins.base import SCORE_MAX, Plugin, PodView, Refusal, Scope
from rayplane.control_plane.scheduler.plugins.broken_line import along
from rayplane.control_plane.scheduler.pods import CPU, MEMORY, PODS, STORAGE, Shape
from rayplane.control_plane.scheduler.snapshot import NOWHERE, Bools, Floats, Ints, Rows, Snapshot

_ORDER = {PODS: 0, CPU: 1, MEMORY: 2, STORAGE: 3}
#: Columns of cpu and memory: pods that ask for none count for a little in scores.
_SCORED_COLUMNS = 2
#: Of a number.
_BITS = 63


class NodeResourcesFit(Plugin):
    """NodeResourcesFit: what is asked for must be there, and more or less of it should be in use."""

    name: ClassVar[str] = "NodeResourcesFit"
    scope: ClassVar[Scope] = Scope.USE

    def __init__(self, args: FitArgs | None = None) -> None:
        super().__init__(args)
        self._args = args or FitArgs()
        self._weights = np.array([weight for _, weight in self._args.resources], dtype=np.int64)

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        snapshot, shape = view.snapshot, view.pod.shape
        columns, amounts = self._wanted(snapshot, shape)
        has = snapshot.allocatable[rows][:, columns]
        enough = snapshot.requested[rows][:, columns] + amounts <= has
        if not snapshot.delegated.isdisjoint(shape.requests):
            enough |= self._is_delegated(snapshot, shape, has)
        return np.all(enough, axis=1)

    def _is_delegated(self, snapshot: Snapshot, shape: Shape, has: Ints) -> Bools:
        """What a node does not report and devices may stand behind is DynamicResources' to judge."""
        names = [name for name in shape.requests if not self._args.ignores(name)]
        found: Bools = np.array([name in snapshot.delegated for name in names], dtype=np.bool_) & (has == 0)
        return found

    def allows(self, view: PodView, row: int) -> bool:
        snapshot, args = view.snapshot, self._args
        requested, allocatable, columns = snapshot.requested, snapshot.allocatable, snapshot.columns
        for resource, wanted in view.pod.shape.requests.items():
            column = columns.get(resource, NOWHERE)
            has = allocatable.item(row, column)
            if requested.item(row, column) + wanted > has and not (
                args.ignores(resource) or (not has and resource in snapshot.delegated)
            ):
                return False
        return True

    def _wanted(self, snapshot: Snapshot, shape: Shape) -> tuple[Ints, Ints]:
        columns, amounts = snapshot.request_vector(shape)
        if self._args.ignored_resources or self._args.ignored_resource_groups:
            kept = [at for at, resource in enumerate(shape.requests) if not self._args.ignores(resource)]
            return columns[kept], amounts[kept]
        return columns, amounts

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        for found, _ in self.refusals(view, np.array([row], dtype=np.int64)):
            return found
        return None

    def refusals(self, view: PodView, rows: Ints) -> Iterable[tuple[Refusal, Ints]]:
        """Rows that lack the same are told together."""
        snapshot, shape = view.snapshot, view.pod.shape
        columns, amounts = self._wanted(snapshot, shape)
        names = [name for name in shape.requests if not self._args.ignores(name)]
        has = snapshot.allocatable[rows][:, columns]
        lacks = snapshot.requested[rows][:, columns] + amounts > has
        if not snapshot.delegated.isdisjoint(shape.requests):
            lacks &= ~self._is_delegated(snapshot, shape, has)
        is_lost = (lacks & (amounts > has)).any(axis=1)
        marks = np.column_stack((is_lost, lacks))
        alike = _codes(marks)
        for code in sorted({*alike.tolist()}):
            of_code = alike == code
            lost, *of_names = marks[of_code.argmax()].tolist()
            lacking = [name for name, is_lacking in zip(names, of_names, strict=True) if is_lacking]
            if not lacking:
                continue
            lacking.sort(key=lambda resource: (_ORDER.get(resource, 4), resource))
            reasons = tuple("Too many pods" if r == PODS else f"Insufficient {r}" for r in lacking)
            yield Refusal(self.name, reasons, not lost), rows[of_code]

    def score(self, view: PodView, rows: Rows, among: Bools | None) -> Ints | None:
        used, capacity = _use(view.snapshot, view.pod.shape, self._args.resources, rows, scored=True)
        has = capacity > 0
        capacity = np.maximum(capacity, 1)
        if self._args.strategy is Strategy.REQUESTED_TO_CAPACITY_RATIO:
            return self._ratio(used, capacity, has)
        if self._args.strategy is Strategy.MOST_ALLOCATED:
            share = np.minimum(used, capacity) * SCORE_MAX // capacity
        else:
            share = np.maximum(capacity - used, 0) * SCORE_MAX // capacity
        weights = np.where(has, self._weights, 0)
        found: Ints = (share * weights).sum(axis=1) // np.maximum(weights.sum(axis=1), 1)
        return found

    def score_at(self, view: PodView, row: int) -> int:
        strategy = self._args.strategy
        if strategy is Strategy.REQUESTED_TO_CAPACITY_RATIO:
            return super().score_at(view, row)
        total = weights = 0
        for used, capacity, weight in _use_of_row(
            view.snapshot, view.pod.shape, self._args.resources, row, scored=True
        ):
            left = min(used, capacity) if strategy is Strategy.MOST_ALLOCATED else max(capacity - used, 0)
            total += weight * (left * SCORE_MAX // capacity)
            weights += weight
        return total // weights if weights else 0

    def _ratio(self, used: Ints, capacity: Ints, has: Bools) -> Ints:
        """The shape's score at each resource's percentage of use; resources of score 0 are left out of the mean."""
        percent = np.where(used > capacity, 100, used * 100 // capacity)
        share = np.where(has, along(self._args.shape, percent), 0)
        weights = np.where(share > 0, self._weights, 0)
        mean = (share * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
        found: Ints = np.floor(mean + 0.5).astype(np.int64)
        return found


def _codes(marks: Bools) -> Ints:
    """A number for each row; rows that are alike have the same."""
    if marks.shape[1] < _BITS:
        return marks @ (1 << np.arange(marks.shape[1]))
    return np.unique(marks, axis=0, return_inverse=True)[1].reshape(-1)


def _use(
    snapshot: Snapshot, shape: Shape, resources: tuple[tuple[str, int], ...], rows: Rows, *, scored: bool
) -> tuple[Ints, Ints]:
    """(used with the pod on the node, allocatable) of some resources.

    With `scored`, pods that ask for no cpu or memory count for a little. Extended resources that the pod does not ask
    for count as not there.
    """
    columns = [snapshot.column(name) for name, _ in resources]
    used, capacity = snapshot.requested[rows][:, columns], snapshot.allocatable[rows][:, columns]
    little = {CPU: (0, shape.scored_cpu), MEMORY: (1, shape.scored_memory)} if scored else {}
    for at, (name, _) in enumerate(resources):
        if name in little:
            column, wanted = little[name]
            used[:, at] = snapshot.scored[rows, column] + wanted
            continue
        wanted = shape.requests.get(name, 0)
        used[:, at] += wanted
        if not wanted and "/" in name:
            capacity[:, at] = 0
    return used, capacity


def _use_of_row(
    snapshot: Snapshot, shape: Shape, resources: tuple[tuple[str, int], ...], row: int, *, scored: bool
) -> Iterator[tuple[int, int, int]]:
    """As `_use`, of one row: (used, allocatable, weight) of what the node has."""
    for name, weight in resources:
        column, wanted = snapshot.column(name), shape.requests.get(name, 0)
        capacity: int = snapshot.allocatable.item(row, column)
        if not capacity or (not wanted and "/" in name):
            continue
        if scored and column < _SCORED_COLUMNS:
            wanted = shape.scored_memory if column else shape.scored_cpu
            yield snapshot.scored.item(row, column) + wanted, capacity, weight
        else:
            yield snapshot.requested.item(row, column) + wanted, capacity, weight


class NodeResourcesBalancedAllocation(Plugin):
    """NodeResourcesBalancedAllocation: the shares of a node's resources in use should be alike."""

    name: ClassVar[str] = "NodeResourcesBalancedAllocation"
    scope: ClassVar[Scope] = Scope.USE

    def __init__(self, args: BalancedArgs | None = None) -> None:
        super().__init__(args)
        self._resources = (args or BalancedArgs()).resources

    def score(self, view: PodView, rows: Rows, among: Bools | None) -> Ints | None:
        """100 less the standard deviation of the shares. Nothing for pods that ask for none of the resources."""
        if not any(view.pod.shape.requests.get(name) for name, _ in self._resources):
            return None
        used, capacity = _use(view.snapshot, view.pod.shape, self._resources, rows, scored=False)
        has = capacity > 0
        share = np.where(has, np.minimum(used / np.maximum(capacity, 1), 1.0), 0.0)
        found: Ints = ((1.0 - _deviation(share, has)) * SCORE_MAX).astype(np.int64)
        return found

    def score_at(self, view: PodView, row: int) -> int:
        shape = view.pod.shape
        if not any(shape.requests.get(name) for name, _ in self._resources):
            return 0
        use = _use_of_row(view.snapshot, shape, self._resources, row, scored=False)
        return int((1.0 - _deviation_of([min(used / capacity, 1.0) for used, capacity, _ in use])) * SCORE_MAX)


def _deviation_of(shares: list[float]) -> float:
    """As `_deviation`, of one row."""
    count = len(shares)
    if count <= 2:
        return abs(shares[0] - shares[1]) / 2 if count == 2 else 0.0
    mean = sum(shares) / count
    return math.sqrt(sum((share - mean) ** 2 for share in shares) / count)


def _deviation(share: Floats, has: Bools) -> Floats:
    """The standard deviation of each row's shares; of two it is half their difference, of less than two nothing."""
    count = has.sum(axis=1)
    spread = np.where(has, share, -np.inf).max(axis=1) - np.where(has, share, np.inf).min(axis=1)
    two = np.where(count == 2, spread / 2, 0.0)
    if share.shape[1] == 2:
        return two
    of = np.maximum(count, 1)
    mean = share.sum(axis=1) / of
    squares = np.where(has, (share - mean[:, None]) ** 2, 0.0).sum(axis=1)
    return np.where(count > 2, np.sqrt(squares / of), two)
