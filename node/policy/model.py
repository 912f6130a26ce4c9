"""The meaning of network policies (networking.k8s.io/v1 NetworkPolicy): whom each isolates, and what it allows. Pure.

Source: Kubernetes documentation, "Network Policies", and the reference of NetworkPolicySpec.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery.selectors import LabelSelector, from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import lasting
from rayplane.control_plane.api.pods.state import pod_is_terminated

RULES_MAX, SELECTORS_MAX, BLOCKS_MAX, PORTS_MAX = 500, 500, 10_000, 10_000
"""Of one policy. Blocks count with what they except."""
INGRESS, EGRESS = "ingress", "egress"
_PEERS = {INGRESS: "from", EGRESS: "to"}
LAST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Peer:
    """Pods by their labels and their namespaces'. `namespaces`: None is the policy's own."""

    pods: LabelSelector
    namespaces: LabelSelector | None


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports of one protocol: a range, or those that pods have by a name."""

    protocol: str
    first: int = 0
    last: int = LAST_PORT
    name: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that a policy allows. `peers` and `blocks`: with whom; both None: with everybody. `ports`: None is any.

    A block is a network with parts of it that are not meant. `ident`: of what it says, in the policy that says it.
    """

    ident: bytes
    peers: tuple[Peer, ...] | None
    blocks: tuple[tuple[str, tuple[str, ...]], ...] | None
    ports: tuple[Ports, ...] | None

    @property
    def is_for_all(self) -> bool:
        return self.peers is None and self.blocks is None

    @property
    def has_names(self) -> bool:
        return any(one.name for one in self.ports or ())


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy. `ingress`, `egress`: what it allows; None where it does not isolate."""

    namespace: str
    name: str
    subjects: LabelSelector
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def rules(self, direction: str) -> tuple[Rule, ...] | None:
        return self.ingress if direction == INGRESS else self.egress

    def isolates(self, pod: "PodFacts") -> bool:
        return pod.namespace == self.namespace and self.subjects.matches(pod.labels)


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod as policies see it. `ports`: numbers by name and protocol."""

    key: str
    namespace: str
    ip: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[tuple[str, str], int] = field(default_factory=dict)


def facts_of(pod: Object, ip: str = "") -> PodFacts | None:
    """What there is to know of a pod; None while it has no address of its own, and when it has ended."""
    spec, found = meta.spec(pod), ip or meta.status(pod).get("podIP") or ""
    if not found or ":" in found or spec.get("hostNetwork") or pod_is_terminated(pod):
        return None
    ports: dict[tuple[str, str], int] = {}
    for container in lasting(spec):
        for one in container.get("ports") or ():
            if one.get("name"):
                ports.setdefault((one["name"], one.get("protocol") or "TCP"), int(one["containerPort"]))
    return PodFacts(meta.key(pod), meta.namespace(pod), found, meta.labels(pod), ports)


def read(policy: Object) -> Policy:
    """Raises ValueError where the API let something through that has no meaning."""
    spec = meta.spec(policy)
    kinds = spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
    try:
        subjects = from_label_selector(spec.get("podSelector") or {})
        ingress = _rules(policy, INGRESS) if "Ingress" in kinds else None
        egress = _rules(policy, EGRESS) if "Egress" in kinds else None
    except ApiError as e:
        raise ValueError(e.message) from e
    return Policy(meta.namespace(policy), meta.name(policy), subjects, ingress, egress)


def left_out(policy: Object) -> str:
    """What of a policy is beyond the limits, in words: it is not allowed. Empty when all of it counts."""
    spec = meta.spec(policy)
    words = []
    for direction, peers in _PEERS.items():
        rules = spec.get(direction) or ()
        blocks = sum(len(_networks(rule, peers)) for rule in rules)
        selectors = sum(len(rule.get(peers) or ()) for rule in rules) - sum(
            1 for rule in rules for peer in rule.get(peers) or () if peer.get("ipBlock")
        )
        ports = sum(len(rule.get("ports") or ()) for rule in rules)
        for count, most, what in (
            (len(rules), RULES_MAX, "rules"),
            (blocks, BLOCKS_MAX, "IP blocks"),
            (selectors, SELECTORS_MAX, "peers"),
            (ports, PORTS_MAX, "ports"),
        ):
            if count > most:
                words.append(f"{count} {what} of {direction}, of which {most} count")
    return "; ".join(words)


def _networks(rule: Mapping[str, Any], peers: str) -> list[str]:
    blocks = [peer["ipBlock"] for peer in rule.get(peers) or () if peer.get("ipBlock")]
    return [text for block in blocks for text in (block.get("cidr"), *(block.get("except") or ()))]


def _rules(policy: Object, direction: str) -> tuple[Rule, ...]:
    """The rules within the limits. What a rule has beyond them it does not allow."""
    left = {"selectors": SELECTORS_MAX, "blocks": BLOCKS_MAX, "ports": PORTS_MAX}
    whose = f"{meta.key(policy)} {direction}"
    return tuple(
        _rule(one, whose, _PEERS[direction], left) for one in (meta.spec(policy).get(direction) or ())[:RULES_MAX]
    )


def _rule(rule: Mapping[str, Any], whose: str, direction: str, left: dict[str, int]) -> Rule:
    peers: list[Peer] = []
    blocks: list[tuple[str, tuple[str, ...]]] = []
    written = rule.get(direction) or ()
    for peer in written:
        block = peer.get("ipBlock")
        if block:
            excepted = tuple(block.get("except") or ())
            left["blocks"] -= 1 + len(excepted)
            if left["blocks"] >= 0:
                blocks.append((block["cidr"], excepted))
            continue
        left["selectors"] -= 1
        if left["selectors"] >= 0:
            namespaces = peer.get("namespaceSelector")
            peers.append(
                Peer(
                    from_label_selector(peer.get("podSelector") or {}),
                    from_label_selector(namespaces) if namespaces is not None else None,
                )
            )
    ports = (rule.get("ports") or ())[: max(0, left["ports"])]
    left["ports"] -= len(ports)
    return Rule(
        hashlib.blake2s(f"{whose} {json.dumps(rule, sort_keys=True)}".encode(), digest_size=8).digest(),
        tuple(peers) if written else None,
        tuple(blocks) if written else None,
        tuple(map(_ports, ports)) if rule.get("ports") else None,
    )


def _ports(port: Mapping[str, Any]) -> Ports:
    protocol, number = port.get("protocol") or "TCP", port.get("port")
    if number is None:
        return Ports(protocol)
    if isinstance(number, str):
        return Ports(protocol, name=number)
    return Ports(protocol, number, port.get("endPort") or number)


def stretches(blocks: Iterable[tuple[str, tuple[str, ...]]]) -> list[tuple[int, int]]:
    """First and last addresses of what blocks mean, in order, without overlaps. Of blocks of IPv4 alone."""
    found: list[tuple[int, int]] = []
    for text, excepted in blocks:
        whole = ip_network(text, strict=False)
        if not isinstance(whole, IPv4Network):
            continue
        at, last = int(whole.network_address), int(whole.broadcast_address)
        holes = [one for one in (ip_network(e, strict=False) for e in excepted) if isinstance(one, IPv4Network)]
        for hole in sorted(holes):
            if int(hole.network_address) > at:
                found.append((at, min(last, int(hole.network_address) - 1)))
            at = max(at, int(hole.broadcast_address) + 1)
        if at <= last:
            found.append((at, last))
    return united(found)


def united(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers in ranges that neither overlap nor touch."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def numbers(ports: Iterable[Ports]) -> dict[str, list[tuple[int, int]]]:
    """The ranges of ports by protocol, without those that have names."""
    found: dict[str, list[tuple[int, int]]] = {}
    for one in ports:
        if not one.name:
            found.setdefault(one.protocol, []).append((one.first, one.last))
    return {protocol: united(ranges) for protocol, ranges in sorted(found.items())}


def allows_outside(rules: Iterable[Rule], ip: str, port: int, protocol: str) -> bool:
    """Whether rules of egress allow a place that is no pod's."""
    try:
        address = ip_address(ip)
    except ValueError:
        return False
    if not isinstance(address, IPv4Address):
        return any(rule.is_for_all and _covers(rule, port, protocol) for rule in rules)
    return any(
        _covers(rule, port, protocol)
        and (rule.is_for_all or any(a <= int(address) <= b for a, b in stretches(rule.blocks or ())))
        for rule in rules
    )


def _covers(rule: Rule, port: int, protocol: str) -> bool:
    if rule.ports is None:
        return True
    return any(first <= port <= last for first, last in numbers(rule.ports).get(protocol, ()))
