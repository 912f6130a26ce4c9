"""DynamicResources: devices that the claims of a pod ask for.

Source: Kubernetes concepts "Dynamic Resource Allocation".
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar

import numpy as np

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import RESERVED_MAX, consumers
from rayplane.control_plane.api.node_affinity import node_terms
from rayplane.control_plane.scheduler.allocation import allocate, worth
from rayplane.control_plane.scheduler.device_capacity import AllocationError
from rayplane.control_plane.scheduler.device_requests import ClaimWishes
from rayplane.control_plane.scheduler.devices import DeviceIndex
from rayplane.control_plane.scheduler.framework import PluginError
from rayplane.control_plane.scheduler.plugins.base import Cluster, Plugin, PodView, Refusal, Scope, scaled
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.rows import rows_of_terms
from rayplane.control_plane.scheduler.snapshot import Bools, Ints, Rows, Snapshot
from rayplane.control_plane.scheduler.work import DECISION_MAX, Allowance, SearchTooLong, Unfinished

ELSEWHERE = "resourceclaim not available on the node"
NOT_ENOUGH = "cannot allocate all claims"
TIMED_OUT = "timed out trying to allocate devices"
_KNOWN = "DynamicResources/known"
_KNOWN_MAX = 256
#: Characters of an error that are told: an expression may be long.
_REASON_MAX = 512


class _Known:
    """The nodes that have devices for one set of claims, kept current with what is taken and given back."""

    __slots__ = ("_at", "_next", "_reasons", "_version", "allowed", "pending", "worth")

    def __init__(self) -> None:
        self._at = (-1, -1)
        self._version = -1
        self._next = 0
        self._reasons: dict[int, str] = {}
        self.allowed: Bools = np.zeros(0, dtype=np.bool_)
        self.worth: Ints = np.zeros(0, dtype=np.int64)
        self.pending: set[int] = set()
        """Rows that are to be looked at: there was no time yet."""

    def refresh(
        self, wishes: list[ClaimWishes], devices: DeviceIndex, snapshot: Snapshot, allowance: Allowance
    ) -> None:
        changed: set[int] | None = None
        if len(self.allowed) == snapshot.rows and self._version == devices.version:
            nodes, names = snapshot.node_changes.since(self._at[0]), devices.node_changes.since(self._at[1])
            if nodes is not None and names is not None:
                changed = {*nodes, *(row for name in names if (row := snapshot.index.get(name)) is not None)}
        if changed is None:
            self.allowed = np.zeros(snapshot.rows, dtype=np.bool_)
            self.worth = np.zeros(snapshot.rows, dtype=np.int64)
            self._reasons.clear()
            self.pending = set(snapshot.index.values())
        else:
            self.pending |= changed
        self._at = snapshot.node_changes.count, devices.node_changes.count
        self._version = devices.version
        self._look(wishes, devices, snapshot, allowance)

    def _look(self, wishes: list[ClaimWishes], devices: DeviceIndex, snapshot: Snapshot, allowance: Allowance) -> None:
        """Look at the rows that are pending, from where the last look ended, as long as the allowance lasts."""
        order = sorted(self.pending, key=lambda row: (row < self._next, row))
        for row in order:
            self.allowed[row] = False
        for row in order:
            self._next = row
            try:
                allowance.need()
                found = _tried(wishes, devices, snapshot, row, allowance) if snapshot.valid[row] else NOT_ENOUGH
            except Unfinished:
                return
            self.pending.discard(row)
            self._set(row, found, wishes)

    def _set(self, row: int, found: dict[str, dict[str, Any]] | str, wishes: list[ClaimWishes]) -> None:
        if isinstance(found, str):
            self._reasons[row], self.worth[row] = found, 0
        else:
            self._reasons.pop(row, None)
            self.allowed[row], self.worth[row] = True, worth(wishes, found)

    def reason(self, row: int) -> str:
        """Why a row is not allowed; empty when it is."""
        if row not in self.pending:
            return self._reasons.get(row, "")
        text = f"{TIMED_OUT}: {len(self.pending)} nodes are to be looked at still, with which the next try goes on"
        raise PluginError(f'running Filter plugin "DynamicResources": {text}')


def _tried(
    wishes: list[ClaimWishes], devices: DeviceIndex, snapshot: Snapshot, row: int, allowance: Allowance
) -> dict[str, dict[str, Any]] | str:
    """What the claims would get on a node, or why they would not. Raises Unfinished."""
    try:
        found = allocate(devices, snapshot.info(row), wishes, allowance)
    except AllocationError as error:
        return str(error)[:_REASON_MAX]
    except SearchTooLong:
        return TIMED_OUT
    return NOT_ENOUGH if found is None else found


class DynamicResources(Plugin):
    """DynamicResources: a node must reach the devices of allocated claims, and have those that others ask for."""

    name: ClassVar[str] = "DynamicResources"
    scope: ClassVar[Scope] = Scope.CLUSTER

    def __init__(self, args: Any = None) -> None:
        super().__init__(args)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._allowance = Allowance()

    def concerns(self, view: PodView) -> bool:
        return bool(view.pod.device_claims)

    def problem(self, view: PodView) -> str:
        devices, pod = view.cluster.devices, view.pod
        if not pod.device_claims:
            return ""
        self._allowance.left = DECISION_MAX  # a decision begins
        for name, key in pod.device_claims:
            if not key:
                return f'waiting for the resourceclaim of "{name}" to be created'
            claim, own = devices.claims.get(key), key.partition("/")[2]
            if claim is None:
                return f'resourceclaim "{own}" not found'
            if meta.is_deleting(claim):
                return f'resourceclaim "{own}" is being deleted'
            users = [user.get("uid") for user in consumers(claim)]
            if pod.uid not in users and len(users) >= RESERVED_MAX:
                return "resourceclaim in use"
            if devices.allocation(key) is None and isinstance(found := devices.wishes(key), str):
                return found
        return ""

    def _wishes(self, view: PodView) -> list[ClaimWishes]:
        """Wishes of the claims that have no devices yet."""
        found: list[ClaimWishes] | None = view.memo.get(self.name)
        if found is None:
            devices = view.cluster.devices
            keys = dict.fromkeys(key for _, key in view.pod.device_claims if devices.allocation(key) is None)
            wishes = [devices.wishes(key) for key in keys]
            found = view.memo[self.name] = [one for one in wishes if isinstance(one, ClaimWishes)]
        return found

    def _found(self, view: PodView) -> _Known | None:
        """What is known of the nodes' devices for these claims; None where all have theirs."""
        wishes = self._wishes(view)
        if not wishes:
            return None
        known = view.memo.get(_KNOWN)
        if known is None:
            known = view.memo[_KNOWN] = self._kept(b"".join(one.digest for one in wishes))
        found: _Known = known
        found.refresh(wishes, view.cluster.devices, view.snapshot, self._allowance)
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
        known = self._found(view)
        if known is not None:
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
        known = self._found(view)
        text = known.reason(row) if known is not None else ""
        return Refusal(self.name, (text,), False) if text else None

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
        if not view.pod.device_claims:
            return
        wishes = self._wishes(view)
        if wishes:
            devices = view.cluster.devices
            # It was found just now: what is to be known of its devices is remembered.
            found = allocate(devices, view.snapshot.info(row), wishes, Allowance())
            for key, allocation in (found or {}).items():
                devices.promise(key, allocation)
        view.cluster.devices.hold((key for _, key in view.pod.device_claims), view.pod.uid)

    def forget(self, cluster: Cluster, pod: PodInfo) -> None:
        cluster.devices.forget((key for _, key in pod.device_claims), pod.uid)
