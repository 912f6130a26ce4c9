"""A machine that is drained: what can live elsewhere goes there, little by little, and nothing comes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from rayplane.control_plane.api.errors import ApiError, ServiceUnavailable
from rayplane.control_plane.api.pods.state import stays_with_node
from rayplane.control_plane.cluster import draining
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.draining import (
    Left,
    cordon,
    drain,
    uncordon,
    until_empty,
    why_kept,
)
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.ray_driven import Driver
from rayplane.control_plane.cluster.supervisor.actions import Start, Stop, StoreTopology
from rayplane.control_plane.cluster.supervisor.changes import added, drained, undrained
from rayplane.control_plane.cluster.supervisor.plan import is_settled, plan
from rayplane.control_plane.cluster.topology import Instance, Phase, Role, Topology, on_machines
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.control_plane.tasks import finished
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from tests.cluster.harness import cluster, deployment
from tests.cluster.test_supervisor_plan import ALL, MACHINES, TOPOLOGY, A, B, C, listed, seen, stored

# Of what there is one of each, there is all on A; of two, the first.
DRAINED = replace(TOPOLOGY, drained=(A.address,))
WHY = "its machine 10.0.0.1 is drained"


def test_actors_without_data_move_one_after_the_other_when_their_like_are_well() -> None:
    quiet = seen(members=None)
    assert plan(DRAINED, quiet, 0.0) == [Stop("lb", WHY)]
    for unsure in ({"starting": frozenset({"node-host-9"})}, {"stopping": frozenset({"x"})}, {"learnt_at": 1.0}):
        found = plan(DRAINED, replace(quiet, **unsure), 0.0)
        assert not any(isinstance(a, Stop) and a.why == WHY for a in found), unsure
    gone = replace(quiet, running=ALL - {"lb"})
    moved = stored(plan(DRAINED, gone, 0.0))
    assert moved.get("lb").machine in (B, C) and not any(isinstance(a, Start) for a in plan(DRAINED, gone, 0.0))
    rest = moved.replaced(replace(moved.get("lb"), ports=DRAINED.get("lb").ports))
    assert plan(rest, quiet, 0.0) == [Stop("apiserver-0", WHY)]
    one_ill = replace(quiet, running=ALL - {"apiserver-1"})
    assert Stop("apiserver-0", WHY) not in plan(rest, one_ill, 0.0), "there would be none"


def test_node_hosts_stay_and_nothing_moves_when_no_other_machine_is_left() -> None:
    assert DRAINED.get("node-host-0").machine is A
    everywhere = replace(TOPOLOGY, drained=tuple(m.address for m in MACHINES))
    assert plan(everywhere, seen(), 0.0) == [] and is_settled(everywhere, seen(members=None))
    alone = plan(DRAINED, seen(machines=(A,), running=frozenset(), members=None), 0.0)
    assert Start(DRAINED.get("lb")) in alone
    down = seen(running=ALL - {"node-host-0"}, members=None)
    assert Start(DRAINED.get("node-host-0")) in plan(DRAINED, down, 0.0)


def test_a_member_moves_when_all_are_well_and_comes_back_when_its_machine_is_used_again() -> None:
    assert not is_settled(DRAINED, seen(members=None))
    heir = stored(plan(DRAINED, seen(), 0.0)).get("member-3")
    assert (heir.replaces, heir.phase) == ("member-0", Phase.JOINING) and heir.machine in (B, C)
    found = plan(DRAINED, seen(members=listed(ill="member-1")), 0.0)
    assert not any(isinstance(a, StoreTopology) for a in found)
    shared = TOPOLOGY.replaced(replace(TOPOLOGY.get("member-0"), machine=B))
    again = stored(plan(shared, seen(members=listed(shared)), 0.0)).get("member-3")
    assert again.machine is A


def test_nothing_new_is_placed_on_a_drained_machine() -> None:
    assert {added(DRAINED, kind, "", MACHINES, ()).machine for kind in ("member", "apiserver", "node")} <= {B, C}
    lost = replace(seen(lost=frozenset({"member-1"}), running=ALL - {"member-1"}), machines=(A, B))
    assert stored(plan(DRAINED, lost, 0.0)).get("member-3").machine is B


def test_which_machines_can_be_drained() -> None:
    assert drained(TOPOLOGY, A.address, MACHINES) == DRAINED == drained(DRAINED, A.address, MACHINES)
    with pytest.raises(UsageError, match=r"no machine is called '10\.0\.0\.9'; there are 10\.0\.0\.1, 10"):
        drained(TOPOLOGY, "10.0.0.9", MACHINES)
    with pytest.raises(UsageError, match=r"10\.0\.0\.2 is the last machine"):
        drained(DRAINED, B.address, (A, B))
    assert undrained(DRAINED, A.address) == TOPOLOGY
    with pytest.raises(UsageError, match=r"'10\.0\.0\.2' is not drained; 10\.0\.0\.1 is"):
        undrained(DRAINED, B.address)


def test_it_is_remembered_and_forgotten_with_the_address() -> None:
    assert Topology.from_json(DRAINED.to_json()) == DRAINED
    assert Topology.from_json({"run": "", "instances": []}).drained == ()
    assert on_machines(DRAINED, MACHINES, {}).drained == (A.address,)
    other = replace(A, address="10.0.0.9")
    held = {i.name: [other] for i in DRAINED.instances if i.machine is A and i.role in (Role.MEMBER, Role.NODE_HOST)}
    assert on_machines(DRAINED, (other, B, C), held).drained == ()


def of(kind: str) -> dict[str, Any]:
    return {"metadata": {"ownerReferences": [{"kind": kind, "name": "x", "uid": "1", "controller": True}]}}


def test_which_pods_are_evicted() -> None:
    assert why_kept(of("ReplicaSet"), force=False) == why_kept({}, force=True) == ""
    assert "--force" in why_kept({}, force=False)
    mirror = {"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}
    ended = of("Job") | {"status": {"phase": "Succeeded"}}
    assert all(map(stays_with_node, (of("DaemonSet"), mirror, ended)))
    assert not stays_with_node(of("ReplicaSet"))


class Emptying:
    """An API whose pods get fewer with each look, and a supervisor that has nothing to move."""

    def __init__(self, *looks: int | ApiError) -> None:
        self.looks = iter(looks)
        self.api = self.supervisor = self

    async def list(self, resource: str, field_selector: str) -> Any:
        found = next(self.looks)
        if isinstance(found, ApiError):
            raise found
        ending = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
        return SimpleNamespace(items=[{"metadata": {"name": f"p{n}", **ending}} for n in range(found)])

    async def Topology(self, request: pb.TopologyRequest, timeout: float) -> pb.TopologyResponse:
        return pb.TopologyResponse()


def empty(monkeypatch: pytest.MonkeyPatch, *looks: int | ApiError, patience_s: float) -> Left:
    monkeypatch.setattr(draining, "slowdown", lambda: 1.0)
    machine: Any = Emptying(*looks)
    work = until_empty(machine, "a", ["node-0"], lambda _: None, force=False, patience_s=patience_s)
    return VirtualLoop().run(work)


def test_a_machine_is_waited_for_as_long_as_less_is_left_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert empty(monkeypatch, *range(50, -1, -1), patience_s=2.0).lines() == []
    assert len(empty(monkeypatch, *range(50, 9, -1), *[10] * 9, patience_s=2.0).going) == 10


def test_the_api_may_be_away_while_a_machine_gets_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    away = ServiceUnavailable("no API server answered")
    assert empty(monkeypatch, 9, away, away, 9, 8, 8, 8, 7, 0, patience_s=2.0).lines() == []
    assert empty(monkeypatch, *[away] * 9, patience_s=2.0).lines() == ["the API: no API server answered"]


@pytest.mark.parametrize("left_without", [False, True])
async def test_a_drain_goes_on_where_the_supervisors_move_did_not_end(
    monkeypatch: pytest.MonkeyPatch, left_without: bool
) -> None:
    calls: list[str] = []
    stored = [DRAINED]

    class Half(Emptying):
        async def Drain(self, request: pb.DrainRequest, timeout: float) -> None:
            calls.append("drain")

        def read_running(self) -> Any:
            return SimpleNamespace(topology=stored[-1])

    @contextlib.asynccontextmanager
    async def way_in(half: Half) -> AsyncIterator[Half]:
        yield half

    async def current(_: Half) -> Topology:
        return stored[-1]

    async def done(*_: Any) -> bool:
        return True

    async def serves(supervisor: Instance, port: str) -> bool:
        return not (left_without and supervisor.machine is A)

    async def move(_: Half) -> str:
        calls.append("move")
        stored.append(DRAINED.replaced(replace(DRAINED.get("supervisor"), machine=B)))
        return B.address

    fakes = {"access": way_in, "current_topology": current, "refresh": done, "cordon": done, "answers": serves}
    for name, fake in {**fakes, "_move_supervisor": move}.items():
        monkeypatch.setattr(draining, name, fake)
    half: Any = Half(0)
    assert await drain(half, A.address, lambda _: None, force=False, patience_s=1.0) == []
    assert calls == (["move", "drain"] if left_without else ["drain", "move"])


async def test_who_is_interrupted_waits_until_the_supervisor_has_moved() -> None:
    said = asyncio.StreamReader()

    async def wait() -> int:
        return 0

    process: Any = SimpleNamespace(stderr=said, wait=wait)
    moving = asyncio.ensure_future(finished(Driver(process).ended()))
    await asyncio.sleep(0)
    moving.cancel()
    for _ in range(9):
        await asyncio.sleep(0)
    assert not moving.done()
    said.feed_eof()
    with pytest.raises(asyncio.CancelledError):
        await moving


async def test_its_pods_go_as_budgets_let_them() -> None:
    said: list[str] = []
    budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}}
    spec = {"nodeName": "node-0", "containers": [{"name": "c", "image": "x"}]}
    alone = {"metadata": {"name": "alone", "namespace": "default"}, "spec": spec}
    async with cluster(members=1, apiservers=1, schedulers=1, controllers=1, nodes=2) as c:
        with pytest.raises(RpcError, match="is the last machine"):
            await drain(c.directory, "127.0.0.1", said.append, force=False, patience_s=1.0)
        await cordon(c.api, ["node-1", "never-registered"], "another")
        selector = {"selector": {"matchLabels": {"app": "web"}}, "minAvailable": 1}
        await c.api.create(
            "poddisruptionbudgets.policy",
            budget | {"metadata": {"name": "b", "namespace": "default"}, "spec": selector},
        )
        await c.api.create("deployments.apps", deployment("web", 1))
        await c.api.create("pods", alone)

        async def settled() -> bool:
            found = await c.api.get("poddisruptionbudgets.policy", "b", "default")
            return bool(found.get("status", {}).get("currentHealthy") == 1)

        await c.until(settled, "the budget counts its pod")
        await uncordon(c.api, "elsewhere")
        assert (await c.api.get("nodes", "node-1"))["spec"]["unschedulable"], "it is not empty for that one"
        await uncordon(c.api, "another")
        async with access(c.directory) as admin:
            left = await until_empty(admin, "elsewhere", ["node-0"], said.append, force=False, patience_s=0.0)
            assert any("disruption budget" in why for why in left.going.values()), left
            assert [*left.staying] == ["pod default/alone"] and "left on elsewhere" in said[-1]
            await c.api.delete("poddisruptionbudgets.policy", "b", "default")
            await cordon(c.api, ["node-0"], "elsewhere")
            left = await until_empty(admin, "elsewhere", ["node-0"], said.append, force=True, patience_s=60.0)
            assert left.lines() == []
        pods = (await c.api.list("pods", "default")).items
        assert [p["spec"].get("nodeName") for p in pods] in (["node-1"], [None])
