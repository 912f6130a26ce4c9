"""The supervisor's loop on ports that are fakes all through, in virtual time: whatever fails is tried again, later and
later, and keeps nothing else from being done."""

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import pytest

from rayplane.control_plane.api.errors import ServiceUnavailable
from rayplane.control_plane.cluster.errors import DataLost, PortTaken, StartFailed
from rayplane.control_plane.cluster.supervisor import reconciler as module
from rayplane.control_plane.cluster.supervisor import starts
from rayplane.control_plane.cluster.supervisor.observed import MemberStatus
from rayplane.control_plane.cluster.supervisor.ports import Ports, TopologyChanged
from rayplane.control_plane.cluster.supervisor.reconciler import Reconciler
from rayplane.control_plane.cluster.supervisor.starts import RESTARTS, STARTS_MAX
from rayplane.control_plane.cluster.topology import Instance, Machine, Phase, Role, Topology
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.control_plane.tasks import cancel_and_wait
from tests.cluster.test_supervisor_plan import MACHINES, A, small

TOPOLOGY = small()
AWAY = RpcError(Code.UNAVAILABLE, "etcdserver: no leader")


class World:
    """All ports in one: a host, etcd and its members, the API, a disk. `broken` maps what fails to how: `start X`,
    `stop X`, `load`, `save`, `adopt`, `members`, `add`, `promote`, `remove`, `delete`, `allot`."""

    def __init__(self, topology: Topology = TOPOLOGY) -> None:
        self.founded = topology
        self.broken: dict[str, Exception] = {}
        self.taken: dict[Machine, set[int]] = {}
        """Ports that somebody else has; whoever needs one of them does not start."""
        self.actors = {i.name: i for i in topology.instances if i.phase is Phase.ACTIVE}
        self.lying = list(MACHINES)
        self.leisure = 1.0
        self.stored: Topology | None = None
        self.revision = 0
        self.retired_names: set[str] = set()
        voters = [m for m in topology.of(Role.MEMBER) if m.phase is Phase.ACTIVE]
        self.etcd = {m.endpoint("peer"): False for m in voters}  # peer: learner
        self.calls: list[tuple[float, str]] = []
        self.remembered: Topology | None = None
        self._ids = itertools.count(100)
        self._id: dict[str, int] = {}
        self._ports = itertools.count(20_000)
        self._running: list[tuple[Reconciler, asyncio.Task[None]]] = []

    # As a test uses it

    def supervise(self) -> Reconciler:
        """A supervisor that was told of the founding topology only."""
        made = Reconciler(
            self.founded,
            Ports(
                host=self,  # type: ignore[arg-type]
                store=self,
                members=self,
                nodes=self,
                specs=self,  # type: ignore[arg-type]
                directory=self,
                allot=self.allot,
                now=asyncio.get_running_loop().time,
                slowdown=lambda: 1.0,
                leisure=self.leisure,
            ),
        )
        self._running.append((made, asyncio.get_running_loop().create_task(made.run())))
        return made

    async def end(self) -> None:
        """The supervisor is gone, and what it was doing with it."""
        made, task = self._running.pop()
        await cancel_and_wait(task)
        await made.stop()

    def times(self, call: str) -> list[float]:
        return [at for at, made in self.calls if made == call]

    def lose(self, machine: Machine) -> None:
        self.lying.remove(machine)
        for name in [n for n, i in self.actors.items() if i.machine == machine and i.role is not Role.SUPERVISOR]:
            del self.actors[name]

    @property
    def voters(self) -> set[str]:
        """Names of the members that vote."""
        wanted = self.stored or self.founded
        peers = {i.endpoint("peer"): i.name for i in wanted.of(Role.MEMBER)}
        return {peers.get(peer, peer) for peer, learner in self.etcd.items() if not learner}

    # As the supervisor uses it

    async def _call(self, call: str) -> None:
        self.calls.append((asyncio.get_running_loop().time(), call))
        await asyncio.sleep(0.001)
        error = self.broken.get(call) or self.broken.get(call.partition(" ")[0])
        if error is not None:
            raise error

    def make(self, instance: Instance, topology: Topology, *, restarted: bool) -> Instance:
        return instance

    async def start(self, spec: Instance) -> int:
        assert spec.name not in self.actors, f"{spec.name} is started twice"
        await self._call(f"start {spec.name}")
        if self.taken.get(spec.machine, set()) & set(spec.ports.values()):
            raise PortTaken("address already in use")
        self.actors[spec.name] = spec
        return 1

    async def stop(self, name: str) -> None:
        await self._call(f"stop {name}")
        self.actors.pop(name, None)

    async def running(self) -> set[str]:
        return set(self.actors)

    async def machines(self) -> list[Machine]:
        return list(self.lying)

    async def load(self) -> tuple[Topology | None, int]:
        await self._call("load")
        return self.stored, self.revision

    async def save(self, topology: Topology, *, revision: int, retire: Collection[str]) -> int:
        await self._call("save")
        if revision != self.revision:
            raise TopologyChanged(revision)
        self.stored, self.revision = topology, self.revision + 1
        self.retired_names |= set(retire)
        return self.revision

    async def retired(self) -> frozenset[str]:
        return frozenset(self.retired_names)

    async def members(self) -> tuple[MemberStatus, ...]:
        await self._call("members")
        alive = {i.endpoint("peer") for i in self.actors.values() if i.role is Role.MEMBER}
        for peer in self.etcd:
            self._id.setdefault(peer, next(self._ids))
        return tuple(
            MemberStatus(self._id[peer], (peer,), learner, peer in alive) for peer, learner in self.etcd.items()
        )

    def _peer(self, member_id: int) -> str:
        return next(peer for peer, number in self._id.items() if number == member_id)

    async def add_learner(self, peer: str) -> None:
        await self._call("add")
        assert peer not in self.etcd, f"{peer} is added twice"
        assert not any(self.etcd.values()), "two learners at once"
        self.etcd[peer] = True

    async def promote(self, member_id: int) -> None:
        await self._call("promote")
        self.etcd[self._peer(member_id)] = False

    async def remove(self, member_id: int) -> None:
        await self._call("remove")
        del self.etcd[self._peer(member_id)]

    async def delete(self, node: str) -> None:
        await self._call("delete")

    async def adopt(self, topology: Topology) -> None:
        await self._call("adopt")
        self.remembered = topology

    def allot(self, address: str, taken: Collection[int]) -> int:
        if "allot" in self.broken:
            raise self.broken["allot"]
        return next(port for port in self._ports if port not in taken)


