"""A scheduler that is slow and obvious: one pod, one node and one rule after the other, on the API's objects.

It is what the fast one must agree with. Nothing of the scheduler's code is used.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

from rayplane.control_plane.api.machinery import quantity
from tests.scheduler.devices_reference import Claimed
from tests.scheduler.reference_rules import Obj, Place, along, amount, is_term, selects, tolerates, with_keys

HOST = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
MEGA = 1024 * 1024
WEIGHTS = {"TaintToleration": 3, "NodeAffinity": 2, "NodeResourcesFit": 1, "PodTopologySpread": 2,
           "InterPodAffinity": 2, "NodeResourcesBalancedAllocation": 1, "ImageLocality": 1,
           "VolumeBinding": 1, "DynamicResources": 2}  # fmt: skip


@dataclass
class Ways:
    """How the profile under test differs from Kubernetes' default one."""

    strategy: str = "LeastAllocated"
    resources: tuple[tuple[str, int], ...] = (("cpu", 1), ("memory", 1))
    shape: tuple[tuple[int, int], ...] = ()
    ignored: frozenset[str] = frozenset()
    added: Obj = field(default_factory=dict)
    hard_weight: int = 1
    ignore_preferred: bool = False
    constraints: list[Obj] | None = None
    storage: tuple[tuple[int, int], ...] = ((0, 10), (100, 0))
    weights: dict[str, int] = field(default_factory=lambda: dict(WEIGHTS))
    off: frozenset[str] = frozenset()  # filters that are not asked


def asked(pod: Obj, resource: str) -> int:
    if resource == "pods":
        return 1
    return amount(resource, pod["spec"]["containers"][0]["resources"]["requests"].get(resource, "0"))


def counted(pod: Obj, resource: str) -> int:
    """As asked; cpu and memory that are not asked for count for a little."""
    least = {"cpu": "100m", "memory": "200Mi"}.get(resource, "0")
    return amount(resource, pod["spec"]["containers"][0]["resources"]["requests"].get(resource, least))


def is_admitted(pod: Obj, at: Place) -> bool:
    if any(at.labels.get(k) != v for k, v in pod["spec"].get("nodeSelector", {}).items()):
        return False
    required = node_affinity(pod).get("requiredDuringSchedulingIgnoredDuringExecution")
    return required is None or any(is_term(term, at) for term in required["nodeSelectorTerms"])


def node_affinity(pod: Obj) -> Obj:
    return pod["spec"].get("affinity", {}).get("nodeAffinity", {})


def terms(pod: Obj, kind: str) -> list[Obj]:
    return pod["spec"].get("affinity", {}).get(kind, {}).get("requiredDuringSchedulingIgnoredDuringExecution", [])


def wishes(pod: Obj) -> list[tuple[int, Obj]]:
    found = []
    for kind, sign in (("podAffinity", 1), ("podAntiAffinity", -1)):
        side = pod["spec"].get("affinity", {}).get(kind, {})
        for item in side.get("preferredDuringSchedulingIgnoredDuringExecution", []):
            found.append((sign * item["weight"], item["podAffinityTerm"]))
    return found


