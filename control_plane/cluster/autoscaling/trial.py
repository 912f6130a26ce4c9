"""Trials on what the scheduler's core sees: nodes come and go, pods are placed, and all of it is taken back.

Pure. Nothing else may change the snapshot meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.scheduler.cycle import Cycle, Placement
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.plugins import Refusal
from rayplane.control_plane.scheduler.pods import PodInfo


class Trial:
    """The changes of one trial, the last of which are taken back first."""

    def __init__(self, cycle: Cycle) -> None:
        self.cycle = cycle
        self._cluster = cycle.cluster
        self._undo: list[Callable[[], object]] = []
        pods = self._cluster.snapshot.pods.values()
        self._daemons = [
            *{(p.namespace, p.owner): p for p in pods if p.owner is not None and p.owner[0] == "DaemonSet"}.values()
        ]
        """A pod of each DaemonSet that has any."""

    @property
    def mark(self) -> int:
        """As far as it is now."""
        return len(self._undo)

    def back_to(self, mark: int) -> None:
        while len(self._undo) > mark:
            self._undo.pop()()

    def add_node(self, node: Object) -> None:
        """A node that is not there, with a pod of each DaemonSet that has any."""
        name, snapshot, objects = meta.name(node), self._cluster.snapshot, self._cluster.node_objects
        snapshot.set_node(NodeInfo.of(node))
        objects[name] = node
        self._undo += [partial(objects.pop, name), partial(snapshot.remove_node, name)]
        for pod in self._daemons:
            placed = replace(pod, key=f"{name}/{pod.key}", node=name)
            snapshot.set_pod(placed)
            self._undo.append(partial(snapshot.remove_pod, placed.key))

    def remove_node(self, name: str) -> None:
        snapshot = self._cluster.snapshot
        info = snapshot.info(snapshot.index[name])
        snapshot.remove_node(name)
        self._undo.append(lambda: snapshot.set_node(info))

    def place(self, pod: PodInfo) -> Placement | None:
        """The pod goes to the best node that will do, if there is one."""
        placed = self.cycle.find(pod)
        if placed is not None:
            self._undo.append(lambda: self.cycle.forget(pod))
        return placed

    def take(self, pod: PodInfo) -> None:
        """The pod leaves its node."""
        snapshot = self._cluster.snapshot
        snapshot.remove_pod(pod.key)
        self._undo.append(lambda: snapshot.set_pod(pod))

    def refusal(self, pod: PodInfo, node: str) -> Refusal | None:
        return self.cycle.refusal(pod, node)


@contextmanager
def trial(cycle: Cycle) -> Iterator[Trial]:
    """Whatever is done in it has not been when it ends."""
    made = Trial(cycle)
    try:
        yield made
    finally:
        made.back_to(0)