def play(
    scene: Callable[[World], Coroutine[Any, Any, None]],
    topology: Topology = TOPOLOGY,
    broken: Mapping[str, Exception] | None = None,
) -> World:
    """A scene in virtual time, with a supervisor that has looked once. `broken`: from the start."""
    world = World(topology)
    world.broken.update(broken or {})

    async def main() -> None:
        world.supervise()
        await asyncio.sleep(0.5)
        await scene(world)
        await world.end()

    logging.disable(logging.CRITICAL)
    try:
        VirtualLoop().run(main())
    finally:
        logging.disable(logging.NOTSET)
    return world


async def until(holds: Callable[[], bool], within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.05)


def gaps(times: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(times)]


def test_a_start_that_fails_is_tried_ever_more_rarely_up_to_a_limit_and_then_begins_anew() -> None:
    async def scene(world: World) -> None:
        world.broken["start scheduler-0"] = StartFailed("no memory")
        del world.actors["scheduler-0"]
        await asyncio.sleep(300)
        found = gaps(world.times("start scheduler-0"))
        whole = [round(gap) for gap in found]
        assert whole == sorted(whole)
        assert found[0] < 2.5 and RESTARTS.max_s <= found[-1] < RESTARTS.max_s + 2.0
        world.broken.clear()
        await until(lambda: "scheduler-0" in world.actors, RESTARTS.max_s + 2.0)
        await asyncio.sleep(60)
        del world.actors["scheduler-0"]
        # It has lived: what failed before is forgiven.
        await until(lambda: "scheduler-0" in world.actors, 2.0)

    play(scene)


