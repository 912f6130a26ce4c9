"""Network policies: what they say, read slowly, and what the packet rules make of it, whatever came in which order."""

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.meta import Object
from rayplane.node.nftables.expressions import PROTOCOLS
from rayplane.node.nftables.ruleset import FORWARD, Table
from rayplane.node.policy import model
from rayplane.node.policy.model import BLOCKS_MAX, PodFacts, facts_of, left_out, read, stretches
from rayplane.node.policy.packet_rules import POLICIES_OF_POD_MAX, frame
from rayplane.node.policy.policies import Policies
from tests.node.packets import Packet, Reader

# --- the slow way ---------------------------------------------------------------------------------


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if any(labels.get(k) != v for k, v in (selector.get("matchLabels") or {}).items()):
        return False
    for one in selector.get("matchExpressions") or ():
        found, values = labels.get(one["key"]), one.get("values") or []
        holds = {
            "In": found in values,
            "NotIn": found not in values,
            "Exists": found is not None,
            "DoesNotExist": found is None,
        }
        if not holds[one["operator"]]:
            return False
    return True


class World:
    """Policies, pods and namespaces, and what is allowed among them, by reading it out."""

    def __init__(self) -> None:
        self.policies: dict[str, Object] = {}
        self.pods: dict[str, PodFacts] = {}
        self.namespaces: dict[str, dict[str, str]] = {}
        self.own: set[str] = set()

    def allows(self, source: str, destination: str, port: int, protocol: str) -> bool:
        by_ip = {pod.ip: pod for pod in self.pods.values()}
        sender, receiver = by_ip.get(source), by_ip.get(destination)
        out = self._allows("egress", sender, receiver, destination, receiver, port, protocol)
        return out and self._allows("ingress", receiver, sender, source, receiver, port, protocol)

    def _allows(
        self,
        direction: str,
        subject: PodFacts | None,
        other: PodFacts | None,
        other_ip: str,
        at: PodFacts | None,
        port: int,
        protocol: str,
    ) -> bool:
        if subject is None or subject.key not in self.own:
            return True
        isolated = False
        for policy in self.policies.values():
            spec, namespace = policy["spec"], policy["metadata"]["namespace"]
            if namespace != subject.namespace or not matches(spec["podSelector"], dict(subject.labels)):
                continue
            if direction.title() not in spec["policyTypes"]:
                continue
            isolated = True
            for rule in spec.get(direction) or ():
                peers = rule.get("from" if direction == "ingress" else "to")
                meant = not peers or any(self._meant(peer, namespace, other, other_ip) for peer in peers)
                if meant and self._covers(rule.get("ports"), at, port, protocol):
                    return True
        return not isolated

    def _meant(self, peer: dict[str, Any], namespace: str, other: PodFacts | None, ip: str) -> bool:
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            inside = ip_address(ip) in ip_network(block["cidr"])
            return inside and not any(ip_address(ip) in ip_network(e) for e in block.get("except") or ())
        if other is None:
            return False
        if "namespaceSelector" in peer:
            labels = self.namespaces.get(other.namespace)
            if labels is None or not matches(peer["namespaceSelector"], labels):
                return False
        elif other.namespace != namespace:
            return False
        return matches(peer.get("podSelector") or {}, dict(other.labels))

    def _covers(self, ports: list[dict[str, Any]] | None, at: PodFacts | None, port: int, protocol: str) -> bool:
        if not ports:
            return True
        for one in ports:
            if one.get("protocol", "TCP") != protocol:
                continue
            wanted = one.get("port")
            if isinstance(wanted, str):
                wanted = at.ports.get((wanted, protocol)) if at is not None else None
                if wanted == port:
                    return True
            elif wanted is None or wanted <= port <= one.get("endPort", wanted):
                return True
        return False


# --- whatever comes -------------------------------------------------------------------------------

