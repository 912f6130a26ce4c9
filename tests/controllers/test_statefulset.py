"""StatefulSets: order, names, claims, revisions, partitions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.controllers.garbagecollector import GarbageCollector
from rayplane.control_plane.controllers.statefulset import StatefulSetController
from rayplane.control_plane.controllers.volumeprotection import ProtectionController
from tests.controllers.cluster import HAPPENINGS, Cluster
from tests.tiers import examples

SETS, CLAIMS, REVISIONS = "statefulsets.apps", "persistentvolumeclaims", "controllerrevisions.apps"


def template(image: str) -> dict[str, Any]:
    container = {"name": "c", "image": image}
    return {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [container]}}


def create(cluster: Cluster, replicas: int = 3, **spec: Any) -> None:
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    fields = {
        "replicas": replicas,
        "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}},
        "template": template("db:1"),
        "podManagementPolicy": "OrderedReady",
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "revisionHistoryLimit": 10,
        "volumeClaimTemplates": [claim],
        **spec,
    }
    cluster.add(SETS, "db", spec=fields)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(StatefulSetController())


def names(cluster: Cluster, *, active: bool = True) -> list[str]:
    return [meta.name(pod) for pod in cluster.pods(active=active)]


def images(cluster: Cluster) -> list[str]:
    return [pod["spec"]["containers"][0]["image"] for pod in cluster.pods()]


def status(cluster: Cluster) -> dict[str, Any]:
    found = cluster.get(SETS, "default", "db")
    assert found is not None
    return meta.status(found)


def test_pods_come_one_after_the_other_with_their_own_claims(cluster: Cluster) -> None:
    create(cluster)
    for expected in (["db-0"], ["db-0", "db-1"], ["db-0", "db-1", "db-2"]):
        cluster.settle()
        assert names(cluster) == expected
        cluster.kubelet()
    cluster.settle()
    pod = cluster.get("pods", "default", "db-1")
    assert pod
    revision = cluster.list(REVISIONS)[0]
    assert meta.labels(pod) == {
        "app": "db",
        "statefulset.kubernetes.io/pod-name": "db-1",
        "apps.kubernetes.io/pod-index": "1",
        "controller-revision-hash": meta.name(revision),
    }
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("db-1", "db")
    assert pod["spec"]["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-1"}}]
    assert sorted(meta.name(c) for c in cluster.list(CLAIMS)) == ["data-db-0", "data-db-1", "data-db-2"]
    assert status(cluster) == {
        "observedGeneration": 1,
        "replicas": 3,
        "readyReplicas": 3,
        "availableReplicas": 3,
        "currentReplicas": 3,
        "updatedReplicas": 3,
        "currentRevision": meta.name(revision),
        "updateRevision": meta.name(revision),
        "collisionCount": 0,
    }
    texts = [message for _, _, message in cluster.events]
    assert "create Pod db-0 in StatefulSet db successful" in texts
    assert "create Claim data-db-0 Pod db-0 in StatefulSet db success" in texts


def test_parallel_makes_all_at_once(cluster: Cluster) -> None:
    create(cluster, podManagementPolicy="Parallel")
    cluster.settle()
    assert names(cluster) == ["db-0", "db-1", "db-2"]


def test_scale_down_goes_from_the_top_and_keeps_claims(cluster: Cluster) -> None:
    create(cluster)
    cluster.converge()
    cluster.change(SETS, "db", spec={"replicas": 1})
    cluster.settle()
    assert names(cluster) == ["db-0", "db-1"]  # db-1 waits until db-2 is gone
    cluster.converge()
    assert names(cluster, active=False) == ["db-0"]
    assert len(cluster.list(CLAIMS)) == 3


def test_a_lost_pod_comes_back_under_its_name(cluster: Cluster) -> None:
    create(cluster)
    cluster.converge()
    pod = cluster.get("pods", "default", "db-1")
    assert pod
    cluster.delete_object("pods", pod)
    cluster.settle()
    assert names(cluster) == ["db-0", "db-2"]  # the old one still terminates
    cluster.converge()
    again = cluster.get("pods", "default", "db-1")
    assert again and meta.uid(again) != meta.uid(pod)
    assert len(cluster.list(CLAIMS)) == 3


def test_a_failed_pod_is_made_anew(cluster: Cluster) -> None:
    create(cluster)
    cluster.converge()
    pod = cluster.get("pods", "default", "db-0")
    assert pod
    cluster.set_pod(pod, ready=False, phase="Failed")
    cluster.converge()
    again = cluster.get("pods", "default", "db-0")
    assert again and meta.uid(again) != meta.uid(pod) and pod_is_ready(again)
    assert ("db", "SuccessfulDelete", "delete Pod db-0 in StatefulSet db successful") in cluster.events


def test_rolling_update_and_undo(cluster: Cluster) -> None:
    create(cluster)
    cluster.converge()
    first = status(cluster)["currentRevision"]
    cluster.change(SETS, "db", spec={"template": template("db:2")})
    cluster.settle()
    assert status(cluster)["currentRevision"] == first != status(cluster)["updateRevision"]
    assert names(cluster) == ["db-0", "db-1"]
    cluster.converge()
    assert images(cluster) == ["db:2"] * 3
    assert status(cluster)["currentRevision"] == status(cluster)["updateRevision"]
    assert sorted(r["revision"] for r in cluster.list(REVISIONS)) == [1, 2]
    restored = next(r for r in cluster.list(REVISIONS) if meta.name(r) == first)["data"]
    old = {k: v for k, v in restored["spec"]["template"].items() if k != "$patch"}
    cluster.change(SETS, "db", spec={"template": old})
    cluster.converge()
    assert images(cluster) == ["db:1"] * 3
    assert status(cluster)["currentRevision"] == first
    assert sorted(r["revision"] for r in cluster.list(REVISIONS)) == [2, 3]


def test_partition_holds_back_lower_ordinals(cluster: Cluster) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
    create(cluster, updateStrategy=strategy)
    cluster.converge()
    cluster.change(SETS, "db", spec={"template": template("db:2")})
    cluster.converge()
    assert images(cluster) == ["db:1", "db:1", "db:2"]
    pod = cluster.get("pods", "default", "db-0")
    assert pod
    cluster.delete_object("pods", pod)
    cluster.converge()
    assert images(cluster) == ["db:1", "db:1", "db:2"]  # below the partition the old one comes back
    assert status(cluster)["updatedReplicas"] == 1
    cluster.change(SETS, "db", spec={"updateStrategy": {"rollingUpdate": {"partition": 0}}})
    cluster.converge()
    assert images(cluster) == ["db:2"] * 3


def test_on_delete_leaves_pods_alone(cluster: Cluster) -> None:
    create(cluster, updateStrategy={"type": "OnDelete"})
    cluster.converge()
    cluster.change(SETS, "db", spec={"template": template("db:2")})
    cluster.converge()
    assert images(cluster) == ["db:1"] * 3
    pod = cluster.get("pods", "default", "db-2")
    assert pod
    cluster.delete_object("pods", pod)
    cluster.converge()
    assert images(cluster) == ["db:1", "db:1", "db:2"]


def test_revision_history_is_cut(cluster: Cluster) -> None:
    create(cluster, replicas=1, revisionHistoryLimit=1)
    for n in range(1, 6):
        cluster.change(SETS, "db", spec={"template": template(f"db:{n}")})
        cluster.converge()
    assert sorted(r["revision"] for r in cluster.list(REVISIONS)) == [4, 5]


@pytest.mark.parametrize("scaled", ["Retain", "Delete"])
def test_claim_retention_policy(scaled: str) -> None:
    collector = GarbageCollector(["pods", SETS, CLAIMS, REVISIONS])
    cluster = Cluster(StatefulSetController(), collector, ProtectionController(resource=CLAIMS))
    policy = {"whenDeleted": "Delete", "whenScaled": scaled}
    create(cluster, persistentVolumeClaimRetentionPolicy=policy)
    cluster.converge()
    cluster.change(SETS, "db", spec={"replicas": 2})
    cluster.converge()
    assert len(cluster.list(CLAIMS)) == (3 if scaled == "Retain" else 2)
    cluster.change(SETS, "db", spec={"replicas": 3})
    cluster.converge()
    sts = cluster.get(SETS, "default", "db")
    assert sts
    cluster.delete_object(SETS, sts)
    cluster.converge()
    assert (cluster.list(CLAIMS), cluster.list("pods"), cluster.list(REVISIONS)) == ([], [], [])


class Killed(Exception):
    """The controllers' process is killed between two writes."""


