"""The allocation of devices of one node to claims: a search for a choice that meets all requests and constraints.

Pure, and bounded: a search that takes too many steps finds nothing. Devices are tried in the order of pools and slices.

Source: Kubernetes concepts "Dynamic Resource Allocation"; KEP-4815 (partitionable devices), KEP-5075 (consumable
capacity).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rayplane.control_plane.api.taints import any_tolerates
from rayplane.control_plane.scheduler.device_capacity import AllocationError, Amounts, consumption
from rayplane.control_plane.scheduler.device_requests import (
    ALL,
    ALTERNATIVES_MAX,
    DEVICES_MAX,
    ClaimWishes,
    Constraint,
    Wish,
)
from rayplane.control_plane.scheduler.device_results import Pick, allocation_of
from rayplane.control_plane.scheduler.device_slices import Device, DeviceId, PoolId
from rayplane.control_plane.scheduler.devices import DeviceIndex
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.work import NODE_MAX, Allowance, SearchTooLong

_NOTHING: Final[Amounts] = {}
_NOBODY: Final[Mapping[tuple[DeviceId, str], int]] = {}
_Fitting = tuple[Device, Amounts]
"""A device that a request may have, and what it takes of it."""


class _State(NamedTuple):
    """The place that a search is at: a request, and of one of its alternatives how many devices are wanted still."""

    at: int
    wish: Wish | None = None
    fitting: Sequence[_Fitting] = ()
    first: int = 0
    wanted: int = 0


class _Search:
    """Depth first over claims, their requests and the devices of each request."""

    def __init__(self, index: DeviceIndex, node: NodeInfo, claims: Sequence[ClaimWishes], allowance: Allowance) -> None:
        self._index = index
        self._claims = claims
        self._allowance = allowance
        self._steps = 0
        pools = index.pools_of(node)
        self._spend(sum(len(pool.devices) for pool in pools))
        self._devices = [d for pool in pools if not pool.problem for d in pool.devices if d.is_on(node)]
        self._problem = next((f"resource pool {'/'.join(p.id)} is {p.problem}" for p in pools if p.problem), "")
        self._left: dict[PoolId, dict[tuple[str, str], int]] = {
            pool.id: index.counters_left(pool) for pool in pools if pool.counters
        }
        self._order = [(c, r) for c, claim in enumerate(claims) for r in range(len(claim.requests))]
        self._picked: list[Pick] = []
        self._of_claim = [0] * len(claims)
        self._mine: Counter[DeviceId] = Counter()
        self._by_claim: set[tuple[int, DeviceId]] = set()
        self._taken: Counter[tuple[DeviceId, str]] = Counter()
        self._values = [[Counter[tuple[str, Any]]() for _ in claim.constraints] for claim in claims]
        self._fit: dict[Wish, list[_Fitting]] = {}
        self._rules: dict[Wish, list[tuple[Constraint, Counter[tuple[str, Any]]]]] = {}

    def run(self) -> list[Pick] | None:
        """The stack is a list: a pod may ask for more devices than Python calls are deep."""
        stack = [iter((_State(0),))]
        while stack:
            state = next(stack[-1], None)
            if state is None:
                stack.pop()
            elif state.wish is None and state.at == len(self._order):
                return self._picked
            else:
                stack.append(self._further(state))
        return None

    def _spend(self, steps: int) -> None:
        self._steps += steps
        self._allowance.spend(steps)
        if self._steps > NODE_MAX:
            raise SearchTooLong

    def _further(self, state: _State) -> Iterator[_State]:
        """The states one step on, each as long as nobody asks for the next."""
        at, wish, fitting, first, wanted = state
        if wish is None:
            yield from self._alternatives(at)
            return
        if not wanted:
            yield _State(at + 1)
            return
        claim = self._order[at][0]
        for place in range(first, len(fitting) - wanted + 1):
            device, taken = fitting[place]
            self._spend(1 + len(self._concerned(claim, wish)) + len(device.counters))
            if self._may_pick(claim, wish, device, taken):
                pick = Pick(claim, wish, device, taken)
                self._pick(pick, 1)
                yield _State(at, wish, fitting, place + 1, wanted - 1)
                self._pick(pick, -1)
            if wish.count == ALL:
                return

    def _alternatives(self, at: int) -> Iterator[_State]:
        claim, number = self._order[at]
        for wish in self._claims[claim].requests[number]:
            self._spend(1)
            fitting = self._fitting(wish)
            # Every one, or nothing: there must be one at least.
            wanted = wish.count if wish.count != ALL else len(fitting)
            if wanted and self._of_claim[claim] + wanted <= DEVICES_MAX:
                yield _State(at, wish, fitting, 0, wanted)

    def _concerned(self, claim: int, wish: Wish) -> list[tuple[Constraint, Counter[tuple[str, Any]]]]:
        """The constraints on a request, each with the values of its devices that are picked."""
        found = self._rules.get(wish)
        if found is None:
            of_claim = zip(self._claims[claim].constraints, self._values[claim], strict=True)
            found = self._rules[wish] = [(rule, values) for rule, values in of_claim if rule.concerns(wish.request)]
        return found

    # -- what a device is fit for ----------------------------------------------------------------------------

    def _fitting(self, wish: Wish) -> list[_Fitting]:
        """Devices that the selectors of request and class want, and that are large enough.

        Of a request for all those that are tainted count too: it does not get them, and so nothing.
        """
        found = self._fit.get(wish)
        if found is None:
            if wish.count == ALL and self._problem:
                raise AllocationError(f"request {wish.request}: asks for all devices, but {self._problem}")
            self._spend(len(self._devices))
            found = self._fit[wish] = []
            for device in self._devices:
                if (wish.count == ALL or self._tolerates(wish, device)) and all(
                    self._index.matches(expression, device, self._allowance) for expression in wish.expressions
                ):
                    taken = self._consumed(wish, device)
                    if taken is not None and (wish.count != ALL or self._has_room(device, taken, _NOBODY)):
                        found.append((device, taken))
        return found

    def _tolerates(self, wish: Wish, device: Device) -> bool:
        return all(any_tolerates(wish.tolerations, taint) for taint in self._index.taints_of(device))

    @staticmethod
    def _consumed(wish: Wish, device: Device) -> Amounts | None:
        """What a request takes of a device; None where it cannot have it."""
        if not (wish.capacity or device.shared):
            return _NOTHING
        return consumption(device.id.driver, device.capacity, wish.capacity)

    def _has_room(self, device: Device, taken: Amounts, mine: Mapping[tuple[DeviceId, str], int]) -> bool:
        """Whether so much is left of a device that is shared, with what was picked in this search."""
        use, own = self._index.use, device.id
        if not (device.shared or use.is_shared(own)):
            return True
        return all(
            use.taken(own, name) + mine.get((own, name), 0) + amount.nano <= device.capacity[name].whole.nano
            for name, amount in taken.items()
        )

    # -- picks -----------------------------------------------------------------------------------------------

    def _may_pick(self, claim: int, wish: Wish, device: Device, taken: Amounts) -> bool:
        own = device.id
        if wish.count == ALL and not self._tolerates(wish, device):
            return False
        if not device.shared and (claim, own) in self._by_claim:
            return False
        if not wish.admin:
            if self._index.use.is_whole(own) or (not device.shared and (self._mine[own] or self._index.is_used(own))):
                return False
            if device.counters and not self._has_counters(device):
                return False
        if not self._has_room(device, taken, self._taken):
            return False
        return all(_keeps(rule, values, device) for rule, values in self._concerned(claim, wish))

    def _has_counters(self, device: Device) -> bool:
        """Whether the pool has what the device takes of it; who shares the device finds that taken already."""
        if device.shared and (self._mine[device.id] or self._index.use.is_shared(device.id)):
            return True
        left = self._left.get(device.id[:2], {})
        return all(left.get((of_set, counter), 0) >= amount for of_set, counter, amount in device.counters)

    def _pick(self, pick: Pick, sign: int) -> None:
        device, own = pick.device, pick.device.id
        if sign > 0:
            self._picked.append(pick)
            self._by_claim.add((pick.claim, own))
        else:
            self._picked.pop()
            self._by_claim.discard((pick.claim, own))
        self._of_claim[pick.claim] += sign
        for rule, values in self._concerned(pick.claim, pick.wish):
            value = device.attributes[rule.attribute]
            values[value] += sign
            if not values[value]:
                del values[value]
        if device.shared:
            for name, taken in pick.taken.items():
                self._taken[own, name] += sign * taken.nano
        if pick.wish.admin:
            return
        before = self._mine[own]
        self._mine[own] += sign
        if device.counters and not (before and self._mine[own]) and not self._index.use.is_shared(own):
            left = self._left.setdefault(own[:2], {})
            for of_set, counter, amount in device.counters:
                left[of_set, counter] = left.get((of_set, counter), 0) - sign * amount


def _keeps(rule: Constraint, values: Mapping[tuple[str, Any], int], device: Device) -> bool:
    value = device.attributes.get(rule.attribute)
    if value is None:
        return False
    return not values or value in values if rule.must_match else value not in values


def allocate(
    index: DeviceIndex, node: NodeInfo, claims: Sequence[ClaimWishes], allowance: Allowance
) -> dict[str, dict[str, Any]] | None:
    """An allocation for each claim, by key, of devices that the node can reach; None when there is none.

    Raises AllocationError; SearchTooLong; Unfinished when the allowance is used up.
    """
    picked = _Search(index, node, claims, allowance).run()
    if picked is None:
        return None
    return {
        claim.key: allocation_of(claim, [p for p in picked if p.claim == number], node.name, index.classes)
        for number, claim in enumerate(claims)
    }


def worth(claims: Sequence[ClaimWishes], allocations: Mapping[str, Mapping[str, Any]]) -> int:
    """How much an allocation is what was wanted most: for each request with alternatives, the earlier the more."""
    total = 0
    for claim in claims:
        taken = {result["request"] for result in allocations[claim.key]["devices"]["results"]}
        for alternatives in claim.requests:
            if "/" in alternatives[0].request:
                total += sum(ALTERNATIVES_MAX - at for at, w in enumerate(alternatives) if w.request in taken)
    return total
