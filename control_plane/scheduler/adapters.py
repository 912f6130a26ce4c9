"""Adapters of plug-ins in Python to what a cycle asks: filters and scores, node by node. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.scheduler.framework import (
    Node,
    PluginError,
    PodPlugin,
    State,
    Unresolvable,
    called,
    defines,
)
from rayplane.control_plane.scheduler.plugin_watch import PluginCalls
from rayplane.control_plane.scheduler.plugins import IN_TREE, Plugin, PodView, Refusal, Registry, Scope
from rayplane.control_plane.scheduler.plugins.base import SCORE_MAX
from rayplane.control_plane.scheduler.snapshot import Bools, Ints, Rows

_STATE = "state of plug-ins"


def state_of(view: PodView) -> State:
    """What the plug-ins that are asked about one decision share."""
    found: State = view.memo.setdefault(_STATE, {})
    return found


class Adapter(Plugin):
    """A plug-in of the cycle that asks a PodPlugin, whose calls are its argument."""

    name: ClassVar[str] = ""
    scope: ClassVar[Scope] = Scope.CLUSTER

    def __init__(self, args: Any = None) -> None:
        super().__init__(args)
        self._calls: PluginCalls = args
        self._own: PodPlugin = self._calls.plugin

    def _ask(self, point: str, method: str, state: State, pod: Object, *args: Any) -> Any:
        return self._calls.called(point, pod, lambda: getattr(self._own, method)(state, pod, *args))

    def _told(self, point: str, method: str, state: State, pod: Object, *args: Any) -> str:
        return self._calls.told(point, pod, lambda: getattr(self._own, method)(state, pod, *args))

    def _node(self, view: PodView, row: int) -> Node:
        name = view.snapshot.info(row).name
        pods = tuple(pod.obj for pod in view.snapshot.pods_on(name).values())
        return Node(name, view.cluster.node_objects.get(name, {}), pods)

    def problem(self, view: PodView) -> str:
        """Asked once for each view: what `pre_filter` leaves in the state is there for `filter`."""
        if not defines(type(self._own), "pre_filter"):
            return ""
        known = f"pre_filter of {self.name}"
        if known not in view.memo:
            view.memo[known] = self._told("preFilter", "pre_filter", state_of(view), view.pod.obj)
        found: str = view.memo[known]
        return found

    def concerns(self, view: PodView) -> bool:
        return defines(type(self._own), "filter")

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        return super().allowed(view, rows) if self.concerns(view) else None

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        if not self.concerns(view):
            return None
        self.problem(view)
        said = self._told("filter", "filter", state_of(view), view.pod.obj, self._node(view, row))
        return Refusal(self.name, (str(said),), not isinstance(said, Unresolvable)) if said else None

    def score(self, view: PodView, rows: Rows, among: Bools | None) -> Ints | None:
        state, pod = state_of(view), view.pod.obj
        numbers = view.snapshot.numbers(rows).tolist()
        asked = [row for row in numbers if view.snapshot.valid[row] and (among is None or among[row])]
        nodes = tuple(self._node(view, row) for row in asked)
        if not nodes:  # of no node is a plug-in asked
            return np.zeros(len(numbers), dtype=np.int64)
        if defines(type(self._own), "pre_score"):
            self._ask("preScore", "pre_score", state, pod, nodes)
        given = {node.name: self._ask("score", "score", state, pod, node) for node in nodes}
        found = self._calls.called("score", pod, lambda: dict(self._own.normalize(state, pod, given)))
        points = {row: self._checked(found.get(node.name, 0)) for row, node in zip(asked, nodes, strict=True)}
        return np.array([points.get(row, 0) for row in numbers], dtype=np.int64)

    def _checked(self, score: Any) -> int:
        if type(score) is not int or not 0 <= score <= SCORE_MAX:
            shown = called(self.name, "score", repr, score)
            text = f"returns an invalid score {shown}, it should be in the range of [0, {SCORE_MAX}] after normalizing"
            raise PluginError(f'plugin "{self.name}" returns an invalid score {shown}, {text}')
        return score


def registry(names: Iterable[str]) -> Registry:
    """The table of plug-ins with adapters for these beside Kubernetes' own."""
    made: Mapping[str, type[Plugin]] = {name: type("Adapter", (Adapter,), {"name": name}) for name in names}
    return {**IN_TREE, **made}
