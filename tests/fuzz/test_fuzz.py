"""A slice of each target: the same cases each time, and some that nobody has seen."""

import logging
import random
from typing import Any, cast

import pytest

from rayplane.control_plane.client import informer
from tests.fuzz import engine
from tests.fuzz.__main__ import all_targets
from tests.fuzz.judge import Judge
from tests.tiers import todays_part

TARGETS = all_targets()


@pytest.mark.parametrize("name", todays_part(2, TARGETS))
def test_nothing_hostile_harms(name: str) -> None:
    target = TARGETS[name]
    for seed, cases in ((1, target.CASES), (random.SystemRandom().randrange(1 << 32), max(1, target.CASES // 4))):
        print(f"{name} --seed {seed} --cases {cases}")
        outcome = engine.runs(engine.run(target, seed, cases=cases))
        assert not outcome.finds, str(outcome.finds[0])


def test_the_judge_hears_what_a_component_logs() -> None:
    judge = Judge(cast(Any, None))
    for level in (logging.WARNING, logging.ERROR):
        judge.emit(logging.LogRecord(informer.__name__, level, __file__, 1, "a handler failed", None, None))
    assert judge.heard() == "the log says: a handler failed"
    assert len(judge._heard) == 1
