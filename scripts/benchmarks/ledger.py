"""What became of the pods of a workload, by all that a watch has shown of them: what must never happen, counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.quantity import milli
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.resources import pod_requests
from rayplane.control_plane.api.pods.state import pod_is_terminated

Amounts = dict[str, int]
"""Thousandths, by resource."""


class Ledger:
    """An account of pods. `saw` is told every change; `figures` says in the end what went wrong."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._seen: dict[str, None] = {}
        self._places: dict[str, str] = {}
        self._moved: dict[str, None] = {}
        self._alive: dict[str, None] = {}
        self._most = 0
        self._held: dict[str, tuple[str, Amounts]] = {}
        self._used: defaultdict[str, Amounts] = defaultdict(dict)
        self._peaks: defaultdict[str, Amounts] = defaultdict(dict)

    def saw(self, kind: str, old: Object | None, pod: Object) -> None:
        """A change as informers tell it."""
        if old is not None and meta.uid(old) != meta.uid(pod):
            # A namesake took its place between two looks.
            self._take("DELETED", old)
        self._take(kind, pod)

    def _take(self, kind: str, pod: Object) -> None:
        uid, node = meta.uid(pod), meta.node_name(pod)
        self._seen[uid] = None
        gone = kind == "DELETED"
        if node and self._places.setdefault(uid, node) != node:
            self._moved[uid] = None
        if gone or meta.is_deleting(pod):
            self._alive.pop(uid, None)
        else:
            self._alive[uid] = None
            self._most = max(self._most, len(self._alive))
        self._give_back(uid)
        if node and not gone and not pod_is_terminated(pod):
            self._hold(uid, node, {"pods": 1000, **{name: milli(q) for name, q in pod_requests(pod).items()}})

    def _hold(self, uid: str, node: str, amounts: Amounts) -> None:
        self._held[uid] = node, amounts
        used, peak = self._used[node], self._peaks[node]
        for name, amount in amounts.items():
            used[name] = used.get(name, 0) + amount
            peak[name] = max(peak.get(name, 0), used[name])

    def _give_back(self, uid: str) -> None:
        node, amounts = self._held.pop(uid, ("", {}))
        for name, amount in amounts.items():
            self._used[node][name] -= amount

    def figures(self, left: Iterable[Object], nodes: Iterable[Object]) -> Mapping[str, int]:
        """How many of each; `left`: the pods that are there in the end, by the API itself."""
        there = {meta.uid(pod) for pod in left}
        room = {meta.name(node): meta.status(node).get("allocatable") or {} for node in nodes}
        over = [
            node
            for node, peak in self._peaks.items()
            if any(amount > milli(room.get(node, {}).get(name) or 0) for name, amount in peak.items())
        ]
        return {
            "lost": max(sum(uid not in there for uid in self._seen), self._wanted - len(there)),
            "doubled": max(0, max(self._most, len(there)) - self._wanted),
            "bound_twice": len(self._moved),
            "overcommitted": len(over),
        }
