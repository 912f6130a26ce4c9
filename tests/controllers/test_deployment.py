"""Deployments and ReplicaSets: convergence, bounds while rolling, and what kubectl reads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.controllers.actions import Create
from rayplane.control_plane.controllers.deployment import DeploymentController, _history
from rayplane.control_plane.controllers.replicaset import ReplicaSetController, wanted
from rayplane.control_plane.controllers.rollout import bounds_of, int_or_percent
from rayplane.control_plane.controllers.templates import safe_hash
from tests.controllers.cluster import HAPPENINGS, Cluster
from tests.tiers import examples

DEPLOYMENTS, SETS = "deployments.apps", "replicasets.apps"


def template(image: str = "web:1") -> dict[str, Any]:
    return {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    }


def deploy(cluster: Cluster, replicas: int = 3, **spec: Any) -> None:
    fields = {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": "web"}},
        "template": template(),
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
        },
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
        **spec,
    }
    cluster.add(DEPLOYMENTS, "web", spec=fields)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(DeploymentController(), ReplicaSetController())


def status(cluster: Cluster) -> dict[str, Any]:
    found = cluster.get(DEPLOYMENTS, "default", "web")
    assert found is not None
    return meta.status(found)


def condition(cluster: Cluster, kind: str) -> dict[str, Any]:
    return meta.get_condition(status(cluster).get("conditions"), kind) or {}


def set_image(cluster: Cluster, image: str) -> None:
    cluster.change(DEPLOYMENTS, "web", spec={"template": template(image)})


def revisions(cluster: Cluster) -> dict[str, int]:
    """Revision annotation -> replicas."""
    note = "deployment.kubernetes.io/revision"
    return {meta.annotations(rs)[note]: wanted(rs) for rs in cluster.list(SETS)}


def test_new_deployment_ends_complete(cluster: Cluster) -> None:
    deploy(cluster)
    cluster.converge()
    (rs,) = cluster.list(SETS)
    digest = meta.labels(rs)["pod-template-hash"]
    assert meta.name(rs) == f"web-{digest}"
    assert rs["spec"]["selector"]["matchLabels"] == {"app": "web", "pod-template-hash": digest}
    assert meta.annotations(rs) == {
        "deployment.kubernetes.io/revision": "1",
        "deployment.kubernetes.io/desired-replicas": "3",
        "deployment.kubernetes.io/max-replicas": "4",
    }
    assert len(cluster.pods()) == 3
    for pod in cluster.pods():
        assert meta.name(pod).startswith(f"web-{digest}-")
        assert meta.labels(pod)["pod-template-hash"] == digest
        assert meta.is_controlled_by(pod, rs)
    found = status(cluster)
    assert {k: v for k, v in found.items() if k != "conditions"} == {
        "observedGeneration": 1,
        "replicas": 3,
        "updatedReplicas": 3,
        "readyReplicas": 3,
        "availableReplicas": 3,
        "terminatingReplicas": 0,
    }
    assert condition(cluster, "Available")["reason"] == "MinimumReplicasAvailable"
    progressing = condition(cluster, "Progressing")
    assert progressing["reason"] == "NewReplicaSetAvailable"
    assert progressing["message"] == f'ReplicaSet "web-{digest}" has successfully progressed.'
    message = f"Scaled up replica set web-{digest} from 0 to 3"
    assert ("web", "ScalingReplicaSet", message) in cluster.events
    created = [m for _, reason, m in cluster.events if reason == "SuccessfulCreate"]
    assert sorted(created) == [f"Created pod: {meta.name(p)}" for p in cluster.pods()]


def test_same_template_is_one_replicaset_and_rest_is_quiet(cluster: Cluster) -> None:
    deploy(cluster)
    cluster.converge()
    version = cluster.version
    for n in range(len(cluster.controllers)):
        cluster.queue[n, "default/web"] = None
    cluster.settle()
    assert cluster.version == version


def test_rollout_and_undo_number_revisions(cluster: Cluster) -> None:
    deploy(cluster)
    cluster.converge()
    set_image(cluster, "web:2")
    cluster.converge()
    assert revisions(cluster) == {"1": 0, "2": 3}
    set_image(cluster, "web:1")  # what `kubectl rollout undo` does
    cluster.converge()
    assert revisions(cluster) == {"2": 0, "3": 3}
    current = next(rs for rs in cluster.list(SETS) if wanted(rs))
    assert meta.annotations(current)["deployment.kubernetes.io/revision-history"] == "1"
    deployment = cluster.get(DEPLOYMENTS, "default", "web")
    assert deployment
    assert meta.annotations(deployment)["deployment.kubernetes.io/revision"] == "3"
    assert {p["spec"]["containers"][0]["image"] for p in cluster.pods()} == {"web:1"}


def test_status_never_claims_more_than_there_is_during_a_rollout(cluster: Cluster) -> None:
    """`kubectl rollout status` waits for observedGeneration, then compares these numbers."""
    deploy(cluster, replicas=4)
    cluster.converge()
    set_image(cluster, "web:2")
    cluster.settle()
    found = status(cluster)
    assert found["observedGeneration"] == 2
    assert found["updatedReplicas"] < 4
    assert condition(cluster, "Progressing")["reason"] != "NewReplicaSetAvailable"


def test_recreate_has_no_two_versions_at_once(cluster: Cluster) -> None:
    deploy(cluster, strategy={"type": "Recreate"})
    cluster.converge()
    set_image(cluster, "web:2")
    for _ in range(20):
        cluster.settle()
        images = {p["spec"]["containers"][0]["image"] for p in cluster.pods(active=False)}
        assert len(images) <= 1
        cluster.kubelet()
    assert images == {"web:2"}
    assert len(cluster.pods()) == 3


def test_paused_deployment_scales_but_does_not_roll(cluster: Cluster) -> None:
    deploy(cluster)
    cluster.converge()
    cluster.change(DEPLOYMENTS, "web", spec={"paused": True})
    set_image(cluster, "web:2")
    cluster.change(DEPLOYMENTS, "web", spec={"replicas": 5})
    cluster.converge()
    assert revisions(cluster) == {"1": 5}
    assert condition(cluster, "Progressing")["reason"] == "DeploymentPaused"
    cluster.change(DEPLOYMENTS, "web", spec={"paused": None})
    cluster.converge()
    assert revisions(cluster) == {"1": 0, "2": 5}
    assert condition(cluster, "Progressing")["reason"] == "NewReplicaSetAvailable"


def test_history_limit(cluster: Cluster) -> None:
    deploy(cluster, revisionHistoryLimit=2)
    for n in range(1, 6):
        set_image(cluster, f"web:{n}")
        cluster.converge()
    assert sorted(revisions(cluster)) == ["3", "4", "5"]


def test_progress_deadline(cluster: Cluster) -> None:
    deploy(cluster, progressDeadlineSeconds=10)
    cluster.settle()
    cluster.advance(5)
    assert condition(cluster, "Progressing")["status"] == "True"
    cluster.advance(8)
    found = condition(cluster, "Progressing")
    assert (found["status"], found["reason"]) == ("False", "ProgressDeadlineExceeded")
    cluster.converge()
    assert condition(cluster, "Progressing")["reason"] == "NewReplicaSetAvailable"


def test_a_rollout_says_how_it_goes(cluster: Cluster) -> None:
    """The reasons that Progressing goes through, each with the ReplicaSet it is about."""
    seen: list[tuple[str, str]] = []

    def look(resource: str, _kind: str, _old: Any, obj: Any) -> None:
        found = meta.get_condition(obj, "Progressing") if resource == DEPLOYMENTS else None
        if found and (found["reason"], found["status"]) not in seen[-1:]:
            seen.append((found["reason"], found["status"]))

    cluster.listeners.append(look)
    deploy(cluster, progressDeadlineSeconds=10)
    cluster.converge()
    made = [("NewReplicaSetCreated", "True"), ("ReplicaSetUpdated", "True"), ("NewReplicaSetAvailable", "True")]
    assert seen == made
    set_image(cluster, "web:2")
    cluster.settle()
    cluster.advance(12)
    set_image(cluster, "web:1")  # back to a ReplicaSet that is there: none is created, or found
    cluster.converge()
    late = ("ProgressDeadlineExceeded", "False")
    assert seen == [*made, made[0], made[1], late, *made[1:]]
    assert 'ReplicaSet "web-' in condition(cluster, "Progressing")["message"]


@pytest.mark.parametrize("seconds", [None, 2**31 - 1])
def test_no_deadline_no_progress_condition(cluster: Cluster, seconds: int | None) -> None:
    deploy(cluster, progressDeadlineSeconds=seconds)
    cluster.converge()
    cluster.change(DEPLOYMENTS, "web", spec={"paused": True})
    set_image(cluster, "web:2")
    cluster.change(DEPLOYMENTS, "web", spec={"paused": None})
    cluster.converge()
    assert condition(cluster, "Progressing") == {}
    cluster.change(DEPLOYMENTS, "web", spec={"progressDeadlineSeconds": 10})
    cluster.converge()
    assert condition(cluster, "Progressing")["reason"] == "NewReplicaSetAvailable"


def test_pausing_is_noted_and_resuming_starts_the_deadline_anew(cluster: Cluster) -> None:
    deploy(cluster, progressDeadlineSeconds=10)
    cluster.converge()
    cluster.change(DEPLOYMENTS, "web", spec={"paused": True})
    set_image(cluster, "web:2")
    cluster.settle()
    found = condition(cluster, "Progressing")
    assert (found["status"], found["reason"]) == ("Unknown", "DeploymentPaused")
    assert found["message"] == "Deployment is paused"
    cluster.advance(100)
    assert condition(cluster, "Progressing") == found
    cluster.change(DEPLOYMENTS, "web", spec={"paused": None})
    reasons = []
    while cluster.step():
        reasons.append(condition(cluster, "Progressing")["reason"])
    assert "DeploymentResumed" in reasons and reasons[-1] != "ProgressDeadlineExceeded"
    cluster.advance(12)
    assert condition(cluster, "Progressing")["reason"] == "ProgressDeadlineExceeded"
    cluster.change(DEPLOYMENTS, "web", spec={"paused": True})  # that it was late is not forgotten
    cluster.settle()
    assert condition(cluster, "Progressing")["reason"] == "ProgressDeadlineExceeded"


def test_what_keeps_pods_from_being_made_shows_in_the_deployment(cluster: Cluster) -> None:
    quota = 'pods "web-x" is forbidden: exceeded quota: small'
    refuse(cluster, "pods", quota)
    deploy(cluster)
    cluster.steps(30)
    found = condition(cluster, "ReplicaFailure")
    assert (found["status"], found["reason"], found["message"]) == ("True", "FailedCreate", quota)
    assert condition(cluster, "Available")["reason"] == "MinimumReplicasUnavailable"
    assert f"Error creating: {quota}" in [message for _, _, message in cluster.events]
    cluster.admit = None
    cluster.converge()
    assert condition(cluster, "ReplicaFailure") == {}
    assert condition(cluster, "Available")["status"] == "True"


def test_what_keeps_the_replicaset_from_being_made_shows_in_the_deployment(cluster: Cluster) -> None:
    refuse(cluster, SETS, "replicasets are forbidden today")
    deploy(cluster)
    cluster.steps(10)
    found = condition(cluster, "Progressing")
    name = found["message"].split('"')[1]
    text = f'Failed to create new replica set "{name}": replicasets are forbidden today'
    assert (found["status"], found["reason"], found["message"]) == ("False", "ReplicaSetCreateError", text)
    assert ("web", "ReplicaSetCreateError", text) in cluster.events
    assert "deployment.kubernetes.io/revision" not in meta.annotations(cluster.list(DEPLOYMENTS)[0])
    cluster.admit = None
    cluster.converge()
    assert condition(cluster, "Progressing")["reason"] == "NewReplicaSetAvailable"


def refuse(cluster: Cluster, resource: str, text: str) -> None:
    def admit(action: Any) -> None:
        if isinstance(action, Create) and action.resource == resource:
            raise Forbidden(text)

    cluster.admit = admit


def test_a_foreign_replicaset_of_the_same_name_is_a_collision(cluster: Cluster) -> None:
    deploy(cluster)
    cluster.converge()
    taken = meta.name(cluster.list(SETS)[0])
    other = Cluster(DeploymentController(), ReplicaSetController())
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "other"}}, "template": template()}
    other.add(SETS, taken, spec=spec)
    deploy(other)
    other.converge()
    assert status(other)["collisionCount"] == 1
    own = [rs for rs in other.list(SETS) if meta.controller_of(rs)]
    assert len(own) == 1 and meta.name(own[0]) != taken and len(other.pods()) == 3


def test_pods_that_terminate_are_counted_apart(cluster: Cluster) -> None:
    deploy(cluster, strategy={"type": "Recreate"})
    cluster.converge()
    cluster.change(DEPLOYMENTS, "web", spec={"replicas": 1})
    cluster.settle()
    assert (status(cluster)["replicas"], status(cluster)["terminatingReplicas"]) == (1, 2)
    ended = next(p for p in cluster.list("pods") if meta.is_deleting(p))
    cluster.set_pod(ended, ready=False, phase="Failed")
    cluster.settle()
    assert status(cluster)["terminatingReplicas"] == 1  # what has ended and waits to be removed uses nothing


def test_unavailable_are_all_that_are_wanted_and_not_available(cluster: Cluster) -> None:
    rolling = {"maxSurge": 2, "maxUnavailable": 0}
    deploy(cluster, replicas=4, strategy={"type": "RollingUpdate", "rollingUpdate": rolling})
    cluster.settle()
    assert status(cluster)["unavailableReplicas"] == 4
    cluster.converge()
    set_image(cluster, "web:2")
    cluster.settle()
    assert status(cluster)["unavailableReplicas"] == 2 + 4 - 4


def test_revisions_that_a_replicaset_had_are_remembered_to_a_length() -> None:
    numbers = [str(n) for n in range(1, 1000)]
    text = ""
    for number in numbers:
        text = _history(text, number)
    assert len(text) <= 2000 and text.endswith("998,999") and text.split(",") == numbers[-len(text.split(",")) :]


def test_history_keeps_what_has_pods(cluster: Cluster) -> None:
    """Only the oldest beyond the limit are looked at, and of them only the empty ones go."""
    deploy(cluster, revisionHistoryLimit=1)
    cluster.converge()
    first = cluster.list(SETS)[0]
    for image in ("web:2", "web:3"):
        set_image(cluster, image)
        cluster.converge()
    assert sorted(revisions(cluster)) == ["2", "3"]
    assert cluster.get(SETS, "default", meta.name(first)) is None
    cluster.change(DEPLOYMENTS, "web", spec={"paused": True, "revisionHistoryLimit": 0})
    cluster.settle()
    assert sorted(revisions(cluster)) == ["3"]  # it is tidied while it is paused, too


def test_a_deployment_that_goes_leaves_its_orphans_alone(cluster: Cluster) -> None:
    """The cache of a controller may not know yet that the owner is being deleted, and its dependents were released."""
    deploy(cluster)
    cluster.converge()
    (rs,) = cluster.list(SETS)
    deployment = cluster.list(DEPLOYMENTS)[0]
    stale = dict(cluster.objects[DEPLOYMENTS])
    cluster.delete_object(DEPLOYMENTS, deployment, propagation="Orphan")
    cluster.patch(SETS, meta.name(rs), "default", {"metadata": {"ownerReferences": None}})
    live, cluster.objects[DEPLOYMENTS] = cluster.objects[DEPLOYMENTS], stale
    wanted_now = cluster.controllers[0].reconcile("default/web", cluster, cluster.now)
    cluster.objects[DEPLOYMENTS] = live
    assert wanted_now.actions and not cluster.apply(wanted_now)
    assert meta.controller_of(cluster.list(SETS)[0]) is None


def test_scaling_in_the_middle_of_a_rollout_keeps_proportions(cluster: Cluster) -> None:
    deploy(cluster, replicas=10, strategy={
        "type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}
    })  # fmt: skip
    cluster.converge()
    set_image(cluster, "web:2")
    cluster.settle()
    assert revisions(cluster) == {"1": 8, "2": 5}
    cluster.change(DEPLOYMENTS, "web", spec={"replicas": 15})
    cluster.settle()
    assert revisions(cluster) == {"1": 11, "2": 7}
    cluster.converge()
    assert revisions(cluster) == {"1": 0, "2": 15}


def test_min_ready_seconds_delays_availability(cluster: Cluster) -> None:
    deploy(cluster, replicas=2, minReadySeconds=5)
    cluster.settle()
    cluster.kubelet()
    cluster.settle()
    assert status(cluster)["readyReplicas"] == 2
    assert "availableReplicas" not in status(cluster)
    cluster.advance(6)
    assert status(cluster)["availableReplicas"] == 2


def test_annotations_are_passed_on_without_last_applied(cluster: Cluster) -> None:
    deploy(cluster)
    notes = {
        "kubernetes.io/change-cause": "because",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
    }
    cluster.change(DEPLOYMENTS, "web", metadata={"annotations": notes})
    cluster.converge()
    (rs,) = cluster.list(SETS)
    assert meta.annotations(rs)["kubernetes.io/change-cause"] == "because"
    assert "kubectl.kubernetes.io/last-applied-configuration" not in meta.annotations(rs)


def test_orphans_are_adopted_and_strangers_released(cluster: Cluster) -> None:
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template()}
    stray = cluster.add("pods", "stray", metadata={"labels": {"app": "web"}}, spec={}, status={})
    rs = cluster.add(SETS, "rs", spec=spec)
    cluster.settle()
    assert len(cluster.pods()) == 2
    adopted = cluster.get("pods", "default", meta.name(stray))
    assert adopted and meta.is_controlled_by(adopted, rs)
    cluster.change("pods", "stray", metadata={"labels": {"app": "other"}})
    cluster.settle()
    released = cluster.get("pods", "default", "stray")
    assert released and meta.controller_of(released) is None
    assert len([p for p in cluster.pods() if meta.is_controlled_by(p, rs)]) == 2


def test_scale_down_takes_the_least_useful_pods_first(cluster: Cluster) -> None:
    spec = {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": template()}
    cluster.add(SETS, "rs", spec=spec)
    cluster.settle()
    first, second, third, fourth = cluster.pods()
    for pod in (first, second):
        cluster.set_pod(cluster.place(pod), ready=True)
    cluster.set_pod(cluster.place(third), ready=False)
    cluster.change("pods", meta.name(first), metadata={
        "annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}
    })  # fmt: skip
    survivors = []
    for replicas in (3, 2, 1):
        cluster.change(SETS, "rs", spec={"replicas": replicas})
        cluster.settle()
        survivors.append([meta.name(p) for p in cluster.pods()])
    names = [meta.name(p) for p in (first, second, third)]
    assert survivors == [names, names[:2], names[1:2]]
    assert meta.name(fourth) not in survivors[0]


@given(
    st.integers(1, 12),
    st.sampled_from([0, 1, 2, 5, "10%", "25%", "50%", "100%"]),
    st.sampled_from([0, 1, 2, 5, "10%", "25%", "50%", "100%"]),
    st.data(),
)
@settings(max_examples=examples(40), deadline=None)
def test_rolling_updates_stay_within_bounds(replicas: int, surge: Any, unavailable: Any, data: st.DataObject) -> None:
    """At no moment more pods than replicas + maxSurge, nor fewer available than replicas - maxUnavailable."""
    cluster = Cluster(DeploymentController(), ReplicaSetController())
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    deploy(cluster, replicas=replicas, strategy={"type": "RollingUpdate", "rollingUpdate": rolling})
    cluster.converge()
    deployment = cluster.get(DEPLOYMENTS, "default", "web")
    assert deployment
    bounds = bounds_of(deployment)
    set_image(cluster, "web:2")
    for _ in range(200):
        while cluster.step():
            pods = cluster.pods()
            assert len(pods) <= bounds.most
            assert sum(map(pod_is_ready, pods)) >= bounds.least_available
        waiting = [p for p in cluster.list("pods") if meta.is_deleting(p) or not pod_is_ready(p)]
        if not waiting:
            break
        some = data.draw(st.sets(st.integers(0, len(waiting) - 1), min_size=1))
        cluster.kubelet(pods=[waiting[n] for n in sorted(some)])
    assert {p["spec"]["containers"][0]["image"] for p in cluster.pods()} == {"web:2"}
    assert len(cluster.pods()) == replicas


@given(st.data())
@settings(max_examples=examples(25), deadline=None)
def test_random_kills_scales_and_rollouts_converge(data: st.DataObject) -> None:
    cluster = Cluster(DeploymentController(), ReplicaSetController())
    deploy(cluster)
    replicas, image = 3, "web:1"
    for _ in range(data.draw(st.integers(1, 12))):
        what = data.draw(st.sampled_from(["scale", "image", *HAPPENINGS]))
        if what == "scale":
            replicas = data.draw(st.integers(0, 8))
            cluster.change(DEPLOYMENTS, "web", spec={"replicas": replicas})
        elif what == "image":
            image = f"web:{data.draw(st.integers(1, 3))}"
            set_image(cluster, image)
        else:
            cluster.happen(what, data)
    cluster.converge()
    pods = cluster.pods()
    assert len(pods) == replicas
    assert {p["spec"]["containers"][0]["image"] for p in pods} <= {image}
    assert status(cluster).get("availableReplicas", 0) == replicas
    assert condition(cluster, "Progressing")["reason"] == "NewReplicaSetAvailable"


@pytest.mark.parametrize(
    ("value", "up", "expected"),
    [(3, True, 3), ("25%", True, 3), ("25%", False, 2), ("0%", True, 0), ("100%", False, 10), (None, True, 0)],
)
def test_int_or_percent_of_ten(value: Any, up: bool, expected: int) -> None:
    assert int_or_percent(value, 10, up=up) == expected


def test_hash_is_stable_and_name_safe() -> None:
    first = safe_hash({"a": 1, "b": [1, 2]})
    assert first == safe_hash({"b": [1, 2], "a": 1})
    assert first != safe_hash({"a": 1, "b": [1, 2]}, 1)
    assert first.isalnum() and not set(first) & set("aeiou01")
