"""Which machine a fault loses, which never, and how the supervisor and the machine's keeper are told."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayplane.control_plane.cluster import processes, ray_keeper
from rayplane.control_plane.cluster.chaos import LiveInjector, end_standing, heal_standing
from rayplane.control_plane.cluster.config import PROCESS, RAY
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.topology import Instance, Machine, Role, Topology
from rayplane.control_plane.faults.form import parse_fault
from rayplane.control_plane.faults.vocabulary import LoseMachine, Target
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.control_plane.simulation.loop import VirtualLoop
from rayplane.control_plane.testing.chaos import Chaos
from rayplane.proto.rayplane.v1 import chaos_pb2
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

HEAD, MIDDLE, LAST, SECOND = (f"10.0.0.{number}" for number in (1, 2, 3, 4))
PLACES: dict[str, tuple[str, ...]] = {
    HEAD: ("member-0", "node-host-0"),
    MIDDLE: ("supervisor", "member-1"),
    LAST: ("member-2", "node-host-1"),
    SECOND: ("apiserver-0", "node-host-2"),
}
ROLES = {"supervisor": Role.SUPERVISOR, "member": Role.MEMBER, "node": Role.NODE_HOST, "apiserver": Role.APISERVER}
ANY_NODE = LoseMachine(Target("node", count=1), 30.0)


class Admin:
    """An administrator's access to a cluster on four machines; `away`: how often one that is asked for is not back."""

    def __init__(self, host: str = RAY, places: dict[str, tuple[str, ...]] = PLACES) -> None:
        found = tuple(
            Instance(name, ROLES[name.partition("-")[0]], Machine(address))
            for address, names in places.items()
            for name in names
        )
        self.state = SimpleNamespace(topology=Topology(found), config=SimpleNamespace(host=host), host={})
        self.topology = self.state.topology
        self.supervisor = self
        self.told: list[Any] = []
        self.away = 0

    async def Topology(self, request: Any, *, timeout: float) -> Any:
        assert request.machines
        return pb.TopologyResponse(machines=[pb.MachineStatus(address=at, head=at == HEAD) for at in PLACES])

    async def LoseMachine(self, request: Any, *, timeout: float) -> Any:
        self.told.append((request.machine, request.for_s, request.undo))
        self.away -= request.undo
        return pb.LoseMachineResponse(alive=request.undo and self.away < 0)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def topology(admin: Any) -> Topology:
        found: Topology = admin.state.topology
        return found

    for module in ("victims", "lost_machines"):
        monkeypatch.setattr(f"rayplane.control_plane.cluster.{module}.current_topology", topology)


def live(admin: Any, seed: int = 1) -> LiveInjector:
    return LiveInjector(admin, random.Random(seed))


async def test_a_machine_is_lost_with_all_that_is_there_but_not_the_heads_nor_the_supervisors() -> None:
    admin = Admin()
    drawn = {await live(admin, seed).begin(ANY_NODE) for seed in range(20)}
    assert drawn == {(LAST, *PLACES[LAST]), (SECOND, *PLACES[SECOND])}
    assert {*admin.told} == {(LAST, 30.0, False), (SECOND, 30.0, False)}
    both = await live(admin).chosen(LoseMachine(Target("node", count=5)))
    assert {*both} == {LAST, *PLACES[LAST], SECOND, *PLACES[SECOND]}
    assert await live(admin).chosen(LoseMachine(Target(name="member-2"))) == (LAST, *PLACES[LAST])
    for name, why in (("member-0", "Ray's head"), ("member-1", "the supervisor")):
        with pytest.raises(UsageError, match=why):
            await live(admin).begin(LoseMachine(Target(name=name)))


def test_it_is_over_when_the_machine_is_there_and_not_before() -> None:
    async def story() -> None:
        admin = Admin()
        injector = live(admin)
        hit = await injector.begin(ANY_NODE)
        admin.away = 3
        await injector.end(ANY_NODE, hit)
        assert [undo for _, _, undo in admin.told] == [False] + [True] * 4
        admin.away = 100_000
        with pytest.raises(ClusterError, match="ray start"):
            await injector.end(ANY_NODE, hit)

    VirtualLoop().run(story())


@pytest.mark.parametrize(
    "admin, step, why",
    [
        (Admin(PROCESS), "lose_machine: node random", "one process"),
        (Admin(places={HEAD: ("supervisor", "member-0")}), "lose_machine: leader", "on one machine"),
        (Admin(), "lose_machine: supervisor", "it can be killed"),
        (Admin(), "lose_machine: pod random", "name an actor"),
        (Admin(), "lose_machine: {target: leader, for: 2h}", "1h at most"),
        (Admin(), "lose_machine: {target: leader, for: 1h}", ""),
    ],
)
def test_what_can_never_be_is_refused_before_anything_runs(admin: Any, step: str, why: str) -> None:
    refused = live(admin).refusal(parse_fault(step))
    assert why in refused and bool(why) == bool(refused)


