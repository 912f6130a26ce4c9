"""What became of the pods of a workload, by all that a watch has shown of them: what must never happen, counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.invariants import Judge
from rayplane.control_plane.invariants.pods import NODES, PODS, BoundOnce, Room


class Ledger:
    """An account of pods. `saw` is told every change; `figures` says in the end what went wrong."""

    def __init__(self, wanted: int, nodes: Iterable[Object]) -> None:
        self._wanted = wanted
        self._seen: dict[str, None] = {}
        self._alive: dict[str, None] = {}
        self._most = 0
        self._judge = Judge((kind.name, kind) for kind in (BoundOnce, Room))
        self._judge.begin(0.0, 0, ((NODES, node) for node in nodes))

    def saw(self, kind: str, old: Object | None, pod: Object) -> None:
        """A change as informers tell it."""
        if old is not None and meta.uid(old) != meta.uid(pod):
            # A namesake took its place between two looks.
            self._take("DELETED", old)
        self._take(kind, pod)

    def _take(self, kind: str, pod: Object) -> None:
        uid, gone = meta.uid(pod), kind == "DELETED"
        self._seen[uid] = None
        if gone or meta.is_deleting(pod):
            self._alive.pop(uid, None)
        else:
            self._alive[uid] = None
            self._most = max(self._most, len(self._alive))
        self._judge.changed(0.0, PODS, pod, self._judge.history.revision + 1, gone=gone)

    def figures(self, left: Iterable[Object]) -> Mapping[str, int]:
        """How many of each; `left`: the pods that are there in the end, by the API itself."""
        there = {meta.uid(pod) for pod in left}
        return {
            "lost": max(sum(uid not in there for uid in self._seen), self._wanted - len(there)),
            "doubled": max(0, max(self._most, len(there)) - self._wanted),
            "bound_twice": self._judge.counts[BoundOnce.name],
            "overcommitted": self._judge.counts[Room.name],
        }
