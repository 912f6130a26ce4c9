"""The worked scenarios: each holds in the simulation, and is one that a live cluster takes too."""

from pathlib import Path

import pytest

from rayplane.control_plane.cluster.scenario import parse
from rayplane.control_plane.simulation import load_scenario, simulate

WORKED = sorted((Path(__file__).parents[2] / "scripts/chaos").glob("*.yaml"))

# Whole clusters take their time on a busy machine.
pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("file", WORKED, ids=lambda file: file.stem)
def test_a_worked_scenario_holds(file: Path) -> None:
    result = simulate(load_scenario(file), 1)
    assert result.ok, str(result)
    assert result.plan is None or result.plan.strikes, "nothing was broken"


@pytest.mark.parametrize("file", WORKED, ids=lambda file: file.stem)
def test_a_live_cluster_takes_the_same_file(file: Path) -> None:
    simulated, live = load_scenario(file), parse(file.read_bytes(), str(file))
    assert (live.steps, live.faults, live.workload) == (simulated.steps, simulated.faults, simulated.workload)
    assert live.name == simulated.name == file.stem and live.expect
