"""DaemonSets: where their pods go, how they are replaced, and what the numbers of the status count."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.controllers.actions import Create
from rayplane.control_plane.controllers.daemonset import DaemonSetController
from rayplane.control_plane.controllers.garbagecollector import GarbageCollector
from tests.controllers.cluster import Cluster

SETS, REVISIONS = "daemonsets.apps", "controllerrevisions.apps"
HASH = "controller-revision-hash"


def template(image: str = "a:1", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": image}], **spec}}


def rolling(**fields: Any) -> dict[str, Any]:
    return {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0, **fields}}


def daemons(nodes: int = 3, *others: Any, **spec: Any) -> Cluster:
    cluster = Cluster(DaemonSetController(), *others)
    for n in range(nodes):
        cluster.node(f"n{n}")
    fields = {"selector": {"matchLabels": {"app": "agent"}}, "template": template(), "updateStrategy": rolling()}
    cluster.add(SETS, "agent", spec={"revisionHistoryLimit": 10, **fields, **spec})
    cluster.settle()
    return cluster


def run(cluster: Cluster, *, ready: bool = True, nodes: str = "n0 n1 n2 n3 n4 n5") -> None:
    """What scheduler and kubelets do."""
    for _ in range(40):
        before = cluster.version
        for pod in [pod for pod in cluster.list("pods") if pinned(pod) in nodes]:
            if meta.is_deleting(pod):
                cluster.remove_object("pods", pod)
            elif not pod_is_ready(pod) and (ready or not meta.node_name(pod)):
                cluster.set_pod(cluster.place(pod, pinned(pod)), ready=ready)
        cluster.settle()
        if cluster.version == before:
            return


def pinned(pod: meta.Object) -> str:
    required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return str(required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0])


def where(cluster: Cluster) -> list[str]:
    return sorted(map(pinned, cluster.pods()))


def images(cluster: Cluster) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pod in cluster.pods():
        found.setdefault(pinned(pod), []).append(pod["spec"]["containers"][0]["image"])
    return {node: sorted(each) for node, each in found.items()}


def status(cluster: Cluster) -> dict[str, Any]:
    return meta.status(cluster.require(SETS, "default", "agent"))


def set_image(cluster: Cluster, image: str) -> None:
    cluster.change(SETS, "agent", spec={"template": template(image)})
    cluster.settle()


# --- where they go --------------------------------------------------------------------------------


def test_a_daemon_on_every_node_and_on_new_ones() -> None:
    cluster = daemons()
    run(cluster)
    assert where(cluster) == ["n0", "n1", "n2"]
    assert status(cluster) == {
        "observedGeneration": 1,
        "currentNumberScheduled": 3,
        "desiredNumberScheduled": 3,
        "numberAvailable": 3,
        "numberMisscheduled": 0,
        "numberReady": 3,
        "updatedNumberScheduled": 3,
    }
    cluster.node("n3")
    cluster.settle()
    run(cluster)
    assert where(cluster) == ["n0", "n1", "n2", "n3"]


def test_daemons_follow_node_labels_and_taints() -> None:
    cluster = daemons(template=template(nodeSelector={"disk": "ssd"}))
    assert where(cluster) == []
    for name in ("n1", "n2"):
        cluster.change("nodes", name, metadata={"labels": {"disk": "ssd"}})
    cluster.settle()
    assert where(cluster) == ["n1", "n2"]
    run(cluster)
    cluster.change("nodes", "n0", metadata={"labels": {"disk": "ssd"}})
    cluster.change("nodes", "n1", metadata={"labels": {"disk": "hdd"}})
    cluster.change("nodes", "n2", spec={"taints": [{"key": "own", "effect": "NoSchedule"}]})
    cluster.settle()
    run(cluster)
    assert where(cluster) == ["n0", "n2"]  # a taint against scheduling drives nobody away
    cluster.change("nodes", "n2", spec={"taints": [{"key": "own", "effect": "NoExecute"}]})
    cluster.settle()
    assert where(cluster) == ["n0"]


def test_daemons_stay_on_lost_and_cordoned_nodes() -> None:
    cluster = daemons()
    run(cluster)
    taints = [
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
    ]
    cluster.change("nodes", "n1", spec={"unschedulable": True, "taints": taints})
    cluster.settle()
    assert where(cluster) == ["n0", "n1", "n2"]


def test_its_pods_tolerate_what_all_daemons_do_and_nothing_twice() -> None:
    own = [
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
        {"key": "mine", "operator": "Exists"},
    ]
    cluster = daemons(1, template=template(tolerations=own, hostNetwork=True))
    found = [(t["key"].rpartition("/")[2], t.get("effect")) for t in cluster.pods()[0]["spec"]["tolerations"]]
    assert found == [
        ("not-ready", "NoExecute"),
        ("mine", None),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
        ("network-unavailable", "NoSchedule"),
    ]


@pytest.mark.parametrize(
    ("key", "effect", "wanted", "stays"),
    [
        ("node.kubernetes.io/not-ready", "NoExecute", True, True),
        ("node.kubernetes.io/not-ready", "NoSchedule", False, True),
        ("node.kubernetes.io/disk-pressure", "NoSchedule", True, True),
        ("node.kubernetes.io/network-unavailable", "NoSchedule", False, True),
        ("own", "PreferNoSchedule", True, True),
        ("own", "NoSchedule", False, True),
        ("own", "NoExecute", False, False),
    ],
)
def test_taints(key: str, effect: str, wanted: bool, stays: bool) -> None:
    taints = [{"key": key, "effect": effect}]
    cluster = daemons(2)
    run(cluster)
    cluster.change("nodes", "n1", spec={"taints": taints})
    cluster.settle()
    run(cluster)
    assert where(cluster) == (["n0", "n1"] if stays else ["n0"])
    assert status(cluster)["desiredNumberScheduled"] == (2 if wanted else 1)
    assert status(cluster)["numberMisscheduled"] == (0 if wanted or not stays else 1)
    cluster.node("n2", spec={"taints": taints})
    cluster.settle()
    run(cluster)
    assert ("n2" in where(cluster)) == wanted


def test_a_node_that_is_gone_takes_only_pods_that_never_ran() -> None:
    cluster = daemons(2)
    run(cluster, nodes="n0")
    for name in ("n0", "n1"):
        cluster.remove("nodes", name)
    cluster.settle()
    assert where(cluster) == ["n0"]  # who ran there is the pod collector's


def test_missing_pods_are_asked_for_with_care() -> None:
    asked = []

    def admit(action: Any) -> None:
        if isinstance(action, Create) and action.resource == "pods":
            asked.append(action)
            raise Forbidden("exceeded quota")

    cluster = Cluster(DaemonSetController())
    cluster.admit = admit
    for n in range(20):
        cluster.node(f"n{n}")
    fields = {"selector": {"matchLabels": {"app": "agent"}}, "template": template(), "updateStrategy": rolling()}
    cluster.add(SETS, "agent", spec=fields)
    cluster.steps(3)
    assert len(asked) <= 2 and "FailedCreate" in cluster.reasons()
    cluster.admit = None
    cluster.settle()
    assert len(cluster.pods()) == 20


# --- failed pods ----------------------------------------------------------------------------------


def fail(cluster: Cluster, phase: str = "Failed") -> None:
    pods = cluster.pods()
    if pods:
        cluster.set_pod(cluster.place(pods[0], pinned(pods[0])), ready=False, phase=phase)
    cluster.settle()


def test_pods_that_fail_again_and_again_are_replaced_ever_less_often() -> None:
    cluster = daemons(1)
    replaced: list[float] = []

    def note(resource: str, kind: str, _old: Any, _obj: Any) -> None:
        if resource == "pods" and kind == "ADDED":
            replaced.append(cluster.seconds)

    cluster.listeners.append(note)
    while cluster.seconds < 60:
        fail(cluster)
        run(cluster, ready=False)
        cluster.advance(0.5)
    gaps = [round(after - before) for before, after in itertools.pairwise(replaced)]
    assert gaps == [1, 2, 4, 8, 16]
    assert ("agent", "FailedDaemonPod") in [(about, reason) for about, reason, _ in cluster.events]


def test_a_pod_that_succeeded_is_made_again_at_once() -> None:
    cluster = daemons(1)
    for _ in range(3):
        fail(cluster, "Succeeded")
        run(cluster, ready=False)
    text = [message for _, reason, message in cluster.events if reason == "SucceededDaemonPod"]
    assert len(text) == 3 and text[0].startswith("Found succeeded daemon pod default/agent-")
    assert text[0].endswith(" on node n0, will try to delete it")


# --- replacing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("surge", [0, 1])
def test_rolling_update_of_daemons_one_node_at_a_time(surge: int) -> None:
    cluster = daemons(updateStrategy=rolling(maxUnavailable=1 - surge, maxSurge=surge))
    run(cluster)
    least = 2 + surge

    def check(resource: str, *_: Any) -> None:
        if resource == "pods":
            up = {pinned(p) for p in cluster.pods() if pod_is_ready(p)}
            assert len(up) >= least

    cluster.listeners.append(check)
    set_image(cluster, "a:2")
    run(cluster)
    assert {p["spec"]["containers"][0]["image"] for p in cluster.pods()} == {"a:2"}
    assert where(cluster) == ["n0", "n1", "n2"]
    assert status(cluster)["updatedNumberScheduled"] == 3
    assert len(cluster.list(REVISIONS)) == 2


def test_failed_daemon_is_replaced() -> None:
    cluster = daemons(1)
    run(cluster)
    cluster.set_pod(cluster.pods()[0], ready=False, phase="Failed")
    cluster.settle()
    run(cluster)
    assert where(cluster) == ["n0"]
    assert "FailedDaemonPod" in cluster.reasons()


def test_on_delete_waits_for_whoever_deletes() -> None:
    cluster = daemons(2, updateStrategy={"type": "OnDelete"})
    run(cluster)
    set_image(cluster, "a:2")
    run(cluster)
    assert images(cluster) == {"n0": ["a:1"], "n1": ["a:1"]}
    cluster.delete_object("pods", next(p for p in cluster.pods() if pinned(p) == "n1"))
    cluster.settle()
    run(cluster)
    assert images(cluster) == {"n0": ["a:1"], "n1": ["a:2"]}


@pytest.mark.parametrize(("most", "gone"), [(1, 1), (2, 2), ("34%", 3), ("100%", 6)])
def test_as_many_go_as_may_be_unavailable(most: Any, gone: int) -> None:
    """Percentages are rounded up."""
    cluster = daemons(6, updateStrategy=rolling(maxUnavailable=most))
    run(cluster)
    set_image(cluster, "a:2")
    assert len([p for p in cluster.list("pods") if meta.is_deleting(p)]) == gone


def test_what_is_down_is_replaced_beside_the_budget_and_counts_towards_it() -> None:
    cluster = daemons(4, updateStrategy=rolling(maxUnavailable=2))
    run(cluster)
    sick = [p for p in cluster.pods() if pinned(p) in ("n2", "n3")]
    for pod in sick:
        cluster.set_pod(pod, ready=False)
    set_image(cluster, "a:2")
    assert sorted(pinned(p) for p in cluster.list("pods") if meta.is_deleting(p)) == ["n2", "n3"]
    run(cluster)
    assert set(map(tuple, images(cluster).values())) == {("a:2",)}


def test_a_surge_puts_new_pods_beside_old_ones_and_counts_the_old() -> None:
    cluster = daemons(3, updateStrategy=rolling(maxUnavailable=0, maxSurge=1))
    run(cluster)
    set_image(cluster, "a:2")
    assert images(cluster) == {"n0": ["a:1", "a:2"], "n1": ["a:1"], "n2": ["a:1"]}
    found = status(cluster)
    assert (found["numberReady"], found.get("updatedNumberScheduled", 0)) == (3, 0)
    run(cluster)
    assert set(map(tuple, images(cluster).values())) == {("a:2",)}


def test_a_surge_drops_an_old_pod_that_is_not_ready() -> None:
    cluster = daemons(1, updateStrategy=rolling(maxUnavailable=0, maxSurge=1))
    run(cluster)
    set_image(cluster, "a:2")
    old = next(p for p in cluster.pods() if pod_is_ready(p))
    cluster.set_pod(old, ready=False)
    cluster.settle()
    assert images(cluster) == {"n0": ["a:2"]}


def test_a_surge_leaves_no_node_for_another_before_that_is_served() -> None:
    """The pod of a node that is wanted no more serves on until others are available in its stead."""
    cluster = daemons(2, updateStrategy=rolling(maxUnavailable=0, maxSurge=1), template=template())
    run(cluster)
    cluster.change("nodes", "n0", spec={"taints": [{"key": "own", "effect": "NoSchedule"}]})
    cluster.node("n2")
    cluster.change(SETS, "agent", spec={"template": template("a:2")})
    cluster.settle()
    assert "n0" in where(cluster)
    run(cluster)
    assert images(cluster) == {"n1": ["a:2"], "n2": ["a:2"]}


def test_with_a_surge_a_pod_that_terminates_is_not_waited_for() -> None:
    cluster = daemons(1, updateStrategy=rolling(maxUnavailable=0, maxSurge=1))
    run(cluster)
    cluster.delete_object("pods", cluster.pods()[0])
    cluster.settle()
    assert where(cluster) == ["n0"] and len(cluster.list("pods")) == 2


def test_min_ready_seconds_space_out_a_rollout() -> None:
    cluster = daemons(2, minReadySeconds=10)
    run(cluster)
    cluster.advance(11)
    assert status(cluster)["numberAvailable"] == 2
    set_image(cluster, "a:2")
    run(cluster)
    cluster.advance(5)
    assert images(cluster) == {"n0": ["a:2"], "n1": ["a:1"]}
    assert status(cluster)["numberUnavailable"] == 1
    cluster.advance(6)
    run(cluster)
    assert images(cluster) == {"n0": ["a:2"], "n1": ["a:2"]}


# --- revisions ------------------------------------------------------------------------------------


def numbers(cluster: Cluster) -> list[int]:
    return sorted(r["revision"] for r in cluster.list(REVISIONS))


def test_undo_and_history() -> None:
    cluster = daemons(1, revisionHistoryLimit=1)
    for image in ("a:2", "a:3", "a:2"):
        run(cluster)
        set_image(cluster, image)
    run(cluster)
    assert numbers(cluster) == [3, 4]
    assert images(cluster) == {"n0": ["a:2"]}


def test_revisions_that_pods_still_have_count_towards_the_limit() -> None:
    cluster = daemons(1, revisionHistoryLimit=1, updateStrategy={"type": "OnDelete"})
    for image in ("a:1", "a:2", "a:3", "a:4"):
        run(cluster)
        set_image(cluster, image)
    assert numbers(cluster) == [1, 4]


def double(cluster: Cluster, revision: meta.Object, number: int) -> None:
    """Another revision of the same template."""
    labels = {**meta.labels(revision), HASH: "double"}
    own = {"labels": labels, "ownerReferences": revision["metadata"]["ownerReferences"]}
    cluster.add(REVISIONS, "agent-double", metadata=own, data=revision["data"], revision=number)


def test_revisions_that_say_the_same_become_one_and_no_pod_is_restarted() -> None:
    cluster = daemons(2)
    run(cluster)
    (first,) = cluster.list(REVISIONS)
    before = {meta.uid(pod) for pod in cluster.pods()}
    double(cluster, first, 2)
    run(cluster)
    (left,) = cluster.list(REVISIONS)
    assert (meta.name(left), left["revision"]) == ("agent-double", 2)
    assert {meta.uid(pod) for pod in cluster.pods()} == before
    assert {meta.labels(pod)[HASH] for pod in cluster.pods()} == {"double"}


def test_pods_of_another_template_keep_theirs_when_doubled_revisions_become_one() -> None:
    cluster = daemons(1, updateStrategy={"type": "OnDelete"})
    run(cluster)
    (old,) = cluster.list(REVISIONS)
    set_image(cluster, "a:2")
    run(cluster)
    double(cluster, max(cluster.list(REVISIONS), key=lambda r: int(r["revision"])), 3)
    run(cluster)
    assert numbers(cluster) == [1, 3]
    assert {meta.labels(pod)[HASH] for pod in cluster.pods()} == {meta.labels(old)[HASH]}


def test_where_the_name_of_a_revision_is_taken_the_next_is_tried() -> None:
    name = ""
    for cluster in (daemons(1), daemons(1)):
        if name:
            cluster.add(REVISIONS, name, data={"spec": {}}, revision=1)
        set_image(cluster, "a:2")
        run(cluster)
        name = meta.name(max(cluster.list(REVISIONS), key=lambda r: int(r["revision"])))
    assert meta.status(cluster.list(SETS)[0])["collisionCount"] == 1
    assert images(cluster) == {"n0": ["a:2"]} and numbers(cluster) == [1, 1, 2]


def test_a_set_that_is_made_again_goes_on_with_what_was_left() -> None:
    cluster = daemons(2, GarbageCollector(["pods", SETS, REVISIONS]))
    run(cluster)
    before = {meta.uid(pod) for pod in cluster.pods()}
    spec = meta.spec(cluster.list(SETS)[0])
    cluster.delete_object(SETS, cluster.list(SETS)[0], propagation="Orphan")
    cluster.settle()
    cluster.add(SETS, "agent", spec=spec)
    cluster.settle()
    run(cluster)
    assert {meta.uid(pod) for pod in cluster.pods()} == before and numbers(cluster) == [1]


@pytest.mark.parametrize("data", [5, "x", [{}], {"spec": 1}, {"spec": {"template": [1]}},
                                  {"spec": {"template": {"metadata": 3}}}, {"spec": {"template": {"spec": "x"}}},
                                  {"spec": {"template": {"spec": {"containers": [None, 5]}}}}])  # fmt: skip
def test_a_revision_that_somebody_wrote_is_no_template(data: Any) -> None:
    cluster = daemons(2)
    cluster.add("controllerrevisions.apps", "odd", metadata={"labels": {"app": "agent"}}, data=data, revision=7)
    set_image(cluster, "a:2")
    run(cluster)
    assert len(where(cluster)) == 2
    assert max(numbers(cluster)) == 8
