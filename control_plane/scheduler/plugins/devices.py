"""DynamicResources: devices that the claims of a pod ask for.

Source: Kubernetes concepts "Dynamic Resource Allocation"; KEP-5004 (extended resources).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import RESERVED_MAX, consumers
from rayplane.control_plane.api.node_affinity import node_terms
from rayplane.control_plane.scheduler.allocation import allocate, worth
from rayplane.control_plane.scheduler.device_capacity import AllocationError
from rayplane.control_plane.scheduler.device_requests import ClaimWishes, problem_of, wishes_of
from rayplane.control_plane.scheduler.device_resources import ResourceClaimed, claimed
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
LEFT_OVER = "cannot schedule extended resource claim"
_KNOWN_MAX = 256
#: Characters of an error that are told: an expression may be long.
_REASON_MAX = 512
_Wishes = Sequence[ClaimWishes]


class _Known:
    """The nodes that have devices for one set of claims, kept current with what is taken and given back."""

    __slots__ = ("_at", "_next", "_pending", "_reasons", "_version", "allowed", "worth")

    def __init__(self) -> None:
        self._at = (-1, -1)
        self._version = -1
        self._next = 0
        self._reasons: dict[int, str] = {}
        #: Rows that are to be looked at: there was no time yet, or nobody has asked.
        self._pending: Bools = np.zeros(0, dtype=np.bool_)
        self.allowed: Bools = self._pending
        self.worth: Ints = np.zeros(0, dtype=np.int64)

    def refresh(
        self,
        wishes: _Wishes,
        devices: DeviceIndex,
        snapshot: Snapshot,
        mask: Bools | None,
        allowance: Allowance,
    ) -> None:
        """Look at the rows of `mask` that have changed, from where the last look ended, as the allowance lasts."""
        changed: set[int] | None = None
        if len(self.allowed) == snapshot.rows and self._version == devices.version:
            nodes, names = snapshot.node_changes.since(self._at[0]), devices.node_changes.since(self._at[1])
            if nodes is not None and names is not None:
                changed = {*nodes, *(row for name in names if (row := snapshot.index.get(name)) is not None)}
        if changed is None:
            self.allowed, self._pending = np.zeros(snapshot.rows, dtype=np.bool_), snapshot.valid.copy()
            self.worth = np.zeros(snapshot.rows, dtype=np.int64)
            self._reasons.clear()
        elif changed:
            rows = [*changed]
            self._pending[rows], self.allowed[rows] = True, False
        self._at = snapshot.node_changes.count, devices.node_changes.count
        self._version = devices.version
        wanted: list[int] = np.flatnonzero(self._pending if mask is None else self._pending & mask).tolist()
        if len(wanted) > 1:
            wanted.sort(key=lambda row: (row < self._next, row))
        for row in wanted:
            self._next = row
            try:
                allowance.need()
                found = _tried(wishes, devices, snapshot, row, allowance) if snapshot.valid[row] else NOT_ENOUGH
            except Unfinished:
                return
            self._pending[row] = False
            self._set(row, found, wishes)

    def _set(self, row: int, found: dict[str, dict[str, Any]] | str, wishes: _Wishes) -> None:
        if isinstance(found, str):
            self._reasons[row], self.worth[row] = found, 0
        else:
            self._reasons.pop(row, None)
            self.allowed[row], self.worth[row] = True, worth(wishes, found)

    def reason(self, row: int) -> str:
        """Why a row is not allowed; empty when it is."""
        if not self._pending[row]:
            return self._reasons.get(row, "")
        left = int(self._pending.sum())
        text = f"{TIMED_OUT}: {left} nodes are to be looked at still, with which the next try goes on"
        raise PluginError(f'running Filter plugin "DynamicResources": {text}')


def _tried(
    wishes: _Wishes, devices: DeviceIndex, snapshot: Snapshot, row: int, allowance: Allowance
) -> dict[str, dict[str, Any]] | str:
    """What the claims would get on a node, or why they would not. Raises Unfinished."""
    try:
        found = allocate(devices, snapshot.info(row), wishes, allowance)
    except AllocationError as error:
        return str(error)[:_REASON_MAX]
    except SearchTooLong:
        return TIMED_OUT
    return NOT_ENOUGH if found is None else found


@dataclass(slots=True)
class _Variant:
    """The wishes that a pod has of the nodes of some rows; None for all nodes."""

    mask: Bools | None
    wishes: tuple[ClaimWishes, ...]
    problem: str = ""
    made: ResourceClaimed | None = None
    """The claim that is made for resources which these nodes do not report."""
    known: _Known | None = None


class DynamicResources(Plugin):
    """DynamicResources: a node must reach the devices of allocated claims, and have those that others ask for.

    So it must for extended resources that it does not report itself, where a class of devices stands behind them.
    """

    name: ClassVar[str] = "DynamicResources"
    scope: ClassVar[Scope] = Scope.CLUSTER

    def __init__(self, args: Any = None) -> None:
        super().__init__(args)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._allowance = Allowance()

    def concerns(self, view: PodView) -> bool:
        if view.pod.device_claims:
            return True
        delegated = view.cluster.snapshot.delegated
        return bool(delegated) and not delegated.isdisjoint(view.pod.shape.requests)

    @staticmethod
    def _backed(view: PodView) -> Mapping[str, str]:
        """The resources of the pod that devices may stand behind, each with its class."""
        delegated, requests = view.snapshot.delegated, view.pod.shape.requests
        if not delegated or delegated.isdisjoint(requests):
            return {}
        resources = view.cluster.devices.resources
        return {name: resources[name] for name in requests if name in delegated}

    def problem(self, view: PodView) -> str:
        devices, pod = view.cluster.devices, view.pod
        if not self.concerns(view):
            return ""
        self._allowance.left = DECISION_MAX  # a decision begins
        if text := devices.missing(pod):
            return text
        for _, key in pod.device_claims:
            users = [user.get("uid") for user in consumers(devices.claims[key])]
            if pod.uid not in users and len(users) >= RESERVED_MAX:
                return "resourceclaim in use"
            if devices.allocation(key) is None and isinstance(found := devices.wishes(key), str):
                return found
        if not self._backed(view):
            return ""
        # A claim of an attempt that came to nothing has to go first: its devices may be none that are good now.
        old = devices.claims.get(devices.key_of_resources(pod))
        return LEFT_OVER if old is not None and pod.key not in view.snapshot.pods else ""

    def _wishes(self, view: PodView) -> list[ClaimWishes]:
        """Wishes of the claims that have no devices yet."""
        devices = view.cluster.devices
        keys = dict.fromkeys(key for _, key in view.pod.device_claims if devices.allocation(key) is None)
        wishes = [devices.wishes(key) for key in keys]
        return [one for one in wishes if isinstance(one, ClaimWishes)]

    def _variants(self, view: PodView) -> list[_Variant]:
        """What the pod wants of devices; nodes that report resources themselves are asked for less."""
        found: list[_Variant] | None = view.memo.get(self.name)
        if found is None:
            found = view.memo[self.name] = [*self._made(view)]
        return found

    def _made(self, view: PodView) -> Iterator[_Variant]:
        wishes, backed, snapshot = self._wishes(view), self._backed(view), view.snapshot
        if not backed:
            yield _Variant(None, tuple(wishes))
            return
        names = [*backed]
        reported = snapshot.allocatable[:, [snapshot.column(name) for name in names]] > 0
        kinds, numbers = np.unique(reported, axis=0, return_inverse=True)
        for number, kind in enumerate(kinds.tolist()):
            lacking = {name: backed[name] for name, has in zip(names, kind, strict=True) if not has}
            mask = numbers.reshape(-1) == number
            if not lacking:
                yield _Variant(mask, tuple(wishes))
                continue
            made = claimed(view.pod.obj, lacking)
            # Shares of devices are told apart by the claim's uid, which it has not yet.
            claim = {**made.claim, "metadata": {**made.claim["metadata"], "uid": view.pod.uid}}
            classes = view.cluster.devices.classes
            problem = problem_of(claim, classes)
            own = () if problem else (wishes_of(claim, classes),)
            yield _Variant(mask, (*wishes, *own), problem, made)

    def _known_of(self, view: PodView, variant: _Variant) -> _Known | None:
        """What is known of the nodes' devices for these claims; None where all have theirs."""
        if not variant.wishes or variant.problem:
            return None
        if variant.known is None:  # for this decision
            variant.known = known = self._kept(b"".join(one.digest for one in variant.wishes))
            known.refresh(variant.wishes, view.cluster.devices, view.snapshot, variant.mask, self._allowance)
        return variant.known

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        if not self.concerns(view):
            return None
        devices, snapshot = view.cluster.devices, view.snapshot
        found = snapshot.valid.copy()
        for _, key in view.pod.device_claims:
            terms = node_terms((devices.allocation(key) or {}).get("nodeSelector"))
            if terms is not None:
                found &= rows_of_terms(snapshot, terms)
        for variant in self._variants(view):
            known = self._known_of(view, variant)
            if variant.mask is None:
                found = found if known is None else found & known.allowed
            elif variant.problem:
                found &= ~variant.mask
            elif known is not None:
                found &= ~variant.mask | known.allowed
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

    def _at(self, view: PodView, row: int) -> _Variant:
        """What the pod wants of the devices of one node."""
        return next(one for one in self._variants(view) if one.mask is None or one.mask[row])

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        if not self.concerns(view):
            return None
        devices, node = view.cluster.devices, view.snapshot.info(row)
        for _, key in view.pod.device_claims:
            terms = node_terms((devices.allocation(key) or {}).get("nodeSelector"))
            if terms is not None and not any(term.matches(node.labels, node.name) for term in terms):
                return Refusal(self.name, (ELSEWHERE,), False)
        variant = self._at(view, row)
        known = self._known_of(view, variant)
        text = variant.problem or (known.reason(row) if known is not None else "")
        return Refusal(self.name, (text,), False) if text else None

    def score(self, view: PodView, rows: Rows, among: Bools | None) -> Ints | None:
        """The earlier the alternative that each request gets, the better."""
        variants: list[_Variant] | None = view.memo.get(self.name)
        if not variants or not any(
            len(wish) > 1 for one in variants for claim in one.wishes for wish in claim.requests
        ):
            return None
        found = np.zeros(view.snapshot.rows, dtype=np.int64)
        for one in variants:
            if one.known is not None:
                found = np.where(one.mask, one.known.worth, found) if one.mask is not None else one.known.worth
        return found[rows]

    def normalized(self, view: PodView, raw: Ints, among: Bools) -> Ints:
        return scaled(raw, among)

    def promised(self, view: PodView, row: int) -> tuple[str, ...]:
        if self.name not in view.memo:  # it was not asked for any device
            return ()
        made = self._at(view, row).made
        own = () if made is None else (meta.key(made.claim),)
        return (*(key for _, key in view.pod.device_claims), *own)

    def reserve(self, view: PodView, row: int) -> None:
        if self.name not in view.memo:
            return
        variant, devices = self._at(view, row), view.cluster.devices
        if variant.wishes:
            # It was found just now: what is to be known of its devices is remembered.
            found = allocate(devices, view.snapshot.info(row), variant.wishes, Allowance())
            for key, allocation in (found or {}).items():
                devices.promise(key, allocation)
        if variant.made is not None:
            devices.to_make[meta.key(variant.made.claim)] = variant.made
        devices.hold(self.promised(view, row), view.pod.uid)

    def forget(self, cluster: Cluster, pod: PodInfo) -> None:
        keys = [key for _, key in pod.device_claims]
        if cluster.devices.to_make:
            keys.append(cluster.devices.key_of_resources(pod))
        cluster.devices.forget(keys, pod.uid)
