"""A slice of each target: the same cases each time, and some that nobody has seen."""

import random

import pytest

from tests.fuzz import engine
from tests.fuzz.__main__ import all_targets

TARGETS = all_targets()


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_hostile_harms(name: str) -> None:
    target = TARGETS[name]
    for seed, cases in ((1, target.CASES), (random.SystemRandom().randrange(1 << 32), max(1, target.CASES // 4))):
        print(f"{name} --seed {seed} --cases {cases}")
        outcome = engine.runs(engine.run(target, seed, cases=cases))
        assert not outcome.finds, str(outcome.finds[0])
