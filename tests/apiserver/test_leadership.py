"""Who does not lead any more writes nothing, however late the write comes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rayplane.control_plane.api.errors import BadRequest, Conflict
from rayplane.control_plane.api.leadership import claim_of
from rayplane.control_plane.client import ApiClient, LeaderElector, ops
from rayplane.control_plane.timings import FAST
from tests.apiserver.conftest import Stack, make_env

LEASES, MAPS = "leases.coordination.k8s.io", "configmaps"


def configmap(name: str, **own: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default", **own}}


async def hold(client: ApiClient, holder: str, transitions: int, name: str = "boss") -> str:
    """Let somebody hold the Lease; what this one claims with writes."""
    spec = {"holderIdentity": holder, "leaseTransitions": transitions, "leaseDurationSeconds": 4}
    try:
        lease = await client.patch(LEASES, name, "kube-system", {"spec": spec})
    except Exception:
        lease = await client.create(LEASES, {"metadata": {"name": name, "namespace": "kube-system"}, "spec": spec})
    return claim_of(lease)


def claiming(client: ApiClient, claim: str) -> ApiClient:
    return client.fenced(lambda: True, lambda: claim)


async def every_write(client: ApiClient) -> list[type[BaseException] | None]:
    """One write of each kind; the errors they ended with."""
    old = await client.get(MAPS, "old", "default")
    done: list[Any] = []
    for write in (
        client.create(MAPS, configmap("new")),
        client.update(MAPS, {**old, "data": {"by": "update"}}),
        client.patch(MAPS, "old", "default", {"data": {"by": "patch"}}),
        client.batch([ops.patch(MAPS, "old", "default", {"data": {"by": "batch"}})]),
        client.delete(MAPS, "old", "default"),
    ):
        answer: Any = (await asyncio.gather(write, return_exceptions=True))[0]
        done += answer if isinstance(answer, list) else [answer]
    return [type(answer) if isinstance(answer, BaseException) else None for answer in done]


@pytest.mark.parametrize("end", ["taken", "given back", "deleted", "taken again"])
async def test_a_former_leader_writes_nothing(stack: Stack, end: str) -> None:
    client = stack.client()
    await client.create(MAPS, configmap("old"))
    first = claiming(client, await hold(client, "a", 0))
    if end == "deleted":
        await client.delete(LEASES, "boss", "kube-system")
    elif end == "taken again":  # by the same one: it has forgotten what it was about to do
        await hold(client, "b", 1)
        await hold(client, "a", 2)
    else:
        await hold(client, "b" if end == "taken" else "", 1 if end == "taken" else 0)
    before = stack.etcd.revision
    assert await every_write(first) == [Conflict] * 5
    assert stack.etcd.revision == before
    with pytest.raises(Conflict, match=r"the Lease kube-system/boss is not held as the writer claims \(0 a\)"):
        await first.create(MAPS, configmap("x"))


async def test_a_leader_writes_as_ever_and_renews_meanwhile(stack: Stack) -> None:
    client = stack.client()
    await client.create(MAPS, configmap("old"))
    claim = await hold(client, "a", 3)
    for n in range(3):
        await client.patch(LEASES, "boss", "kube-system", {"spec": {"renewTime": f"2026-01-01T00:00:0{n}.000000Z"}})
    assert await every_write(claiming(client, claim)) == [None] * 5


async def test_who_claims_nothing_is_asked_nothing(stack: Stack) -> None:
    client = stack.client()
    await client.create(MAPS, configmap("old"))
    await hold(client, "a", 0)
    assert await every_write(client) == [None] * 5


async def test_a_write_that_stays_on_its_way_until_another_leads_is_not_done(stack: Stack, monkeypatch: Any) -> None:
    """Judged when it is committed, not when it comes."""
    client = stack.client()
    claim = await hold(client, "a", 0)
    txn, reached, go_on = stack.etcd.txn, asyncio.Event(), asyncio.Event()

    async def slow(compare: Any, success: Any, failure: Any = (), **options: Any) -> Any:
        if any(b"/configmaps/" in op.request_put.key for op in success):
            reached.set()
            await go_on.wait()
        return await txn(compare, success, failure, **options)

    monkeypatch.setattr(stack.etcd, "txn", slow)
    late = asyncio.ensure_future(claiming(client, claim).create(MAPS, configmap("late")))
    await reached.wait()
    await hold(client, "b", 1)
    go_on.set()
    with pytest.raises(Conflict):
        await late
    assert [m["metadata"]["name"] for m in (await client.list(MAPS, "default")).items if "late" in str(m)] == []


@pytest.mark.parametrize("claim", ["x", "a/b", "a/b/c 0 x", "a/b ", "a/b " + "x" * 2000])
async def test_a_claim_that_says_nothing_is_refused(stack: Stack, claim: str) -> None:
    with pytest.raises(BadRequest, match="rayplane-leads must be"):
        await claiming(stack.client(), claim).create(MAPS, configmap("x"))


async def test_an_elected_leader_that_was_replaced_and_does_not_know_it(stack: Stack) -> None:
    client = stack.client()
    elector = LeaderElector(client, make_env(3), name="boss", identity="a", timing=FAST.election)
    leads = asyncio.Event()

    async def lead() -> None:
        leads.set()
        await asyncio.get_running_loop().create_future()

    elector.start(lead)
    await leads.wait()
    fenced = elector.fenced(client)
    await fenced.create(MAPS, configmap("mine"))
    lease = await client.get(LEASES, "boss", "kube-system")
    await hold(client, "b", lease["spec"]["leaseTransitions"] + 1)
    assert elector.is_leader
    with pytest.raises(Conflict):
        await fenced.create(MAPS, configmap("not-mine"))
    await elector.stop()
