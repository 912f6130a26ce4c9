"""Bursts: whoever is not urgent waits, the cluster's own heartbeats and elections do not."""

import asyncio

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver.flowcontrol.fairness import AT_ONCE, Fairness, is_urgent
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.client import ops
from tests.apiserver.conftest import Stack

ALICE = User("alice")
LEADER = User("system:kube-scheduler")
NODE = User("system:node:n", ("system:nodes",))


def test_only_components_are_urgent_and_only_with_heartbeats() -> None:
    assert is_urgent(LEADER, ["leases"]) and is_urgent(NODE, ["nodes", "leases"])
    assert not is_urgent(ALICE, ["leases"])
    assert not is_urgent(NODE, ["leases", "pods"])


async def test_a_renewal_is_not_kept_by_requests_that_are_stuck() -> None:
    fairness, go, done = Fairness(1000), asyncio.Event(), []

    async def stuck(n: int) -> None:
        with fairness.slot():
            async with fairness.turn(ALICE, "pods"):
                await go.wait()
                done.append(n)

    burst = [asyncio.ensure_future(stuck(n)) for n in range(500)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        async with fairness.turn(LEADER, "leases"):
            assert not done
        for cancelled in burst[AT_ONCE : AT_ONCE + 100]:
            cancelled.cancel()
        go.set()
        await asyncio.gather(*burst, return_exceptions=True)
        assert len(done) == 400
        async with fairness.turn(ALICE, "pods"):
            pass


async def test_where_there_is_no_room_requests_come_again_but_urgent_ones_have_their_own() -> None:
    fairness = Fairness(1)
    with fairness.slot():
        with pytest.raises(errors.TooManyRequests) as refused, fairness.slot():
            pass
        assert refused.value.retry_after == 1
        with fairness.slot(urgent=True):
            pass
    with fairness.slot():
        pass


async def test_a_lease_is_renewed_in_the_middle_of_a_burst_of_creates(stack: Stack) -> None:
    client = stack.client()
    lease = {"metadata": {"name": "leader", "namespace": "default"}, "spec": {"holderIdentity": "a"}}
    lease = await client.create("leases.coordination.k8s.io", lease)

    def config_map(n: int) -> dict:
        return {"metadata": {"name": f"c{n}", "namespace": "default"}}

    burst = [asyncio.ensure_future(client.create("configmaps", config_map(n))) for n in range(500)]
    while not any(b.done() for b in burst):
        await asyncio.sleep(0)
    lease["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z"
    lease = await client.update("leases.coordination.k8s.io", lease)
    assert sum(b.done() for b in burst) < 250
    [beat] = await client.batch([ops.update("leases.coordination.k8s.io", lease)])
    assert not isinstance(beat, errors.ApiError)
    assert not [a for a in await asyncio.gather(*burst, return_exceptions=True) if isinstance(a, BaseException)]
