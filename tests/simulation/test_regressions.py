"""Seeds that are recorded, and seeds that nobody has run before."""

import os
import re
from pathlib import Path

import pytest

from rayplane.control_plane.simulation import load_scenario, simulate
from tests.tiers import TODAY, usually_first

pytestmark = pytest.mark.timeout(900)

LINE = re.compile(r"(\w+) +(\d+) +# (.+)")
#: How many new seeds each day brings. More: RAYPLANE_FRESH_SEEDS=100.
FRESH = int(os.environ.get("RAYPLANE_FRESH_SEEDS", "1"))
#: Seeds that never failed, for long runs.
OTHERS = [("quick", 2), ("quick", 3), ("quick", 4), ("changes", 3)]


def recorded() -> list[tuple[str, int]]:
    lines = (Path(__file__).parent / "regressions.txt").read_text().splitlines()
    found = [LINE.fullmatch(line) for line in lines if line and not line.startswith("#")]
    assert all(found), "each line is SCENARIO SEED # what it found"
    return [(match[1], int(match[2])) for match in found if match]


@pytest.mark.parametrize(("scenario", "seed"), [*recorded(), *usually_first(0, OTHERS)])
def test_recorded_seeds_hold(scenario: str, seed: int) -> None:
    result = simulate(load_scenario(scenario), seed)
    assert result.ok, str(result)
    assert result.acknowledged > 50


@pytest.mark.parametrize("seed", range(TODAY * 1000, TODAY * 1000 + FRESH))
def test_seeds_of_today(seed: int) -> None:
    """One that fails is to be written into regressions.txt with what it found."""
    result = simulate(load_scenario("swarm"), seed)
    assert result.ok, str(result)
