"""API servers in memory: real answers, no sockets, no processes, and time that passes when it is told to."""

import asyncio
import threading
from typing import Any

import pytest

import rayplane
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.testing import AsyncFake, fake

POD = {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}


def named(name: str, **rest: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}, **rest}


def test_a_fake_answers_as_an_api_server_and_leaves_nothing() -> None:
    before = threading.active_count()
    with fake() as api:
        assert {one["metadata"]["name"] for one in api.list("namespaces")} >= {"default", "kube-system"}
        made = api.create("pods", named("a", spec=POD))
        assert made["spec"]["dnsPolicy"] == "ClusterFirst"
        with pytest.raises(rayplane.errors.Invalid, match="Required value"):
            api.create("pods", named("b", spec={"containers": []}))
        with pytest.raises(rayplane.errors.AlreadyExists):
            api.create("pods", named("a", spec=POD))
        changes = api.watch("pods", "default", resource_version=made["metadata"]["resourceVersion"])
        api.delete("pods", "a", "default")
        assert next(changes).type == "DELETED"
        changes.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        api.list("pods")


async def test_who_asks_has_the_rights_of_who_it_is() -> None:
    async with AsyncFake() as cluster:
        nobody = cluster.client("nobody", ())
        with pytest.raises(rayplane.errors.Forbidden):
            await nobody.list("secrets", "default")
        with pytest.raises(UsageError, match="LeapingLoop"):
            await cluster.advance("1s")
        kept = await cluster.etcd.range(b"/registry/", b"/registry0", count_only=True)
        assert kept.count


def test_cron_jobs_deadlines_and_leases_pass_with_time_that_is_led_forward() -> None:
    job = {"template": {"spec": POD}, "activeDeadlineSeconds": 90}
    with fake(nodes=1) as api:
        api.create("cronjobs.batch", named("often", spec={"schedule": "* * * * *", "jobTemplate": {"spec": job}}))
        slow = {"template": {"spec": POD | {"nodeSelector": {"no": "where"}}}, "activeDeadlineSeconds": 90}
        api.create("jobs.batch", named("slow", spec=slow))
        api.advance("61s")
        ran = [one for one in api.list("jobs.batch") if one["metadata"]["name"].startswith("often-")]
        assert len(ran) in (1, 2)
        assert not api.get("jobs.batch", "slow", "default")["status"].get("failed")
        api.advance("1m")
        failed = api.get("jobs.batch", "slow", "default")["status"]["conditions"]
        assert "DeadlineExceeded" in {one.get("reason") for one in failed}
        [ready] = [c for c in api.get("nodes", "node-0")["status"]["conditions"] if c["type"] == "Ready"]
        assert ready["status"] == "True", "its Lease was renewed in the time that was left out"


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="nodes"):
        AsyncFake(nodes=-1)


def test_a_fake_that_does_not_start_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(self: AsyncFake) -> None:
        await asyncio.sleep(0)
        raise OSError("no room")

    monkeypatch.setattr(AsyncFake, "start", fails)
    before = threading.active_count()
    with pytest.raises(OSError, match="no room"):
        fake()
    assert threading.active_count() == before
