"""Nominations: pods for which room is being made on a node, and what others must leave free for them there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.snapshot import Snapshot


class Nominations:
    """Nominated pods by key and by node. A change counts as one of the node's use."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._nodes: dict[str, str] = {}  # pod: node
        self._by_node: dict[str, dict[str, PodInfo]] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, pod: PodInfo, node: str) -> None:
        self.remove(pod.key)
        self._nodes[pod.key] = node
        self._by_node.setdefault(node, {})[pod.key] = pod
        self._touch(node)

    def remove(self, key: str) -> None:
        node = self._nodes.pop(key, None)
        if node is None:
            return
        there = self._by_node[node]
        del there[key]
        if not there:
            del self._by_node[node]
        self._touch(node)

    def _touch(self, node: str) -> None:
        row = self._snapshot.index.get(node)
        if row is not None:
            self._snapshot.use_changes.add(row)

    def node_of(self, key: str) -> str:
        """Where a pod is nominated to; empty for nowhere."""
        return self._nodes.get(key, "")

    def before(self, pod: PodInfo, node: str) -> list[PodInfo]:
        """Pods nominated to a node that this one must leave room for."""
        there: Iterable[PodInfo] = self._by_node.get(node, {}).values()
        return [other for other in there if other.priority >= pod.priority and other.key != pod.key]

    def rows_before(self, pod: PodInfo) -> Iterator[tuple[int, list[PodInfo]]]:
        """(row, pods that this one must leave room for) of every node with any."""
        for node in self._by_node:
            row = self._snapshot.index.get(node)
            others = self.before(pod, node)
            if row is not None and others:
                yield row, others
