"""Faults that stand: each ends at its time, whoever dies meanwhile; what could never end does not begin."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.supervisor import notes, standing
from rayplane.control_plane.cluster.supervisor.faults import FaultsService
from rayplane.control_plane.cluster.supervisor.notes import Notes
from rayplane.control_plane.cluster.supervisor.standing import FOR_MAX_S, NoSuchFault, StandingFaults, TooMany
from rayplane.control_plane.cluster.trial.journal import Broken
from rayplane.control_plane.etcd_errors import RequestTooLarge
from rayplane.control_plane.faults.form import VERBS, as_step, example, parse_fault
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.faults.vocabulary import (
    Continue,
    Fault,
    Flood,
    Heal,
    Kill,
    Partition,
    SlowNetwork,
    Stop,
    Target,
)
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.env import DiskError
from rayplane.storage.env.simulated import SimulatedDisk

STOPPED = Stop(Target(name="member-1"), 10.0)
PARTED = Partition((("member-0",),), 60.0)


class Actors:
    """Actors that a fault hits by their names, and what was done to them."""

    def __init__(self) -> None:
        self.broken: list[Fault] = []
        self.told: list[Fault] = []
        self.refuses: ClusterError | None = None
        self.will_not_end: ClusterError | None = None

    def refusal(self, fault: Fault) -> str:
        return ""

    async def chosen(self, fault: Fault) -> tuple[str, ...]:
        return (fault.target.name,) if isinstance(fault, Kill | Stop) else ()

    async def inflict(self, fault: Fault, names: Sequence[str]) -> None:
        self.told.append(fault)
        self.broken.append(fault)
        if self.refuses is not None:
            raise self.refuses

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        if self.will_not_end is not None:
            raise self.will_not_end
        self.broken.remove(fault)


class LoopClock:
    """The wall clock of a virtual loop."""

    def now(self) -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=asyncio.get_running_loop().time())


class Keys:
    """An etcd that holds what was put, and answers or does not."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.answers = True
        self.bytes_max = 1 << 20

    async def range(self, key: bytes, *, timeout: float) -> Any:
        await self._answer(timeout)
        return SimpleNamespace(kvs=[SimpleNamespace(value=self.values[key])] if key in self.values else [])

    async def put(self, key: bytes, value: bytes, *, timeout: float) -> Any:
        await self._answer(timeout)
        if len(value) > self.bytes_max:
            raise RpcError(RequestTooLarge.status, RequestTooLarge().message)
        self.values[key] = value
        return SimpleNamespace()

    async def _answer(self, timeout: float) -> None:
        if not self.answers:
            await asyncio.sleep(timeout)
            raise RpcError(Code.UNAVAILABLE, "no leader")


class World:
    """Actors, the supervisor's disk, etcd, and its standing faults, one after the other."""

    def __init__(self) -> None:
        self.actors, self.disk, self.etcd, self.run = Actors(), SimulatedDisk(), Keys(), "first"
        self.begin()

    def begin(self) -> None:
        """A supervisor comes."""
        self.faults = StandingFaults(
            self.actors, Notes(self.disk, self.etcd), LoopClock(), random.Random(3), run=self.run
        )
        self.faults.start()

    async def restart(self, *, after_s: float, elsewhere: bool = False) -> None:
        """The supervisor is killed, and comes back later, or on another machine."""
        await self.faults.stop()
        self.disk.crash(random.Random(1))
        if elsewhere:
            self.disk = SimulatedDisk()
        await asyncio.sleep(after_s)
        self.begin()


