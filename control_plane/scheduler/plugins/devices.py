"""DynamicResources: devices that the claims of a pod ask for.

Source: Kubernetes concepts "Dynamic Resource Allocation".
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar

import numpy as np
import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.node_affinity import node_terms
from rayplane.control_plane.scheduler.allocation import ClaimWishes, allocate, missing_class, wishes_of
from rayplane.control_plane.scheduler.device_expressions import DeviceExpressionError
from rayplane.control_plane.scheduler.devices import RESERVED_MAX, DeviceIndex
from rayplane.control_plane.scheduler.plugins.base import Cluster, Plugin, PodView, Refusal, Scope
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.rows import rows_of_terms
from rayplane.control_plane.scheduler.snapshot import Bools, Rows, Snapshot

ELSEWHERE = "resourceclaim not available on the node"
NOT_ENOUGH = "cannot allocate all claims"
_KNOWN_MAX = 256


class _Known:
    """The nodes that have devices for one set of claims, kept current with what is taken and given back."""

    __slots__ = ("_at", "_version", "allowed")

    def __init__(self) -> None:
        self._at = (-1, -1)
        self._version = -1
        self.allowed: Bools = np.zeros(0, dtype=np.bool_)

    def refresh(self, wishes: list[ClaimWishes], devices: DeviceIndex, snapshot: Snapshot) -> Bools:
        changed: set[int] | None = None
        if len(self.allowed) == snapshot.rows and self._version == devices.version:
            nodes, names = snapshot.node_changes.since(self._at[0]), devices.node_changes.since(self._at[1])
            if nodes is not None and names is not None:
                changed = {*nodes, *(row for name in names if (row := snapshot.index.get(name)) is not None)}
        if changed is None:
            self.allowed = np.zeros(snapshot.rows, dtype=np.bool_)
            changed = set(snapshot.index.values())
        for row in changed:
            self.allowed[row] = snapshot.valid[row] and _fits(wishes, devices, snapshot, row) == ""
        self._at = snapshot.node_changes.count, devices.node_changes.count
        self._version = devices.version
        return self.allowed


def _fits(wishes: list[ClaimWishes], devices: DeviceIndex, snapshot: Snapshot, row: int) -> str:
    """Why a node has no devices for the claims; empty when it has."""
    try:
        return "" if allocate(devices, snapshot.info(row), wishes) is not None else NOT_ENOUGH
    except DeviceExpressionError as error:
        return str(error)


class DynamicResources(Plugin):
    """DynamicResources: a node must reach the devices of allocated claims, and have those that others ask for."""

    name: ClassVar[str] = "DynamicResources"
    scope: ClassVar[Scope] = Scope.CLUSTER

    def __init__(self, args: Any = None) -> None:
        super().__init__(args)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    def concerns(self, view: PodView) -> bool:
        return bool(view.pod.device_claims)

    def problem(self, view: PodView) -> str:
        devices, pod = view.cluster.devices, view.pod
        for name, key in pod.device_claims:
            if not key:
                return f'waiting for the resourceclaim of "{name}" to be created'
            claim, own = devices.claims.get(key), key.partition("/")[2]
            if claim is None:
                return f'resourceclaim "{own}" not found'
            if meta.is_deleting(claim):
                return f'resourceclaim "{own}" is being deleted'
            users = [user.get("uid") for user in meta.status(claim).get("reservedFor") or ()]
            if pod.uid not in users and len(users) >= RESERVED_MAX:
                return "resourceclaim in use"
            if devices.allocation(key) is None and (text := missing_class(claim, devices.classes)):
                return text
        return ""

    def _wishes(self, view: PodView) -> list[ClaimWishes]:
        """Wishes of the claims that have no devices yet."""
        found: list[ClaimWishes] | None = view.memo.get(self.name)
        if found is None:
            devices = view.cluster.devices
            claims = [devices.claims[key] for _, key in view.pod.device_claims if devices.allocation(key) is None]
            found = view.memo[self.name] = [wishes_of(claim, devices.classes) for claim in claims]
        return found

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        if not view.pod.device_claims:
            return None
        devices, snapshot = view.cluster.devices, view.snapshot
        found = snapshot.valid.copy()
        for _, key in view.pod.device_claims:
            terms = node_terms((devices.allocation(key) or {}).get("nodeSelector"))
            if terms is not None:
                found &= rows_of_terms(snapshot, terms)
        wishes = self._wishes(view)
        if wishes:
            specs = [meta.spec(devices.claims[one.key]).get("devices") for one in wishes]
            found &= self._kept(orjson.dumps(specs)).refresh(wishes, devices, snapshot)
        return found[rows]

    def _kept(self, key: bytes) -> _Known:
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known()
            if len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return known

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        if not view.pod.device_claims:
            return None
        devices, node = view.cluster.devices, view.snapshot.info(row)
        for _, key in view.pod.device_claims:
            terms = node_terms((devices.allocation(key) or {}).get("nodeSelector"))
            if terms is not None and not any(term.matches(node.labels, node.name) for term in terms):
                return Refusal(self.name, (ELSEWHERE,), False)
        wishes = self._wishes(view)
        text = _fits(wishes, devices, view.snapshot, row) if wishes else ""
        return Refusal(self.name, (text,), False) if text else None

    def reserve(self, view: PodView, row: int) -> None:
        wishes = self._wishes(view)
        if wishes:
            devices = view.cluster.devices
            for key, allocation in (allocate(devices, view.snapshot.info(row), wishes) or {}).items():
                devices.promise(key, allocation)

    def forget(self, cluster: Cluster, pod: PodInfo) -> None:
        cluster.devices.forget(key for _, key in pod.device_claims)
