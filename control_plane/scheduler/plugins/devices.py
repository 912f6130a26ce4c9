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
from rayplane.control_plane.scheduler.allocation import ClaimWishes, allocate, missing_class, wishes_of, worth
from rayplane.control_plane.scheduler.device_expressions import DeviceExpressionError
from rayplane.control_plane.scheduler.devices import RESERVED_MAX, DeviceIndex
from rayplane.control_plane.scheduler.plugins.base import Cluster, Plugin, PodView, Refusal, Scope, scaled
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.rows import rows_of_terms
from rayplane.control_plane.scheduler.snapshot import Bools, Ints, Rows, Snapshot

ELSEWHERE = "resourceclaim not available on the node"
NOT_ENOUGH = "cannot allocate all claims"
_KNOWN = "DynamicResources/known"
_KNOWN_MAX = 256


class _Known:
    """The nodes that have devices for one set of claims, kept current with what is taken and given back."""

    __slots__ = ("_at", "_version", "allowed", "worth")

    def __init__(self) -> None:
        self._at = (-1, -1)
        self._version = -1
        self.allowed: Bools = np.zeros(0, dtype=np.bool_)
        self.worth: Ints = np.zeros(0, dtype=np.int64)

    def refresh(self, wishes: list[ClaimWishes], devices: DeviceIndex, snapshot: Snapshot) -> None:
        changed: set[int] | None = None
        if len(self.allowed) == snapshot.rows and self._version == devices.version:
            nodes, names = snapshot.node_changes.since(self._at[0]), devices.node_changes.since(self._at[1])
            if nodes is not None and names is not None:
                changed = {*nodes, *(row for name in names if (row := snapshot.index.get(name)) is not None)}
        if changed is None:
            self.allowed = np.zeros(snapshot.rows, dtype=np.bool_)
            self.worth = np.zeros(snapshot.rows, dtype=np.int64)
            changed = set(snapshot.index.values())
        for row in changed:
            found = _tried(wishes, devices, snapshot, row) if snapshot.valid[row] else NOT_ENOUGH
            self.allowed[row] = not isinstance(found, str)
            self.worth[row] = 0 if isinstance(found, str) else worth(wishes, found)
        self._at = snapshot.node_changes.count, devices.node_changes.count
        self._version = devices.version


def _tried(
    wishes: list[ClaimWishes], devices: DeviceIndex, snapshot: Snapshot, row: int
) -> dict[str, dict[str, Any]] | str:
    """What the claims would get on a node, or why they would not."""
    try:
        found = allocate(devices, snapshot.info(row), wishes)
    except DeviceExpressionError as error:
        return str(error)
    return NOT_ENOUGH if found is None else found


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
            known = view.memo[_KNOWN] = self._kept(orjson.dumps(specs))
            known.refresh(wishes, devices, snapshot)
            found &= known.allowed
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
        found = _tried(wishes, devices, view.snapshot, row) if wishes else {}
        return Refusal(self.name, (found,), False) if isinstance(found, str) else None

    def score(self, view: PodView, rows: Rows, among: Bools | None) -> Ints | None:
        """The earlier the alternative that each request gets, the better."""
        known: _Known | None = view.memo.get(_KNOWN)
        if known is None or not any(len(wish) > 1 for claim in self._wishes(view) for wish in claim.requests):
            return None
        return known.worth[rows]

    def normalized(self, view: PodView, raw: Ints, among: Bools) -> Ints:
        return scaled(raw, among)

    def promised(self, view: PodView) -> tuple[str, ...]:
        return tuple(key for _, key in view.pod.device_claims)

    def reserve(self, view: PodView, row: int) -> None:
        wishes = self._wishes(view)
        if wishes:
            devices = view.cluster.devices
            for key, allocation in (allocate(devices, view.snapshot.info(row), wishes) or {}).items():
                devices.promise(key, allocation)
        view.cluster.devices.hold((key for _, key in view.pod.device_claims), view.pod.uid)

    def forget(self, cluster: Cluster, pod: PodInfo) -> None:
        cluster.devices.forget((key for _, key in pod.device_claims), pod.uid)