def killed_after(writes: int, cluster: Cluster) -> None:
    """Let the set come up and scale; the controllers die with the write of this number, and start anew."""
    left = writes

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    cluster.listeners.append(count)
    try:
        cluster.converge()
        cluster.change(SETS, "db", spec={"replicas": 1})
        cluster.converge()
    except Killed:
        pass
    cluster.listeners.remove(count)
    cluster.queue.clear()


def started_anew(cluster: Cluster) -> None:
    for resource, pool in cluster.objects.items():
        for obj in [*pool.values()]:
            cluster._dispatch(resource, "ADDED", None, obj)


@pytest.mark.parametrize("scaled", ["Retain", "Delete"])
def test_claims_have_owners_whenever_the_controllers_die(scaled: str) -> None:
    """The set may be deleted at any moment, between any two writes: its claims go with it."""
    for writes in range(2, 80):
        collector = GarbageCollector(["pods", SETS, CLAIMS, REVISIONS])
        cluster = Cluster(StatefulSetController(), collector, ProtectionController(resource=CLAIMS))
        policy = {"whenDeleted": "Delete", "whenScaled": scaled}
        create(cluster, persistentVolumeClaimRetentionPolicy=policy, podManagementPolicy="Parallel")
        killed_after(writes, cluster)
        sts = cluster.get(SETS, "default", "db")
        assert sts
        cluster.delete_object(SETS, sts)
        started_anew(cluster)
        cluster.converge()
        assert (cluster.list(CLAIMS), cluster.list("pods"), cluster.list(REVISIONS)) == ([], [], []), writes


