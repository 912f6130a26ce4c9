"""Packet rules as data: what changes between two wishes, in which order, and what services become."""

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rayplane.node.nftables.expressions import ACCEPT, DROP, TCP, Place, goto, key, port
from rayplane.node.nftables.messages import HOOKED, transaction, transactions, units
from rayplane.node.nftables.ruleset import NOTHING, Chain, Changes, Fragment, Hook, Set, Table, range_elements
from rayplane.node.proxy.packet_rules import frame, of_service
from rayplane.node.proxy.rules import Endpoint, Socket, Target, left_out, served_ports

NAMES = st.sampled_from("abc")
CHAINS = st.dictionaries(NAMES, st.sampled_from([Chain(), Chain(((ACCEPT,),)), Chain(((DROP,),))]))
ELEMENTS = st.dictionaries(
    st.tuples(st.just("s"), st.sampled_from([b"1111", b"2222"])), st.sampled_from([ACCEPT, DROP])
)
FRAGMENTS = st.builds(Fragment, st.just({"s": Set((4,))}) | st.just({}), CHAINS, ELEMENTS)


class Kernel:
    """What a kernel has after changes; refuses what a kernel would."""

    def __init__(self) -> None:
        self.sets: dict[str, Set] = {}
        self.chains: dict[str, Any] = {}
        self.elements: dict[Any, Any] = {}

    def take(self, changes: Changes) -> None:
        assert not self.sets.keys() & changes.sets.keys() and not self.chains.keys() & changes.chains.keys()
        self.sets |= changes.sets
        self.chains |= {name: chain.rules for name, chain in changes.chains.items()}
        for name, rules in changes.rules.items():
            assert name in self.chains
            self.chains[name] = rules
        for element, data in changes.gone_elements.items():
            assert self.elements.pop(element) == data
        assert not self.elements.keys() & changes.elements.keys()
        self.elements |= changes.elements
        for name in changes.gone_chains:
            del self.chains[name]
        for name in changes.gone_sets:
            del self.sets[name]
            self.elements = {e: d for e, d in self.elements.items() if e[0] != name}


@given(st.lists(st.tuples(st.sampled_from("xyz"), FRAGMENTS | st.just(NOTHING), st.booleans()), max_size=12))
def test_changes_lead_to_what_is_wanted(steps: list[tuple[str, Fragment, bool]]) -> None:
    table, kernel, wanted = Table(), Kernel(), dict[str, Fragment]()
    for owner, fragment, now in [*steps, ("x", NOTHING, True)]:
        if any(e[0] not in fragment.sets for e in fragment.elements):
            fragment = Fragment(fragment.sets, fragment.chains)
        table.put(owner, fragment)
        wanted[owner] = fragment
        if now:
            kernel.take(table.changes())
    chains, elements = dict[str, Any](), dict[Any, Any]()
    for owner in sorted(wanted, reverse=True):
        chains |= {name: chain.rules for name, chain in wanted[owner].chains.items()}
        elements |= wanted[owner].elements
    assert (kernel.chains, kernel.elements) == (chains, elements)
    assert table.changes() == Changes()
    whole = table.everything()
    assert ({n: c.rules for n, c in whole.chains.items()}, whole.elements) == (chains, elements)


def test_what_is_new_is_complete_before_packets_meet_it_and_goes_when_nobody_refers_to_it() -> None:
    table = Table()
    table.put(
        "a", Fragment({"s": Set((4,))}, {f"{HOOKED}x": Chain(((goto("c"),),), Hook("filter", 2, 0)), "c": Chain()})
    )
    about = [message.about for piece in units("t", table.everything()) for message in piece]
    assert about == ["set s", "chain c", "chain on-x", "rule of chain on-x"]
    table.put("a", Fragment({}, {f"{HOOKED}x": Chain((), Hook("filter", 2, 0))}))
    about = [message.about for piece in units("t", table.changes()) for message in piece]
    assert about == ["rules of chain on-x", "rules of chain c", "end of chain c", "end of set s"]


def test_transactions_are_as_large_as_they_may_be_and_whole() -> None:
    table = Table()
    table.put("a", Fragment({"s": Set((4,))}, {}, {("s", n.to_bytes(4)): None for n in range(5000)}))
    pieces = [*units("t", table.everything())]
    batches = [*transactions(pieces, 30_000)]
    assert len(batches) > 3 and [m for b in batches for m in b] == [m for piece in pieces for m in piece]
    for batch in batches:
        data = transaction(batch)
        assert len(data) <= 31_000
        while data:
            (length,) = struct.unpack_from("=I", data)
            assert length % 4 == 0
            data = data[length:]


def test_ranges_neither_overlap_nor_touch() -> None:
    found = range_elements("r", ["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "11.0.0.0/8", "12.0.0.1/32"])
    assert [*found] == [("r", key("10.0.0.0", "11.255.255.255")), ("r", key("12.0.0.1", "12.0.0.1"))]


def test_a_service_is_a_few_elements_and_shares_its_rules() -> None:
    places = tuple(Endpoint(f"10.0.0.{n}", 8080, "n1", f"default/p{n}") for n in (1, 2, 3))
    plans = [{Socket(f"10.78.0.{n}", 80): Target("default/web", places)} for n in (1, 2)]
    one, two = (of_service(plan, {"n1": "10.77.1.1"}, lambda e: True) for plan in plans)
    assert one.chains == two.chains and [*one.chains] == ["pick-3"]
    where = key("10.78.0.1", TCP, port(80))
    assert one.elements["services", where] == goto("pick-3")
    assert [d for (name, _), d in one.elements.items() if name == "places"] == [Place(e.ip, 8080) for e in places]
    table = Table()
    table.put("frame", frame("10.78.0.0/16"))
    table.put("one", one)
    assert (
        f"pick-3: dnat to {'ip daddr . meta l4proto . th dport'} . numgen random mod 3 map @places" in table.listing()
    )


def test_ports_and_endpoints_without_end_are_cut_off_and_told() -> None:
    ports = [{"name": f"p{n}", "port": n} for n in range(1, 20_000)]
    many = {"metadata": {"name": "web", "namespace": "default"}, "spec": {"clusterIP": "10.78.0.1", "ports": ports}}
    few: list[dict[str, Any]] = [{"endpoints": [{}] * 5}]
    assert len(served_ports(many, few)) == 1000 and "18999 of its ports" in left_out(many, few)
    assert len(served_ports(many, [{"endpoints": [{}] * 1000}] * 10)) == 5
    assert left_out({"metadata": {}, "spec": {"ports": ports[:9]}}, few) == ""
    sockets = [Socket("10.78.0.1", n, "SCTP") for n in range(7)]
    assert left_out({"metadata": {}, "spec": {}}, few, sockets).startswith("ports of SCTP (0, 1, 2, 3, 4, ...)")
