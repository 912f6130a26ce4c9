"""An allocator of devices that is slow and obvious: it tries every choice, and looks at each with one rule after the
other. Nothing of the scheduler's code is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

from rayplane.control_plane.api.machinery import quantity

Obj = dict[str, Any]
Choice = tuple[tuple[str, Obj, tuple[str, ...]], ...]
"""For each request of a claim the name of what was taken of it, what that asks for, and the devices."""


def nano(text: str) -> int:
    return quantity.parse(text).nano


class Devices:
    """The devices of one node, the taints of rules, and what claims have already."""

    def __init__(self, devices: list[Obj], counters: dict[str, int], rules: list[Obj]) -> None:
        self.devices = {one["name"]: one for one in devices}
        self.counters = counters
        self.rules = rules
        self.had: list[Obj] = []  # results of allocations

    def choice(self, claims: list[Obj]) -> list[Choice] | None:
        """The first that keeps all rules."""
        return next((one for one in self.choices(claims) if self.is_right(claims, one)), None)

    def choices(self, claims: list[Obj]) -> Iterator[list[Choice]]:
        """All that may be tried for all claims together, what is wanted most first."""
        if not claims:
            yield []
            return
        rests = [*self.choices(claims[1:])]
        for mine in self.of_requests(claims[0]["spec"]["devices"]["requests"]):
            for rest in rests:
                yield [mine, *rest]

    def of_requests(self, requests: list[Obj]) -> Iterator[Choice]:
        if not requests:
            yield ()
            return
        first = requests[0]
        variants = [(first["name"], first["exactly"])] if "exactly" in first else []
        variants += [(f"{first['name']}/{one['name']}", one) for one in first.get("firstAvailable", [])]
        rests = [*self.of_requests(requests[1:])]
        for name, wish in variants:
            fitting = [d for d, device in self.devices.items() if self.is_selected(device, wish)]
            size = len(fitting) if wish.get("allocationMode") == "All" else wish.get("count", 1)
            for picked in combinations(fitting, size) if size else ():
                for rest in rests:
                    yield ((name, wish, picked), *rest)

    def is_selected(self, device: Obj, wish: Obj) -> bool:
        models = [s["cel"]["expression"].split('"')[3] for s in wish.get("selectors", [])]
        if any(device["attributes"]["model"]["string"] != model for model in models):
            return False
        taken = self.consumed(device, wish)
        if taken is None or wish.get("allocationMode") != "All":
            return taken is not None
        return all(self.taken_before(device["name"], k) + v <= self.whole(device, k) for k, v in taken.items())

    def whole(self, device: Obj, name: str) -> int:
        return nano(device.get("capacity", {})[name]["value"])

    def consumed(self, device: Obj, wish: Obj) -> dict[str, int] | None:
        """What is taken of each capacity, rounded as the policy says; None where that is not to be had."""
        has, asked = device.get("capacity", {}), wish.get("capacity", {}).get("requests", {})
        if not set(asked) <= set(has):
            return None
        found = {}
        for name, capacity in has.items():
            policy = capacity.get("requestPolicy", {})
            if name not in asked:
                found[name] = nano(policy.get("default", capacity["value"]))
                continue
            want = nano(asked[name])
            if "validValues" in policy:
                larger = [nano(v) for v in policy["validValues"] if nano(v) >= want]
                if not larger:
                    return None
                want = larger[0]
            elif "validRange" in policy:
                low, step = nano(policy["validRange"]["min"]), nano(policy["validRange"]["step"])
                while low < want:
                    low += step
                want = low
                if "max" in policy["validRange"] and want > nano(policy["validRange"]["max"]):
                    return None
            found[name] = want
        if any(amount > self.whole(device, name) for name, amount in found.items()):
            return None
        return found

    def taken_before(self, device: str, capacity: str) -> int:
        mine = [r for r in self.had if r["device"] == device and not r.get("adminAccess")]
        return sum(nano(r.get("consumedCapacity", {}).get(capacity, "0")) for r in mine)

    def taints(self, device: Obj) -> list[Obj]:
        of_rules = [r["spec"]["taint"] for r in self.rules
                    if r["spec"].get("deviceSelector", {}).get("device") in (None, device["name"])]  # fmt: skip
        return [t for t in device.get("taints", []) + of_rules if t["effect"] != "None"]

    def is_right(self, claims: list[Obj], chosen: list[Choice]) -> bool:
        """Whether a choice keeps all rules."""
        before = Counter(r["device"] for r in self.had if not r.get("adminAccess"))
        own = Counter(d for one in chosen for _, wish, picked in one for d in picked if not wish.get("adminAccess"))
        for claim, one in zip(claims, chosen, strict=True):
            if sum(len(picked) for _, _, picked in one) > 32 or not self.keeps(claim, one):
                return False
        for one in chosen:
            per_claim = Counter(d for _, _, picked in one for d in picked)
            for _, wish, picked in one:
                for name in picked:
                    device = self.devices[name]
                    tolerated = [t["key"] for t in wish.get("tolerations", [])]
                    if any(taint["key"] not in tolerated for taint in self.taints(device)):
                        return False
                    if device.get("allowMultipleAllocations"):
                        continue
                    if per_claim[name] > 1:
                        return False
                    if not wish.get("adminAccess") and (before[name] or own[name] > 1):
                        return False
        return self.fits_capacity(chosen) and self.fits_counters({*before} | {*own}, {*own})

    def fits_capacity(self, chosen: list[Choice]) -> bool:
        total: Counter[tuple[str, str]] = Counter()
        for one in chosen:
            for _, wish, picked in one:
                for name in picked:
                    if self.devices[name].get("allowMultipleAllocations"):
                        for capacity, amount in (self.consumed(self.devices[name], wish) or {}).items():
                            total[name, capacity] += amount
        return all(
            self.taken_before(d, c) + amount <= self.whole(self.devices[d], c) for (d, c), amount in total.items()
        )

    def fits_counters(self, used: set[str], new: set[str]) -> bool:
        total: Counter[str] = Counter()
        for name in used:
            for one in self.devices[name].get("consumesCounters", []):
                for counter, amount in one["counters"].items():
                    total[counter] += nano(amount["value"])
        touched = {c for name in new for one in self.devices[name].get("consumesCounters", []) for c in one["counters"]}
        return all(total[counter] <= self.counters.get(counter, 0) for counter in touched)

    def keeps(self, claim: Obj, one: Choice) -> bool:
        for rule in claim["spec"]["devices"].get("constraints", []):
            concerned = [
                self.devices[d]["attributes"].get("numa")
                for name, _, picked in one
                for d in picked
                if not rule.get("requests") or {name, name.partition("/")[0]} & set(rule["requests"])
            ]
            if None in concerned:
                return False
            values = [one["int"] for one in concerned]
            if "matchAttribute" in rule and len(set(values)) > 1:
                return False
            if "distinctAttribute" in rule and len(set(values)) < len(values):
                return False
        return True


class Claimed:
    """Devices of nodes, and claims to them in a cluster."""

    def __init__(self) -> None:
        self.nodes: dict[str, Devices] = {}
        self.claims: dict[str, Obj] = {}
        self.allocated: dict[str, str] = {}  # node by claim

    def claims_of(self, pod: Obj) -> list[str]:
        names = [one["resourceClaimName"] for one in pod["spec"].get("resourceClaims", [])]
        return [f"{pod['metadata']['namespace']}/{name}" for name in names]

    def choice(self, pod: Obj, node: str) -> list[Choice] | None:
        """What the claims of a pod that have nothing yet would get on a node; None where one gets nothing."""
        mine = self.claims_of(pod)
        if any(self.allocated.get(claim, node) != node for claim in mine):
            return None
        wanted = self.open(pod)
        if not wanted:
            return []
        return self.nodes[node].choice(wanted) if node in self.nodes else None

    def open(self, pod: Obj) -> list[Obj]:
        return [self.claims[claim] for claim in self.claims_of(pod) if claim not in self.allocated]

    def worth(self, pod: Obj, node: str) -> int:
        """For each request with alternatives, the earlier the one that is had, the more."""
        total = 0
        for claim, one in zip(self.open(pod), self.choice(pod, node) or (), strict=True):
            had = {name for name, _, _ in one}
            for request in claim["spec"]["devices"]["requests"]:
                for at, alternative in enumerate(request.get("firstAvailable", [])):
                    total += (8 - at) * (f"{request['name']}/{alternative['name']}" in had)
        return total

    def take(self, pod: Obj, node: str, allocation: Callable[[str], Obj | None]) -> None:
        """A pod was placed: its claims have what they were given, which has to be right."""
        wanted = self.open(pod)
        keys = [claim for claim in self.claims_of(pod) if claim not in self.allocated]
        given = [allocation(key) or {} for key in keys]
        if wanted:
            assert self.nodes[node].is_right(wanted, [chosen(c, got) for c, got in zip(wanted, given, strict=True)])
        for key, got in zip(keys, given, strict=True):
            self.nodes[node].had += got["devices"]["results"]
            self.allocated[key] = node


def chosen(claim: Obj, allocation: Obj) -> Choice:
    """What an allocation says, as the reference has it."""
    variants: dict[str, Obj] = {}
    for request in claim["spec"]["devices"]["requests"]:
        variants |= {request["name"]: request["exactly"]} if "exactly" in request else {}
        variants |= {f"{request['name']}/{one['name']}": one for one in request.get("firstAvailable", [])}
    by_request: dict[str, tuple[str, ...]] = {}
    for result in allocation["devices"]["results"]:
        name = result["request"]
        by_request[name] = (*by_request.get(name, ()), result["device"])
    return tuple((name, variants[name], picked) for name, picked in by_request.items())