def in_virtual_time(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    async def main() -> None:
        world = World()
        await test(world)
        await world.faults.stop()

    def run() -> None:
        VirtualLoop().run(main())

    run.__name__ = test.__name__
    return run


@in_virtual_time
async def test_a_fault_ends_at_its_time_and_not_before(world: World) -> None:
    begun = await world.faults.begin(STOPPED, "jane")
    await world.faults.begin(PARTED, "joe")
    await asyncio.sleep(9.9)
    assert world.actors.broken == [STOPPED, PARTED]
    assert world.faults.all()[0] == begun
    await asyncio.sleep(0.2)
    assert world.actors.broken == [PARTED] and len(world.faults.all()) == 1
    await asyncio.sleep(50)
    assert world.actors.broken == [] == world.faults.all()


@in_virtual_time
async def test_what_a_killed_supervisor_began_the_next_one_ends(world: World) -> None:
    await world.faults.begin(STOPPED, "jane")
    await world.faults.begin(PARTED, "jane")
    await world.restart(after_s=1)
    await asyncio.sleep(0.1)
    # Nobody else knows of the partition any more; a process that stands still does so by itself.
    assert world.actors.told == [STOPPED, PARTED, PARTED]
    world.actors.broken.remove(PARTED)
    await asyncio.sleep(9)
    assert world.actors.broken == [PARTED]
    await world.restart(after_s=100)
    await asyncio.sleep(0.1)
    assert world.actors.broken == [] == world.faults.all()
    await world.restart(after_s=0)
    assert world.faults.all() == []


@in_virtual_time
async def test_a_supervisor_elsewhere_ends_what_another_began(world: World) -> None:
    await world.faults.begin(STOPPED, "jane")
    await world.restart(after_s=1, elsewhere=True)
    await asyncio.sleep(0.1)
    assert [one.broken.fault for one in world.faults.all()] == [STOPPED] == world.actors.broken
    await asyncio.sleep(9)
    assert world.actors.broken == [] == world.faults.all()
    await world.restart(after_s=0, elsewhere=True)
    await asyncio.sleep(0.1)
    assert world.faults.all() == []


@in_virtual_time
async def test_etcd_learns_of_faults_once_it_answers_and_keeps_none_from_its_end(world: World) -> None:
    world.etcd.answers = False
    begun = await world.faults.begin(replace(STOPPED, for_s=60.0), "jane")
    assert begun.ends_s - LoopClock().now().timestamp() == 60.0, "it lasts as long as was asked"
    ended = await world.faults.begin(PARTED, "jane")
    await world.faults.end(ended.id)
    world.etcd.answers = True
    await asyncio.sleep(5)
    await world.restart(after_s=1, elsewhere=True)
    await asyncio.sleep(0.1)
    world.etcd.answers = False
    assert world.faults.all() == [begun]
    await world.faults.end(begun.id)
    # What etcd says yet is older than the file.
    await world.restart(after_s=1)
    world.etcd.answers = True
    await asyncio.sleep(10)
    assert world.actors.broken == [] == world.faults.all()


@in_virtual_time
async def test_what_an_earlier_up_left_is_ended_and_does_not_happen_again(world: World) -> None:
    for fault in (PARTED, STOPPED):
        await world.faults.begin(fault, "jane")
    world.run = "second"
    await world.restart(after_s=1)
    await asyncio.sleep(0.1)
    assert world.actors.told == [PARTED, STOPPED]
    assert world.actors.broken == [] == world.faults.all()


@in_virtual_time
async def test_what_a_trial_has_broken_ends_with_the_trial_or_with_its_supervisor(world: World) -> None:
    async def breaks(fault: Fault) -> Broken:
        broken = Broken(fault, await world.actors.chosen(fault))
        await world.faults.note(broken, "jane")
        await world.actors.inflict(fault, broken.hit)
        return broken

    ended, left = await breaks(PARTED), await breaks(STOPPED)
    await world.actors.end(ended.fault, ended.hit)
    await world.faults.forget(ended)
    assert [one.broken for one in world.faults.all()] == [left]
    await asyncio.sleep(100)
    assert world.actors.broken == [STOPPED], "the trial ends it, whatever it says how long"
    world.disk = SimulatedDisk()  # of another machine
    await world.restart(after_s=1)
    await asyncio.sleep(1)
    assert world.actors.broken == [] == world.faults.all()
    await breaks(STOPPED)
    world.faults.release()
    await asyncio.sleep(1)
    assert world.actors.broken == [] == world.faults.all()


@in_virtual_time
async def test_what_a_trial_has_broken_nobody_else_ends_while_it_goes_on(world: World) -> None:
    broken = Broken(STOPPED, ("member-1",))
    await world.faults.note(broken, "jane")
    await world.actors.inflict(STOPPED, broken.hit)
    begun = await world.faults.begin(PARTED, "joe")
    await asyncio.sleep(3 * FOR_MAX_S)
    [noted] = world.faults.all()
    assert noted.broken == broken and begun.id != noted.id and world.actors.broken == [STOPPED]
    with pytest.raises(ClusterError, match="its trial ends it: wait for that, or end the trial"):
        await world.faults.end(noted.id)
    assert await world.faults.heal() == ([], [noted])
    told = (await FaultsService(world.faults, Mock(), Mock()).List(Mock(), Mock())).faults
    assert [(one.id, one.HasField("ends"), one.failed) for one in told] == [(noted.id, False, "its trial ends it")]
    assert world.actors.broken == [STOPPED]


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_trial_ends_while_the_supervisor_tries_the_same_stays_over(fails: bool) -> None:
    @in_virtual_time
    async def test(world: World) -> None:
        broken = Broken(STOPPED, ("member-1",))
        await world.faults.note(broken, "jane")
        trying, go_on = asyncio.Event(), asyncio.Event()

        async def end(fault: Fault, hit: tuple[str, ...]) -> None:
            trying.set()
            await go_on.wait()
            if fails:
                raise ClusterError("the supervisor is busy")

        world.actors.end = end  # type: ignore[method-assign]
        await world.restart(after_s=1)
        await trying.wait()
        begun = await world.faults.begin(PARTED, "joe")
        await world.faults.forget(broken)
        go_on.set()
        await asyncio.sleep(1)
        assert world.faults.all() == [begun]
        world.actors.end = Actors.end.__get__(world.actors)  # type: ignore[method-assign]
        await asyncio.sleep(60)
        assert world.actors.broken == [] == world.faults.all(), "others end at their time"

    test()


@in_virtual_time
async def test_a_flood_ends_with_its_supervisor(world: World) -> None:
    await world.faults.begin(Flood(10, 60.0), "jane")
    await world.restart(after_s=1)
    assert world.faults.all() == []


@in_virtual_time
async def test_a_fault_whose_beginning_was_given_up_is_ended(world: World) -> None:
    write, writing = world.disk.write_atomic, asyncio.Event()

    async def slow(path: str, data: bytes) -> None:
        writing.set()
        await asyncio.sleep(1.0)
        await write(path, data)

    world.disk.write_atomic = slow  # type: ignore[method-assign]
    beginning = asyncio.create_task(world.faults.begin(STOPPED, "jane"))
    await writing.wait()
    world.actors.broken.append(STOPPED)
    world.disk.write_atomic = write  # type: ignore[method-assign]
    await cancel_and_wait(beginning)
    await asyncio.sleep(5)
    assert world.actors.broken == [] == world.faults.all()


@in_virtual_time
async def test_what_is_over_at_once_does_not_stand(world: World) -> None:
    killed = await world.faults.begin(Kill(Target(name="member-0")), "jane")
    assert (killed.id, killed.broken.hit, world.faults.all()) == ("", ("member-0",), [])


@in_virtual_time
async def test_what_would_have_no_end_does_not_begin(world: World) -> None:
    for fault, why in (
        (Stop(Target(name="member-1")), "say `for` how long, at most 1h"),
        (Stop(Target(name="member-1"), FOR_MAX_S + 1), "at most 1h"),
        (Heal(), "by its id"),
        (Continue(Target(name="member-1")), "by its id"),
        (SlowNetwork(0.0), "by its id"),
    ):
        with pytest.raises(UsageError, match=why):
            await world.faults.begin(fault, "jane")
    assert world.actors.told == [] and not world.disk.exists(notes.FILE)


@in_virtual_time
async def test_what_cannot_be_written_down_does_not_begin(world: World) -> None:
    world.disk.write_atomic = _full  # type: ignore[method-assign]
    with pytest.raises(ClusterError, match="cannot be written down"):
        await world.faults.begin(STOPPED, "jane")
    assert world.actors.told == [] == world.faults.all()


async def _full(path: str, data: bytes) -> None:
    raise DiskError("no space is left")


@in_virtual_time
async def test_no_more_stand_than_there_may_be(world: World) -> None:
    for _ in range(standing.STANDING_MAX):
        await world.faults.begin(PARTED, "jane")
    with pytest.raises(TooMany):
        await world.faults.begin(PARTED, "jane")


@in_virtual_time
async def test_a_fault_that_may_have_begun_is_ended(world: World) -> None:
    world.actors.refuses = ClusterError("no answer")
    with pytest.raises(ClusterError, match="no answer"):
        await world.faults.begin(STOPPED, "jane")
    await asyncio.sleep(0.1)
    assert world.actors.broken == [] == world.faults.all()


@in_virtual_time
async def test_what_cannot_be_ended_is_tried_again_and_told(world: World) -> None:
    begun = await world.faults.begin(STOPPED, "jane")
    world.actors.will_not_end = ClusterError("the supervisor is busy")
    with pytest.raises(ClusterError, match="busy; it is tried again"):
        await world.faults.end(begun.id)
    _, left = await world.faults.heal()
    assert [one.why for one in left] == ["the supervisor is busy"]
    world.actors.will_not_end = None
    await asyncio.sleep(5)
    assert world.actors.broken == [] == world.faults.all()


@in_virtual_time
async def test_who_is_gone_is_broken_no_more(world: World) -> None:
    begun = await world.faults.begin(STOPPED, "jane")
    world.actors.will_not_end = UsageError("there is no actor member-1")
    assert await world.faults.end(begun.id) == begun
    assert world.faults.all() == []
    with pytest.raises(NoSuchFault):
        await world.faults.end(begun.id)


@in_virtual_time
async def test_a_damaged_file_keeps_no_supervisor_from_its_work(world: World) -> None:
    await world.disk.write_atomic(notes.FILE, b'[{"fault": {"pray": 1}}]')
    await world.restart(after_s=0)
    assert world.faults.all() == []
    assert (await world.faults.begin(STOPPED, "jane")).id


def test_a_fault_is_written_as_in_scenario_files() -> None:
    assert parse_fault("stop: {target: member-1, for: 10s}") == STOPPED
    assert parse_fault('{"stop": {"target": "member-1", "for": "10s"}}') == STOPPED
    for kind in VERBS.values():
        assert type(parse_fault(as_step(example(kind)))) is kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pray",
        "pray: leader",
        "[kill]: leader",
        "{kill: leader, stop: leader}",
        "kill: nobody",
        "kill: leader\n---\nkill: leader",
        "a: &a [x]\nkill: *a",
        "kill: " + "[" * 3000,
        "kill: " + "x" * 100_000,
        "1: 2",
    ],
)
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(FormError):
        parse_fault(text)


@in_virtual_time
async def test_what_etcd_finds_too_large_is_refused_and_hinders_no_fault(world: World) -> None:
    loop = asyncio.get_running_loop()
    world.etcd.bytes_max = 500
    await world.faults.note_made([{"name": "a"}])
    for name in "bc":
        began = loop.time()
        with pytest.raises(ClusterError, match=r"nothing is made.*etcd takes no list of that size"):
            await world.faults.note_made([{"name": name * 500}])
        assert loop.time() - began < notes.AGAIN_S, "an answer is not waited for"
    await world.faults.begin(STOPPED, "jane")
    told = notes.Page.read(world.etcd.values[notes.FAULTS_KEY], "etcd")
    assert told is not None and told.made == ({"name": "a"},) and len(told.faults) == 1
