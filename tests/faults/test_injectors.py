"""Each place refuses a fault, or carries it out."""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from rayplane.control_plane.cluster import own_ray, processes
from rayplane.control_plane.cluster.chaos import LiveInjector
from rayplane.control_plane.cluster.config import PROCESS, RAY, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.topology import Instance, Machine, Role, Topology
from rayplane.control_plane.faults.form import VERBS
from rayplane.control_plane.faults.injector import Injector, Unsupported, hold, require
from rayplane.control_plane.faults.vocabulary import (
    ClockJump,
    Continue,
    CorruptDisk,
    Cut,
    ExpireCertificate,
    Failpoint,
    Fault,
    Flood,
    FullDisk,
    Heal,
    Jumble,
    Kill,
    LoseMachine,
    Partition,
    PowerLoss,
    Reset,
    SlowCpu,
    SlowDisk,
    SlowNetwork,
    StalledDisk,
    Stop,
    Target,
)
from rayplane.control_plane.identities import FLOODER
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.errors import Code
from rayplane.control_plane.rpc.memory import MemoryNetwork
from rayplane.control_plane.rpc.weather import Climate
from rayplane.control_plane.simulation.cluster import SimulatedCluster
from rayplane.control_plane.simulation.injector import CellInjector, NobodyThere
from rayplane.control_plane.simulation.loop import VirtualLoop
from rayplane.control_plane.simulation.run import bury
from rayplane.control_plane.simulation.trace import Trace
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from rayplane.storage.env import SimulatedDisk, failpoints
from tests.etcd.injector import MemberInjector

ONE = Target(name="member-0")
SAMPLES: list[Fault] = [
    Kill(ONE),
    PowerLoss(ONE),
    LoseMachine(ONE, 2.0),
    Stop(ONE, 2.0),
    Continue(ONE),
    Partition((("member-0",),), 2.0),
    Cut(("member-0",), ("member-1",), 2.0),
    Heal(),
    Reset(ONE),
    SlowNetwork(0.5, 2.0),
    FullDisk(ONE, 2.0),
    StalledDisk(ONE, 2.0),
    SlowDisk(ONE, 0.2, 2.0),
    SlowCpu(ONE, 0.2, 2.0),
    ClockJump(ONE, -30.0, 2.0),
    Flood(100, 2.0),
    ExpireCertificate(ONE, 0.0, 2.0),
    Jumble(ONE, 0.1, 0.1, 2.0),
    CorruptDisk(ONE, 2.0),
    Failpoint(ONE, "wal.before_sync"),
]

OF_NETWORK, OF_MACHINES = (
    {Partition, Cut, Heal, Reset, SlowNetwork},
    {
        ClockJump,
        SlowDisk,
        StalledDisk,
        FullDisk,
        ExpireCertificate,
    },
)


def accepted(injector: Injector) -> set[type[Fault]]:
    return {type(fault) for fault in SAMPLES if not injector.refusal(fault)}


def test_there_is_a_sample_of_every_fault() -> None:
    assert {type(fault) for fault in SAMPLES} == set(VERBS.values())


# The simulation


def simulated(check: Callable[[SimulatedCluster, CellInjector], Any]) -> None:
    """Run a check in virtual time, on a cluster whose cells nobody has started."""

    async def main() -> None:
        config = ClusterConfig(name="c", host=PROCESS, members=3, apiservers=1, schedulers=1, nodes=1)
        cluster = SimulatedCluster(config, 1, Trace(lambda: 0.0), climate=Climate(loss=0.0))
        await check(cluster, CellInjector(cluster))

    try:
        VirtualLoop().run(main())
    finally:
        bury()


async def idle(*_: Any) -> None:
    await asyncio.Event().wait()


