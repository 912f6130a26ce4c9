"""CronJobs: when their Jobs are made, what is told of them, and which are kept."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Create
from rayplane.control_plane.controllers.cronjob import CRONJOBS, SCHEDULED, CronJobController
from rayplane.control_plane.controllers.job.controller import JobController
from rayplane.control_plane.controllers.job.spec import JOBS
from tests.controllers.cluster import Cluster
from tests.controllers.jobs import POD, end


def cron_cluster(*more: JobController, **spec: Any) -> Cluster:
    cluster = Cluster(CronJobController(), *more)
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"template": {"spec": POD}}}
    cluster.add(CRONJOBS, "c", spec={"schedule": "*/5 * * * *", "jobTemplate": template, **spec})
    cluster.settle()
    return cluster


def cron(cluster: Cluster) -> Object:
    return cluster.require(CRONJOBS, "default", "c")


def status(cluster: Cluster) -> dict[str, Any]:
    return meta.status(cron(cluster))


def said(cluster: Cluster, reason: str) -> list[str]:
    return [text for about, why, text in cluster.events if (about, why) == ("c", reason)]


def add_job(cluster: Cluster, name: str) -> None:
    """A Job that somebody makes from the CronJob, as `kubectl create job --from` does."""
    own = {"ownerReferences": [meta.owner_reference(cron(cluster))]}
    cluster.add(JOBS, name, metadata=own, spec={"template": {"spec": POD}})
    cluster.settle()


def complete(cluster: Cluster, job: Object, kind: str = "Complete") -> None:
    conditions = [{"type": kind, "status": "True"}]
    done = {"conditions": conditions, "startTime": cluster.now.stamp, "completionTime": cluster.now.stamp}
    cluster.update(JOBS, {**job, "status": done}, subresource="status")
    cluster.settle()


def test_a_job_at_each_time() -> None:
    cluster = cron_cluster()
    cluster.advance(299)
    assert not cluster.list(JOBS)
    cluster.advance(602)
    jobs = sorted(cluster.list(JOBS), key=meta.name)
    assert [meta.annotations(job)[SCHEDULED] for job in jobs] == [f"2026-01-01T00:{m:02}:00Z" for m in (5, 10, 15)]
    assert {meta.name(job) for job in jobs} == {f"c-{29453760 + m}" for m in (5, 10, 15)}
    assert meta.labels(jobs[0]) == {"app": "x"}
    assert meta.is_controlled_by(jobs[0], cron(cluster))
    assert status(cluster)["lastScheduleTime"] == "2026-01-01T00:15:00Z"
    assert [ref["name"] for ref in status(cluster)["active"]] == [meta.name(job) for job in jobs]
    assert said(cluster, "SuccessfulCreate") == [f"Created job {meta.name(job)}" for job in jobs]


@pytest.mark.parametrize(("policy", "count"), [("Forbid", 1), ("Replace", 1), ("Allow", 2)])
def test_concurrency_policy(policy: str, count: int) -> None:
    cluster = cron_cluster(concurrencyPolicy=policy)
    cluster.advance(302)
    first = meta.uid(cluster.list(JOBS)[0])
    cluster.advance(300)
    jobs = {meta.uid(j) for j in cluster.list(JOBS)}
    assert len(jobs) == count
    assert (first in jobs) == (policy != "Replace")
    assert {ref["uid"] for ref in status(cluster)["active"]} == jobs
    assert "MissingJob" not in cluster.reasons()
    text = "Not starting job because prior execution is running and concurrency policy is Forbid"
    assert said(cluster, "JobAlreadyActive")[:1] == ([text] if policy == "Forbid" else [])


@pytest.mark.parametrize("policy", ["Forbid", "Replace", "Allow"])
def test_a_time_is_served_once_though_nobody_noted_it(policy: str) -> None:
    cluster = cron_cluster(concurrencyPolicy=policy)
    cluster.advance(302)
    [job] = cluster.list(JOBS)
    cluster.update(CRONJOBS, {**cron(cluster), "status": {}}, subresource="status")
    cluster.settle()
    assert [meta.uid(one) for one in cluster.list(JOBS)] == [meta.uid(job)]
    assert status(cluster)["lastScheduleTime"] == "2026-01-01T00:05:00Z"
    assert [ref["uid"] for ref in status(cluster)["active"]] == [meta.uid(job)]


def test_what_forbid_held_back_starts_when_the_job_has_ended() -> None:
    cluster = cron_cluster(concurrencyPolicy="Forbid")
    cluster.advance(650)
    complete(cluster, cluster.list(JOBS)[0])
    assert len(cluster.list(JOBS)) == 2
    assert status(cluster)["lastScheduleTime"] == "2026-01-01T00:10:00Z"


@pytest.mark.parametrize(("deadline", "starts"), [(100, False), (400, True), (2**40, True)])
def test_a_time_is_missed_when_its_deadline_has_passed(deadline: int, starts: bool) -> None:
    cluster = cron_cluster(suspend=True, startingDeadlineSeconds=deadline, schedule="0 * * * *")
    cluster.advance(3900)
    cluster.change(CRONJOBS, "c", spec={"suspend": False})
    cluster.settle()
    assert bool(cluster.list(JOBS)) == starts


def test_the_latest_of_many_missed_times_is_served() -> None:
    cluster = cron_cluster(schedule="@every 1m", suspend=True)
    cluster.advance(7000)
    assert not cluster.list(JOBS)
    cluster.change(CRONJOBS, "c", spec={"suspend": False})
    cluster.settle()
    assert len(cluster.list(JOBS)) == 1
    text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
    assert said(cluster, "TooManyMissedTimes") == [text]
    assert status(cluster)["lastScheduleTime"] == "2026-01-01T01:56:00Z"


def test_a_schedule_in_a_time_zone() -> None:
    cluster = cron_cluster(schedule="30 2 * * *", timeZone="Europe/Berlin")
    cluster.advance(2 * 3600)
    job = cluster.list(JOBS)[0]
    assert meta.annotations(job)[SCHEDULED] == "2026-01-01T02:30:00+01:00"
    assert status(cluster)["lastScheduleTime"] == "2026-01-01T01:30:00Z"


@pytest.mark.parametrize(
    ("spec", "reason", "text"),
    [
        ({"timeZone": "Mars/Olympus"}, "UnknownTimeZone", 'invalid timeZone: "Mars/Olympus": unknown time zone'),
        ({"schedule": "* * *"}, "UnparseableSchedule", 'unparseable schedule: "* * *" : expected exactly 5 fields'),
        ({"schedule": "0 0 31 2 *"}, "InvalidSchedule", "invalid schedule: 0 0 31 2 * : time difference between two"),
    ],
)
def test_what_cannot_be_scheduled_is_told(spec: dict[str, Any], reason: str, text: str) -> None:
    cluster = cron_cluster(**spec)
    assert [one[: len(text)] for one in said(cluster, reason)] == [text]
    cluster.advance(10_000)
    assert not cluster.list(JOBS)


def test_a_time_counts_as_served_only_once_its_job_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cron_cluster()
    act = cluster.act
    monkeypatch.setattr(cluster, "act", lambda action: not isinstance(action, Create) and act(action))
    cluster.seconds = 301.0
    cluster.queue[0, "default/c"] = None
    cluster.step()
    assert "lastScheduleTime" not in status(cluster)
    monkeypatch.undo()
    cluster.settle()
    assert status(cluster)["lastScheduleTime"] == "2026-01-01T00:05:00Z"
    assert len(cluster.list(JOBS)) == 1


def test_ended_jobs_leave_the_list_and_the_last_success_is_kept() -> None:
    cluster = cron_cluster()
    cluster.advance(302)
    job = cluster.list(JOBS)[0]
    complete(cluster, job)
    assert said(cluster, "SawCompletedJob") == [f"Saw completed job: {meta.name(job)}, condition: Complete"]
    assert "active" not in status(cluster)
    success = status(cluster)["lastSuccessfulTime"]
    assert success == cluster.now.stamp
    cluster.advance(300)
    job = max(cluster.list(JOBS), key=meta.name)
    complete(cluster, job, "Failed")
    assert status(cluster)["lastSuccessfulTime"] == success
    assert said(cluster, "SawCompletedJob")[1:] == [f"Saw completed job: {meta.name(job)}, condition: Failed"]


def test_jobs_that_others_delete_or_make_are_told() -> None:
    cluster = cron_cluster()
    cluster.advance(302)
    job = cluster.list(JOBS)[0]
    cluster.delete_object(JOBS, job, propagation="Background")
    cluster.settle()
    assert said(cluster, "MissingJob") == [f"Active job went missing: {meta.name(job)}"]
    assert "active" not in status(cluster)
    add_job(cluster, "by-hand")
    text = "Saw a job that the controller did not create or forgot: by-hand"
    assert said(cluster, "UnexpectedJob")[:1] == [text]
    assert "active" not in status(cluster)


def test_a_job_that_was_made_before_the_status_could_say_so_is_taken_back() -> None:
    cluster = cron_cluster(concurrencyPolicy="Forbid")
    cluster.advance(302)
    job = cluster.list(JOBS)[0]
    cluster.update(CRONJOBS, {**cron(cluster), "status": {}}, subresource="status")
    cluster.settle()
    assert [ref["uid"] for ref in status(cluster)["active"]] == [meta.uid(job)]
    assert len(cluster.list(JOBS)) == 1


def test_a_few_finished_jobs_are_kept() -> None:
    cluster = cron_cluster(JobController(), successfulJobsHistoryLimit=2)
    for _ in range(5):
        cluster.advance(300)
        end(cluster, "Succeeded")
    cluster.advance(1)
    kept = [meta.annotations(j)[SCHEDULED] for j in cluster.list(JOBS) if meta.condition_is(j, "Complete")]
    assert sorted(kept) == ["2026-01-01T00:15:00Z", "2026-01-01T00:20:00Z"]
    assert len(said(cluster, "SuccessfulDelete")) == 2


def test_a_suspended_cronjob_starts_nothing_and_still_follows_its_jobs() -> None:
    cluster = cron_cluster()
    cluster.advance(302)
    cluster.change(CRONJOBS, "c", spec={"suspend": True})
    cluster.advance(900)
    complete(cluster, cluster.list(JOBS)[0])
    assert len(cluster.list(JOBS)) == 1
    assert "active" not in status(cluster)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize(
    ("schedule", "last", "jobs", "reason"),
    [
        ("0 * * * *", "0001-01-01T00:00:00Z", 1, "TooManyMissedTimes"),
        ("0 * * * *", "9999-12-31T23:59:59Z", 0, "InvalidSchedule"),
        ("@every 2562047h", "9999-12-31T23:59:59Z", 0, "InvalidSchedule"),
    ],
)
def test_last_times_at_the_ends_of_the_calendar(zone: str, schedule: str, last: str, jobs: int, reason: str) -> None:
    cluster = cron_cluster(schedule=schedule, timeZone=zone, suspend=True)
    cluster.change(CRONJOBS, "c", status={"lastScheduleTime": last})
    cluster.change(CRONJOBS, "c", spec={"suspend": False})
    cluster.settle()
    assert (len(cluster.list(JOBS)), len(said(cluster, reason))) == (jobs, 1)
