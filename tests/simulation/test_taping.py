"""What the recording of a simulation says of faults: from when to when each lasted."""

from rayplane.control_plane.faults.vocabulary import (
    Continue,
    Cut,
    Fault,
    Heal,
    Kill,
    Partition,
    SlowNetwork,
    Stop,
    Target,
)
from rayplane.control_plane.simulation import Strike
from rayplane.control_plane.simulation.scenario import Change
from rayplane.control_plane.simulation.taping import lasted

APART = (("member-0",),)
ONE, OTHER = Target(name="lb"), Target(name="member-1")


def until(*struck: tuple[float, Fault | Change]) -> list[float | None]:
    return [one.until_s for one in lasted((at_s, Strike(0, 0.0, what)) for at_s, what in struck)]


def test_a_fault_lasts_for_its_time_or_until_the_end() -> None:
    assert until((1.0, Stop(ONE, 2.0)), (2.0, Stop(OTHER)), (3.0, Kill(ONE)), (4.0, Change("add", "node"))) == [
        3.0,
        None,
        3.0,
        4.0,
    ]


def test_what_another_strike_ends_lasts_until_then() -> None:
    assert until((5.0, Partition(APART)), (6.0, Cut(("lb",), ("member-0",))), (10.0, Heal())) == [10.0, 10.0, 10.0]
    assert until((1.0, SlowNetwork(0.1)), (2.0, SlowNetwork(0.2)), (3.0, SlowNetwork(0.0))) == [3.0, 3.0, 3.0]
    assert until((1.0, Stop(ONE)), (1.0, Stop(OTHER)), (2.0, Continue(ONE)), (4.0, Continue(ONE))) == [
        2.0,
        None,
        2.0,
        4.0,
    ]
    assert until((1.0, Partition(APART, 0.0)), (2.0, SlowNetwork(0.0)), (3.0, Heal()), (4.0, Heal()))[0] == 3.0


def test_what_was_over_before_is_ended_by_nothing() -> None:
    assert until((1.0, Partition(APART, 2.0)), (5.0, Heal())) == [3.0, 5.0]
