"""The clients of a trial: one that reads and writes without pause, and one that uses the workload."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, NotFound
from rayplane.control_plane.api.machinery.selectors import LabelSelector, from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.cluster.trial.front import MERGE, Front
from rayplane.control_plane.cluster.trial.verdict import Struck, Track
from rayplane.control_plane.faults.steps import WORKLOADS
from rayplane.control_plane.invariants import DONE, UNKNOWN, Answer, History, Judge
from rayplane.control_plane.invariants.pods import NODES, PODS

EVERY_S = 0.1
CONFIG_MAPS, NAMESPACE, LABEL = "configmaps", "default", "rayplane.io/trial"
PATH = f"/api/v1/namespaces/{NAMESPACE}/{CONFIG_MAPS}"

Now = Callable[[], float]


class ApiUser:
    """A client of the REST face with an object of its own, which writes and reads it through the load balancer.

    Its answers are judged, and what it had to wait is kept.
    """

    def __init__(self, front: Front, judge: Judge, now: Now, name: str, every_s: float) -> None:
        self.writes, self.reads = Track("writes"), Track("reads")
        self._front = front
        self._judge = judge
        self._now = now
        self._name = name
        self._every_s = every_s
        self._number = 0
        self._made = False

    def strike(self, fault: Struck) -> None:
        """A fault begins."""
        for track in (self.writes, self.reads):
            track.strike(fault)

    async def write_for_ever(self) -> None:
        """Until cancelled."""
        self.writes.begin(self._now())
        while True:
            called_s = self._now()
            try:
                found = await self._write()
            except ApiError:
                self.writes.refused()
                self._told("update", called_s, None, 0)
            else:
                self.writes.answered(called_s, self._now())
                self._told("update", called_s, found, int(meta.resource_version(found)))
            await asyncio.sleep(self._every_s)

    async def _write(self) -> Object:
        self._number += 1
        data = {"value": str(self._number)}
        if not self._made:
            body = {"metadata": {"name": self._name, "labels": {LABEL: self._name}}, "data": data}
            with contextlib.suppress(AlreadyExists):
                found = await self._front.ask("POST", PATH, body)
                self._made = True
                return found
        found = await self._front.ask("PATCH", f"{PATH}/{self._name}", {"data": data}, MERGE)
        self._made = True
        return found

    async def read_for_ever(self) -> None:
        """Until cancelled."""
        self.reads.begin(self._now())
        while True:
            called_s = self._now()
            try:
                found = await self._front.ask("GET", f"{PATH}?labelSelector={LABEL}%3D{self._name}")
            except ApiError:
                self.reads.refused()
            else:
                self.reads.answered(called_s, self._now())
                self._told("list", called_s, None, int(meta.resource_version(found)))
                for obj in found["items"]:
                    self._told("get", called_s, obj, int(meta.resource_version(obj)))
            await asyncio.sleep(self._every_s)

    def _told(self, verb: str, called_s: float, obj: Object | None, revision: int) -> None:
        self._judge.answered(
            Answer(
                client=self._name,
                verb=verb,
                resource=CONFIG_MAPS,
                key=meta.key(obj) if obj is not None else "",
                uid=meta.uid(obj) if obj is not None else "",
                revision=revision,
                called_s=called_s,
                returned_s=self._now(),
                outcome=DONE if revision else UNKNOWN,
            )
        )

    async def clean_up(self) -> None:
        """Delete the object, and give the connections back. Raises ApiError."""
        try:
            with contextlib.suppress(NotFound):
                await self._front.ask("DELETE", f"{PATH}/{self._name}")
        finally:
            await self._front.close()


class AppUser:
    """A user of the workload: it is there while each of its parts has a ready pod on a node that is Ready."""

    def __init__(self, history: History, workload: Sequence[tuple[str, Object]], now: Now) -> None:
        """`workload`: resource and manifest of what was applied."""
        self.track = Track("app")
        self._history = history
        self._now = now
        self._lost: _Lost | None = None
        self.parts = [
            (meta.namespace(o), from_label_selector(meta.spec(o).get("selector")))
            for resource, o in workload
            if resource in WORKLOADS.values()
        ]

    def strike(self, fault: Struck, nodes: Collection[str]) -> None:
        """A fault begins, which hits these nodes."""
        self.track.strike(fault)
        serving = self._serving()
        away = {meta.uid(pod) for pod in serving if meta.node_name(pod) in nodes}
        self._lost = _Lost(fault, away, len(serving)) if away else None

    async def run(self) -> None:
        """Until cancelled; from when it was there first."""
        if not self.parts:
            return
        while not self._is_there():
            await asyncio.sleep(EVERY_S)
        self.track.begin(self._now())
        while True:
            if self._is_there():
                self.track.answered(self._now(), self._now())
            else:
                self.track.refused()
            self._look_elsewhere()
            await asyncio.sleep(EVERY_S)

    def _look_elsewhere(self) -> None:
        lost = self._lost
        if lost is None:
            return
        if sum(meta.uid(pod) not in lost.away for pod in self._serving()) >= lost.wanted:
            lost.fault.elsewhere_s = self._now() - lost.fault.began_s
            self._lost = None

    def _is_there(self) -> bool:
        return all(any(self._pods_of(*part)) for part in self.parts)

    def _serving(self) -> list[Object]:
        return [pod for part in self.parts for pod in self._pods_of(*part)]

    def _pods_of(self, namespace: str, selector: LabelSelector) -> Iterator[Object]:
        """Those that serve."""
        for pod in self._history.list(PODS, namespace):
            if (
                selector.matches(meta.labels(pod))
                and pod_is_ready(pod)
                and not meta.is_deleting(pod)
                and self._is_up(meta.node_name(pod))
            ):
                yield pod

    def _is_up(self, name: str) -> bool:
        node = self._history.get(NODES, name)
        return node is not None and meta.condition_is(node, "Ready")


@dataclass(frozen=True, slots=True)
class _Lost:
    """Pods (uids) of nodes that a fault has hit, and how many served before it."""

    fault: Struck
    away: Collection[str]
    wanted: int
