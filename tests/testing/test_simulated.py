"""Runs of the simulation as tests: what they are asked for, and how they fail."""

from typing import Any

import pytest

from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.testing import simulated
from rayplane.testing import SimulationFailed, simulation


class Result:
    """As much of a result as is looked at."""

    def __init__(self, ok: bool) -> None:
        self.ok = ok

    def __str__(self) -> str:
        return "the story"


def test_a_run_has_its_scenario_and_seed_and_fails_with_its_story(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def simulate(scenario: Any, seed: int, *, setup: Any) -> Result:
        asked.append((scenario.name, seed, setup.load))
        return Result(ok=seed != 2)

    monkeypatch.setattr(simulated, "simulate", simulate)
    assert simulation("failures", seed=1).ok
    with pytest.raises(SimulationFailed, match="the story"):
        simulation("failures", seed=2)
    assert asked == [("failures", 1, None), ("failures", 2, None)]


def test_a_scenario_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="nowhere"):
        simulation("nowhere")