def test_a_claim_without_its_pod_gets_its_owner(cluster: Cluster) -> None:
    create(cluster, replicas=2)
    cluster.converge()
    for pod in cluster.pods():
        cluster.remove_object("pods", pod)
    cluster.change(SETS, "db", spec={"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}})
    cluster.step()
    while not cluster.pods():
        assert cluster.step()
    owners = [meta.metadata(c).get("ownerReferences") or [{}] for c in cluster.list(CLAIMS)]
    assert [refs[0].get("kind") for refs in owners] == ["StatefulSet"] * 2


def test_a_claim_that_is_seen_late_gets_its_owner(cluster: Cluster) -> None:
    """Caches of pods and claims are not of one moment: a claim may show after the last event of its pod."""
    create(cluster, replicas=1, persistentVolumeClaimRetentionPolicy={"whenDeleted": "Delete"})
    cluster.converge()
    claim = cluster.list(CLAIMS)[0]
    hidden = {**claim, "metadata": {k: v for k, v in claim["metadata"].items() if k != "ownerReferences"}}
    cluster.objects[CLAIMS].clear()
    cluster.settle()
    cluster._store(CLAIMS, hidden)
    cluster.settle()
    assert meta.metadata(cluster.list(CLAIMS)[0])["ownerReferences"][0]["kind"] == "StatefulSet"


@given(st.data())
@settings(max_examples=examples(30), deadline=None)
def test_order_holds_whatever_happens(data: st.DataObject) -> None:
    """A pod is only made while all below it are ready; at most one copy of a name; it converges."""
    cluster = Cluster(StatefulSetController())
    replicas, image = 3, "db:1"

    def check(resource: str, kind: str, _old: Any, obj: Any) -> None:
        if resource == "pods" and kind == "ADDED":
            ordinal = int(meta.name(obj).rpartition("-")[2])
            for n in range(ordinal):
                below = cluster.get("pods", "default", f"db-{n}")
                assert below and pod_is_ready(below) and not meta.is_deleting(below)

    cluster.listeners.append(check)
    create(cluster)
    for _ in range(data.draw(st.integers(1, 14))):
        what = data.draw(st.sampled_from(["scale", "image", *HAPPENINGS]))
        if what == "scale":
            replicas = data.draw(st.integers(0, 5))
            cluster.change(SETS, "db", spec={"replicas": replicas})
        elif what == "image":
            image = f"db:{data.draw(st.integers(1, 3))}"
            cluster.change(SETS, "db", spec={"template": template(image)})
        else:
            cluster.happen(what, data)
    cluster.converge()
    assert names(cluster) == [f"db-{n}" for n in range(replicas)]
    assert set(images(cluster)) <= {image}
    assert status(cluster)["replicas"] == replicas
    assert status(cluster)["currentRevision"] == status(cluster)["updateRevision"] or replicas == 0
