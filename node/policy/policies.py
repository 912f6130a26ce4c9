"""Policies, pods and namespaces as they come and go, and which fragments of packet rules they are. Pure.

What changed is gathered under owners' names until `take`; what one call leaves can always be taken. Work over all pods
is done in portions: whoever calls lets others have their turn between.
"""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address

from rayplane.node.nftables.ruleset import NOTHING, Fragment
from rayplane.node.policy.model import (
    EGRESS,
    INGRESS,
    PodFacts,
    Policy,
    Rule,
    allows_outside,
    numbers,
    stretches,
)
from rayplane.node.policy.packet_rules import of_peer, of_policy, of_subject

PORTION = 50
_REMEMBERED = 4096
Named = tuple[tuple[str, int], ...]
"""Rules that name a pod: direction and number."""


class _Known:
    """A policy with its chains, and which of its rules name pods with some labels."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.chains, self.fragment = of_policy(policy)
        self.members: set[str] = set()
        """Keys of pods that add something to it."""
        self._named: dict[tuple[str, tuple[tuple[str, str], ...]], Named] = {}

    def forget(self) -> None:
        self._named.clear()

    def named(self, namespace: str, labels: Mapping[str, str], of_namespace: Mapping[str, str] | None) -> Named:
        key = (namespace, tuple(sorted(labels.items())))
        found = self._named.get(key)
        if found is None:
            if len(self._named) >= _REMEMBERED:
                self._named.clear()
            policy = self.policy
            found = self._named[key] = tuple(
                (direction, number)
                for direction in (INGRESS, EGRESS)
                for number, rule in enumerate(policy.rules(direction) or ())
                if _names(policy, rule, namespace, labels, of_namespace)
            )
        return found


def _names(
    policy: Policy, rule: Rule, namespace: str, labels: Mapping[str, str], of_namespace: Mapping[str, str] | None
) -> bool:
    return any(
        (
            namespace == policy.namespace
            if peer.namespaces is None
            else of_namespace is not None and peer.namespaces.matches(of_namespace)
        )
        and peer.pods.matches(labels)
        for peer in rule.peers or ()
    )


class Policies:
    """All that is known. Pods of this host are those that `set_own` was told."""

    def __init__(self) -> None:
        self._policies: dict[str, _Known] = {}
        self._of_namespace: dict[str, dict[str, _Known]] = {}
        self._pods: dict[str, PodFacts] = {}
        self._own: dict[str, PodFacts] = {}
        self._by_ip: dict[str, str] = {}
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._changed: dict[str, Fragment] = {}

    def __len__(self) -> int:
        return len(self._policies)

    def take(self) -> dict[str, Fragment]:
        """What changed since the last time: fragments by owner."""
        changed, self._changed = self._changed, {}
        return changed

    # --- changes ----------------------------------------------------------------------------------

    def set_policy(self, key: str, policy: Policy | None) -> Iterator[None]:
        """A policy is there, is another, or is gone."""
        before = self._policies.pop(key, None)
        namespace = key.partition("/")[0]
        members = before.members if before is not None else set()
        if before is not None:
            del self._of_namespace[namespace][key]
            if not self._of_namespace[namespace]:
                del self._of_namespace[namespace]
        if policy is None:
            if before is not None:
                self._changed[f"policy {key}"] = NOTHING
                self._isolate(namespace)
                self._changed |= {f"peer {key} {name}": NOTHING for name in members}
            return
        known = self._policies[key] = _Known(policy)
        self._of_namespace.setdefault(namespace, {})[key] = known
        known.members = members
        self._changed[f"policy {key}"] = known.fragment
        self._isolate(namespace)
        for number, name in enumerate([*self._pods], 1):
            if name in self._pods and self._policies.get(key) is known:
                self._put_peer(known, self._pods[name])
            if number % PORTION == 0:
                yield

    def _isolate(self, namespace: str) -> None:
        """Policies of a namespace are others now."""
        for pod in self._own.values():
            if pod.namespace == namespace:
                self._put_subject(pod)

    def set_pod(self, key: str, pod: PodFacts | None) -> None:
        """A pod, of whatever host, has an address, is another, or is gone. Own ones are what `set_own` said."""
        own = self._own.get(key)
        if own is not None and pod is not None:
            # Its address is known here before the API tells it, and until the end.
            pod = PodFacts(key, pod.namespace, own.ip, pod.labels, pod.ports)
            self._own[key] = pod
        elif own is not None:
            return
        self._set_pod(key, pod)
        if own is not None and pod is not None:
            self._put_subject(pod)

    def set_own(self, key: str, pod: PodFacts | None) -> None:
        """A pod of this host gets an address, or gives it back."""
        if pod is not None:
            self._own[key] = pod
            self._put_subject(pod)
        elif self._own.pop(key, None) is not None:
            self._changed[f"subject {key}"] = NOTHING
        self._set_pod(key, pod)

    def _set_pod(self, key: str, pod: PodFacts | None) -> None:
        before = self._pods.pop(key, None)
        if before is not None and self._by_ip.get(before.ip) == key:
            del self._by_ip[before.ip]
        if pod is not None:
            self._pods[key] = pod
            self._by_ip[pod.ip] = key
        for known in self._policies.values():
            if pod is not None:
                self._put_peer(known, pod)
            elif key in known.members:
                known.members.discard(key)
                self._changed[f"peer {known.policy.key} {key}"] = NOTHING

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> Iterator[None]:
        """A namespace is there, has other labels, or is gone."""
        if self._namespaces.get(name) == labels:
            return
        if labels is None:
            del self._namespaces[name]
        else:
            self._namespaces[name] = labels
        for known in self._policies.values():
            known.forget()
        for number, key in enumerate([key for key, pod in self._pods.items() if pod.namespace == name], 1):
            for known in [*self._policies.values()]:
                if key in self._pods:
                    self._put_peer(known, self._pods[key])
            if number % PORTION == 0:
                yield

    def _put_peer(self, known: _Known, pod: PodFacts) -> None:
        policy = known.policy
        named = known.named(pod.namespace, pod.labels, self._namespaces.get(pod.namespace))
        fragment = of_peer(policy, pod, named, is_subject=pod.key in self._own and policy.isolates(pod))
        if fragment.elements:
            known.members.add(pod.key)
        elif pod.key in known.members:
            known.members.discard(pod.key)
            fragment = NOTHING
        else:
            return
        self._changed[f"peer {policy.key} {pod.key}"] = fragment

    def _put_subject(self, pod: PodFacts) -> None:
        chains: dict[str, list[str]] = {INGRESS: [], EGRESS: []}
        for known in self._isolating(pod):
            for direction, chain in known.chains.items():
                chains[direction].append(chain)
        self._changed[f"subject {pod.key}"] = of_subject(pod, chains)

    def _isolating(self, pod: PodFacts) -> list[_Known]:
        found = self._of_namespace.get(pod.namespace) or {}
        return [found[key] for key in sorted(found) if found[key].policy.isolates(pod)]

    # --- questions --------------------------------------------------------------------------------

    def isolated(self) -> frozenset[str]:
        """Addresses of this host's pods that some policy isolates."""
        return frozenset(pod.ip for pod in self._own.values() if self._isolating(pod))

    def may_leave(self, source: str, ip: str, port: int, protocol: str) -> bool:
        """Whether the pod with an address may speak with a place outside of the pods' network.

        Of whatever host: those of one machine listen for each other. One that is not known yet may not.
        """
        pod = self._pods.get(self._by_ip.get(source, ""))
        if pod is None:
            return not self._policies
        rules = [k.policy.egress for k in self._isolating(pod) if k.policy.egress is not None]
        return not rules or any(allows_outside(some, ip, port, protocol) for some in rules)

    def allows(self, source: str, destination: str, port: int, protocol: str) -> bool:
        """Whether a connection of pods is allowed, as far as pods of this host are concerned."""
        return all(self.passes(way, source, destination, port, protocol) for way in (EGRESS, INGRESS))

    def judges(self, direction: str, source: str, destination: str) -> bool:
        """Whether it is this host's to say if a connection passes."""
        return self._by_ip.get(source if direction == EGRESS else destination, "") in self._own

    def passes(self, direction: str, source: str, destination: str, port: int, protocol: str) -> bool:
        """Whether the pod that a connection leaves or arrives at lets it pass; others' pods always do here."""
        subject = source if direction == EGRESS else destination
        pod = self._own.get(self._by_ip.get(subject, ""))
        return pod is None or self._passes(pod, direction, source, destination, port, protocol)

    def lets(self, source: str, destination: str, port: int, protocol: str) -> bool:
        """Whether pods, of whatever hosts, may speak. While there are policies one that is not known yet may not."""
        one, other = (self._pods.get(self._by_ip.get(ip, "")) for ip in (source, destination))
        if one is None or other is None:
            return not self._policies
        return all(
            self._passes(pod, way, source, destination, port, protocol)
            for way, pod in ((EGRESS, one), (INGRESS, other))
        )

    def _passes(self, pod: PodFacts, direction: str, source: str, destination: str, port: int, protocol: str) -> bool:
        """Whether the pod at one end of a connection lets it pass."""
        other = destination if direction == EGRESS else source
        if source == destination:
            return True
        found = [known for known in self._isolating(pod) if known.policy.rules(direction) is not None]
        peer, there = (self._pods.get(self._by_ip.get(ip, "")) for ip in (other, destination))
        for known in found:
            named: Named = ()
            if peer is not None:
                named = known.named(peer.namespace, peer.labels, self._namespaces.get(peer.namespace))
            for number, rule in enumerate(known.policy.rules(direction) or ()):
                is_meant = rule.is_for_all or (direction, number) in named or _in_blocks(rule, other)
                if is_meant and _covers(rule, there, port, protocol):
                    return True
        return not found


def _in_blocks(rule: Rule, ip: str) -> bool:
    return any(first <= int(IPv4Address(ip)) <= last for first, last in stretches(rule.blocks or ()))


def _covers(rule: Rule, pod: PodFacts | None, port: int, protocol: str) -> bool:
    if rule.ports is None:
        return True
    if any(first <= port <= last for first, last in numbers(rule.ports).get(protocol, ())):
        return True
    return pod is not None and any(
        pod.ports.get((one.name, protocol)) == port for one in rule.ports if one.name and one.protocol == protocol
    )
