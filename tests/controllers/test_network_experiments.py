"""Experiments on the network: which packets of which pods do not arrive, and what is said where that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.node_annotations import ISOLATION, NO_RULES
from rayplane.control_plane.api.pods.marks import DISTURBED, Loss, Netem, losses
from rayplane.control_plane.controllers.chaos.network_chaos import BURST_BYTES
from tests.controllers.experiments import NETWORKS, Experimented

REORDER = {"reorder": "0.5", "correlation": "50", "gap": 5}
DB = {"mode": "all", "selector": {"labelSelectors": {"app": "db"}}}


class Networked(Experimented):
    """Nodes n1 and n2, whose pods are isolated, and experiments that part `web-0` from the app `db`."""

    kind = NETWORKS

    def __init__(self) -> None:
        super().__init__()
        for node in ("n1", "n2"):
            self.node(node, metadata={"annotations": {ISOLATION: "namespaces"}})

    def part(self, **spec: Any) -> None:
        self.begin_parting(**spec)
        self.settle()

    def begin_parting(self, **spec: Any) -> None:
        only = {"pods": {"default": ["web-0"]}}
        whole = {"action": "partition", "mode": "all", "selector": only, "target": DB, **spec}
        own = {"name": "e", "namespace": "default"}
        made = {"apiVersion": mesh.API_VERSION, "kind": mesh.NETWORK_CHAOS, "metadata": own, "spec": whole}
        self.create(NETWORKS, made)

    def lost(self) -> dict[str, list[Loss]]:
        """What pods lose, of those that lose any."""
        found = {meta.name(pod): [*losses(meta.annotations(pod))] for pod in self.list("pods")}
        return {name: of_pod for name, of_pod in found.items() if of_pod}

    def ip(self, name: str) -> str:
        return str(meta.status(self.require("pods", "default", name))["podIP"])


def test_pods_are_parted_for_a_while() -> None:
    c = Networked()
    c.part(direction="both", duration="30s")
    db = (c.ip("db-0"),)
    assert c.lost() == {"web-0": [Loss(100, db, db)]}
    assert c.phases() == {"default/web-0": "Injected", "default/db-0": "Injected"}
    assert c.true() == {"Selected", "AllInjected"}
    c.advance(31)
    assert c.lost() == {} and c.true() == {"Selected", "AllRecovered"}


def test_a_direction_is_seen_from_those_that_are_selected() -> None:
    for direction, ways in (("to", (True, False)), ("from", (False, True)), ("", (True, False))):
        c = Networked()
        c.part(direction=direction)
        db = (c.ip("db-0"),)
        assert c.lost() == {"web-0": [Loss(100, db if ways[0] else (), db if ways[1] else ())]}


def test_a_part_of_the_packets_is_lost_to_everybody_or_to_places_outside() -> None:
    c = Networked()
    c.part(action="loss", loss={"loss": "12.6", "correlation": "0"}, target=None)
    assert c.lost() == {"web-0": [Loss(13, None, ())]}
    c = Networked()
    c.part(target=None, externalTargets=["192.0.2.1"])
    assert c.lost() == {"web-0": [Loss(100, ("192.0.2.1",), ())]}


def test_what_is_more_than_a_bandwidth_is_lost() -> None:
    c = Networked()
    c.part(action="bandwidth", bandwidth={"rate": "2 mbps", "limit": 20971520, "buffer": 10000})
    assert c.lost() == {"web-0": [Loss(100, (c.ip("db-0"),), (), 2 << 20, BURST_BYTES)]}


@pytest.mark.parametrize("rate", ["", "1", "1mbit", "0bps", "9999999tbps", "-1mbps"])
def test_a_rate_that_is_none_is_refused(rate: str) -> None:
    spec = {"action": "bandwidth", "mode": "all", "selector": {}, "bandwidth": {"rate": rate, "limit": 1, "buffer": 1}}
    errors = mesh.errors_in({"kind": "NetworkChaos", "spec": spec})
    assert [e.field for e in errors] == ["spec.bandwidth.rate"]


def test_pods_of_one_kind_are_parted_from_each_other_but_not_from_themselves() -> None:
    c = Networked()
    c.part(target={"mode": "all", "selector": {"labelSelectors": {"app": "web"}}})
    others = tuple(c.ip(f"web-{n}") for n in (1, 2, 3))
    assert c.lost() == {"web-0": [Loss(100, others, ())]}


#: The action with its fields, and what nodes are told to do to each packet.
NETEMS: list[tuple[dict[str, Any], Netem]] = [
    (
        {"action": "delay", "delay": {"latency": "90ms", "jitter": "1s", "correlation": "25", "reorder": REORDER}},
        Netem(90, 1000, 25, reorder=0.5, reorder_correlation=50, gap=5),
    ),
    ({"action": "loss", "loss": {"loss": "25", "correlation": "50"}}, Netem(loss=25, loss_correlation=50)),
    ({"action": "duplicate", "duplicate": {"duplicate": "40", "correlation": "25"}}, Netem(duplicate=40)),
    ({"action": "corrupt", "corrupt": {"corrupt": "5", "correlation": "9"}}, Netem(corrupt=5, corrupt_correlation=9)),
    (
        {"action": "netem", "delay": {"latency": "2ms"}, "loss": {"loss": "3"}, "corrupt": None},
        Netem(latency_ms=2, loss=3),
    ),
]


@pytest.mark.parametrize(("spec", "netem"), NETEMS)
def test_packets_are_late_lost_doubled_and_changed(spec: dict[str, Any], netem: Netem) -> None:
    c = Networked()
    c.part(direction="both", duration="30s", **spec)
    db = (c.ip("db-0"),)
    assert c.lost() == {"web-0": [Loss(0, db, db, netem=netem)]} and "AllInjected" in c.true()
    c.pause()
    assert c.lost() == {}
    c.pause(value=None)
    assert [*c.lost()] == ["web-0"]
    c.advance(31)
    assert c.lost() == {} and "AllRecovered" in c.true()


def test_a_netem_has_a_rate_too() -> None:
    c = Networked()
    c.part(action="netem", target=None, rate={"rate": "1kbps"}, delay={"latency": "1s"})
    assert c.lost() == {"web-0": [Loss(100, None, (), 1 << 10, BURST_BYTES, Netem(1000))]}


def test_a_netem_with_a_rate_alone_holds_no_packets() -> None:
    c = Networked()
    c.part(action="netem", target=None, rate={"rate": "1kbps"})
    assert c.lost() == {"web-0": [Loss(100, None, (), 1 << 10, BURST_BYTES)]}


def test_what_cannot_be_done_is_said_and_not_done() -> None:
    c = Networked()
    c.change("nodes", "n1", metadata={"annotations": {ISOLATION: "none"}})
    c.part(action="delay", delay={"latency": "90ms"})
    assert c.lost() == {} and c.true() == {"Selected", "AllRecovered"}
    record = meta.status(c.found())["experiment"]["containerRecords"][0]
    assert (record["phase"], record["events"][-1]["type"]) == ("Not Injected", "Failed")
    told = [text for _, reason, text in c.events if reason == "Failed"]
    why = "pods on node n1 have no network of their own"
    assert told[0] == f"Failed to apply chaos for default/web-0: {why}"
    c.advance(60)
    assert len([1 for _, reason, _ in c.events if reason == "Failed"]) == len(told), "it is told once"
    c.delete(NETWORKS, "e", "default")
    c.settle()
    assert c.get(NETWORKS, "default", "e") is None


def test_what_a_node_could_not_do_does_not_count_until_it_can() -> None:
    c = Networked()
    c.part()
    assert "AllInjected" in c.true()
    pod = c.require("pods", "default", "web-0")
    why = {"type": DISTURBED, "status": "False", "reason": "NotDisturbed", "message": "the kernel takes no rules"}
    before = meta.status(pod)["conditions"]
    c.change("pods", "web-0", status={**meta.status(pod), "conditions": [*before, why]})
    c.settle()
    assert c.true() == {"Selected"}, "db-0 is done, web-0 is not"
    [told] = [one for one in meta.status(c.found())["conditions"] if one["type"] == "AllInjected"]
    assert told["reason"] == "default/web-0: its node could not do it: the kernel takes no rules"
    assert "could not do it: the kernel takes no rules" in c.events[-1][2]
    c.advance(60)
    assert len([1 for _, _, text in c.events if "kernel" in text]) == 1, "it is told once"
    c.change("pods", "web-0", status={**meta.status(pod), "conditions": before})
    c.settle()
    assert "AllInjected" in c.true()
    assert not any("reason" in one for one in meta.status(c.found())["conditions"])


def test_a_pod_that_is_gone_does_not_keep_the_others_from_being_parted() -> None:
    c = Networked()
    c.pod("db-1", "db", node="n2")
    c.begin_parting()
    while not (meta.status(c.found()).get("experiment") or {}).get("containerRecords"):
        c.step()
    c.remove("pods", "default/db-1")
    c.settle()
    assert c.lost() == {"web-0": [Loss(100, (c.ip("db-0"),), ())]} and "AllInjected" in c.true()


def test_marks_forget_the_address_of_who_is_gone_or_has_ended() -> None:
    c = Networked()
    for name in ("db-1", "db-2"):
        c.pod(name, "db", node="n2")
    c.part()
    assert {len(loss.to or ()) for loss in c.lost()["web-0"]} == {3}
    c.remove("pods", "default/db-1")
    c.settle()
    c.set_pod(c.require("pods", "default", "db-2"), ready=False, phase="Succeeded", ip=c.ip("db-2"))
    c.settle()
    assert c.lost() == {"web-0": [Loss(100, (c.ip("db-0"),), ())]}


def test_a_pod_in_its_nodes_network_is_not_parted() -> None:
    c = Networked()
    for name in ("web-0", "db-0"):
        c.change("pods", name, spec={**c.require("pods", "default", name)["spec"], "hostNetwork": True})
    c.part()
    assert c.lost() == {} and c.true() == {"Selected", "AllRecovered"}
    assert "is in its node's network" in c.events[-1][2]


def test_pods_without_a_network_of_their_own_are_not_parted() -> None:
    c = Networked()
    c.change("nodes", "n1", metadata={"annotations": {ISOLATION: f"namespaces, one user{NO_RULES}"}})
    c.part()
    assert c.lost() == {} and "keeps no packet rules" in c.events[-1][2]
    c = Networked()
    c.change("nodes", "n1", metadata={"annotations": {ISOLATION: "none"}})
    c.part()
    assert c.lost() == {} and "have no network of their own" in c.events[-1][2]
    c.change("nodes", "n1", metadata={"annotations": {ISOLATION: "namespaces"}})
    c.advance(20)
    assert [*c.lost()] == ["web-0"] and c.true() == {"Selected", "AllInjected"}