def test_a_start_that_fails_in_an_unknown_way_is_one_that_fails() -> None:
    async def scene(world: World) -> None:
        world.broken["start scheduler-0"] = ZeroDivisionError()
        del world.actors["scheduler-0"], world.actors["lb"]
        await until(lambda: "lb" in world.actors, 3.0)
        await asyncio.sleep(60)
        assert 4 <= len(world.times("start scheduler-0")) <= 7

    play(scene)


@pytest.mark.parametrize("error", [AWAY, ServiceUnavailable("no"), OSError(28, "No space left on device")])
@pytest.mark.parametrize("call", ["load", "members", "save", "adopt", "delete", "stop", "add", "promote", "remove"])
def test_whatever_fails_keeps_no_actor_from_being_started(call: str, error: Exception) -> None:
    """And all that was to be done is done once it works again."""

    async def scene(world: World) -> None:
        reconciler = world.supervise() if call == "load" else world._running[0][0]
        lost = MACHINES[1]
        world.broken[call] = error
        world.lose(lost)
        del world.actors["scheduler-0"]
        await until(lambda: "scheduler-0" in world.actors, 5.0)
        await asyncio.sleep(30)
        # Nothing is tried without a pause, however long it fails.
        assert Counter(made for _, made in world.calls)[call] < 200
        world.broken.clear()
        await until(lambda: world.voters == {"member-0", "member-2", "member-3"}, 60.0)
        await until(lambda: set(world.actors) == {i.name for i in (world.stored or TOPOLOGY).instances}, 60.0)
        assert all(i.machine != lost for i in world.actors.values() if i.role is not Role.SUPERVISOR)
        assert all(i.phase is Phase.ACTIVE for i in reconciler.topology.instances)
        if call == "load":
            await world.end()

    play(scene)


def test_whose_port_a_stranger_has_gets_others_and_its_machine_stays_fit() -> None:
    """Of the next ones, too, one is taken: nobody can look before."""

    async def scene(world: World) -> None:
        world.taken = {MACHINES[1]: {TOPOLOGY.get("apiserver-1").ports["https"], 20_000}}
        del world.actors["apiserver-1"]
        await until(lambda: "apiserver-1" in world.actors, 240.0)
        assert len(world.times("start apiserver-1")) == 2 * STARTS_MAX + 1
        found = world.actors["apiserver-1"]
        assert (world.stored or TOPOLOGY).get("apiserver-1") == found
        assert set(found.ports.values()).isdisjoint({20_000, *TOPOLOGY.get("apiserver-1").ports.values()})
        assert found.machine == MACHINES[1]
        ((reconciler, _),) = world._running
        assert not reconciler.records.unfit(asyncio.get_running_loop().time())

    play(scene)


def test_a_start_that_fails_in_one_place_is_tried_in_another_and_the_machine_counts_as_unfit() -> None:
    async def scene(world: World) -> None:
        world.broken["start apiserver-1"] = StartFailed("no such file")
        del world.actors["apiserver-1"]
        moved = lambda: (world.stored or TOPOLOGY).get("apiserver-1").machine  # noqa: E731
        await until(lambda: moved() != MACHINES[1], 240.0)
        ((reconciler, _),) = world._running
        assert reconciler.records.unfit(asyncio.get_running_loop().time()) == {(Role.APISERVER, MACHINES[1].id)}

    play(scene)


def test_where_no_place_is_better_it_is_tried_in_each_and_ever_more_rarely() -> None:
    async def scene(world: World) -> None:
        world.broken["start scheduler-0"] = StartFailed("no such file")
        del world.actors["scheduler-0"]
        await asyncio.sleep(3600)
        assert len(world.times("start scheduler-0")) < 3600 / RESTARTS.max_s * 1.4
        assert len(world.times("save")) < 40
        assert len((world.stored or TOPOLOGY).instances) == len(TOPOLOGY.instances)
        world.broken.clear()
        await until(lambda: "scheduler-0" in world.actors, RESTARTS.max_s + 2.0)

    play(scene)