SPACES, KEYS, VALUES, NAMED = ["red", "blue"], ["a", "b"], ["1", "2"], ["web", "dns"]
PORTS = [53, 80, 81, 90]
LABELS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES))
EXPRESSION = st.one_of(
    st.builds(
        lambda k, o, v: {"key": k, "operator": o, "values": v},
        st.sampled_from(KEYS),
        st.sampled_from(["In", "NotIn"]),
        st.lists(st.sampled_from(VALUES), min_size=1, unique=True),
    ),
    st.builds(
        lambda k, o: {"key": k, "operator": o}, st.sampled_from(KEYS), st.sampled_from(["Exists", "DoesNotExist"])
    ),
)
SELECTOR = st.fixed_dictionaries(
    {}, optional={"matchLabels": LABELS, "matchExpressions": st.lists(EXPRESSION, max_size=1)}
)
BLOCK = st.sampled_from(
    [
        {"cidr": "10.0.0.0/8"},
        {"cidr": "10.0.0.0/29", "except": ["10.0.0.2/32", "10.0.0.4/31"]},
        {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/30"]},
        {"cidr": "10.0.0.5/32"},
        {"cidr": "8.8.8.8/32"},
        {"cidr": "10.0.0.0/30", "except": ["10.0.0.0/31", "10.0.0.2/31"]},
    ]
)
PEER = st.one_of(
    st.builds(lambda s: {"podSelector": s}, SELECTOR),
    st.builds(lambda s: {"namespaceSelector": s}, SELECTOR),
    st.builds(lambda s, t: {"podSelector": s, "namespaceSelector": t}, SELECTOR, SELECTOR),
    st.builds(lambda b: {"ipBlock": b}, BLOCK),
)
PORT = st.one_of(
    st.sampled_from([{"protocol": "UDP"}, {"protocol": "TCP"}, {"protocol": "SCTP", "port": 80}]),
    st.builds(
        lambda p, n: {"protocol": p, "port": n}, st.sampled_from(["TCP", "UDP"]), st.sampled_from([*PORTS, *NAMED])
    ),
    st.builds(lambda n, e: {"port": n, "endPort": n + e}, st.sampled_from(PORTS), st.sampled_from([0, 1, 20])),
)


def rules(peers: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    one = st.fixed_dictionaries({}, optional={peers: st.lists(PEER, max_size=2), "ports": st.lists(PORT, max_size=2)})
    return st.lists(one, max_size=2)


POLICY = st.fixed_dictionaries(
    {
        "podSelector": SELECTOR,
        "policyTypes": st.lists(st.sampled_from(["Ingress", "Egress"]), min_size=1, max_size=2, unique=True),
    },
    optional={"ingress": rules("from"), "egress": rules("to")},
)
POD = st.builds(
    lambda space, labels, ports: (space, labels, ports),
    st.sampled_from(SPACES),
    LABELS,
    st.dictionaries(
        st.tuples(st.sampled_from(NAMED), st.sampled_from(["TCP", "UDP"])), st.sampled_from(PORTS), max_size=2
    ),
)
STEP = st.one_of(
    st.tuples(st.just("policy"), st.sampled_from(["red/x", "red/y", "blue/x"]), POLICY | st.none()),
    st.tuples(st.just("pod"), st.integers(1, 5), POD | st.none()),
    st.tuples(st.just("namespace"), st.sampled_from(SPACES), LABELS | st.none()),
)
OUTSIDE = "8.8.8.8"


def drain(steps: Iterable[None]) -> None:
    for _ in steps:
        pass


class Twin:
    """Both ways at once. Pods 1 to 3 are of this host."""

    def __init__(self) -> None:
        self.slow, self.fast, self.table = World(), Policies(), Table()
        self.table.put("frame", frame())

    def take(self, kind: str, name: Any, value: Any) -> None:
        if kind == "policy":
            namespace, _, short = name.partition("/")
            policy = {"metadata": {"namespace": namespace, "name": short}, "spec": value}
            _put(self.slow.policies, name, policy if value is not None else None)
            drain(self.fast.set_policy(name, read(policy) if value is not None else None))
        elif kind == "namespace":
            _put(self.slow.namespaces, name, value)
            drain(self.fast.set_namespace(name, value))
        else:
            self._pod(name, value)
        for owner, fragment in self.fast.take().items():
            self.table.put(owner, fragment)

    def _pod(self, number: int, value: Any) -> None:
        # A pod that comes again may be of another namespace, and then is another pod.
        for key in [key for key, pod in self.slow.pods.items() if pod.ip == f"10.0.0.{number}"]:
            del self.slow.pods[key]
            self.slow.own.discard(key)
            (self.fast.set_own if number <= 3 else self.fast.set_pod)(key, None)
        if value is None:
            return
        space, labels, ports = value
        pod = PodFacts(f"{space}/p{number}", space, f"10.0.0.{number}", labels, ports)
        self.slow.pods[pod.key] = pod
        if number <= 3:
            self.slow.own.add(pod.key)
            self.fast.set_own(pod.key, pod)
        else:
            self.fast.set_pod(pod.key, pod)

    def check(self) -> None:
        reader = Reader(self.table.everything())
        addresses = [f"10.0.0.{n}" for n in range(1, 6)] + [OUTSIDE]
        own = {pod.ip for pod in self.slow.pods.values() if pod.key in self.slow.own}
        for source in addresses:
            for destination in addresses:
                if source == destination:
                    continue
                for port in (*PORTS, 1):
                    for protocol in ("TCP", "UDP"):
                        wanted = self.slow.allows(source, destination, port, protocol)
                        packet = Packet(source, destination, PROTOCOLS[protocol], port)
                        assert reader.passes(packet, FORWARD) == wanted, (packet, wanted)
                        assert self.fast.allows(source, destination, port, protocol) == wanted, (packet, wanted)
                        if OUTSIDE not in (source, destination):
                            self._check_among(source, destination, port, protocol)
                        if destination == OUTSIDE and source in own:
                            may = self.fast.may_leave(source, destination, port, protocol)
                            assert may == wanted

    def _check_among(self, source: str, destination: str, port: int, protocol: str) -> None:
        """What leads from one network to another is judged as if both pods were of this host."""
        known = {pod.ip for pod in self.slow.pods.values()}
        own, self.slow.own = self.slow.own, {*self.slow.pods}
        wanted = self.slow.allows(source, destination, port, protocol) if known >= {source, destination} else False
        self.slow.own = own
        nobody_cares = not (known >= {source, destination} or self.slow.policies)
        assert self.fast.lets(source, destination, port, protocol) == (wanted or nobody_cares)


def _put(known: dict[str, Any], name: str, value: Any) -> None:
    if value is None:
        known.pop(name, None)
    else:
        known[name] = value


@given(st.lists(STEP, max_size=14), st.booleans())
def test_packet_rules_do_what_policies_say(steps: list[tuple[str, Any, Any]], often: bool) -> None:
    twin = Twin()
    for step in [("namespace", "red", {"a": "1"}), ("pod", 1, ("red", {"a": "1"}, {("web", "TCP"): 80})), *steps]:
        twin.take(*step)
        if often:
            twin.check()
    twin.check()
    # What all of it left goes with it.
    for kind, names in (("policy", ["red/x", "red/y", "blue/x"]), ("pod", range(1, 6)), ("namespace", SPACES)):
        for name in names:
            twin.take(kind, name, None)
    table = Table()
    table.put("frame", frame())
    assert twin.table.listing() == table.listing()


def test_labels_of_namespaces_and_pods_count_as_they_are_now() -> None:
    twin = Twin()
    east = [{"from": [{"namespaceSelector": {"matchLabels": {"a": "1"}}, "podSelector": {"matchLabels": {"b": "1"}}}]}]
    spec = {"podSelector": {"matchLabels": {"a": "2"}}, "policyTypes": ["Ingress"], "ingress": east}
    steps: tuple[tuple[Any, ...], ...] = (
        ("pod", 1, ("red", {"a": "2"}, {})),
        ("pod", 4, ("blue", {"b": "1"}, {})),
        ("policy", "red/x", spec),
        ("namespace", "blue", {"a": "1"}),
        ("namespace", "blue", {"a": "2"}),
        ("namespace", "blue", {"a": "1"}),
        ("pod", 4, ("blue", {"b": "2"}, {})),
        ("namespace", "blue", None),
    )
    for step in steps:
        twin.take(*step)
        twin.check()


def test_a_pod_of_this_host_is_isolated_from_its_address_on_until_it_gives_that_back() -> None:
    known, table = Policies(), Table()

    def passes() -> bool:
        for owner, fragment in known.take().items():
            table.put(owner, fragment)
        return Reader(table.everything()).passes(Packet("10.0.0.9", "10.0.0.1", 6, 80), FORWARD)

    table.put("frame", frame())
    pod = PodFacts("red/p", "red", "10.0.0.1", {"a": "1"})
    drain(known.set_policy("red/x", read(policy(podSelector={"matchLabels": {"a": "1"}}))))
    assert passes()
    known.set_own(pod.key, pod)
    assert not passes()
    known.set_pod(pod.key, None)  # the API forgot it before it ended
    assert not passes() and not known.allows("10.0.0.9", "10.0.0.1", 80, "TCP")
    known.set_pod(pod.key, PodFacts("red/p", "red", "10.0.0.7", {"a": "2"}))
    assert passes()
    known.set_pod(pod.key, PodFacts("red/p", "red", "10.0.0.1", {"a": "1"}))
    assert not passes()
    known.set_own(pod.key, None)
    assert passes()


# --- one by one -----------------------------------------------------------------------------------


def policy(**spec: Any) -> Object:
    return {"metadata": {"namespace": "red", "name": "x"}, "spec": {"podSelector": {}, **spec}}


def test_a_policy_without_types_isolates_as_its_rules_say() -> None:
    assert read(policy()).egress is None and read(policy()).ingress == ()
    assert read(policy(egress=[{}])).egress is not None


def test_pods_that_have_ended_or_share_the_nodes_network_are_nobody() -> None:
    pod = {"metadata": {"name": "p", "namespace": "red"}, "spec": {"containers": []}, "status": {"podIP": "10.0.0.1"}}
    assert facts_of(pod) is not None
    assert facts_of(pod | {"status": {}}) is None
    assert facts_of(pod | {"status": {"podIP": "10.0.0.1", "phase": "Succeeded"}}) is None
    assert facts_of(pod | {"spec": {"containers": [], "hostNetwork": True}}) is None


def test_what_is_beyond_the_limits_is_not_allowed_and_told() -> None:
    blocks = [{"ipBlock": {"cidr": f"10.{n >> 8}.{n & 255}.0/24"}} for n in range(BLOCKS_MAX + 5)]
    ports = [{"port": n, "protocol": "TCP"} for n in range(1, 20_001)]
    one = policy(ingress=[{"from": blocks, "ports": ports}, {"from": [{"ipBlock": {"cidr": "1.2.3.4/32"}}]}])
    rules = read(one).ingress
    assert rules is not None and len(rules[0].blocks or ()) == BLOCKS_MAX and rules[1].blocks == ()
    assert not rules[1].is_for_all and len(rules[0].ports or ()) == 10_000
    said = left_out(one)
    assert "10006 IP blocks of ingress" in said and "20000 ports of ingress" in said
    assert left_out(policy(ingress=[{}])) == ""


def test_a_pod_with_more_policies_than_count_is_isolated_and_allowed_less() -> None:
    known = Policies()
    pod = PodFacts("red/p", "red", "10.0.0.1")
    known.set_own(pod.key, pod)
    for number in range(POLICIES_OF_POD_MAX + 1):
        one = policy(ingress=[{"ports": [{"port": 1 + number}]}])
        one["metadata"]["name"] = f"x{number:05}"
        drain(known.set_policy(f"red/x{number:05}", read(one)))
    table = Table()
    table.put("frame", frame())
    for owner, fragment in known.take().items():
        table.put(owner, fragment)
    reader = Reader(table.everything())
    assert reader.passes(Packet("10.0.0.9", "10.0.0.1", 6, POLICIES_OF_POD_MAX), FORWARD)
    assert not reader.passes(Packet("10.0.0.9", "10.0.0.1", 6, POLICIES_OF_POD_MAX + 1), FORWARD)


@pytest.mark.parametrize(
    ("block", "excepted", "wanted"),
    [
        ("10.0.0.0/30", (), ["10.0.0.0-10.0.0.3"]),
        ("10.0.0.0/30", ("10.0.0.1/32",), ["10.0.0.0-10.0.0.0", "10.0.0.2-10.0.0.3"]),
        ("10.0.0.0/30", ("10.0.0.0/31", "10.0.0.2/31"), []),
        ("0.0.0.0/0", ("128.0.0.0/1",), ["0.0.0.0-127.255.255.255"]),
        ("fd00::/8", (), []),
    ],
)
def test_blocks_are_what_is_left_of_them(block: str, excepted: tuple[str, ...], wanted: list[str]) -> None:
    assert [f"{ip_address(a)}-{ip_address(b)}" for a, b in stretches([(block, excepted)])] == wanted


def test_rules_are_other_rules_when_they_say_something_else() -> None:
    rules = [{"from": [{"podSelector": {}}]}, {"from": [{"podSelector": {"matchLabels": {"a": "1"}}}]}]
    first, second = read(policy(ingress=rules)).ingress or ()
    (alone,) = read(policy(ingress=rules[1:])).ingress or ()
    assert first.ident != second.ident == alone.ident
    assert model.numbers(()) == {}
