"""What is said to be wrong, for every kind of fact; and that `status` sees what it claims to see."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.authorization.node_identity import NODE_LEASES
from rayplane.control_plane.api.errors import ServiceUnavailable
from rayplane.control_plane.api.machinery.resources import LEASES
from rayplane.control_plane.apiserver.storage.store import Storage
from rayplane.control_plane.cli.standing import print_status
from rayplane.control_plane.cluster import patience
from rayplane.control_plane.cluster import status as measuring
from rayplane.control_plane.cluster.diagnosis import (
    ActorFacts,
    Facts,
    LeadFacts,
    MemberFacts,
    NodeFacts,
    ServerFacts,
    judge,
)
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.status import measure, status
from rayplane.control_plane.cluster.topology import Instance, Machine, Role, Topology
from rayplane.node.kubelet.node_lease import Turns
from rayplane.storage.env import SystemClock
from tests.cluster.harness import cluster


def _member(name: str, **changes: Any) -> MemberFacts:
    usual = {"id": 1, "leader": 1, "term": 3, "raft_index": 100, "raft_applied": 100}
    return MemberFacts(name=name, endpoint="h:1", **usual | changes)


WELL = Facts(
    actors=[ActorFacts(name="controllers-0", role="controllers"), ActorFacts(name="scheduler-1", role="scheduler")],
    members=[_member("member-0"), _member("member-1", id=2), _member("member-2", id=3)],
    servers=[ServerFacts(name="apiserver-0"), ServerFacts(name="apiserver-1")],
    leads=[LeadFacts(name="kube-scheduler", holder="scheduler-1_x", age_s=3.0, duration_s=4.0)],
    nodes=[NodeFacts(name="node-0", ready=True, lease_age_s=1.0, lease_duration_s=4.0)],
    disk_free=1 << 40,
)


def _changed(**changes: Any) -> Facts:
    return replace(WELL, **changes)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (WELL, []),
        (_changed(disk_free=5 << 20), ["disk: only 5 MiB are free where the cluster's state is"]),
        (_changed(disk_free=None), []),
        (_changed(supervisor_error="gone"), ["supervisor: does not answer: gone"]),
        (
            _changed(actors=[*WELL.actors, ActorFacts(name="lb", role="lb", running=False)]),
            ["lb: does not run"],
        ),
        (
            _changed(actors=[*WELL.actors, ActorFacts(name="lb", role="lb", running=False, failures=3, reason="port")]),
            ["lb: has failed 3 times in a row: port"],
        ),
        (
            _changed(members=[_member("member-0"), MemberFacts(name="member-1", endpoint="h:2", error="refused")]),
            ["member-1: does not answer: refused"],
        ),
        (
            _changed(members=[_member("member-0", leader=0, errors=("etcdserver: no leader",))]),
            ["member-0: has no leader"],
        ),
        (
            _changed(members=[_member("member-0"), _member("member-1", leader=2)]),
            ["etcd: members of term 3 name 2 different leaders"],
        ),
        # A member that has not heard of the new term yet is only late.
        (_changed(members=[_member("member-0"), _member("member-1", leader=2, term=2)]), []),
        (
            _changed(members=[_member("member-0", raft_index=9000, raft_applied=9000), _member("member-1")]),
            ["member-1: is 8900 entries behind"],
        ),
        (
            _changed(members=[_member("member-0", errors=("memberID:1 alarm:NOSPACE ",))]),
            ["member-0: memberID:1 alarm:NOSPACE"],
        ),
        (
            _changed(servers=[ServerFacts(name="apiserver-0", error="a Lease is not written within 5 s")]),
            ["apiserver-0: does not write and read: a Lease is not written within 5 s"],
        ),
        (
            _changed(servers=[ServerFacts(name="apiserver-0", https_error="answers 500")]),
            ["apiserver-0: its HTTPS port does not answer: answers 500"],
        ),
        (_changed(front_error="refused"), ["lb: does not lead to an API server: refused"]),
        (_changed(leads=[LeadFacts(name="kube-scheduler")]), ["kube-scheduler: nobody leads"]),
        (
            _changed(leads=[LeadFacts(name="kube-scheduler", error="late")]),
            ["kube-scheduler: who leads cannot be read: late"],
        ),
        (
            _changed(leads=[LeadFacts(name="kube-scheduler", holder="scheduler-1_x", age_s=9.0, duration_s=4.0)]),
            ["kube-scheduler: its leader scheduler-1 has not renewed its Lease for 9 s"],
        ),
        (
            _changed(leads=[LeadFacts(name="kube-scheduler", holder="scheduler-9_x", age_s=1.0, duration_s=4.0)]),
            ["kube-scheduler: its leader scheduler-9 is no actor of this cluster"],
        ),
        (_changed(nodes_error="late"), ["nodes: cannot be listed: late"]),
        (_changed(nodes=[NodeFacts(name="node-0", registered=False)]), ["node-0: is not registered"]),
        (_changed(nodes=[NodeFacts(name="node-0", reason="no disk")]), ["node-0: is not Ready: no disk"]),
        (_changed(nodes=[NodeFacts(name="node-0", ready=True)]), ["node-0: has no Lease"]),
        (
            _changed(nodes=[replace(WELL.nodes[0], no_services="pods find no services: no right")]),
            ["node-0: pods find no services: no right"],
        ),
        (
            _changed(nodes=[NodeFacts(name="node-0", ready=True, lease_age_s=9.0, lease_duration_s=4.0)]),
            ["node-0: has not renewed its Lease for 9 s"],
        ),
    ],
)
def test_every_fault_is_one_line(facts: Facts, said: list[str]) -> None:
    assert [str(f) for f in judge(facts)] == said


async def test_leases_age_by_the_clock_of_who_renews_them(tmp_path: Path) -> None:
    """After two hours that the cluster was led by, its dead are not alive for two hours more."""
    directory, machine = StateDir(tmp_path), SystemClock()
    directory.write_ahead_s(7200.0)

    def lease(name: str, ahead_s: float) -> Any:
        renewed = meta.format_micro_time(machine.now() + timedelta(seconds=ahead_s - 600))
        return {"metadata": {"name": name}, "spec": {"holderIdentity": "x", "renewTime": renewed}}

    nodes = [{"metadata": {"name": name}} for name in ("own", "joined")]
    api = mock.AsyncMock()
    api.get.return_value = lease("kube-scheduler", 7200.0)
    api.list.side_effect = [
        SimpleNamespace(items=nodes),
        SimpleNamespace(items=[lease("own", 7200.0), lease("joined", 0.0)]),
    ]
    host = Instance("nodes-0", Role.NODE_HOST, Machine(), nodes=("own",))
    admin: Any = SimpleNamespace(directory=directory, api=api, state=SimpleNamespace(topology=Topology((host,))))
    row = measuring._Row(ActorFacts(name="nodes-0", role=Role.NODE_HOST.value), {})
    lead, (found, _) = await measuring._lead(admin, "kube-scheduler", 5.0), await measuring._nodes(admin, [row], 5.0)
    assert [lead.age_s, *(node.lease_age_s for node in found)] == pytest.approx([600.0] * 3, abs=60)


async def test_status_sees_servers_whose_lease_writes_are_lost() -> None:
    async with cluster(members=1, apiservers=1, nodes=1) as c:
        assert (await status(c.access))["faults"] == []
        # Twice: the probe's Lease is made once and used again.
        assert (await status(c.access))["healthy"]

        async def never(*_: Any, **__: Any) -> Any:
            raise ServiceUnavailable("the group of this write was lost")

        with mock.patch.object(Storage, "update", never):
            found = await status(c.access)
        assert not found["healthy"]
        assert any(f.startswith("apiserver-0: does not write and read") for f in found["faults"]), found["faults"]


async def test_a_node_lives_by_the_lease_that_stands_for_it() -> None:
    def first(_: Turns, nodes: int, *, stands: bool = True) -> list[int]:
        return [0] if nodes else []

    # As on a host of thousands until each had its turn: only the first has a Lease.
    with mock.patch.object(Turns, "take", first):
        async with cluster(members=1, apiservers=1, nodes=1, nodes_per_host=8) as c:
            assert (await status(c.access))["faults"] == []
            leases = await c.access.api.list(LEASES, NODE_LEASES)
            assert len(leases.items) == 1


async def test_status_answers_though_nobody_does(capsys: pytest.CaptureFixture[str]) -> None:
    async with cluster(members=1, apiservers=1, nodes=0) as c:
        with _short(), mock.patch.object(patience, "slowdown", lambda: 1.0):
            await c.host.stop("supervisor")
            alone = {a.name: a.running for a in (await measure(c.access)).actors}
            await c.host.stop("apiserver-0")
            await c.host.stop("member-0")
            facts = await measure(c.access)
            found = await status(c.access)
    assert {name for name, runs in alone.items() if runs} == {"member-0", "apiserver-0", "lb"}
    assert alone["scheduler-0"] is alone["supervisor"] is None
    assert {a["running"] for a in (*found["actors"], *found["members"])} == {None}
    print_status(found)
    assert "yes" not in capsys.readouterr().out
    named = {f.who for f in judge(facts)}
    assert named >= {"supervisor", "member-0", "apiserver-0", "lb", "kube-scheduler", "nodes"}


def _short() -> Any:
    return mock.patch.object(measuring, "LIMIT_S", 0.5)