def test_heirs_that_fail_one_after_the_other_come_ever_more_rarely() -> None:
    async def scene(world: World) -> None:
        world.broken["start"] = StartFailed("no such file")
        world.lose(MACHINES[1])
        await asyncio.sleep(3600)
        tried = [made for _, made in world.calls if made.startswith("start member-")]
        assert 20 < len(tried) < 3600 / RESTARTS.max_s * 1.2
        assert max(Counter(tried).values()) == STARTS_MAX

    play(scene)


def test_a_machine_that_cannot_run_a_member_is_tried_again_only_when_it_may_have_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starts, "UNFIT_S", 300.0)
    shared = TOPOLOGY.replaced(replace(TOPOLOGY.get("member-2"), machine=A))

    async def scene(world: World) -> None:
        def tried() -> set[str]:
            return {call for _, call in world.calls if call.startswith("start member-")}

        await asyncio.sleep(200)
        assert tried() == {"start member-3"} and "member-3" in world.retired_names
        # It has been started anew.
        world.lying[-1] = replace(world.lying[-1], id="another")
        await until(lambda: "start member-4" in tried(), 120.0)
        await until(lambda: "member-4" in world.retired_names, 300.0)
        await asyncio.sleep(200)
        assert "start member-5" not in tried()
        await until(lambda: "start member-5" in tried(), 200.0)
        assert world.voters == {"member-0", "member-1", "member-2"}

    play(scene, shared, {f"start member-{n}": StartFailed("no space left on device") for n in range(3, 99)})


def test_members_that_join_one_after_the_other_are_given_the_time_of_each() -> None:
    """As after a restore over several machines, each taking most of the time that one may take."""
    restored, names = small(members=4), ("member-1", "member-2", "member-3")
    for name in names:
        restored = restored.replaced(replace(restored.get(name), joins=True, phase=Phase.JOINING))

    async def scene(world: World) -> None:
        for name in names:
            await until(lambda name=name: bool(world.times(f"start {name}")), 30.0)  # type: ignore[misc]
            del world.broken[f"start {name}"]
            await asyncio.sleep(module.JOIN_TIMEOUT_S * 0.8)
            promote = world.broken.pop("promote")
            await until(lambda name=name: name in world.voters, 10.0)  # type: ignore[misc]
            world.broken["promote"] = promote

    broken = {f"start {name}": StartFailed("its machine is busy") for name in names}
    behind = RpcError(Code.FAILED_PRECONDITION, "etcdserver: can only promote a learner which is in sync")
    play(scene, restored, {**broken, "promote": behind})


def test_a_step_that_is_refused_is_tried_again_after_longer_and_longer_pauses() -> None:
    async def scene(world: World) -> None:
        world.broken["promote"] = RpcError(
            Code.FAILED_PRECONDITION, "etcdserver: can only promote a learner which is in sync"
        )
        world.lose(MACHINES[1])
        await until(lambda: len(world.times("promote")) > 20, 60.0)
        found = gaps(world.times("promote"))
        assert found[0] < 0.3 < 0.7 < found[-1] < module.CHECK_EVERY_S + 0.3

    play(scene)


@pytest.mark.parametrize("leisure", [1.0, 30.0])
def test_what_died_while_nothing_was_to_be_done_is_started_after_the_next_look(leisure: float) -> None:
    async def scene(world: World) -> None:
        await world.end()
        world.leisure = leisure
        supervisor, now = world.supervise(), asyncio.get_running_loop().time
        await asyncio.sleep(10.0)
        pause_s, died_at = module.CHECK_EVERY_S * leisure, now()
        del world.actors["member-1"]
        await until(lambda: "member-1" in world.actors, 2 * pause_s)
        assert (now() - died_at > module.CHECK_EVERY_S + 0.3) == (leisure > 1)
        # Meanwhile there is something to be done, and who asks for a look waits for none.
        del world.actors["member-2"]
        supervisor.wake()
        await until(lambda: "member-2" in world.actors, module.CHECK_EVERY_S)

    play(scene)


