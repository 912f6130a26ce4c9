"""Policies as packet rules: sets that many rules share, a chain for each policy, one for each isolated pod. Pure.

A pod of this host that policies isolate has a chain that goes through theirs, and drops what none of them accepted.
What a policy accepts stands in its own chain: pods in one set for all rules, single ports in another, with a number
before them that is the rule's; networks and ranges of ports in sets of that rule. Names tell what chains and sets hold,
so that what changes gets another name: nothing that packets meet is ever half of the old and half of the new.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv4Address

from rayplane.node.nftables.expressions import (
    ACCEPT,
    DROP,
    ESTABLISHED,
    PROTOCOLS,
    SOCKET,
    Choose,
    Field,
    Has,
    In,
    Own,
    Rule,
    Statement,
    goto,
    jump,
    key,
    port,
)
from rayplane.node.nftables.ruleset import FORWARD, INPUT, Chain, Data, Element, Fragment, Gives, Hook, Set
from rayplane.node.policy import model
from rayplane.node.policy.model import EGRESS, INGRESS, PodFacts, Policy, numbers, stretches

POLICIES_OF_POD_MAX = 1000
FORBIDDEN = {INGRESS: 0x1, EGRESS: 0x2}
"""Bits of the mark of a connection that was allowed before: whose host judges a direction has its bit."""
_OTHER = {INGRESS: Field.SOURCE, EGRESS: Field.DESTINATION}
_SUBJECTS = {INGRESS: "isolated-in", EGRESS: "isolated-out"}
_EGRESS_JUDGED, _INGRESS_JUDGED = 10, 20


def frame() -> Fragment:
    """The rules that all policies share. Sets that services have too are the same."""
    sets = {
        "peers": Set((8, 4)),
        "ports": Set((8, 4, 4)),
        "pod-ports": Set((8, 4, 4, 4)),
        "homes": Set((4,)),
        "loops": Set((4, 4)),
        "relayed": Set((4, 4, 4)),
        **{name: Set((4,), Gives.VERDICT) for name in _SUBJECTS.values()},
    }
    forbidden: Rule = (Has(Field.CONNECTION_MARK, FORBIDDEN[INGRESS] | FORBIDDEN[EGRESS]), DROP)
    known: Rule = (Has(Field.STATE, ESTABLISHED), ACCEPT)
    to_itself: Rule = (In((Field.SOURCE, Field.DESTINATION), "loops"), ACCEPT)
    leaving: Rule = (Choose((Field.SOURCE,), _SUBJECTS[EGRESS]),)
    arriving: Rule = (Choose((Field.DESTINATION,), _SUBJECTS[INGRESS]),)
    # A pod may always speak with its node; what leads out of the network by a service, that service's proxy judges.
    at_home: Rule = (In((Field.DESTINATION,), "homes"), ACCEPT)
    outside: Rule = (In(SOCKET, "relayed"), ACCEPT)
    chains = {
        "on-leaving": Chain((forbidden, known, to_itself, leaving), Hook("filter", FORWARD, _EGRESS_JUDGED)),
        "on-leaving-here": Chain((forbidden, known, at_home, outside, leaving), Hook("filter", INPUT, _EGRESS_JUDGED)),
        "on-arriving": Chain((known, to_itself, arriving), Hook("filter", FORWARD, _INGRESS_JUDGED)),
    }
    return Fragment(sets, chains)


def homes(addresses: Iterable[str]) -> Fragment:
    """The addresses of this host's nodes."""
    return Fragment(elements={("homes", key(one)): None for one in addresses})


def of_policy(policy: Policy) -> tuple[dict[str, str], Fragment]:
    """The chain for each direction that it isolates in, and all of it that does not depend on pods."""
    names: dict[str, str] = {}
    sets: dict[str, Set] = {}
    chains: dict[str, Chain] = {}
    elements: dict[Element, Data] = {}
    for direction in (INGRESS, EGRESS):
        rules = policy.rules(direction)
        if rules is not None:
            made = [line for rule in rules for line in _rule(direction, rule, sets, elements)]
            names[direction] = f"policy-{_short(policy.key, direction)}-{_short(*map(str, made))}"
            chains[names[direction]] = Chain(tuple(made))
    return names, Fragment(sets, chains, elements)