async def of_processes(cluster: SimulatedCluster, injector: CellInjector, fault: Fault) -> bool:
    """Whether this happens to a process, or its machine, while it lasts and not longer."""
    cell = cluster.cells["member-0"]
    shown = cell.clock
    await injector.strike(fault)
    match fault:
        case Kill() | PowerLoss():
            return not cell.alive
        case LoseMachine():
            machine = cluster.topology.get("member-0").machine
            lost = cluster.cells["member-0"] is not cell and machine not in cluster.machines
            await asyncio.sleep(3.0)
            return lost and cluster.machines.count(machine) == 1
        case Continue():
            await injector.begin(Stop(ONE))
            await injector.begin(fault)
            return not cell.paused
        case Stop():
            paused = cell.paused
            await asyncio.sleep(3.0)
            return paused and not cell.paused
        case SlowCpu():
            stands = []
            for _ in range(400):
                await asyncio.sleep(0.01)
                stands.append(cell.paused)
            return 100 < sum(stands[:190]) < 190 and not any(stands[210:])
        case ClockJump():
            jumped = cell.clock - shown
            await asyncio.sleep(3.0)
            return (jumped.total_seconds(), (cell.clock - shown).total_seconds()) == (-30.0, 3.0)
        case Failpoint():
            counted = failpoints.hits()["wal.before_sync"] == 0
            injector.points.disarm()
            return counted
    return isinstance(fault, Jumble)  # nothing to see without a member, see tests/simulation/test_faults.py


async def asked(cluster: SimulatedCluster) -> str:
    """What is wrong with a call to `member-0`, where nothing is served."""
    network = cluster.cells["member-0"]._now.network  # type: ignore[union-attr]
    server = await network.serve("member-0:1", [])
    channel = MemoryNetwork(cluster.fabric, "client").channel("member-0:1")
    try:
        with pytest.raises(RpcError) as failed:
            await Stub(channel, pb.DESCRIPTOR.services_by_name["Supervisor"]).Topology(pb.TopologyRequest())
    finally:
        await server.stop()
    return failed.value.message


async def of_certificates(cluster: SimulatedCluster, injector: CellInjector, fault: Fault) -> bool:
    await injector.strike(fault)
    said = await asked(cluster)
    await asyncio.sleep(3.0)
    return "certificate has expired" in said and "expired" not in await asked(cluster)


async def of_disks(cluster: SimulatedCluster, injector: CellInjector, fault: Fault) -> bool:
    cell = cluster.cells["member-0"]
    disk = cell.disk
    assert isinstance(disk, SimulatedDisk)
    await injector.strike(fault)
    match fault:
        case StalledDisk():
            holds = cell._sync_seconds() > 1.5
        case SlowDisk():
            holds = cell._sync_seconds() >= 0.2
        case FullDisk():
            holds = disk.room() == 0
        case _:
            holds = not cell.alive
    await asyncio.sleep(3.0)
    if isinstance(fault, CorruptDisk):
        return holds and cluster.cells["member-0"] is not cell
    return holds and cell._sync_seconds() < 0.2 and disk.room() > 0


async def of_the_network(cluster: SimulatedCluster, injector: CellInjector, fault: Fault) -> bool:
    weather = cluster.weather
    severed: list[tuple[str, str]] = []
    cluster._sever = lambda parted, **_: severed.extend(  # type: ignore[method-assign]
        (a, b) for a in ("member-0", "member-1") for b in ("member-1",) if parted(a, b)
    )
    if isinstance(fault, Heal):
        await injector.begin(Partition((("member-0",),)))
    await injector.strike(fault)

    def cut() -> bool:
        return weather.delay("member-0", "member-1") is None

    match fault:
        case Heal():
            return not cut()
        case Reset():
            return severed == [("member-0", "member-1")]
        case SlowNetwork():
            holds = max(weather.delay("member-0", "member-1") or 0.0 for _ in range(50)) > 0.25
        case Cut():
            holds = cut() and weather.delay("member-1", "member-0") is not None
        case _:
            holds = cut()
    await asyncio.sleep(3.0)
    return holds and max(weather.delay("member-0", "member-1") or 9.0 for _ in range(50)) < 0.25


