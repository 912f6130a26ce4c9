"""Members in virtual time under kills, power losses, pauses, partitions and delays: deterministic by seed.

Every storm is judged as a whole (see `tests.linearizability`): histories are linearizable, revisions follow real time,
stale reads are states that were, watches keep their guarantees, leases do not end early, no term has two leaders, and
in the end all members hold the same. A failure names the seed and what had been done until then.
"""

from typing import Any

import pytest

from tests.linearizability.processes import JumpingClock
from tests.linearizability.storm import MIXED, Plan, run_storm
from tests.tiers import first_are_fast, todays_part

pytestmark = pytest.mark.timeout(300)

PARTITIONS = {
    "isolate": 2,
    "isolate_leader": 4,
    "one_way": 4,
    "cut_some": 3,
    "split": 3,
    "sever": 1,
    "heal": 6,
    "slow": 1,
}
PAUSES = {"pause": 2, "pause_leader": 4, "stall_disk": 2, "slow": 1}
HANDOVERS = {"move_leader": 2, "move_leader_and_isolate": 4, "isolate_leader": 3, "pause_leader": 3, "heal": 6}
CRASHES = {"kill": 2, "kill_leader": 3, "power_loss": 3, "stall_disk": 1, "start": 6, "start_all": 3, "compact": 2}
REPLACEMENTS = {"replace": 6, "kill": 1, "start_all": 3, "isolate": 1, "heal": 4, "compact": 2, "pause": 1}


def storm(seed: int, **settings: Any) -> str:
    return run_storm(Plan(seed, **settings))


@pytest.mark.parametrize("seed", first_are_fast(1, todays_part(6, range(6))))
def test_everything_at_once(seed: int) -> None:
    storm(seed, steps=30)


@pytest.mark.slow
@pytest.mark.parametrize("seed", todays_part(3, range(3)))
def test_partitions_of_five(seed: int) -> None:
    storm(seed, members=5, acts=PARTITIONS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", todays_part(4, range(4)))
def test_members_that_stand_still_and_wake(seed: int) -> None:
    """A leader that slept for long must not answer reads, nor renew leases, from before its sleep."""
    storm(seed, acts=PAUSES, step_s=(0.5, 5.0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", todays_part(4, range(4)))
def test_leaders_that_do_not_know_of_their_heirs(seed: int) -> None:
    storm(seed, acts=HANDOVERS, leases=6, writers=2, step_s=(0.1, 2.5))


@pytest.mark.slow
@pytest.mark.parametrize("seed", todays_part(3, range(3)))
def test_killed_members_and_lost_power(seed: int) -> None:
    storm(seed, acts=CRASHES, writers=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", todays_part(3, range(3)))
def test_an_acknowledged_write_is_on_the_disks_of_a_majority(seed: int) -> None:
    """All machines lose power again and again, in the middle of slow syncs."""
    storm(seed, acts={"power_loss_of_all": 1}, step_s=(0.1, 3.0), steps=15, options={"sync_seconds": 0.1})


@pytest.mark.slow
@pytest.mark.parametrize("seed", todays_part(3, range(3)))
def test_members_are_replaced_under_load(seed: int) -> None:
    """A machine is lost, removed, another added as a learner and promoted, while clients go on."""
    storm(seed, acts=REPLACEMENTS, steps=12, step_s=(0.5, 3.0), options={"snapshot_count": 50, "catch_up_entries": 10})


@pytest.mark.slow
@pytest.mark.parametrize("seed", todays_part(2, range(2)))
def test_watchers_that_fall_behind(seed: int) -> None:
    storm(seed, events_buffered=8, acts={"slow": 1, "heal": 1, "sever": 1, "move_leader": 1}, writers=3, steps=15)


@pytest.mark.turn(0, of=2)
@pytest.mark.slow
def test_the_same_seed_gives_the_same_run() -> None:
    assert storm(99) == storm(99)
    assert storm(99) != storm(98)


@pytest.mark.slow
def test_jumps_of_the_wall_clock_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    jumping = storm(5, leases=4)
    start = JumpingClock.now
    monkeypatch.setattr(JumpingClock, "now", lambda self: self._time)
    assert start is not JumpingClock.now
    assert storm(5, leases=4) == jumping


def test_every_act_has_its_place_in_the_mixture() -> None:
    assert set(PARTITIONS) | set(PAUSES) | set(HANDOVERS) | set(CRASHES) <= set(MIXED)
