"""Jobs: how many pods run, what is counted, how a Job ends, and what becomes of its pods."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.controllers.actions import Create
from rayplane.control_plane.controllers.job.pods import INDEX, TRACKING, is_tracked
from rayplane.control_plane.controllers.job.spec import JOBS
from rayplane.control_plane.controllers.replicaset import FIRST
from tests.controllers.cluster import Cluster
from tests.controllers.jobs import (
    INDEXED,
    POD,
    counts,
    end,
    exited,
    job,
    job_cluster,
    outcome,
    place_all,
    reap,
    status,
    tracked,
)


def test_job_runs_to_completion_with_bounded_parallelism() -> None:
    cluster = job_cluster(completions=5, parallelism=2)
    for done, active in ((0, 2), (2, 2), (4, 1)):
        assert len(cluster.pods()) == active
        assert counts(cluster) == (active, done, 0)
        end(cluster, "Succeeded")
    assert outcome(cluster) == [("SuccessCriteriaMet", "CompletionsReached"), ("Complete", "CompletionsReached")]
    assert status(cluster)["succeeded"] == 5
    assert "completionTime" in status(cluster)
    assert len(cluster.list("pods")) == 5
    assert tracked(cluster) == 0
    assert cluster.reasons() == ["SuccessfulCreate"] * 5 + ["Completed"]


def test_a_job_of_no_completions_is_complete_at_once() -> None:
    cluster = job_cluster(completions=0, parallelism=3)
    assert ("Complete", "CompletionsReached") in outcome(cluster)
    assert cluster.list("pods") == []


def test_a_queue_of_work_is_done_when_one_has_succeeded_and_all_have_ended() -> None:
    cluster = job_cluster(completions=None, parallelism=3)
    end(cluster, "Succeeded", count=1)
    assert counts(cluster) == (2, 1, 0)
    end(cluster, "Failed", count=1)
    assert counts(cluster) == (1, 1, 1)  # nobody is put in its place
    end(cluster, "Succeeded")
    assert ("Complete", "CompletionsReached") in outcome(cluster)
    assert counts(cluster) == (0, 2, 1)


def test_parallelism_of_zero_stops_a_job_and_counts_nothing_as_failed() -> None:
    cluster = job_cluster(completions=5, parallelism=2)
    place_all(cluster)
    cluster.change(JOBS, "j", spec={"parallelism": 0})
    cluster.settle()
    assert cluster.pods() == []
    assert (counts(cluster), status(cluster)["terminating"]) == ((0, 0, 0), 2)
    reap(cluster)
    assert status(cluster)["terminating"] == 0
    cluster.change(JOBS, "j", spec={"parallelism": 1})
    cluster.settle()
    assert counts(cluster) == (1, 0, 0)


def test_failing_job_backs_off_and_gives_up() -> None:
    cluster = job_cluster(backoffLimit=1)
    end(cluster, "Failed")
    assert cluster.pods() == []
    cluster.advance(9)
    assert cluster.pods() == []
    cluster.advance(2)
    assert len(cluster.pods()) == 1
    end(cluster, "Failed")
    assert outcome(cluster) == [("FailureTarget", "BackoffLimitExceeded"), ("Failed", "BackoffLimitExceeded")]
    assert ("j", "BackoffLimitExceeded", "Job has reached the specified backoff limit") in cluster.events
    cluster.advance(600)
    assert cluster.pods() == []


def test_each_further_failure_doubles_the_pause_and_a_success_ends_it() -> None:
    cluster = job_cluster(completions=2, backoffLimit=9)
    for pause in (10, 20, 40):
        end(cluster, "Failed")
        cluster.advance(pause - 2)
        assert cluster.pods() == []
        cluster.advance(4)
        assert len(cluster.pods()) == 1
    end(cluster, "Succeeded")
    assert len(cluster.pods()) == 1


def test_a_pod_that_somebody_deletes_is_a_failure_and_the_pause_outlives_it() -> None:
    cluster = job_cluster()
    place_all(cluster)
    cluster.delete_object("pods", cluster.pods()[0])
    cluster.settle()
    reap(cluster)
    assert (cluster.list("pods"), counts(cluster)) == ([], (0, 0, 1))
    cluster.advance(8)
    assert cluster.pods() == []
    cluster.advance(3)
    assert len(cluster.pods()) == 1


def test_restarts_in_place_count_towards_the_limit() -> None:
    cluster = job_cluster(backoffLimit=2, template={"spec": {**POD, "restartPolicy": "OnFailure"}})
    place_all(cluster)
    for restarts, ended in ((1, False), (2, True)):
        pod = cluster.pods()[0]
        told = {"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": restarts}]}
        cluster.update("pods", {**pod, "status": told}, subresource="status")
        cluster.settle()
        assert (("FailureTarget", "BackoffLimitExceeded") in outcome(cluster)) == ended
    reap(cluster)
    assert ("Failed", "BackoffLimitExceeded") in outcome(cluster)
    assert counts(cluster) == (0, 0, 1)


def test_job_over_its_deadline_is_stopped_and_fails_when_all_pods_have_ended() -> None:
    cluster = job_cluster(activeDeadlineSeconds=30)
    place_all(cluster)
    cluster.advance(29)
    assert len(cluster.pods()) == 1
    cluster.advance(3)
    assert cluster.pods() == []
    assert outcome(cluster) == [("FailureTarget", "DeadlineExceeded")]
    assert (counts(cluster), status(cluster)["terminating"]) == ((0, 0, 1), 1)
    reap(cluster)
    assert outcome(cluster) == [("FailureTarget", "DeadlineExceeded"), ("Failed", "DeadlineExceeded")]
    assert (counts(cluster), status(cluster)["terminating"]) == ((0, 0, 1), 0)
    assert ("j", "DeadlineExceeded", "Job was active longer than specified deadline") in cluster.events


def test_a_suspended_job_has_no_pods_and_its_time_begins_anew_when_it_goes_on() -> None:
    cluster = job_cluster(activeDeadlineSeconds=30)
    first = status(cluster)["startTime"]
    place_all(cluster)
    cluster.advance(20)
    cluster.change(JOBS, "j", spec={"suspend": True})
    cluster.settle()
    reap(cluster)
    assert (cluster.list("pods"), counts(cluster)) == ([], (0, 0, 0))
    assert outcome(cluster) == [("Suspended", "JobSuspended")]
    assert "startTime" not in status(cluster)
    cluster.advance(100)
    cluster.change(JOBS, "j", spec={"suspend": False})
    cluster.settle()
    assert len(cluster.pods()) == 1
    assert status(cluster)["startTime"] > first
    assert (outcome(cluster), status(cluster)["conditions"][0]["reason"]) == ([], "JobResumed")
    cluster.advance(20)
    assert outcome(cluster) == []
    assert [r for r in cluster.reasons() if r in ("Suspended", "Resumed")] == ["Suspended", "Resumed"]


def test_a_job_that_is_made_suspended_starts_when_it_is_resumed_with_what_was_changed_meanwhile() -> None:
    cluster = job_cluster(suspend=True)
    assert cluster.list("pods") == []
    assert "startTime" not in status(cluster)
    template = {"spec": {"nodeSelector": {"disk": "ssd"}}}
    cluster.change(JOBS, "j", spec={"suspend": False, "template": template})
    cluster.settle()
    assert cluster.pods()[0]["spec"]["nodeSelector"] == {"disk": "ssd"}
    assert "startTime" in status(cluster)


def test_a_job_that_others_manage_is_left_alone() -> None:
    cluster = job_cluster(managedBy="example.com/queue")
    assert cluster.list("pods") == []
    assert status(cluster) == {}


def test_finished_job_goes_after_its_time_to_live() -> None:
    cluster = job_cluster(ttlSecondsAfterFinished=60)
    end(cluster, "Succeeded")
    cluster.advance(59)
    assert cluster.list(JOBS)
    cluster.advance(2)
    assert all(meta.is_deleting(j) for j in cluster.list(JOBS))


@pytest.mark.parametrize(("policy", "waits"), [("TerminatingOrFailed", False), ("Failed", True)])
def test_pods_that_are_being_deleted_are_replaced_as_the_policy_says(policy: str, waits: bool) -> None:
    cluster = job_cluster(podReplacementPolicy=policy, backoffLimit=9)
    place_all(cluster)
    cluster.delete_object("pods", cluster.pods()[0])
    cluster.settle()
    cluster.advance(11)
    assert len(cluster.pods()) == (0 if waits else 1)
    assert (status(cluster)["terminating"], status(cluster).get("failed", 0)) == (1, 0 if waits else 1)
    reap(cluster)
    cluster.advance(11)
    assert len(cluster.pods()) == 1
    assert (status(cluster)["terminating"], status(cluster)["failed"]) == (0, 1)


def test_pods_that_fit_are_adopted_with_a_finalizer_and_those_that_fit_no_more_are_released() -> None:
    labels, selector = {"app": "x"}, {"matchLabels": {"app": "x"}}
    template = {"metadata": {"labels": labels}, "spec": POD}
    cluster = job_cluster(manualSelector=True, selector=selector, template=template)
    mine = cluster.pods()[0]
    cluster.add("pods", "ended", metadata={"labels": labels}, spec=POD, status={"phase": "Failed"})
    cluster.settle()
    adopted = cluster.require("pods", "default", "ended")
    assert meta.is_controlled_by(adopted, job(cluster))
    assert counts(cluster) == (1, 0, 1)
    cluster.change("pods", meta.name(mine), metadata={"labels": {"app": "y"}})
    cluster.settle()
    released = cluster.require("pods", "default", meta.name(mine))
    assert meta.controller_of(released) is None
    assert not is_tracked(released)
    cluster.advance(11)
    assert len(cluster.pods()) == 2


@pytest.mark.parametrize("propagation", ["Background", "Orphan", "Foreground"])
def test_no_finalizer_outlives_its_job(propagation: str) -> None:
    cluster = job_cluster(parallelism=2, completions=2)
    cluster.delete_object(JOBS, job(cluster), propagation=propagation)
    if propagation == "Orphan":
        for pod in cluster.pods():
            cluster.change("pods", meta.name(pod), metadata={"ownerReferences": None})
    cluster.settle()
    assert len(cluster.pods()) == 2  # their end is the garbage collector's work
    assert tracked(cluster) == 0


def test_a_namespace_that_goes_is_not_held_up_by_a_pod_that_waits_to_be_replaced() -> None:
    cluster = job_cluster(completions=1, parallelism=1, backoffLimitPerIndex=5, **INDEXED)
    cluster.add("namespaces", "default")
    end(cluster, "Failed")
    assert tracked(cluster) == 1
    going = {"name": "default", "deletionTimestamp": cluster.now.stamp}
    cluster.put("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": going})
    cluster.settle()
    cluster.advance(60)
    assert (tracked(cluster), cluster.pods()) == (0, [])


def test_a_finalizer_that_comes_back_after_the_end_goes_again() -> None:
    cluster = job_cluster()
    end(cluster, "Succeeded")
    cluster.change("pods", meta.name(cluster.list("pods")[0]), metadata={"finalizers": [TRACKING, "a.com/b"]})
    cluster.settle()
    assert meta.finalizers(cluster.list("pods")[0]) == ["a.com/b"]


def test_pods_that_cannot_be_made_are_told_and_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = job_cluster(suspend=True)
    cluster.change(JOBS, "j", spec={"suspend": False})
    monkeypatch.setattr(cluster, "act", lambda action: not isinstance(action, Create) and Cluster.act(cluster, action))
    for _ in range(5):
        cluster.step()
    assert counts(cluster) == (0, 0, 0)
    assert "startTime" in status(cluster)


# --- indexed ------------------------------------------------------------------------------------


def indexes(cluster: Any) -> list[str]:
    return sorted(meta.annotations(pod)[INDEX] for pod in cluster.pods())


def test_indexed_job_runs_each_index_once() -> None:
    cluster = job_cluster(completions=3, parallelism=3, **INDEXED)
    assert indexes(cluster) == ["0", "1", "2"]
    pod = cluster.pods()[0]
    variable = {"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}}
    assert pod["spec"]["containers"][0]["env"] == [variable]
    assert (pod["spec"]["hostname"], meta.labels(pod)[INDEX]) == ("j-0", "0")
    assert meta.name(pod).startswith("j-0-")
    end(cluster, "Succeeded", count=2)
    for pod in cluster.pods(active=False)[:2]:
        cluster.delete_object("pods", pod, grace_s=0)
    cluster.settle()
    assert indexes(cluster) == ["2"]  # what was counted is not run again
    end(cluster, "Succeeded")
    assert status(cluster)["completedIndexes"] == "0-2"
    assert ("Complete", "CompletionsReached") in outcome(cluster)


def test_an_indexed_job_grows_and_shrinks() -> None:
    cluster = job_cluster(completions=3, parallelism=3, **INDEXED)
    end(cluster, "Succeeded", index=0)
    cluster.change(JOBS, "j", spec={"completions": 5, "parallelism": 5})
    cluster.settle()
    assert indexes(cluster) == ["1", "2", "3", "4"]
    end(cluster, "Succeeded", index=4)
    assert status(cluster)["completedIndexes"] == "0,4"
    cluster.change(JOBS, "j", spec={"completions": 2, "parallelism": 2})
    cluster.settle()
    assert indexes(cluster) == ["1"]
    assert (status(cluster)["completedIndexes"], status(cluster)["succeeded"]) == ("0", 1)
    end(cluster, "Succeeded")
    assert ("Complete", "CompletionsReached") in outcome(cluster)


def test_of_two_pods_of_an_index_one_goes() -> None:
    cluster = job_cluster(completions=2, parallelism=2, **INDEXED)
    twin = cluster.pods()[0]
    own = {"labels": meta.labels(twin), "annotations": meta.annotations(twin), "finalizers": [TRACKING]}
    owners = {"ownerReferences": twin["metadata"]["ownerReferences"]}
    cluster.add("pods", "twin", metadata={**own, **owners}, spec=POD)
    cluster.add("pods", "none", metadata={**owners, "labels": meta.labels(twin)}, spec=POD)
    cluster.settle()
    assert indexes(cluster) == ["0", "1"]
    assert counts(cluster) == (2, 0, 0)


def test_an_index_that_fails_too_often_is_given_up_and_the_others_go_on() -> None:
    cluster = job_cluster(completions=3, parallelism=3, backoffLimitPerIndex=1, **INDEXED)
    end(cluster, "Failed", index=1)
    assert indexes(cluster) == ["0", "2"]
    assert (status(cluster).get("failed", 0), tracked(cluster)) == (0, 3)
    cluster.advance(11)
    assert indexes(cluster) == ["0", "1", "2"]
    again = next(p for p in cluster.pods() if meta.annotations(p)[INDEX] == "1")
    assert meta.annotations(again)["batch.kubernetes.io/job-index-failure-count"] == "1"
    assert status(cluster)["failed"] == 1
    end(cluster, "Failed", index=1)
    assert (status(cluster)["failedIndexes"], counts(cluster)) == ("1", (2, 0, 2))
    cluster.advance(100)
    end(cluster, "Succeeded")
    assert (status(cluster)["failedIndexes"], status(cluster)["completedIndexes"]) == ("1", "0,2")
    assert outcome(cluster) == [("FailureTarget", "FailedIndexes"), ("Failed", "FailedIndexes")]
    assert tracked(cluster) == 0


def test_too_many_failed_indexes_end_the_job() -> None:
    spec = {"completions": 4, "parallelism": 4, "backoffLimitPerIndex": 0, "maxFailedIndexes": 1, **INDEXED}
    cluster = job_cluster(**spec)
    end(cluster, "Failed", index=0)
    assert outcome(cluster) == []
    end(cluster, "Failed", index=2)
    assert ("Failed", "MaxFailedIndexesExceeded") in outcome(cluster)
    assert (status(cluster)["failedIndexes"], cluster.pods()) == ("0,2", [])


def test_each_index_backs_off_by_itself() -> None:
    cluster = job_cluster(completions=2, parallelism=2, backoffLimitPerIndex=9, **INDEXED)
    end(cluster, "Failed", index=0)
    cluster.advance(11)
    end(cluster, "Failed", index=0)
    end(cluster, "Failed", index=1)
    cluster.advance(11)
    assert indexes(cluster) == ["1"]
    cluster.advance(11)
    assert indexes(cluster) == ["0", "1"]


# --- policies -----------------------------------------------------------------------------------


def rule(action: str, **of: Any) -> dict[str, Any]:
    return {"podFailurePolicy": {"rules": [{"action": action, **of}]}, "backoffLimit": 0}


CODES = {"onExitCodes": {"operator": "In", "values": [42]}}
OTHERS = {"onExitCodes": {"operator": "NotIn", "values": [1], "containerName": "c"}}
DISRUPTED = {"onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
TOLD: dict[str, Any] = {"conditions": [{"type": "DisruptionTarget", "status": "True"}]}


@pytest.mark.parametrize(
    ("spec", "told", "reason", "failed"),
    [
        (rule("FailJob", **CODES), exited(42), "PodFailurePolicy", 1),
        (rule("FailJob", **CODES), exited(41), "BackoffLimitExceeded", 1),
        (rule("Ignore", **CODES), exited(42), "", 0),
        (rule("Count", **CODES), exited(42), "BackoffLimitExceeded", 1),
        (rule("Ignore", **OTHERS), exited(2), "", 0),
        (rule("Ignore", **OTHERS), exited(2, "sidecar"), "BackoffLimitExceeded", 1),
        (rule("Ignore", **OTHERS), exited(0), "BackoffLimitExceeded", 1),
        (rule("Ignore", **DISRUPTED), TOLD, "", 0),
        (rule("FailJob", **DISRUPTED), TOLD, "PodFailurePolicy", 1),
        (rule("Ignore", **DISRUPTED), {}, "BackoffLimitExceeded", 1),
    ],
)
def test_what_the_failure_of_a_pod_means(spec: dict[str, Any], told: dict[str, Any], reason: str, failed: int) -> None:
    cluster = job_cluster(**spec)
    end(cluster, "Failed", **told)
    assert [why for kind, why in outcome(cluster) if kind == "Failed"] == ([reason] if reason else [])
    assert (status(cluster).get("failed", 0), tracked(cluster)) == (failed, 0)
    cluster.advance(11)
    assert len(cluster.pods()) == (0 if reason else 1)


def test_the_message_says_which_pod_failed_by_which_rule() -> None:
    cluster = job_cluster(**rule("FailJob", **CODES))
    name = meta.name(cluster.pods()[0])
    end(cluster, "Failed", **exited(42))
    text = f"Container c for pod default/{name} failed with exit code 42 matching FailJob rule at index 0"
    assert {c["message"] for c in status(cluster)["conditions"]} == {text}
    cluster = job_cluster(**rule("FailJob", **DISRUPTED))
    name = meta.name(cluster.pods()[0])
    end(cluster, "Failed", **TOLD)
    text = f"Pod default/{name} has condition DisruptionTarget matching FailJob rule at index 0"
    assert {c["message"] for c in status(cluster)["conditions"]} == {text}


def test_an_index_can_fail_by_policy_and_what_is_ignored_does_not_count_for_it() -> None:
    rules = [{"action": "FailIndex", **CODES}, {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [3]}}]
    spec = {"completions": 2, "parallelism": 2, "backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": rules}}
    cluster = job_cluster(**spec, **INDEXED)
    end(cluster, "Failed", index=0, **exited(42))
    assert status(cluster)["failedIndexes"] == "0"
    end(cluster, "Failed", index=1, **exited(3))
    cluster.advance(11)
    again = meta.annotations(cluster.pods()[0])
    assert again["batch.kubernetes.io/job-index-failure-count"] == "0"
    assert again["batch.kubernetes.io/job-index-ignored-failure-count"] == "1"
    assert status(cluster)["failed"] == 1
    end(cluster, "Succeeded")
    assert ("Failed", "FailedIndexes") in outcome(cluster)


@pytest.mark.parametrize(
    ("rules", "done", "message"),
    [
        ([{"succeededIndexes": "0,2"}], [0, 2], "Matched rules at index 0"),
        ([{"succeededIndexes": "0,2"}], [0, 1], ""),
        ([{"succeededIndexes": "1-3", "succeededCount": 1}], [0, 3], "Matched rules at index 0"),
        ([{"succeededIndexes": "3"}, {"succeededCount": 2}], [0, 1], "Matched rules at index 1"),
        ([{"succeededCount": 3}], [0, 1], ""),
    ],
)
def test_a_job_succeeds_by_the_indexes_that_suffice(rules: list[dict[str, Any]], done: list[int], message: str) -> None:
    cluster = job_cluster(completions=4, parallelism=4, successPolicy={"rules": rules}, **INDEXED)
    place_all(cluster)
    for index in done:
        end(cluster, "Succeeded", index=index)
    if not message:
        assert (outcome(cluster), len(cluster.pods())) == ([], 2)
        return
    assert outcome(cluster) == [("SuccessCriteriaMet", "SuccessPolicy")]
    reap(cluster)
    assert outcome(cluster) == [("SuccessCriteriaMet", "SuccessPolicy"), ("Complete", "SuccessPolicy")]
    assert {c["message"] for c in status(cluster)["conditions"]} == {message}
    assert counts(cluster) == (0, 2, 0)
    assert ("j", "Completed", "Job completed") in cluster.events


def test_pods_that_are_refused_are_not_asked_for_by_the_hundred() -> None:
    cluster = job_cluster(parallelism=0, completions=500)
    asked: list[Create] = []

    def refuse(action: Any) -> None:
        if isinstance(action, Create):
            asked.append(action)
            raise Forbidden("exceeded quota")

    cluster.admit = refuse
    cluster.change(JOBS, "j", spec={"parallelism": 500})
    cluster.step()
    assert 0 < len(asked) <= FIRST
    cluster.admit = None
    cluster.settle()
    assert len(cluster.pods()) == 500
