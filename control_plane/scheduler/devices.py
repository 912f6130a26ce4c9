"""Devices that nodes offer, and the claims of pods to them: what there is, and what is taken.

Source: Kubernetes concepts "Dynamic Resource Allocation"; API reference resource/v1 ResourceSlice, ResourceClaim,
DeviceTaintRule.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import consumers
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.taints import Taint
from rayplane.control_plane.scheduler.changes import ChangeLog
from rayplane.control_plane.scheduler.device_capacity import AllocationError
from rayplane.control_plane.scheduler.device_expressions import DeviceExpressions
from rayplane.control_plane.scheduler.device_requests import ClaimWishes, problem_of, wishes_of
from rayplane.control_plane.scheduler.device_resources import ResourceClaimed, claim_name, is_made_for, resources_of
from rayplane.control_plane.scheduler.device_slices import Device, DeviceId, Pool, PoolId, Slice, hard_taints, parsed
from rayplane.control_plane.scheduler.device_use import DeviceUse, uses_of
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.work import Allowance

#: Twice as many answers of expressions are remembered; no decision asks for as many.
MATCHED_MAX = 1 << 16
WISHES_MAX = 4096
_EVALUATION, _COST_SHARE = 20, 4
_Answers = dict[tuple[str, Device], bool | str]
"""Whether an expression selects a device, or why that cannot be said."""


class DeviceIndex:
    """Classes, slices, rules of taints and claims as last seen, and what was allocated to pods placed since."""

    def __init__(self) -> None:
        self.classes: dict[str, Object] = {}
        self.claims: dict[str, Object] = {}
        self.expressions = DeviceExpressions()
        self.use = DeviceUse()
        self._slices: dict[str, Slice] = {}
        self._names: dict[PoolId, set[str]] = {}  # of the slices of each pool
        self._pools: dict[PoolId, Pool] = {}
        self._changed: set[PoolId] = set()  # pools that are not what `_pools` says
        self._by_node: dict[str, set[PoolId]] = {}  # pools of one node; "" has those that several reach
        self._rules: dict[tuple[str, str, str], dict[str, tuple[Taint, ...]]] = {}  # by what they select, and name
        self._selected: dict[str, tuple[str, str, str]] = {}  # by rule
        self._promised: dict[str, dict[str, Any]] = {}  # by claim
        self._holders: dict[str, set[str]] = {}  # uids of the pods that a claim is promised to
        self._wishes: OrderedDict[str, tuple[Object, int, str | ClaimWishes]] = OrderedDict()
        self._classes_seen = 0
        #: The classes behind extended resources.
        self.resources: Mapping[str, str] = {}
        self.tell_resources: Callable[[Collection[str]], None] = lambda _: None
        #: Claims for such resources of pods placed since, which the API has not yet; by key.
        self.to_make: dict[str, ResourceClaimed] = {}
        self._matched: _Answers = {}
        self._matched_before: _Answers = {}
        #: Nodes whose own devices were taken or given back.
        self.node_changes = ChangeLog[str]()
        #: Grows with every change that any node may feel.
        self.version = 0

    # -- objects -------------------------------------------------------------------------------------------

    def set_slice(self, obj: Object) -> None:
        name = meta.name(obj)
        self.remove_slice(name)
        self.version += 1
        found = self._slices[name] = parsed(obj)
        self._names.setdefault(found.pool, set()).add(name)
        self._changed.add(found.pool)

    def remove_slice(self, name: str) -> None:
        old = self._slices.pop(name, None)
        if old is None:
            return
        self._matched.clear()
        self._matched_before.clear()
        self.version += 1
        names = self._names[old.pool]
        names.discard(name)
        if not names:
            del self._names[old.pool]
        self._changed.add(old.pool)

    def _settle(self) -> None:
        """Bring the pools up to date with their slices."""
        for pool in self._changed:
            before = self._pools.pop(pool, None)
            for node in before.nodes if before else ():
                self._by_node[node].discard(pool)
                if not self._by_node[node]:
                    del self._by_node[node]
            names = self._names.get(pool)
            if names:
                made = self._pools[pool] = Pool.of(pool, (self._slices[name] for name in sorted(names)))
                for node in made.nodes:
                    self._by_node.setdefault(node, set()).add(pool)
        self._changed.clear()

    def set_rule(self, rule: Object) -> None:
        """A taint that an administrator puts on all devices that the rule selects."""
        name, spec = meta.name(rule), meta.spec(rule)
        self.remove_rule(name)
        wanted = spec.get("deviceSelector") or {}
        key = (wanted.get("driver") or "", wanted.get("pool") or "", wanted.get("device") or "")
        taints = hard_taints([spec.get("taint") or {}])
        if taints:
            self._selected[name] = key
            self._rules.setdefault(key, {})[name] = taints
            self.version += 1

    def remove_rule(self, name: str) -> None:
        key = self._selected.pop(name, None)
        if key is not None:
            rules = self._rules[key]
            del rules[name]
            if not rules:
                del self._rules[key]
            self.version += 1

    def set_claim(self, claim: Object) -> None:
        key = meta.key(claim)
        self.claims[key] = claim
        self.to_make.pop(key, None)
        allocation = meta.status(claim).get("allocation")
        if allocation:
            self._drop_promise(key)
        if allocation or key not in self._promised:
            self._take(key, allocation)

    def remove_claim(self, key: str) -> None:
        self.claims.pop(key, None)
        self._drop_promise(key)
        self._take(key, None)

    def promise(self, key: str, allocation: dict[str, Any]) -> None:
        """A pod that was placed gets these devices: others may not count on them."""
        self._promised[key] = allocation
        self._take(key, allocation)

    @staticmethod
    def unnamed(pod: PodInfo) -> str:
        """The claim of a pod that is yet to be made, or the pod is to be told of; empty where it knows all by name."""
        name = next((name for name, key in pod.device_claims if not key), "")
        return f'waiting for the resourceclaim of "{name}" to be created' if name else ""

    def missing(self, pod: PodInfo) -> str:
        """The claim of a pod that is not there yet, or going; empty when all are there."""
        if text := self.unnamed(pod):
            return text
        for _, key in pod.device_claims:
            claim, own = self.claims.get(key), key.partition("/")[2]
            if claim is None:
                return f'resourceclaim "{own}" not found'
            if meta.is_deleting(claim):
                return f'resourceclaim "{own}" is being deleted'
        return ""

    def hold(self, keys: Iterable[str], uid: str) -> None:
        """A pod that was placed counts on what its claims were promised, also where another pod asked for it first."""
        for key in keys:
            if key in self._promised:
                self._holders.setdefault(key, set()).add(uid)

    def forget(self, keys: Iterable[str], uid: str) -> None:
        """A placed pod came to nothing: what it alone counted on is free again."""
        for key in keys:
            self.to_make.pop(key, None)
            holders = self._holders.get(key, set())
            holders.discard(uid)
            if not holders and self._drop_promise(key):
                self._take(key, None)

    def _drop_promise(self, key: str) -> bool:
        self._holders.pop(key, None)
        return self._promised.pop(key, None) is not None

    def _take(self, key: str, allocation: Mapping[str, Any] | None) -> None:
        changed = self.use.set(key, uses_of(allocation))
        if changed:
            self._tell({device[:2] for device in changed})

    def _tell(self, pools: Iterable[PoolId]) -> None:
        """Devices of these pools were taken or given back."""
        self._settle()
        for pool in pools:
            nodes = self._pools[pool].nodes if pool in self._pools else frozenset[str]()
            if "" in nodes:
                self.version += 1
            for node in nodes - {""}:
                self.node_changes.add(node)

    def set_class(self, obj: Object) -> None:
        self.classes[meta.name(obj)] = obj
        self._classes_changed()

    def remove_class(self, name: str) -> None:
        self.classes.pop(name, None)
        self._classes_changed()

    def _classes_changed(self) -> None:
        self.version += 1
        self._classes_seen += 1
        self.resources = resources_of(self.classes)
        self.tell_resources(self.resources)

    # -- questions -----------------------------------------------------------------------------------------

    def allocation(self, key: str) -> dict[str, Any] | None:
        """What a claim has, or was promised."""
        claim = self.claims.get(key)
        found: dict[str, Any] | None = (meta.status(claim).get("allocation") if claim else None) or None
        return found or self._promised.get(key)

    @staticmethod
    def key_of_resources(pod: PodInfo) -> str:
        """The key of the claim for a pod's extended resources, if it has one."""
        return f"{pod.namespace}/{claim_name(pod.obj)}"

    def stale(self, pod: PodInfo) -> Object | None:
        """A claim of a pod without a node whose devices nobody else uses, and it cannot where it could be."""
        left = self.claims.get(self.key_of_resources(pod))
        if left is not None and is_made_for(left, pod.obj):
            return left
        for _, key in pod.device_claims:
            claim = self.claims.get(key)
            allocation = meta.status(claim).get("allocation") if claim is not None else None
            if claim is None or not (allocation or {}).get("nodeSelector"):
                continue
            if all(user.get("uid") == pod.uid for user in consumers(claim)):
                return claim
        return None

    def wishes(self, key: str) -> ClaimWishes | str:
        """What a claim that is there asks for, or what stands against it; worked out once for each of its versions."""
        claim = self.claims[key]
        known = self._wishes.get(key)
        if known is None or known[0] is not claim or known[1] != self._classes_seen:
            found = problem_of(claim, self.classes) or wishes_of(claim, self.classes)
            known = self._wishes[key] = claim, self._classes_seen, found
        self._wishes.move_to_end(key)
        if len(self._wishes) > WISHES_MAX:
            self._wishes.popitem(last=False)
        return known[2]

    def taints_of(self, device: Device) -> Iterator[Taint]:
        """Those that drivers and administrators put on a device to keep claims off it."""
        yield from device.taints
        if self._rules:
            driver, pool, name = device.id
            for key in {(d, p, n) for d in ("", driver) for p in ("", pool) for n in ("", name)}:
                for taints in self._rules.get(key, {}).values():
                    yield from taints

    def matches(self, expression: str, device: Device, allowance: Allowance) -> bool:
        """Whether an expression selects a device; remembered until slices change, or there is much to remember.

        Raises AllocationError, and Unfinished where there is no allowance left to find out.
        """
        key = (expression, device)
        found = self._matched.get(key)
        if found is None:
            found = self._matched_before.get(key)
            if found is None:
                allowance.need()
                found, cost = self.expressions.matches(expression, device.value)
                allowance.spend(_EVALUATION + cost // _COST_SHARE)
            if len(self._matched) >= MATCHED_MAX:
                self._matched_before, self._matched = self._matched, {}
            self._matched[key] = found
        if isinstance(found, str):
            raise AllocationError(found)
        return found

    def pools_of(self, node: NodeInfo) -> list[Pool]:
        """Pools with devices that a node may reach, in the order of names; those that are ready at once come first."""
        self._settle()
        pools = self._by_node.get(node.name, set()) | self._by_node.get("", set())
        return sorted((self._pools[pool] for pool in pools), key=lambda pool: (pool.waits, pool.id))

    def counters_left(self, pool: Pool) -> dict[tuple[str, str], int]:
        """(counter set, counter): what devices in use leave of it."""
        left = dict(pool.counters)
        if left:
            for device in pool.devices:
                if device.counters and self.is_used(device.id):
                    for of_set, counter, amount in device.counters:
                        left[of_set, counter] = left.get((of_set, counter), 0) - amount
        return left

    def is_used(self, device: DeviceId) -> bool:
        return self.use.is_whole(device) or self.use.is_shared(device)
