"""Thousands of random schedules, the same each time and others each day; see `schedule.py`.

The usual run takes 7 blocks: 5 that come again every sixth day and 2 of the day's own; and 8 long schedules of 30.
"""

from __future__ import annotations

import pytest

from tests.raft.schedule import run
from tests.tiers import TODAY, first_are_fast, todays_part, usually_first

BLOCK = 250
#: Blocks that come again, and how many new ones each day brings.
LASTING, FRESH = 30, 10
BLOCKS = [*todays_part(6, range(LASTING)), *usually_first(2, range(TODAY * FRESH, (TODAY + 1) * FRESH))]


@pytest.mark.parametrize("block", first_are_fast(3, BLOCKS))
def test_short_schedules_are_safe_and_heal(block: int) -> None:
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        run(seed)


@pytest.mark.parametrize("seed", first_are_fast(3, usually_first(8, range(30))))
def test_long_schedules_are_safe_and_heal(seed: int) -> None:
    run(1_000_000 + seed, 3_000)


def test_the_same_seed_gives_the_same_history() -> None:
    one, other = (run(7, 300).group.oracle for _ in range(2))
    assert one.ledger == other.ledger and one.ledger
    assert one.leaders == other.leaders
