"""The real supervisor heals a simulated cluster; the same again for the same seed."""

from collections import Counter
from dataclasses import replace

import pytest

from rayplane.control_plane.cluster.components import Component
from rayplane.control_plane.simulation import Planted, SimulationResult, load_scenario, simulate
from rayplane.control_plane.simulation.scenario import Rage
from tests.tiers import usually_first

pytestmark = pytest.mark.timeout(600)


def heal(seed: int, for_s: float) -> tuple[SimulationResult, Counter[str]]:
    """`healing` with a storm of that length: how it went, and how often each actor was started."""
    scenario = load_scenario("healing")
    steps = tuple(replace(step, for_s=for_s) if isinstance(step, Rage) else step for step in scenario.steps)
    starts: Counter[str] = Counter()

    def count(name: str, component: Component) -> None:
        starts[name] += 1

    return simulate(replace(scenario, steps=steps, duration_s=1.0), seed, planted=Planted(wrap=count)), starts


@pytest.mark.parametrize("seed", usually_first(1, [1, 2, 4]))
def test_the_supervisor_heals_whatever_is_lost(seed: int) -> None:
    result, starts = heal(seed, 25.0)
    assert result.ok, str(result)
    assert result.acknowledged > 50
    assert starts["supervisor"] > 1
    assert starts["member-3"] > 0, "no member was replaced"


def test_the_same_seed_heals_in_the_same_way() -> None:
    first, again = (heal(1, 6.0)[0].trace_hash for _ in range(2))
    assert first == again