def _rule(direction: str, rule: model.Rule, sets: dict[str, Set], elements: dict[Element, Data]) -> Iterator[Rule]:
    ident = rule.ident
    own = Own(ident)
    whom: list[tuple[Statement, ...]] = [()] if rule.is_for_all else []
    if rule.peers:
        whom.append((In((own, _OTHER[direction]), "peers"),))
    ranges = stretches(rule.blocks or ())
    if ranges:
        addresses = [IPv4Address(a).packed + IPv4Address(b).packed for a, b in ranges]
        whom.append((In((_OTHER[direction],), _ranges_set("blocks", ident, addresses, (4,), sets, elements)),))
    where: list[tuple[Statement, ...]] = [()] if rule.ports is None else [*_ports(ident, rule, sets, elements)]
    for one in whom:
        for other in where:
            yield (*one, *other, ACCEPT)
    if rule.has_names:
        named = (In((own, Field.DESTINATION, Field.PROTOCOL, Field.PORT), "pod-ports"),)
        # Whom a pod may speak with stands in that set, for it is their ports that have names.
        for one in whom if direction == INGRESS else [()]:
            yield (*one, *named, ACCEPT)


def _ports(
    ident: bytes, rule: model.Rule, sets: dict[str, Set], elements: dict[Element, Data]
) -> Iterator[tuple[Statement, ...]]:
    ranges: list[bytes] = []
    singles = False
    for protocol, stretch in numbers(rule.ports or ()).items():
        number = PROTOCOLS[protocol]
        for first, last in stretch:
            if first == last:
                elements["ports", ident + key(number, port(first))] = None
                singles = True
            else:
                ranges.append(key(number, port(first)) + key(number, port(last)))
    if singles:
        yield (In((Own(ident), Field.PROTOCOL, Field.PORT), "ports"),)
    if ranges:
        name = _ranges_set("spans", ident, ranges, (4, 4), sets, elements)
        yield (In((Field.PROTOCOL, Field.PORT), name),)


def _ranges_set(
    kind: str,
    ident: bytes,
    ranges: list[bytes],
    sizes: tuple[int, ...],
    sets: dict[str, Set],
    elements: dict[Element, Data],
) -> str:
    content = hashlib.blake2s(b"".join(ranges), digest_size=6).hexdigest()
    name = f"{kind}-{ident.hex()}-{content}-ranges"
    sets[name] = Set(sizes, ranges=True)
    elements |= {(name, one): None for one in ranges}
    return name


def of_peer(policy: Policy, pod: PodFacts, peers: Collection[tuple[str, int]], *, is_subject: bool) -> Fragment:
    """What a pod adds to a policy. `peers`: direction and number of the rules that name it; `is_subject`: the policy
    isolates it, and it is of this host.
    """
    elements: dict[Element, Data] = {}
    for direction, number in peers:
        rules = policy.rules(direction) or ()
        elements["peers", rules[number].ident + key(pod.ip)] = None
    for direction in (EGRESS, *((INGRESS,) if is_subject else ())):
        for number, rule in enumerate(policy.rules(direction) or ()):
            if rule.has_names and (direction == INGRESS or _is_meant(rule, pod, (direction, number) in peers)):
                elements |= {("pod-ports", rule.ident + where): None for where in _named(rule, pod)}
    return Fragment(elements=elements)


def _is_meant(rule: model.Rule, pod: PodFacts, is_peer: bool) -> bool:
    if is_peer or rule.is_for_all:
        return True
    address = int(IPv4Address(pod.ip))
    return any(first <= address <= last for first, last in stretches(rule.blocks or ()))


def _named(rule: model.Rule, pod: PodFacts) -> Iterator[bytes]:
    for one in rule.ports or ():
        found = pod.ports.get((one.name, one.protocol)) if one.name else None
        if found is not None:
            yield key(pod.ip, PROTOCOLS[one.protocol], port(found))


def of_subject(pod: PodFacts, chains: dict[str, list[str]]) -> Fragment:
    """The chains of a pod of this host. `chains`: those of the policies that isolate it, by direction."""
    found: dict[str, Chain] = {}
    elements: dict[Element, Data] = {}
    for direction, names in chains.items():
        if names:
            own = f"{'in' if direction == INGRESS else 'out'}-{_short(pod.key, pod.ip)}"
            found[own] = Chain((*((jump(name),) for name in names[:POLICIES_OF_POD_MAX]), (DROP,)))
            elements[_SUBJECTS[direction], key(pod.ip)] = goto(own)
    return Fragment({}, found, elements)


def _short(*words: str) -> str:
    return hashlib.blake2s("\n".join(words).encode(), digest_size=6).hexdigest()
