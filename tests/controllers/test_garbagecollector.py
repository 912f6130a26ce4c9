"""Garbage collector: circles of owners, references that are wrong, kinds that come and go."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Event, IfAbsent
from rayplane.control_plane.controllers.config import collected_resources
from rayplane.control_plane.controllers.garbagecollector import UNKNOWN_KIND_RETRY_S, GarbageCollector
from tests.controllers.cluster import Cluster

KINDS = ["pods", "configmaps", "secrets", "namespaces", "clusterroles.rbac.authorization.k8s.io"]
WIDGETS: dict[str, Any] = {
    "metadata": {"name": "widgets.example.org"},
    "spec": {
        "group": "example.org",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": True}, {"name": "v0", "served": False}],
    },
    "status": {"conditions": [{"type": "Established", "status": "True"}]},
}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(GarbageCollector(KINDS))


def add(cluster: Cluster, name: str, *owners: Object, resource: str = "configmaps", **metadata: Any) -> Object:
    refs = [meta.owner_reference(o, controller=False) for o in owners]
    return cluster.add(resource, name, metadata={**metadata, **({"ownerReferences": refs} if refs else {})})


def own(cluster: Cluster, name: str, owner: Object) -> None:
    refs = [meta.owner_reference(owner, controller=False)]
    cluster.change("configmaps", name, metadata={"ownerReferences": refs})


def names(cluster: Cluster) -> list[str]:
    return sorted(meta.name(o) for resource in KINDS for o in cluster.list(resource))


def ring(cluster: Cluster, length: int) -> list[Object]:
    """Objects each of which is owned, and held, by the next one's end."""
    members = [add(cluster, f"o{n}") for n in range(length)]
    for n in range(length):
        own(cluster, f"o{n}", members[(n + 1) % length])
    cluster.settle()
    return members


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_a_ring_of_blocking_owners_goes_when_one_is_deleted_in_the_foreground(cluster: Cluster, length: int) -> None:
    members = ring(cluster, length)
    assert len(names(cluster)) == length
    cluster.delete_object("configmaps", members[0], propagation="Foreground")
    cluster.settle()
    assert names(cluster) == []


def test_a_ring_goes_when_all_are_deleted_in_the_foreground_at_once(cluster: Cluster) -> None:
    for one in ring(cluster, 3):
        cluster.delete_object("configmaps", one, propagation="Foreground")
    cluster.settle()
    assert names(cluster) == []


def test_who_is_held_by_something_beside_the_ring_stays_until_that_goes(cluster: Cluster) -> None:
    members = ring(cluster, 2)
    add(cluster, "slow", members[0], finalizers=["example.org/wait"])
    cluster.delete_object("configmaps", members[0], propagation="Foreground")
    cluster.settle()
    assert "o0" in names(cluster)
    cluster.change("configmaps", "slow", metadata={"finalizers": None})
    cluster.settle()
    assert names(cluster) == []


def test_dependents_below_are_deleted_in_the_foreground_too(cluster: Cluster) -> None:
    root = add(cluster, "root")
    middle = add(cluster, "middle", root)
    add(cluster, "leaf", middle, finalizers=["example.org/wait"])
    cluster.change("configmaps", "leaf", metadata={"ownerReferences": [
        {**meta.owner_reference(middle, controller=False), "blockOwnerDeletion": False},
    ]})  # fmt: skip
    cluster.delete_object("configmaps", root, propagation="Foreground")
    cluster.settle()
    assert names(cluster) == ["leaf"]


def test_an_orphan_finalizer_that_is_there_already_is_honoured(cluster: Cluster) -> None:
    root = add(cluster, "root")
    middle = add(cluster, "middle", root, finalizers=["orphan"])
    add(cluster, "leaf", middle)
    cluster.delete_object("configmaps", root)
    cluster.settle()
    assert names(cluster) == ["leaf"]


@pytest.mark.parametrize(
    "wrong",
    [{"uid": "other"}, {"name": "other"}, {"kind": "Secret"}],
)
def test_a_reference_that_fits_nothing_is_an_owner_that_is_gone(cluster: Cluster, wrong: Object) -> None:
    root = add(cluster, "root")
    ref = {**meta.owner_reference(root, controller=False), **wrong}
    cluster.add("configmaps", "c", metadata={"ownerReferences": [ref]})
    cluster.settle()
    assert names(cluster) == ["root"]
    assert cluster.reasons() == []