def test_no_port_for_one_keeps_no_member_from_its_replacement() -> None:
    async def scene(world: World) -> None:
        # The load balancer has to move, which takes ports.
        world.broken["allot"] = OSError(99, "no port is free")
        world.lose(MACHINES[0])
        await asyncio.sleep(20)
        world.broken.clear()
        await until(lambda: world.voters == {"member-1", "member-2", "member-3"}, 60.0)
        await until(lambda: set(world.actors) == {i.name for i in (world.stored or TOPOLOGY).instances}, 60.0)

    play(scene)


def test_an_heir_that_never_starts_makes_room_for_another() -> None:
    async def scene(world: World) -> None:
        for name in ("member-3", "member-4"):
            world.broken[f"start {name}"] = StartFailed("no such file")
        world.broken["start member-5"] = DataLost("gone")
        world.lose(MACHINES[1])
        await until(lambda: world.voters == {"member-0", "member-2", "member-6"}, 600.0)
        for name, most in (("member-3", STARTS_MAX), ("member-4", STARTS_MAX), ("member-5", 1)):
            assert len(world.times(f"start {name}")) == most
            assert name in world.retired_names and name not in world.actors

    play(scene)


def test_a_member_that_never_starts_is_replaced_when_all_others_are_well() -> None:
    async def scene(world: World) -> None:
        world.broken["start member-1"] = world.broken["start member-2"] = StartFailed("no space left on device")
        del world.actors["member-1"], world.actors["member-2"]
        await asyncio.sleep(600)
        assert world.voters == {"member-0", "member-1", "member-2"} and not world.times("add")
        del world.broken["start member-2"]
        await until(lambda: world.voters == {"member-0", "member-2", "member-3"}, 120.0)
        await until(lambda: set(world.actors) == {i.name for i in (world.stored or TOPOLOGY).instances}, 60.0)
        assert "member-1" in world.retired_names
        tried = world.times("start member-1")
        assert tried[-1] < world.times("remove")[0], "who is out of etcd is not started"

    play(scene)


def test_a_member_that_starts_at_last_gives_way_to_its_heir_all_the_same() -> None:
    async def scene(world: World) -> None:
        world.broken["start member-1"] = StartFailed("no space left on device")
        world.broken["promote"] = AWAY
        del world.actors["member-1"]
        await until(lambda: bool(world.times("promote")), 300.0)
        world.broken.clear()
        await until(lambda: world.voters == {"member-0", "member-2", "member-3"}, 120.0)
        await until(lambda: set(world.actors) == {i.name for i in (world.stored or TOPOLOGY).instances}, 60.0)

    play(scene)


@pytest.mark.parametrize("step", ["save", "add", "start member-3", "promote", "remove"])
@pytest.mark.parametrize("told", [True, False])
def test_a_successor_goes_on_with_a_replacement_from_what_is_stored(step: str, told: bool) -> None:
    """The first dies right after a step, before or after it has heard that it was done, at each of its times."""

    async def scene(world: World) -> None:
        world.lose(MACHINES[1])
        done = 0
        while not (world.voters == {"member-0", "member-2", "member-3"} and "member-1" in world.retired_names):
            before = len(world.times(step))
            try:
                await until(lambda before=before: len(world.times(step)) > before, 20.0)  # type: ignore[misc]
            except TimeoutError:
                continue
            if told:
                await asyncio.sleep(0.002)
            await world.end()
            world.supervise()
            done += 1
            assert done < 20, "it gets no further"
        assert done
        await until(lambda: set(world.actors) == {i.name for i in (world.stored or TOPOLOGY).instances}, 60.0)

    play(scene)


def test_a_stop_that_fails_is_tried_again() -> None:
    async def scene(world: World) -> None:
        world.broken["stop stray-0"] = OSError(1, "not permitted")
        world.actors["stray-0"] = Instance("stray-0", Role.SCHEDULER, A)
        await asyncio.sleep(20)
        assert len(world.times("stop stray-0")) > 2
        world.broken.clear()
        await until(lambda: "stray-0" not in world.actors, 5.0)

    play(scene)
