"""The clients of a trial: one that reads and writes without pause, and one that uses the workload."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, NotFound
from rayplane.control_plane.api.machinery.selectors import LabelSelector, from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.trial.verdict import Track
from rayplane.control_plane.faults.steps import WORKLOADS
from rayplane.control_plane.invariants import DONE, UNKNOWN, Answer, History, Judge
from rayplane.control_plane.invariants.pods import NODES, PODS

EVERY_S = 0.1
CONFIG_MAPS, NAMESPACE, LABEL = "configmaps", "default", "rayplane.io/trial"

Now = Callable[[], float]


class ApiUser:
    """A client of the API with an object of its own. Its answers are judged, and what it had to wait is kept."""

    def __init__(self, api: ApiClient, judge: Judge, now: Now, name: str) -> None:
        self.writes, self.reads = Track("writes"), Track("reads")
        self._api = api
        self._judge = judge
        self._now = now
        self._name = name
        self._number = 0
        self._made = False

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
            await asyncio.sleep(EVERY_S)

    async def _write(self) -> Object:
        self._number += 1
        data = {"value": str(self._number)}
        if not self._made:
            metadata = {"name": self._name, "namespace": NAMESPACE, "labels": {LABEL: self._name}}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
            try:
                found = await self._api.create(CONFIG_MAPS, body)
            except AlreadyExists:
                found = await self._api.patch(CONFIG_MAPS, self._name, NAMESPACE, {"data": data})
            self._made = True
            return found
        return await self._api.patch(CONFIG_MAPS, self._name, NAMESPACE, {"data": data})

    async def read_for_ever(self) -> None:
        """Until cancelled."""
        self.reads.begin(self._now())
        while True:
            called_s = self._now()
            try:
                found = await self._api.list(CONFIG_MAPS, NAMESPACE, label_selector=f"{LABEL}={self._name}")
            except ApiError:
                self.reads.refused()
            else:
                self.reads.answered(called_s, self._now())
                self._told("list", called_s, None, int(found.resource_version))
                for obj in found.items:
                    self._told("get", called_s, obj, int(meta.resource_version(obj)))
            await asyncio.sleep(EVERY_S)

    def _told(self, verb: str, called_s: float, obj: Object | None, revision: int) -> None:
        self._judge.answered(
            Answer(
                client="the trial's client",
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
        """Delete the object. Raises ApiError."""
        with contextlib.suppress(NotFound):
            await self._api.delete(CONFIG_MAPS, self._name, NAMESPACE)


class AppUser:
    """A user of the workload: it is there while each of its parts has a ready pod on a node that is Ready."""

    def __init__(self, history: History, workload: Sequence[tuple[str, Object]], now: Now) -> None:
        """`workload`: resource and manifest of what was applied."""
        self.track = Track("app")
        self._history = history
        self._now = now
        self.parts = [
            (meta.namespace(o), from_label_selector(meta.spec(o).get("selector")))
            for resource, o in workload
            if resource in WORKLOADS.values()
        ]

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
            await asyncio.sleep(EVERY_S)

    def _is_there(self) -> bool:
        return all(self._served(*part) for part in self.parts)

    def _served(self, namespace: str, selector: LabelSelector) -> bool:
        return any(
            pod_is_ready(pod) and not meta.is_deleting(pod) and self._is_up(meta.node_name(pod))
            for pod in self._history.list(PODS, namespace)
            if selector.matches(meta.labels(pod))
        )

    def _is_up(self, name: str) -> bool:
        node = self._history.get(NODES, name)
        return node is not None and meta.condition_is(node, "Ready")