class Reference:
    """Places, namespaces, claims and Services of a cluster."""

    def __init__(self, nodes: list[Obj], ways: Ways | None = None) -> None:
        self.places = [Place(node) for node in nodes]
        self.ways = ways or Ways()
        self.namespaces: dict[str, dict[str, str]] = {}
        self.services: list[Obj] = []
        self.claims: dict[str, Obj] = {}
        self.volumes: dict[str, Obj] = {}
        self.limits: dict[str, int] = {}
        self.strict = set[str]()
        self.classes: dict[str, Obj] = {}
        self.capacities: list[Obj] = []
        self.devices = Claimed()
        self.promised: dict[str, tuple[str, str]] = {}
        """Node and volume, or "" for one that is to be made, of claims of placed pods that have none yet."""

    def everywhere(self) -> list[tuple[Place, Obj]]:
        return [(at, pod) for at in self.places for pod in at.pods]

    # -- filters

    def refused_by(self, pod: Obj, at: Place) -> str:
        """The first plug-in, in Kubernetes' order, that keeps the pod off a node; empty when none does."""
        rules = {
            "NodeUnschedulable": self.is_open,
            "TaintToleration": self.is_tolerated,
            "NodeAffinity": lambda p, n: self.is_enforced(n) and is_admitted(p, n),
            "NodePorts": self.has_ports,
            "NodeResourcesFit": self.has_room,
            "VolumeRestrictions": self.is_alone,
            "NodeVolumeLimits": self.attaches,
            "VolumeBinding": lambda p, n: self.bindings(p, n) is not None,
            "VolumeZone": self.is_in_zone,
            "PodTopologySpread": self.is_even,
            "InterPodAffinity": self.is_near,
            "DynamicResources": lambda p, n: self.devices.choice(p, n.name) is not None,
            "NodeDeclaredFeatures": self.knows,
        }
        return next((name for name, rule in rules.items() if name not in self.ways.off and not rule(pod, at)), "")

    def is_open(self, pod: Obj, at: Place) -> bool:
        taint = {"key": "node.kubernetes.io/unschedulable", "value": "", "effect": "NoSchedule"}
        return not at.node["spec"].get("unschedulable") or tolerates(pod, taint)

    def is_tolerated(self, pod: Obj, at: Place) -> bool:
        return all(t["effect"] == "PreferNoSchedule" or tolerates(pod, t) for t in at.node["spec"]["taints"])

    def is_enforced(self, at: Place) -> bool:
        required = self.ways.added.get("requiredDuringSchedulingIgnoredDuringExecution")
        return required is None or any(is_term(term, at) for term in required["nodeSelectorTerms"])

    def has_ports(self, pod: Obj, at: Place) -> bool:
        def ports(one: Obj) -> set[int]:
            return {p["hostPort"] for p in one["spec"]["containers"][0].get("ports", [])}

        return not any(ports(pod) & ports(other) for other in at.pods)

    def has_room(self, pod: Obj, at: Place) -> bool:
        wanted = {"pods", *pod["spec"]["containers"][0]["resources"]["requests"]} - self.ways.ignored
        return all(not asked(pod, r) or asked(pod, r) + sum(asked(p, r) for p in at.pods) <= at.has(r) for r in wanted)

    def is_alone(self, pod: Obj, at: Place) -> bool:
        once = [c for c in claims_of(pod) if "ReadWriteOncePod" in self.claims[c]["spec"]["accessModes"]]
        return not any(set(once) & set(claims_of(other)) for _, other in self.everywhere())

    def attaches(self, pod: Obj, at: Place) -> bool:
        if (self.strict - at.drivers) & {self.driver(c) for c in claims_of(pod)}:
            return False
        there = {c for other in at.pods for c in claims_of(other) if self.is_bound(c)}
        new = {c for c in claims_of(pod) if self.is_bound(c)} - there
        return not new or at.name not in self.limits or len(there | new) <= self.limits[at.name]

    def is_in_zone(self, pod: Obj, at: Place) -> bool:
        for claim in filter(self.is_bound, claims_of(pod)):
            zone = self.volumes[self.claims[claim]["spec"]["volumeName"]]["metadata"].get("labels", {}).get(ZONE)
            if zone is not None and ZONE in at.labels and at.labels[ZONE] not in zone.split("__"):
                return False
        return True

    def driver(self, claim: str) -> str:
        return self.classes.get(self.claims[claim]["spec"]["storageClassName"], {}).get("provisioner", "")

    def knows(self, pod: Obj, at: Place) -> bool:
        rules = [r["action"] for c in pod["spec"]["containers"] for r in c.get("restartPolicyRules", [])]
        declared = at.node["status"].get("declaredFeatures", [])
        return "RestartAllContainers" not in rules or "RestartAllContainersOnContainerExits" in declared

    # -- volumes of claims that wait for their first consumer

    def is_bound(self, claim: str) -> bool:
        return "volumeName" in self.claims[claim]["spec"]

    def bindings(self, pod: Obj, at: Place) -> list[tuple[str, str]] | None:
        """The volume that each claim would get on a node, "" for a new one; None where one gets none."""
        found: list[tuple[str, str]] = []
        for claim in sorted((c for c in claims_of(pod) if not self.is_bound(c)), key=self.size):
            if claim in self.promised and self.promised[claim][0] != at.name:
                return None
            taken = {volume for _, volume in found} | {v for c, (_, v) in self.promised.items() if c != claim}
            fits = [name for name in self.volumes if name not in taken and self.is_fit(name, claim, at)]
            fits.sort(key=lambda name: (volume_size(self.volumes[name]), name))
            if not fits and not self.is_makeable(claim, at):
                return None
            found.append((claim, fits[0] if fits else ""))
        return found

    def size(self, claim: str) -> int:
        return quantity.value(self.claims[claim]["spec"]["resources"]["requests"]["storage"])

    def is_fit(self, name: str, claim: str, at: Place) -> bool:
        volume, spec = self.volumes[name], self.claims[claim]["spec"]
        if volume["spec"]["storageClassName"] != spec["storageClassName"] or volume_size(volume) < self.size(claim):
            return False
        terms = volume["spec"].get("nodeAffinity", {}).get("required", {}).get("nodeSelectorTerms")
        return terms is None or any(is_term(term, at) for term in terms)

    def is_makeable(self, claim: str, at: Place) -> bool:
        of = self.claims[claim]["spec"]["storageClassName"]
        published = any(c["storageClassName"] == of for c in self.capacities)
        is_by_hand = self.classes[of]["provisioner"] == "kubernetes.io/no-provisioner"
        return not is_by_hand and (not published or bool(self.with_room(claim, at)))

    def with_room(self, claim: str, at: Place) -> list[Obj]:
        """The capacities that a node reaches and that have room for a claim."""
        of, found = self.claims[claim]["spec"]["storageClassName"], []
        for one in self.capacities:
            limit = quantity.value(one.get("maximumVolumeSize") or one["capacity"])
            reaches = one["storageClassName"] == of and selects(one["nodeTopology"], at.labels)
            if reaches and limit >= self.size(claim):
                found.append(one)
        return found

    def storage_score(self, pod: Obj, at: Place) -> int:
        asked: Counter[str] = Counter()
        there: Counter[str] = Counter()
        found = self.bindings(pod, at) or []
        old = [(claim, volume) for claim, volume in found if volume]
        for claim, volume in old:
            of = self.claims[claim]["spec"]["storageClassName"]
            asked[of] += self.size(claim)
            there[of] += volume_size(self.volumes[volume])
        for claim, _ in found if not old else []:
            of = self.claims[claim]["spec"]["storageClassName"]
            if room := self.with_room(claim, at):
                asked[of] += self.size(claim)
                there[of] = max(quantity.value(one["capacity"]) for one in room)
        uses = [100 if asked[of] > there[of] or not there[of] else asked[of] * 100 // there[of] for of in asked]
        scores = [along(self.ways.storage, use) for use in uses]
        return math.floor(Fraction(sum(scores), len(scores)) + Fraction(1, 2)) if scores else 0

    # -- topology spread

    def rules(self, pod: Obj, action: str) -> list[Obj]:
        own = pod["spec"].get("topologySpreadConstraints")
        if own:
            return [r for r in own if r["whenUnsatisfiable"] == action]
        given = self.ways.constraints
        if given is None:
            given = [{"topologyKey": HOST, "maxSkew": 3}, {"topologyKey": ZONE, "maxSkew": 5}]
            given = [{**rule, "whenUnsatisfiable": "ScheduleAnyway"} for rule in given]
        matching: dict[str, str] = {}
        for service in self.services:
            if selects({"matchLabels": service["spec"]["selector"]}, pod["metadata"]["labels"]):
                matching |= service["spec"]["selector"]
        if not matching:
            return []
        return [{**r, "labelSelector": {"matchLabels": matching}} for r in given if r["whenUnsatisfiable"] == action]

    def matches(self, pod: Obj, rule: Obj, other: Obj) -> bool:
        if other["metadata"]["namespace"] != pod["metadata"]["namespace"]:
            return False
        return selects(with_keys(rule, pod), other["metadata"]["labels"])

    def counts(self, pod: Obj, rule: Obj, at: Place) -> bool:
        if rule.get("nodeAffinityPolicy") != "Ignore" and not is_admitted(pod, at):
            return False
        return rule.get("nodeTaintsPolicy") != "Honor" or self.is_tolerated(pod, at)

    def is_even(self, pod: Obj, at: Place) -> bool:
        rules = self.rules(pod, "DoNotSchedule")
        for rule in rules:
            key = rule["topologyKey"]
            if key not in at.labels:
                return False
            found: Counter[str] = Counter()
            for place in self.places:
                if all(r["topologyKey"] in place.labels for r in rules) and self.counts(pod, rule, place):
                    found[place.labels[key]] += sum(self.matches(pod, rule, p) for p in place.pods)
            least = min(found.values(), default=0) if len(found) >= rule.get("minDomains", 1) else 0
            own = self.matches(pod, rule, pod)
            if found[at.labels[key]] + own - least > rule["maxSkew"]:
                return False
        return True

    def spread_scores(self, pod: Obj, among: list[Place]) -> dict[str, int]:
        rules = self.rules(pod, "ScheduleAnyway")
        if not rules:
            return {}
        whole = bool(pod["spec"].get("topologySpreadConstraints")) or self.ways.constraints is not None

        def is_scored(place: Place) -> bool:
            return not whole or all(r["topologyKey"] in place.labels for r in rules)

        scored = [place for place in among if is_scored(place)]
        raw = {}
        for at in scored:
            total = 0.0
            for rule in rules:
                key = rule["topologyKey"]
                if key not in at.labels:
                    continue
                here = [at]
                size = len(scored)
                if key != HOST:
                    size = len({p.labels.get(key) for p in scored})
                    here = [p for p in self.places if p.labels.get(key) == at.labels[key]]
                    here = [p for p in here if is_scored(p) and self.counts(pod, rule, p)]
                count = sum(self.matches(pod, rule, other) for p in here for other in p.pods)
                total += count * math.log(size + 2) + rule["maxSkew"] - 1
            raw[at.name] = math.floor(total + 0.5)
        low, high = min(raw.values(), default=0), max(raw.values(), default=0)
        return {name: 100 * (high + low - s) // high if high else 100 for name, s in raw.items()}

    # -- pods and pods

    def speaks_of(self, owner: Obj, term: Obj, pod: Obj) -> bool:
        names = set(term.get("namespaces", []))
        selector = term.get("namespaceSelector")
        if selector is not None:
            names |= {n for n, labels in self.namespaces.items() if selects(selector, labels)}
        elif not names:
            names = {owner["metadata"]["namespace"]}
        inside = pod["metadata"]["namespace"] in names or selector == {}
        return inside and selects(with_keys(term, owner), pod["metadata"]["labels"])

    def is_near(self, pod: Obj, at: Place) -> bool:
        def same(term: Obj, other: Place) -> bool:
            key = term["topologyKey"]
            return key in at.labels and other.labels.get(key) == at.labels[key]

        near = terms(pod, "podAffinity")
        fits_all = [(p, o) for p, o in self.everywhere() if all(self.speaks_of(pod, t, o) for t in near)]
        if any(t["topologyKey"] not in at.labels for t in near):
            return False
        alone = all(not any(t["topologyKey"] in p.labels for p, _ in fits_all) for t in near)
        first = alone and all(self.speaks_of(pod, t, pod) for t in near)
        if not first and not all(any(same(t, p) for p, _ in fits_all) for t in near):
            return False
        for place, other in self.everywhere():
            if any(same(t, place) and self.speaks_of(pod, t, other) for t in terms(pod, "podAntiAffinity")):
                return False
            if any(same(t, place) and self.speaks_of(other, t, pod) for t in terms(other, "podAntiAffinity")):
                return False
        return True

    def near_scores(self, pod: Obj, among: list[Place]) -> dict[str, int]:
        raw = {}
        for at in among:
            total = 0
            for place, other in self.everywhere():
                pairs = [(w, t) for w, t in wishes(pod) if self.speaks_of(pod, t, other)]
                if wishes(pod) or not self.ways.ignore_preferred:
                    pairs += [(w, t) for w, t in wishes(other) if self.speaks_of(other, t, pod)]
                hard = [t for t in terms(other, "podAffinity") if self.speaks_of(other, t, pod)]
                pairs += [(self.ways.hard_weight, t) for t in hard]
                for weight, term in pairs:
                    key = term["topologyKey"]
                    if key in at.labels and place.labels.get(key) == at.labels[key]:
                        total += weight
            raw[at.name] = total
        low, high = min(raw.values(), default=0), max(raw.values(), default=0)
        return {n: int(100 * ((s - low) / (high - low))) if high > low else 0 for n, s in raw.items()}

    # -- other scores

    def fit_score(self, pod: Obj, at: Place) -> int:
        total = weights = 0
        for resource, weight in self.ways.resources:
            capacity = at.has(resource)
            if not capacity or ("/" in resource and not asked(pod, resource)):
                continue
            used = counted(pod, resource) + sum(counted(p, resource) for p in at.pods)
            if self.ways.strategy == "MostAllocated":
                share = min(used, capacity) * 100 // capacity
            elif self.ways.strategy == "LeastAllocated":
                share = max(capacity - used, 0) * 100 // capacity
            else:
                share = along(self.ways.shape, 100 if used > capacity else used * 100 // capacity)
                if share <= 0:
                    continue
            total, weights = total + share * weight, weights + weight
        if not weights:
            return 0
        return math.floor(total / weights + 0.5) if self.ways.shape else total // weights

    def balance_score(self, pod: Obj, at: Place) -> int:
        if not any(asked(pod, r) for r in ("cpu", "memory")):
            return 0
        shares = [
            min((asked(pod, r) + sum(asked(p, r) for p in at.pods)) / at.has(r), 1.0)
            for r in ("cpu", "memory")
            if at.has(r)
        ]
        std = abs(shares[0] - shares[1]) / 2 if len(shares) == 2 else 0.0
        return int((1 - std) * 100)

    def image_score(self, pod: Obj, at: Place) -> int:
        name = pod["spec"]["containers"][0]["image"]
        name = name if ":" in name.rpartition("/")[2] else f"{name}:latest"

        def size(place: Place) -> int:
            images = place.node["status"].get("images", [])
            return next((i["sizeBytes"] for i in images if name in i["names"]), 0)

        holders = sum(size(p) > 0 for p in self.places)
        total = int(size(at) * (holders / len(self.places)))
        return 100 * (min(max(total, 23 * MEGA), 1000 * MEGA) - 23 * MEGA) // (977 * MEGA)

    def scores(self, pod: Obj, among: list[Place]) -> dict[str, int]:
        """Each allowed node's sum."""
        soft = {"PreferNoSchedule"}
        bad = {
            at.name: sum(
                t["effect"] in soft and not tolerates(pod, t, "", "PreferNoSchedule") for t in at.node["spec"]["taints"]
            )
            for at in among
        }
        preferred = [
            *self.ways.added.get("preferredDuringSchedulingIgnoredDuringExecution", []),
            *node_affinity(pod).get("preferredDuringSchedulingIgnoredDuringExecution", []),
        ]
        liked = {at.name: sum(p["weight"] for p in preferred if is_term(p["preference"], at)) for at in among}
        asks = "DynamicResources" not in self.ways.off
        devices = {at.name: self.devices.worth(pod, at.name) if asks else 0 for at in among}
        worst, best, top = (max(found.values(), default=0) for found in (bad, liked, devices))
        spread, near = self.spread_scores(pod, among), self.near_scores(pod, among)
        found = {}
        for at in among:
            parts = {
                "TaintToleration": 100 - 100 * bad[at.name] // worst if worst else 100,
                "NodeAffinity": 100 * liked[at.name] // best if best else 0,
                "NodeResourcesFit": self.fit_score(pod, at),
                "PodTopologySpread": spread.get(at.name, 0),
                "InterPodAffinity": near[at.name],
                "NodeResourcesBalancedAllocation": self.balance_score(pod, at),
                "ImageLocality": self.image_score(pod, at),
                "VolumeBinding": self.storage_score(pod, at),
                "DynamicResources": 100 * devices[at.name] // top if top else 0,
            }
            found[at.name] = sum(weight * parts[name] for name, weight in self.ways.weights.items())
        return found

    def choose(self, pod: Obj) -> str:
        return best(self.scores(pod, [at for at in self.places if not self.refused_by(pod, at)]))

    # -- preemption

    def victims(self, pod: Obj, at: Place) -> list[str] | None:
        """Names of the pods of one node that must go, None when that does not help."""
        before = at.pods
        lower = [p for p in before if p["spec"]["priority"] < pod["spec"]["priority"]]
        # The more important of two that are alike otherwise is the one whose name sorts last.
        lower.sort(key=lambda p: (p["spec"]["priority"], p["metadata"]["namespace"], p["metadata"]["name"]))
        lower.reverse()
        try:
            at.pods = [p for p in before if p not in lower]
            if not lower or self.refused_by(pod, at):
                return None
            gone = []
            for one in lower:
                at.pods = [*at.pods, one]
                if self.refused_by(pod, at):
                    at.pods = at.pods[:-1]
                    gone.append(one["metadata"]["name"])
            return gone
        finally:
            at.pods = before


def claims_of(pod: Obj) -> list[str]:
    names = [v["persistentVolumeClaim"]["claimName"] for v in pod["spec"].get("volumes", [])]
    return [f"{pod['metadata']['namespace']}/{name}" for name in names]


def volume_size(volume: Obj) -> int:
    return quantity.value(volume["spec"]["capacity"]["storage"])


def best(scores: dict[str, int]) -> str:
    """The node with the highest score, of equal ones the first by name; empty when there is none."""
    return min(scores, key=lambda name: (-scores[name], name), default="")