class Kept:
    """What a keeper does to its machine, and what it is told by Ray's tables, order by order."""

    def __init__(self, *orders: str, fails: int = 0) -> None:
        self.done: list[str] = []
        self._orders, self._fails = [*orders], fails

    def order(self) -> str:
        return self._orders.pop(0) if len(self._orders) > 1 else self._orders[0]

    def end(self) -> None:
        self.done.append("end")

    def start(self, is_over: Callable[[], bool]) -> bool:
        self.done.append("start")
        self._fails -= 1
        return self._fails < 0


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that passes when somebody waits."""
    now = [0.0]
    monkeypatch.setattr(ray_keeper.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ray_keeper.time, "sleep", lambda span_s: now.append(now.pop() + span_s))


@pytest.mark.parametrize(
    "kept, done",
    [
        (Kept("", "lost", "gone", "back"), ["end", "gone", "start"]),
        (Kept("", "lost"), ["end", "gone", "start"]),
        (Kept("lost", "back", fails=2), ["end", "gone", "start", "start", "start"]),
        (Kept("lost", "back", "back", "back", "", fails=9), ["end", "gone", "start", "start"]),
        (Kept("lost", "lost", ""), ["end", "gone"]),
        (Kept(""), []),
    ],
    ids=[
        "called back",
        "its time is over",
        "not at once",
        "lost anew",
        "started by another",
        "nobody says so",
    ],
)
def test_a_keeper_ends_its_machine_when_it_is_told_and_always_brings_it_back(
    at_once: None, kept: Any, done: list[str]
) -> None:
    ray_keeper.keep(kept, kept.order, lambda: kept.done.append("gone"), 60.0)
    assert kept.done == done


@pytest.mark.processes
def test_a_raylet_ends_with_all_below_it_and_begins_only_where_it_lives() -> None:
    node = "ab" * 28
    code = "import os, sys; os.system('sleep 60 & echo; wait')"
    words = ["raylet", "-c", code, f"--node_id={node}", "--gcs-address=10.0.0.1:6379"]
    with subprocess.Popen(words, executable=sys.executable, stdout=subprocess.PIPE, start_new_session=True) as first:
        assert first.stdout is not None
        first.stdout.readline()
        tree = processes.below(first.pid)
        raylet = ray_keeper.Raylet(first.pid)
        assert raylet.option("gcs-address") == "10.0.0.1:6379"
        raylet.end()
        # So all that have its output have ended, too.
        assert first.stdout.read() == b""
    assert len(tree) == 2
    while any(map(processes.is_alive, tree)):  # files are closed a moment before a process has ended
        time.sleep(0.001)
    raylet.words[0] = sys.executable
    raylet.words[2] = "import sys; sys.stdin.read(1) or sys.exit()"
    assert not raylet.start(lambda: False), "what ends at once has not begun"


@pytest.mark.processes
def test_what_has_the_number_of_a_raylet_that_ended_is_let_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        raylet = ray_keeper.Raylet(other.pid)
        monkeypatch.setattr(processes, "started", lambda pid: "later")
        raylet.end()
        assert other.communicate(b"goes on") == (b"goes on", None)


def test_who_heals_from_python_is_told_of_what_does_not_end_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    away = chaos_pb2.ActiveFault(fault="lose_machine: node random", failed="machine-3: not back yet")
    monkeypatch.setattr(Chaos, "_told", lambda self, ask: ([], [away]))
    with pytest.raises(ClusterError, match="lose_machine: node random: machine-3: not back yet; it is tried again"):
        Chaos(lambda: StateDir(Path("unused"))).heal()


async def test_who_heals_waits_for_a_machine_to_be_back_and_for_no_trial() -> None:
    away = [
        chaos_pb2.ActiveFault(id="1", failed="not back yet"),
        chaos_pb2.ActiveFault(id="trial-2", failed="its trial ends it"),
    ]
    answers = [chaos_pb2.HealResponse(left=away), chaos_pb2.HealResponse(healed=away[:1], left=away[1:])]

    class Faults:
        async def Heal(self, request: chaos_pb2.HealRequest, timeout: float) -> chaos_pb2.HealResponse:
            return answers.pop(0)

    assert await heal_standing(Faults()) == (away[:1], away[1:])
    assert answers == []


@pytest.mark.parametrize("last", ["ended", "gone"], ids=["it ends it", "the supervisor was first"])
async def test_who_ends_one_fault_waits_for_a_machine_to_be_back(last: str) -> None:
    away = chaos_pb2.ActiveFault(id="1", failed="not back yet")
    answers = ["away", last]

    class Faults:
        async def List(self, request: chaos_pb2.ListFaultsRequest, timeout: float) -> chaos_pb2.ListFaultsResponse:
            return chaos_pb2.ListFaultsResponse(faults=[away])

        async def End(self, request: chaos_pb2.EndRequest, timeout: float) -> chaos_pb2.EndResponse:
            match answers.pop(0):
                case "away":
                    raise RpcError(Code.FAILED_PRECONDITION, "not back yet")
                case "gone":
                    raise RpcError(Code.NOT_FOUND, "no fault '1' stands")
            return chaos_pb2.EndResponse(fault=away)

    assert await end_standing(Faults(), "1") == away
    assert answers == []


@pytest.mark.parametrize("id", ["2", "trial-3"])
async def test_who_ends_what_does_not_stand_or_is_a_trials_is_refused_at_once(id: str) -> None:
    class Faults:
        async def List(self, request: chaos_pb2.ListFaultsRequest, timeout: float) -> chaos_pb2.ListFaultsResponse:
            return chaos_pb2.ListFaultsResponse(faults=[chaos_pb2.ActiveFault(id=one) for one in ("1", "trial-3")])

        async def End(self, request: chaos_pb2.EndRequest, timeout: float) -> chaos_pb2.EndResponse:
            raise RpcError(Code.NOT_FOUND, "refused")

    with pytest.raises(RpcError, match="refused"):
        await end_standing(Faults(), id)