async def of_requests(cluster: SimulatedCluster, injector: CellInjector, fault: Fault) -> bool:
    """Whether servers are asked so often while it lasts and not longer."""
    asked: list[Any] = []

    class Server:
        def __init__(self, *_: Any) -> None: ...

        async def List(self, request: Any, *, metadata: Any) -> None:
            asked.append(metadata["impersonate-user"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rayplane.control_plane.cluster.flood.Stub", Server)
        await injector.strike(fault)
        await asyncio.sleep(3.0)
    return 190 < len(asked) < 210 and {*asked} == {FLOODER} and not cluster.guests


@pytest.mark.parametrize("fault", SAMPLES, ids=lambda fault: type(fault).__name__)
def test_the_simulation_carries_out_every_fault(fault: Fault) -> None:
    async def check(cluster: SimulatedCluster, injector: CellInjector) -> None:
        assert not injector.refusal(fault)
        running = asyncio.create_task(cluster.cells["member-0"].run(idle))
        await asyncio.sleep(0)
        disks = isinstance(fault, StalledDisk | SlowDisk | FullDisk | CorruptDisk)
        network = isinstance(fault, Partition | Cut | Heal | Reset | SlowNetwork)
        judge = of_disks if disks else of_the_network if network else of_processes
        judge = {Flood: of_requests, ExpireCertificate: of_certificates}.get(type(fault), judge)
        assert await judge(cluster, injector, fault)
        running.cancel()

    simulated(check)


def test_the_simulation_says_whom_it_has_not_and_when_nobody_runs() -> None:
    async def check(cluster: SimulatedCluster, injector: CellInjector) -> None:
        with pytest.raises(UsageError, match="member-9"):
            injector.check_names(Kill(Target(name="member-9")))
        for target in (Target("leader"), Target("member"), Target("scheduler"), Target("apiserver", count=2)):
            with pytest.raises(NobodyThere, match=str(target)):
                await injector.begin(Kill(target))
        with pytest.raises(Unsupported, match=r"wal\.never"):
            require(injector, [Heal(), Failpoint(ONE, "wal.never")])

    simulated(check)


def test_a_name_that_has_left_is_nobody_while_the_cluster_runs() -> None:
    async def check(cluster: SimulatedCluster, injector: CellInjector) -> None:
        with pytest.raises(NobodyThere, match="member-9"):
            await injector.begin(Kill(Target(name="member-9")))

    simulated(check)


def test_the_end_of_a_fault_spares_the_machine_that_has_the_name_now() -> None:
    async def check(cluster: SimulatedCluster, injector: CellInjector) -> None:
        await injector.strike(ClockJump(ONE, 100.0, 2.0))
        await injector.strike(CorruptDisk(ONE, 3.0))
        await injector.strike(LoseMachine(ONE))
        machine = cluster.topology.get("member-0").machine
        cluster.machines.append(machine)  # as if another had been found for it
        new, shown = cluster.cells["member-0"], cluster.cells["member-0"].clock
        await asyncio.sleep(5.0)
        assert (new.clock - shown).total_seconds() == 5.0
        assert cluster.cells["member-0"] is new and machine in cluster.machines

    simulated(check)


def test_the_end_of_a_full_disk_excuses_while_it_is_corrupt() -> None:
    async def check(cluster: SimulatedCluster, injector: CellInjector) -> None:
        await injector.strike(FullDisk(ONE, 1.0))
        await injector.strike(CorruptDisk(ONE, 3.0))
        await asyncio.sleep(2.0)
        assert cluster._excused["member-0"]
        await asyncio.sleep(2.0)
        assert not cluster._excused["member-0"]

    simulated(check)


def test_the_end_of_a_fault_leaves_what_began_later() -> None:
    async def check(cluster: SimulatedCluster, injector: CellInjector) -> None:
        cell, weather = cluster.cells["member-0"], cluster.weather
        await injector.strike(Cut(("member-2",), ("member-1",), 9.0))
        await injector.strike(Cut(("member-2",), ("member-0", "member-1"), 1.0))
        for for_s in (1.0, 3.0):
            await injector.strike(Partition((("member-0",),), for_s))
            await injector.strike(SlowDisk(ONE, 0.2, for_s))
            await injector.strike(SlowNetwork(0.1, for_s))
        await asyncio.sleep(2.0)
        assert weather.parted("member-0", "member-1") and weather.slow_s and cell._sync_seconds() >= 0.2
        await asyncio.sleep(2.0)
        assert not (weather.parted("member-0", "member-1") or weather.slow_s) and cell._sync_seconds() < 0.2
        assert weather.delay("member-2", "member-1") is None and weather.delay("member-2", "member-0") is not None
        await injector.begin(Heal())
        await injector.strike(Cut(("member-2",), ("member-1",), 1.0))
        await asyncio.sleep(2.0)
        assert weather.delay("member-2", "member-1") is not None, "what was healed does not come back"

    simulated(check)


class Admin:
    """An administrator's access to a cluster whose supervisor writes down the signals."""

    def __init__(self, host: str, names: Sequence[str] = ("member-0", "member-1", "member-2")) -> None:
        members = tuple(Instance(name, Role.MEMBER, Machine(), {"client": n}) for n, name in enumerate(names))
        self.state = SimpleNamespace(topology=Topology(members), config=SimpleNamespace(host=host))
        self.topology = self.state.topology
        self.supervisor = self.etcd = self
        self.sent: list[tuple[str, str]] = []

    async def Kill(self, request: Any, *, timeout: float) -> Any:
        self.sent.append((request.name, request.signal))
        return SimpleNamespace(pid=7)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an administrator has read is the cluster."""

    async def topology(admin: Any) -> Topology:
        found: Topology = admin.state.topology
        return found

    monkeypatch.setattr("rayplane.control_plane.cluster.victims.current_topology", topology)


async def test_a_live_cluster_carries_out_what_it_does_not_refuse(known: None) -> None:
    admin: Any = Admin(RAY)
    injector = LiveInjector(admin, random.Random(1))
    assert accepted(injector) == {Kill, Stop, Continue, Flood} | OF_NETWORK | OF_MACHINES
    for fault in (Kill(ONE), Stop(ONE, 0.001), Continue(ONE)):
        hit = await injector.begin(fault)
        assert hit == ("member-0",)
        await hold(injector, fault, hit)
    assert [signal for _, signal in admin.sent] == ["KILL", "STOP", "CONT", "CONT"]
    assert len(set(await injector.begin(Kill(Target("member", count=2))))) == 2
    assert injector.refusal(Kill(ONE, back_s=3.0))


def test_who_stood_still_goes_on_though_ray_does_not_answer_at_once(known: None) -> None:
    admin: Any = Admin(RAY)
    told, refusals = admin.Kill, [RpcError(Code.FAILED_PRECONDITION, "member-0 is being restarted")] * 5

    async def kill(request: Any, *, timeout: float) -> Any:
        if request.signal == "CONT" and refusals:
            raise refusals.pop()
        return await told(request, timeout=timeout)

    admin.Kill = kill

    async def story() -> None:
        injector = LiveInjector(admin, random.Random(1))
        await injector.end(Stop(ONE), await injector.begin(Stop(ONE)))
        assert admin.sent == [("member-0", "STOP"), ("member-0", "CONT")]
        refusals.extend([RpcError(Code.FAILED_PRECONDITION, "Ray does not say")] * 100_000)
        with pytest.raises(ClusterError, match="does not say"):
            await injector.end(Stop(ONE), ("member-0",))
        left, once = len(refusals), LiveInjector(admin, random.Random(1), standing=True, patience_s=0)
        with pytest.raises(ClusterError, match="does not say"):
            await once.end(Stop(ONE), ("member-0",))
        assert len(refusals) == left - 1, "whoever tries again by itself is not kept waiting"

    VirtualLoop().run(story())


def test_in_one_process_nothing_stands_still_alone() -> None:
    admin: Any = Admin(PROCESS)
    injector = LiveInjector(admin, random.Random(1))
    assert accepted(injector) == {Kill, Flood} | OF_NETWORK | OF_MACHINES
    assert "at most" in injector.refusal(ClockJump(ONE, -7200.0))
    supervisor = Target(name="supervisor")
    for fault in (ClockJump(supervisor, 5.0), SlowDisk(supervisor, 0.5), StalledDisk(supervisor, 5.0)):
        assert "the supervisor ends" in injector.refusal(fault)


class Skies:
    """A supervisor that is told the weather, and fails now and then."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.fails = False

    async def Disturb(self, request: Any, *, timeout: float) -> None:
        if self.fails:
            raise RpcError(Code.UNAVAILABLE, "no answer")
        self.told.append(request)

    async def Kill(self, request: Any, *, timeout: float) -> Any:
        self.told.append((request.name, request.signal))
        if request.name == "gone-0":
            raise RpcError(Code.INVALID_ARGUMENT, "no actor is called 'gone-0'")
        return SimpleNamespace(pid=7)

    def troubles(self) -> dict[str, tuple[float, float, bool, bool]]:
        return {
            one.name: (one.clock_ahead_s, one.sync_least_s, one.stalled, one.full) for one in self.told[-1].troubles
        }

    def last(self) -> tuple[Any, ...]:
        groups = sorted(tuple(group.hosts) for group in self.told[-1].groups)
        return groups, [(*cut.sources, *cut.sinks) for cut in self.told[-1].cuts], self.told[-1].slow_s


async def test_the_end_of_one_fault_of_the_network_leaves_the_others(known: None) -> None:
    admin: Any = Admin(PROCESS, "abcdxy")
    sky = admin.supervisor = Skies()
    injector = LiveInjector(admin, random.Random(1))
    first, second = Partition((("a", "b"),)), Partition((("b", "c"), ("d",)))
    cut, slow = Cut(("a",), ("b",)), SlowNetwork(0.5)
    for fault in (first, cut, slow, SlowNetwork(0.25)):
        await injector.begin(fault)
    await injector.begin(second)
    whole = ([("a",), ("b",), ("c",), ("d",)], [("a", "b")], 0.5)
    assert sky.last() == whole, "who is on one side of one partition may be on two of the other"
    sky.fails = True
    with pytest.raises(ClusterError, match="no answer"):
        await injector.begin(Cut(("x",), ("y",)))
    sky.fails = False
    await injector.end(first, ())
    assert sky.last() == ([("b", "c"), ("d",)], [("a", "b")], 0.5), "what failed is none of it"
    await injector.end(slow, ())
    assert sky.last()[2] == 0.25
    await injector.begin(Heal())
    assert sky.last() == ([], [], 0.25)
    await injector.begin(SlowNetwork(0.0))
    await injector.end(second, ())
    assert sky.last() == ([], [], 0.0)


async def test_machines_in_one_process_have_troubles_of_their_own(known: None) -> None:
    admin: Any = Admin(PROCESS)
    sky = admin.supervisor = Skies()
    injector = LiveInjector(admin, random.Random(1))
    two = Target(name="member-1")
    faults: list[Fault] = [ClockJump(ONE, -30.0), ClockJump(two, 5.0), SlowDisk(ONE, 0.5), SlowDisk(ONE, 0.2)]
    for fault in (*faults, StalledDisk(two, 9.0), FullDisk(ONE)):
        await injector.begin(fault)
    assert sky.troubles() == {"member-0": (-30.0, 0.5, False, True), "member-1": (5.0, 0.0, True, False)}
    await injector.end(SlowDisk(ONE, 0.5), ("member-0",))
    await injector.end(StalledDisk(two, 9.0), ("member-1",))
    await injector.end(FullDisk(ONE), ("member-0",))
    assert sky.troubles() == {"member-0": (-30.0, 0.2, False, False), "member-1": (5.0, 0.0, False, False)}
    await injector.begin(Heal())
    assert len(sky.troubles()) == 2, "a network that is whole again mends no clock"
    with pytest.raises(UsageError, match="node-1"):
        await injector.begin(Partition((("node-1",),)))


async def test_who_has_left_the_cluster_meanwhile_needs_no_healing() -> None:
    admin: Any = Admin(RAY)
    sky = admin.supervisor = Skies()
    await LiveInjector(admin, random.Random(1)).end(Stop(Target("member", count=2)), ("gone-0", "member-1"))
    assert sky.told == [("gone-0", "CONT"), ("member-1", "CONT")]


@pytest.mark.processes
@pytest.mark.parametrize("name", ["gcs", "raylet"])
def test_a_process_of_ray_stands_still_for_a_while(name: str) -> None:
    admin: Any = Admin(RAY)
    target = Target.parse(name)
    injector = LiveInjector(admin, random.Random(1))
    program = {"gcs": "/somewhere/gcs_server"}.get(name, name)
    sleeping = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [program, "-c", sleeping],
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        admin.state.host = {"owned": True, "pid": process.pid, "dir": "sys.stdin"}
        hit = asyncio.run(injector.begin(Stop(target, 5.0)))
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        asyncio.run(injector.end(Stop(target, 5.0), hit))
        os.waitid(os.P_PID, process.pid, os.WCONTINUED)
        process.stdin.close()
    assert hit == (name,) and not injector.refusal(Kill(target)) and injector.refusal(Reset(target))
    with pytest.raises(ClusterError, match=name):
        asyncio.run(injector.begin(Stop(target)))
    asyncio.run(injector.end(Stop(target), hit))
    admin.state.host = {"owned": False}
    assert "has started Ray" in injector.refusal(Stop(target))


@pytest.mark.processes
@pytest.mark.parametrize("why", ["", "no port is free"])
def test_who_kills_a_process_of_ray_brings_back_what_ended_with_it(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    admin: Any = Admin(RAY)
    admin.directory = "directory"
    asked: list[Any] = []

    async def bring_up(config: Any, directory: Any) -> Any:
        asked.append((config, directory, processes.is_alive(own.pid)))
        if why:
            raise ClusterError(why)

    # What stands for all of Ray here does not end by itself.
    monkeypatch.setattr(own_ray, "ENDS_S", 0.0)
    words = ["gcs_server", "-c", "import os, sys; os.close(1); sys.stdin.read()", "/tmp/rayplane-x"]
    with subprocess.Popen(
        words, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as own:
        assert own.stdout is not None
        own.stdout.read()
        admin.state.host = {"owned": True, "pid": own.pid, "dir": "/tmp/rayplane-x"}
        killing = own_ray.OwnRay(admin, bring_up).signal("gcs", "KILL")
        if why:
            with pytest.raises(ClusterError, match=f"Ray's gcs; `rayplane up` goes on from their data: {why}"):
                asyncio.run(killing)
        else:
            assert asyncio.run(killing) == own.pid
    assert asked == [(admin.state.config, "directory", False)]


# Processes of members


async def test_a_member_process_is_killed_or_armed() -> None:
    done: list[Any] = []

    async def launch(env: dict[str, str]) -> None:
        done.append(env)

    member: Any = SimpleNamespace(name="member-0", process=None, kill=lambda: done.append("killed"), launch=launch)
    injector = MemberInjector([member])
    assert accepted(injector) == {Kill, Failpoint}
    await injector.begin(Kill(ONE))
    assert done == ["killed"]
    await injector.begin(Failpoint(ONE, "wal.before_sync", hit=2))
    assert done[1:] == ["killed", {"RAYPLANE_FAILPOINTS": "wal.before_sync=kill@2"}]
