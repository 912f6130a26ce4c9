"""Faults by seed: the same again, of those who are there, and never more than the members can spare."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.faults.drawing import RECOVERY_S, Odds, Roster, draw, members_hit, schedule
from rayplane.control_plane.faults.vocabulary import (
    Fault,
    FullDisk,
    Kill,
    LoseMachine,
    Partition,
    SlowNetwork,
    StalledDisk,
    Stop,
    Target,
)

KINDS: dict[type[Fault], int] = {Kill: 5, Stop: 3, Partition: 2, FullDisk: 1, StalledDisk: 1, LoseMachine: 1}
ODDS = Odds(weights=KINDS, spans_s=(1.0, 4.0), pause_s=(0.1, 2.0))


def roster(members: int, apiservers: int = 2) -> Roster:
    return Roster(
        {
            "member": tuple(f"member-{n}" for n in range(members)),
            "apiserver": tuple(f"apiserver-{n}" for n in range(apiservers)),
            "scheduler": ("scheduler-0",),
        }
    )


def drawn(seed: int, who: Roster, odds: Odds = ODDS) -> list[tuple[float, Fault]]:
    return list(schedule(random.Random(seed), who, odds, 200.0))


def test_a_schedule_is_a_function_of_its_seed() -> None:
    assert drawn(1, roster(5)) == drawn(1, roster(5)) != drawn(2, roster(5))
    assert {type(fault) for _, fault in drawn(1, roster(5))} == set(KINDS)


@given(st.integers(0, 1 << 32), st.integers(1, 7), st.integers(0, 3))
def test_only_those_are_hit_who_are_there_and_the_members_keep_a_majority(
    seed: int, members: int, apiservers: int
) -> None:
    who = roster(members, apiservers)
    there = {name for names in who.names.values() for name in names}
    found = drawn(seed, who)
    assert [at for at, _ in found] == sorted(at for at, _ in found) and all(at <= 200 for at, _ in found)
    away: list[tuple[float, str]] = []
    for at, fault in found:
        named = {host for group in fault.groups for host in group} if isinstance(fault, Partition) else set()
        target: Target = getattr(fault, "target", Target())
        named |= {target.name} - {""}
        assert named <= there
        away += [(at + getattr(fault, "for_s", 0.0) + RECOVERY_S - 0.01, name) for name in members_hit(fault, who)]
        if members_hit(fault, who):
            assert len({name for until, name in away if until > at}) <= (members - 1) // 2


def test_more_may_be_down_when_that_is_asked_for() -> None:
    odds = Odds(weights={Kill: 1}, spans_s=(1.0,), pause_s=(0.1, 0.2), outvoted=True)
    assert any(members_hit(fault, roster(1)) for _, fault in drawn(1, roster(1), odds))


def test_whom_a_fault_takes_from_the_members() -> None:
    who = roster(3)
    assert len(members_hit(Kill(Target("leader")), who)) == 1
    assert len(members_hit(Kill(Target("follower", count=2)), who)) == 2
    assert len(members_hit(Kill(Target("member", count=2)), who)) == 2
    assert members_hit(Partition((("member-1", "apiserver-0"),)), who) == {"member-1"}
    assert members_hit(SlowNetwork(1.0), who) == members_hit(Kill(Target("apiserver")), who) == set()


def test_what_hits_nobody_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="hits nobody"):
        draw(random.Random(1), roster(3), SlowNetwork, (1.0,))