@pytest.mark.parametrize("wrong", [{"apiVersion": "v7"}, {"apiVersion": "example.org/v1"}, {"kind": "Nothing"}])
def test_a_reference_to_what_is_not_served_keeps_the_object(cluster: Cluster, wrong: Object) -> None:
    root = add(cluster, "root")
    ref = {**meta.owner_reference(root, controller=False), **wrong}
    cluster.add("configmaps", "c", metadata={"ownerReferences": [ref]})
    cluster.settle()
    cluster.delete_object("configmaps", root)
    cluster.settle()
    assert names(cluster) == ["c"]


def test_an_owner_in_another_namespace_is_none_and_an_event_says_so(cluster: Cluster) -> None:
    root = add(cluster, "root")
    ref = meta.owner_reference(root, controller=False)
    cluster.add("configmaps", "c", namespace="other", metadata={"ownerReferences": [ref]})
    cluster.settle()
    assert names(cluster) == ["root"]
    meant = f"[v1/ConfigMap, namespace: other, name: root, uid: {meta.uid(root)}]"
    text = f'ownerRef {meant} does not exist in namespace "other"'
    assert cluster.events == [("c", "OwnerRefInvalidNamespace", text)]


@pytest.mark.parametrize("propagation", ["Foreground", "Orphan"])
def test_who_names_an_owner_in_another_namespace_holds_it_up_never(cluster: Cluster, propagation: str) -> None:
    owner = add(cluster, "theirs")
    refs = [meta.owner_reference(owner, controller=False)]
    own = {"namespace": "foreign", "ownerReferences": refs, "finalizers": ["example.org/never"]}
    cluster.add("configmaps", "blocker", metadata=own)
    cluster.add("clusterroles.rbac.authorization.k8s.io", "wide", metadata={"ownerReferences": refs})
    cluster.settle()
    cluster.delete_object("configmaps", owner, propagation=propagation)
    cluster.settle()
    assert names(cluster) == ["blocker", "wide"]
    assert meta.is_deleting(cluster.require("configmaps", "foreign", "blocker"))


def test_an_object_of_no_namespace_with_an_owner_in_one_is_left_alone(cluster: Cluster) -> None:
    root = add(cluster, "root")
    add(cluster, "role", root, resource="clusterroles.rbac.authorization.k8s.io")
    cluster.settle()
    assert names(cluster) == ["role", "root"]
    assert cluster.reasons() == ["OwnerRefInvalidNamespace"]
    cluster.delete_object("configmaps", root)
    cluster.settle()
    assert names(cluster) == ["role"]


def test_dependents_of_a_kind_that_comes_later_are_looked_at_then(cluster: Cluster) -> None:
    (collector,) = cluster.controllers
    assert isinstance(collector, GarbageCollector)
    for version in ("v1", "v0"):
        ref = {"apiVersion": f"example.org/{version}", "kind": "Widget", "name": "x", "uid": "u"}
        cluster.add("configmaps", version, metadata={"ownerReferences": [ref]})
    cluster.settle()
    assert names(cluster) == ["v0", "v1"]
    assert collector.add_custom(WIDGETS) == ""
    cluster.advance(UNKNOWN_KIND_RETRY_S + 1)
    assert names(cluster) == ["v0"]  # that version is not served


def test_dependents_go_even_if_the_kind_goes_right_after_their_owner(cluster: Cluster) -> None:
    collector = GarbageCollector(KINDS)
    collector.add_custom(WIDGETS)
    widget = {
        "apiVersion": "example.org/v1",
        "kind": "Widget",
        "metadata": {"name": "w", "namespace": "default", "uid": "u"},
    }
    dependent = add(cluster, "c", widget)
    watch = next(w for w in collector.watches if w.resource == "widgets.example.org")
    assert watch.keys is not None
    (key,) = watch.keys(widget, cluster)  # not in the cache any more
    collector.remove_custom(WIDGETS)
    (action,) = collector.reconcile(key, cluster, cluster.now).actions
    assert not isinstance(action, (IfAbsent, Event))
    assert getattr(action, "obj") == dependent  # noqa: B009


def test_an_owner_replaced_by_a_namesake_within_one_change_has_gone(cluster: Cluster) -> None:
    (collector,) = cluster.controllers
    root = add(cluster, "root")
    earlier = {**root, "metadata": {**root["metadata"], "uid": "earlier"}}
    watch = next(w for w in collector.watches if w.resource == "configmaps")
    assert watch.keys is not None
    assert watch.changed(earlier, root)
    assert list(watch.keys(earlier, cluster)) == ["owner/earlier"]


def test_all_stored_resources_but_events_are_collected() -> None:
    found = collected_resources()
    assert {"limitranges", "storageclasses.storage.k8s.io", "resourceclaims.resource.k8s.io"} <= set(found)
    assert not any("events" in name for name in found)
