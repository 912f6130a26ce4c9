"""StatefulSets: rollouts that get stuck or do not, claims whose policy changes, revisions that stay what they are."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.pod_template.defaults import default_pod_template
from rayplane.control_plane.controllers.garbagecollector import GarbageCollector
from rayplane.control_plane.controllers.statefulset import StatefulSetController
from rayplane.control_plane.controllers.volumeprotection import ProtectionController
from tests.controllers.cluster import Cluster
from tests.controllers.test_statefulset import CLAIMS, REVISIONS, SETS, create, images, names, status, template


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(StatefulSetController())


def pod(cluster: Cluster, ordinal: int) -> Any:
    return cluster.require("pods", "default", f"db-{ordinal}")


def set_image(cluster: Cluster, image: str) -> None:
    cluster.change(SETS, "db", spec={"template": template(image)})


# --- rollouts -------------------------------------------------------------------------------------


def rolling(**fields: Any) -> dict[str, Any]:
    return {"type": "RollingUpdate", "rollingUpdate": fields}


@pytest.mark.parametrize("policy", ["OrderedReady", "Parallel"])
@pytest.mark.parametrize(
    ("most", "gone"), [(None, [4]), (2, [3, 4]), ("50%", [3, 4]), ("10%", [4]), ("100%", [0, 1, 2, 3, 4])]
)
def test_as_many_go_as_may_be_unavailable(cluster: Cluster, policy: str, most: Any, gone: list[int]) -> None:
    """Percentages are rounded down, to one at least."""
    create(cluster, 5, podManagementPolicy=policy, updateStrategy=rolling(partition=0, maxUnavailable=most))
    cluster.converge()
    set_image(cluster, "db:2")
    cluster.settle()
    assert [n for n in range(5) if meta.is_deleting(pod(cluster, n))] == gone
    cluster.converge()
    assert images(cluster) == ["db:2"] * 5


def test_in_order_what_never_becomes_ready_holds_a_rollout_up(cluster: Cluster) -> None:
    """Also its own undoing, until somebody deletes the pod: Kubernetes documents it as "Forced rollback"."""
    create(cluster)
    cluster.converge()
    set_image(cluster, "db:broken")
    cluster.settle()
    cluster.kubelet(pods=[pod(cluster, 2)])  # the old one ends
    cluster.settle()
    cluster.set_pod(cluster.place(pod(cluster, 2)), ready=False)
    set_image(cluster, "db:1")
    cluster.settle()
    assert not meta.is_deleting(pod(cluster, 2)) and images(cluster) == ["db:1", "db:1", "db:broken"]
    cluster.delete_object("pods", pod(cluster, 2))
    cluster.converge()
    assert images(cluster) == ["db:1"] * 3


def test_of_parallel_sets_what_is_down_is_replaced_first_and_beside_the_budget(cluster: Cluster) -> None:
    create(cluster, 4, podManagementPolicy="Parallel")
    cluster.converge()
    for n in (0, 1):
        cluster.set_pod(pod(cluster, n), ready=False)
    set_image(cluster, "db:2")
    cluster.settle()
    assert [n for n in range(4) if meta.is_deleting(pod(cluster, n))] == [0, 1]
    cluster.converge()
    assert images(cluster) == ["db:2"] * 4


def test_min_ready_seconds_space_out_a_rollout(cluster: Cluster) -> None:
    create(cluster, 2, podManagementPolicy="Parallel", minReadySeconds=10)
    cluster.converge()
    cluster.advance(11)
    assert status(cluster)["availableReplicas"] == 2
    set_image(cluster, "db:2")
    cluster.settle()
    cluster.kubelet(pods=[pod(cluster, 1)])
    cluster.settle()
    cluster.kubelet(pods=[pod(cluster, 1)])
    cluster.advance(5)
    assert images(cluster) == ["db:1", "db:2"]
    cluster.advance(6)
    assert meta.is_deleting(pod(cluster, 0))


def test_ordinals_begin_where_they_are_told(cluster: Cluster) -> None:
    create(cluster, 2, ordinals={"start": 5}, updateStrategy=rolling(partition=1))
    cluster.converge()
    assert names(cluster) == ["db-5", "db-6"]
    set_image(cluster, "db:2")
    cluster.converge()
    assert images(cluster) == ["db:1", "db:2"]  # the partition counts from the start
    cluster.change(SETS, "db", spec={"ordinals": {"start": 6}})
    cluster.converge()
    assert names(cluster) == ["db-6", "db-7"]
    assert images(cluster) == ["db:2", "db:2"]  # db-6 is below the partition now, and stays what it is until it goes


def test_scaling_down_in_order_takes_the_healthy_top_and_waits_below_the_sick(cluster: Cluster) -> None:
    create(cluster, 4)
    cluster.converge()
    for n in (2, 3):
        cluster.set_pod(pod(cluster, n), ready=False)
    cluster.change(SETS, "db", spec={"replicas": 1})
    cluster.settle()
    assert names(cluster) == ["db-0", "db-1", "db-2", "db-3"]  # 3 is sick, and so is 2 below it
    cluster.set_pod(pod(cluster, 3), ready=True)
    cluster.settle()
    assert names(cluster) == ["db-0", "db-1", "db-2"]


def test_labels_that_say_who_a_pod_is_are_given_back(cluster: Cluster) -> None:
    create(cluster)
    cluster.converge()
    label = "statefulset.kubernetes.io/pod-name"
    cluster.change("pods", "db-1", metadata={"labels": {label: "db-0"}})
    cluster.converge()
    assert meta.labels(pod(cluster, 1))[label] == "db-1"
    assert ("db", "SuccessfulUpdate", "update Pod db-1 in StatefulSet db successful") in cluster.events


def test_only_pods_of_its_names_are_adopted(cluster: Cluster) -> None:
    cluster.add("pods", "stranger", metadata={"labels": {"app": "db"}}, spec={}, status={"phase": "Running"})
    cluster.add("pods", "db-0", metadata={"labels": {"app": "db"}}, spec={}, status={"phase": "Running"})
    create(cluster)
    cluster.converge()
    assert meta.controller_of(cluster.require("pods", "default", "stranger")) is None
    assert meta.controller_of(pod(cluster, 0)) is not None


# --- revisions ------------------------------------------------------------------------------------


def test_a_revision_has_the_same_bytes_however_its_template_is_written() -> None:
    found = []
    for turned in (False, True):
        cluster = Cluster(StatefulSetController())
        written = template("db:1")
        if turned:
            written = {key: written[key] for key in reversed(written)}
            container = written["spec"]["containers"][0]
            written["spec"]["containers"] = [dict(reversed(container.items()))]
        create(cluster, template=written)
        cluster.converge()
        found.append(orjson.dumps(cluster.list(REVISIONS)[0]["data"]))
    assert found[0] == found[1]


def test_defaults_that_are_new_make_no_new_revision(cluster: Cluster) -> None:
    """A server that knows more fields shows old templates with their defaults: no pod is restarted for it."""
    create(cluster)
    cluster.converge()
    full = copy.deepcopy(template("db:1"))
    default_pod_template(full)
    assert full != template("db:1")
    cluster.change(SETS, "db", spec={"template": full})
    cluster.converge()
    assert len(cluster.list(REVISIONS)) == 1 and meta.generation(cluster.list(SETS)[0]) == 2


def test_a_set_that_is_made_again_goes_on_with_pods_and_revisions_that_were_left() -> None:
    cluster = Cluster(StatefulSetController(), GarbageCollector(["pods", SETS, CLAIMS, REVISIONS]))
    create(cluster)
    cluster.converge()
    before = {meta.uid(pod) for pod in cluster.pods()}
    cluster.delete_object(SETS, cluster.list(SETS)[0], propagation="Orphan")
    cluster.converge()
    create(cluster)
    cluster.converge()
    assert {meta.uid(pod) for pod in cluster.pods()} == before
    owner = cluster.list(SETS)[0]
    assert [meta.is_controlled_by(r, owner) for r in cluster.list(REVISIONS)] == [True]


def test_a_revision_whose_name_is_taken_gets_another(cluster: Cluster) -> None:
    other = Cluster(StatefulSetController())
    create(other)
    other.settle()
    taken = meta.name(other.list(REVISIONS)[0])
    cluster.add(REVISIONS, taken, data={"spec": {"template": {}}}, revision=1)
    create(cluster)
    cluster.converge()
    own = status(cluster)["updateRevision"]
    assert own != taken and own.startswith("db-") and len(cluster.pods()) == 3


# --- claims ---------------------------------------------------------------------------------------


def kept(**policy: str) -> Cluster:
    collector = GarbageCollector(["pods", SETS, CLAIMS, REVISIONS])
    cluster = Cluster(StatefulSetController(), collector, ProtectionController(resource=CLAIMS))
    create(cluster, persistentVolumeClaimRetentionPolicy=policy, podManagementPolicy="Parallel")
    cluster.converge()
    return cluster


def owners(cluster: Cluster, ordinal: int) -> list[str]:
    refs = meta.metadata(cluster.require(CLAIMS, "default", f"data-db-{ordinal}")).get("ownerReferences") or []
    assert all(ref["controller"] and ref["blockOwnerDeletion"] for ref in refs)
    return [ref["kind"] for ref in refs]


@pytest.mark.parametrize("deleted", ["Retain", "Delete"])
@pytest.mark.parametrize("scaled", ["Retain", "Delete"])
def test_what_becomes_of_claims(deleted: str, scaled: str) -> None:
    cluster = kept(whenDeleted=deleted, whenScaled=scaled)
    mine = ["StatefulSet"] if deleted == "Delete" else []
    assert [owners(cluster, n) for n in range(3)] == [mine] * 3
    cluster.change(SETS, "db", spec={"replicas": 2})
    cluster.settle()
    assert owners(cluster, 2) == (["Pod"] if scaled == "Delete" else mine)
    cluster.converge()
    assert len(cluster.list(CLAIMS)) == (2 if scaled == "Delete" else 3)
    cluster.delete_object(SETS, cluster.list(SETS)[0])
    cluster.converge()
    left = 0 if deleted == "Delete" else 2
    left += 1 if scaled == "Retain" and deleted == "Retain" else 0
    assert (len(cluster.list(CLAIMS)), cluster.list("pods")) == (left, [])


def test_a_policy_that_changes_concerns_claims_that_are_there() -> None:
    cluster = kept(whenDeleted="Retain", whenScaled="Retain")
    for deleted, scaled in (("Delete", "Retain"), ("Retain", "Delete"), ("Delete", "Delete"), ("Retain", "Retain")):
        policy = {"whenDeleted": deleted, "whenScaled": scaled}
        cluster.change(SETS, "db", spec={"persistentVolumeClaimRetentionPolicy": policy})
        cluster.converge()
        assert [owners(cluster, n) for n in range(3)] == [["StatefulSet"] if deleted == "Delete" else []] * 3
    cluster.change(SETS, "db", spec={"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete"}})
    cluster.change(SETS, "db", spec={"replicas": 0})
    cluster.converge()
    assert (cluster.list(CLAIMS), cluster.list("pods")) == ([], [])


def test_a_claim_that_goes_with_its_old_pod_is_not_used_by_the_next() -> None:
    """Scaled down and up again before the collector came: the next pod waits, and gets a claim of its own."""
    cluster = Cluster(StatefulSetController(), ProtectionController(resource=CLAIMS))
    create(cluster, persistentVolumeClaimRetentionPolicy={"whenScaled": "Delete"}, podManagementPolicy="Parallel")
    cluster.converge()
    before = cluster.require(CLAIMS, "default", "data-db-2")
    for replicas in (2, 3):
        cluster.change(SETS, "db", spec={"replicas": replicas})
        cluster.converge()
    assert names(cluster, active=False) == ["db-0", "db-1"]
    assert owners(cluster, 2) == ["Pod"]
    cluster.delete_object(CLAIMS, before)  # as the collector does
    cluster.converge()
    assert names(cluster) == ["db-0", "db-1", "db-2"]
    assert meta.uid(cluster.require(CLAIMS, "default", "data-db-2")) != meta.uid(before)


def test_claims_of_others_are_left_to_them() -> None:
    cluster = kept(whenDeleted="Retain", whenScaled="Retain")
    other = {"apiVersion": "x/v1", "kind": "Backup", "name": "b", "uid": "b", "controller": True}
    cluster.change(CLAIMS, "data-db-0", metadata={"ownerReferences": [other]})
    cluster.change(SETS, "db", spec={"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}})
    cluster.converge()
    refs = meta.metadata(cluster.require(CLAIMS, "default", "data-db-0"))["ownerReferences"]
    assert [ref["kind"] for ref in refs] == ["Backup"] and owners(cluster, 1) == ["StatefulSet"]


def test_a_claim_that_was_lost_is_made_again_for_a_pod_that_waits(cluster: Cluster) -> None:
    create(cluster)
    cluster.settle()
    waiting = pod(cluster, 0)
    cluster.set_pod(waiting, ready=False, phase="Pending")
    cluster.remove(CLAIMS, "default/data-db-0")
    cluster.settle()
    assert cluster.get(CLAIMS, "default", "data-db-0") is not None
