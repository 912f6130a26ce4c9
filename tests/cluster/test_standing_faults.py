"""Faults that stand: each ends at its time, whoever dies meanwhile; what could never end does not begin."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.supervisor import standing
from rayplane.control_plane.cluster.supervisor.standing import FOR_MAX_S, NoSuchFault, StandingFaults, TooMany
from rayplane.control_plane.faults.form import VERBS, as_step, example, parse_fault
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.faults.vocabulary import Continue, Fault, Heal, Kill, Partition, SlowNetwork, Stop, Target
from rayplane.control_plane.simulation import VirtualLoop
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


class World:
    """Actors, the supervisor's disk, and its standing faults, one after the other."""

    def __init__(self) -> None:
        self.actors, self.disk = Actors(), SimulatedDisk()
        self.faults = self.another()

    def another(self) -> StandingFaults:
        return StandingFaults(self.actors, self.disk, LoopClock(), random.Random(3))

    async def restart(self, *, after_s: float) -> None:
        """The supervisor is killed, and comes back later."""
        await self.faults.stop()
        self.disk.crash(random.Random(1))
        await asyncio.sleep(after_s)
        self.faults = self.another()
        self.faults.start()


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
    assert world.actors.told == [] and not world.disk.exists(standing.FILE)


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
    await world.disk.write_atomic(standing.FILE, b'[{"fault": {"pray": 1}}]')
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
