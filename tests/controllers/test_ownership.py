"""Garbage collector, default accounts, external addresses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.garbagecollector import GarbageCollector
from rayplane.control_plane.controllers.service_loadbalancer import CLEANUP, LoadBalancerController, addresses
from rayplane.control_plane.controllers.serviceaccount import ROOT_CA, RootCAController, ServiceAccountController
from tests.controllers.cluster import Cluster
from tests.tiers import examples

KINDS = ["pods", "replicasets.apps", "deployments.apps", "configmaps", "secrets", "namespaces"]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(GarbageCollector(KINDS))


def owned(cluster: Cluster, resource: str, name: str, *owners: Object, block: bool = True) -> Object:
    refs = [meta.owner_reference(o, controller=False, block=block) for o in owners]
    return cluster.add(resource, name, spec={}, metadata={"ownerReferences": refs} if refs else {})


def names(cluster: Cluster) -> set[str]:
    return {meta.name(o) for resource in KINDS for o in cluster.list(resource)}


def test_background_deletion_takes_the_whole_tree(cluster: Cluster) -> None:
    root = owned(cluster, "deployments.apps", "root")
    middle = owned(cluster, "replicasets.apps", "middle", root)
    for n in range(5):
        owned(cluster, "pods", f"leaf{n}", middle)
    owned(cluster, "pods", "stranger")
    cluster.settle()
    assert len(names(cluster)) == 8
    cluster.delete_object("deployments.apps", root)
    cluster.settle()
    assert names(cluster) == {"stranger"}


def test_one_living_owner_is_enough_and_the_dead_one_is_forgotten(cluster: Cluster) -> None:
    a, b = owned(cluster, "configmaps", "a"), owned(cluster, "configmaps", "b")
    owned(cluster, "secrets", "both", a, b)
    cluster.delete_object("configmaps", a)
    cluster.settle()
    both = cluster.get("secrets", "default", "both")
    assert both and [ref["name"] for ref in meta.metadata(both)["ownerReferences"]] == ["b"]
    cluster.delete_object("configmaps", b)
    cluster.settle()
    assert names(cluster) == set()


def test_an_object_made_for_an_owner_that_is_gone_already_goes(cluster: Cluster) -> None:
    a = owned(cluster, "configmaps", "a")
    cluster.delete_object("configmaps", a)
    owned(cluster, "configmaps", "a")  # same name, another object
    owned(cluster, "secrets", "late", a)
    cluster.settle()
    assert names(cluster) == {"a"}


def test_owners_of_unknown_kinds_count_as_living(cluster: Cluster) -> None:
    ref = {"apiVersion": "example.org/v1", "kind": "Unknown", "name": "x", "uid": "u"}
    cluster.add("configmaps", "c", metadata={"ownerReferences": [ref]})
    cluster.settle()
    assert names(cluster) == {"c"}


def test_a_cluster_object_may_own_a_namespaced_one(cluster: Cluster) -> None:
    space = cluster.add("namespaces", "ns")
    owned(cluster, "configmaps", "c", space)
    cluster.settle()
    assert names(cluster) == {"ns", "c"}
    cluster.remove_object("namespaces", space)
    cluster.settle()
    assert names(cluster) == set()


def test_foreground_deletion_waits_for_blocking_dependents(cluster: Cluster) -> None:
    root = owned(cluster, "deployments.apps", "root")
    middle = owned(cluster, "replicasets.apps", "middle", root)
    slow = owned(cluster, "pods", "slow", middle)
    slow = cluster.place(slow)
    loose = owned(cluster, "configmaps", "loose", root, block=False)
    cluster.change("configmaps", "loose", metadata={"finalizers": ["example.org/x"]})
    cluster.delete_object("deployments.apps", root, propagation="Foreground")
    cluster.settle()
    # The pod's kubelet has not finished: it holds its owner, which holds the root.
    assert names(cluster) == {"root", "middle", "slow", "loose"}
    left = cluster.get("pods", "default", "slow")
    assert left and meta.is_deleting(left)
    cluster.remove_object("pods", left)
    cluster.settle()
    assert names(cluster) == {meta.name(loose)}


def test_orphans_stay_and_forget_their_owner(cluster: Cluster) -> None:
    root = owned(cluster, "deployments.apps", "root")
    owned(cluster, "replicasets.apps", "kept", root)
    cluster.delete_object("deployments.apps", root, propagation="Orphan")
    cluster.settle()
    assert names(cluster) == {"kept"}
    kept = cluster.get("replicasets.apps", "default", "kept")
    assert kept and not meta.metadata(kept).get("ownerReferences")


@given(st.data())
@settings(max_examples=examples(50), deadline=None)
def test_nothing_with_a_living_owner_is_ever_collected(data: st.DataObject) -> None:
    cluster = Cluster(GarbageCollector(KINDS))
    living: dict[str, set[str]] = {}  # name -> owners, () for roots
    removed: set[str] = set()
    objects: dict[str, Object] = {}

    def has_living_owner(name: str) -> bool:
        return not living[name] or any(o in names(cluster) for o in living[name])

    for n in range(data.draw(st.integers(3, 14))):
        what = data.draw(st.sampled_from(["add", "add", "delete", "settle"]))
        known = sorted(set(objects) & names(cluster))
        if what == "add":
            some = data.draw(st.lists(st.sampled_from(known), max_size=2, unique=True)) if known else []
            name = f"o{n}"
            objects[name] = owned(cluster, "configmaps", name, *(objects[o] for o in some))
            living[name] = set(some)
        elif what == "delete" and known:
            victim = data.draw(st.sampled_from(known))
            cluster.delete_object("configmaps", objects[victim])
            removed.add(victim)
        else:
            cluster.settle()
    cluster.settle()
    left = names(cluster)
    for name in objects:
        if name in left:
            assert has_living_owner(name)
        elif name not in removed:
            assert living[name] and not living[name] & left


def test_every_namespace_has_its_account_and_its_root_certificate() -> None:
    cluster = Cluster(ServiceAccountController(), RootCAController("PEM"))
    cluster.add("namespaces", "ns", status={"phase": "Active"})
    cluster.settle()
    account = cluster.get("serviceaccounts", "ns", "default")
    assert account
    cluster.delete_object("serviceaccounts", account)
    cluster.change("configmaps", ROOT_CA, namespace="ns", data={"ca.crt": "forged"})
    cluster.settle()
    assert cluster.get("serviceaccounts", "ns", "default")
    found = cluster.get("configmaps", "ns", ROOT_CA)
    assert found and found["data"] == {"ca.crt": "PEM"}


def test_a_namespace_that_is_going_gets_nothing_new() -> None:
    cluster = Cluster(ServiceAccountController())
    cluster.add("namespaces", "ns", status={"phase": "Terminating"})
    cluster.settle()
    assert not cluster.list("serviceaccounts")


def test_external_addresses_are_distinct_kept_and_given_back() -> None:
    cluster = Cluster(LoadBalancerController(external_cidr="127.200.0.0/30"))
    for name in ("a", "b", "c"):
        cluster.add("services", name, spec={"type": "LoadBalancer"})
    cluster.settle()

    def given_to(name: str) -> list[str]:
        found = cluster.get("services", "default", name)
        assert found
        return addresses(found)

    assert [given_to(n) for n in ("a", "b", "c")] == [["127.200.0.1"], ["127.200.0.2"], []]
    assert {"EnsuringLoadBalancer", "EnsuredLoadBalancer", "SyncLoadBalancerFailed"} == set(cluster.reasons())
    cluster.change("services", "a", spec={"type": "ClusterIP"})
    cluster.settle()
    assert [given_to(n) for n in ("a", "b", "c")] == [[], ["127.200.0.2"], ["127.200.0.1"]]
    assert [reason for about, reason, _ in cluster.events if about == "a"][-2:] == [
        "DeletingLoadBalancer",
        "DeletedLoadBalancer",
    ]


def test_a_balanced_service_is_held_until_its_address_was_given_back() -> None:
    cluster = Cluster(LoadBalancerController(external_cidr="127.200.0.0/30"))

    def finalizers(name: str) -> list[str]:
        return meta.finalizers(cluster.get("services", "default", name) or {})

    cluster.add("services", "a", spec={"type": "LoadBalancer"}, metadata={"finalizers": ["example.com/mine"]})
    cluster.add("services", "b", spec={"type": "LoadBalancer"})
    cluster.add("services", "c", spec={"type": "LoadBalancer", "loadBalancerClass": "example.com/other"})
    cluster.settle()
    assert [finalizers(n) for n in "abc"] == [["example.com/mine", CLEANUP], [CLEANUP], []]
    for name in "ab":
        cluster.delete("services", name, "default")
    assert finalizers("b") == [CLEANUP], "it waits for the controller"
    cluster.settle()
    assert cluster.get("services", "default", "b") is None
    left = cluster.get("services", "default", "a") or {}
    assert (meta.finalizers(left), addresses(left)) == (["example.com/mine"], [])
    assert [reason for about, reason, _ in cluster.events if about == "b"][-2:] == [
        "DeletingLoadBalancer",
        "DeletedLoadBalancer",
    ]


def test_a_service_that_had_its_address_before_is_held_too_and_one_of_another_type_is_not() -> None:
    cluster = Cluster(LoadBalancerController(external_cidr="127.200.0.0/30"))
    ingress = {"loadBalancer": {"ingress": [{"ip": "127.200.0.2"}]}}
    cluster.add("services", "a", spec={"type": "LoadBalancer"}, status=ingress)
    cluster.settle()
    found = cluster.get("services", "default", "a") or {}
    assert (meta.finalizers(found), meta.status(found), cluster.reasons()) == ([CLEANUP], ingress, [])
    cluster.change("services", "a", spec={"type": "ClusterIP"})
    cluster.settle()
    found = cluster.get("services", "default", "a") or {}
    assert (meta.finalizers(found), addresses(found)) == ([], [])


def test_reserved_addresses_are_not_given_and_a_bad_wish_holds_nobody_up() -> None:
    cluster = Cluster(LoadBalancerController(external_cidr="127.200.0.0/29", reserved=["127.200.0.1"]))
    wishes = {"bad": "nonsense", "greedy": "127.200.0.1", "plain": None}
    for name, wish in wishes.items():
        cluster.add("services", name, spec={"type": "LoadBalancer", **({"loadBalancerIP": wish} if wish else {})})
    cluster.settle()
    given = {name: addresses(cluster.get("services", "default", name) or {}) for name in wishes}
    assert given == {"bad": [], "greedy": [], "plain": ["127.200.0.2"]}


def test_objects_that_a_webhook_converts_are_followed_as_they_are_stored() -> None:
    collector = GarbageCollector(["pods"])

    def defined(stored: str, strategy: str = "Webhook") -> Object:
        versions = [{"name": name, "served": True, "storage": name == stored} for name in ("v1", "v2")]
        names = {"plural": "things", "kind": "Thing"}
        spec = {"group": "example.com", "names": names, "versions": versions, "conversion": {"strategy": strategy}}
        return {
            "metadata": {"name": "things.example.com"},
            "spec": spec,
            "status": {"conditions": [{"type": "Established", "status": "True"}]},
        }

    def followed() -> list[str]:
        return [watch.resource for watch in collector.watches]

    assert (collector.add_custom(defined("v1", "None")), followed()) == ("", ["pods", "things.example.com"])
    assert collector.add_custom(defined("v1")) == "things.example.com"
    assert (collector.add_custom(defined("v1")), followed()) == ("", ["pods", "things.v1.example.com"])
    assert collector.add_custom(defined("v2")) == "things.v1.example.com"
    assert followed() == ["pods", "things.v2.example.com"]
    assert (collector.remove_custom(defined("v1")), followed()) == ("things.v2.example.com", ["pods"])
