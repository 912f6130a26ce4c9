"""The worked scenarios: each holds in the simulation (a fifth of them each day), and a live cluster takes it too."""

from pathlib import Path

import pytest

from rayplane.control_plane.cluster.scenario import Scenario, parse
from rayplane.control_plane.faults.steps import faults_of
from rayplane.control_plane.faults.vocabulary import lasts
from rayplane.control_plane.simulation import load_scenario, simulate
from tests.tiers import todays_part

WORKED = sorted((Path(__file__).parents[2] / "scripts/chaos").glob("*.yaml"))

# Whole clusters take their time on a busy machine.
pytestmark = pytest.mark.timeout(600)


def asked_of(file: Path) -> Scenario:
    """What a file asks of a live cluster."""
    return parse(file.read_bytes(), str(file))


@pytest.mark.parametrize("file", todays_part(5, WORKED), ids=lambda file: file.stem)
def test_a_worked_scenario_holds(file: Path) -> None:
    result = simulate(load_scenario(file), 1)
    assert result.ok, str(result)
    assert result.plan is not None
    struck = {type(strike.what) for strike in result.plan.strikes}
    assert struck == {type(fault) for fault in asked_of(file).all_faults()}, "something was not broken"


@pytest.mark.parametrize("file", WORKED, ids=lambda file: file.stem)
def test_a_live_cluster_takes_the_same_file(file: Path) -> None:
    simulated, live = load_scenario(file), asked_of(file)
    assert (live.steps, live.faults, live.workload) == (simulated.steps, simulated.faults, simulated.workload)
    assert live.name == simulated.name == file.stem and live.expect
    # A live cluster takes no further step before the end of such a one: the work must go on meanwhile.
    assert not [fault for fault in faults_of(live.steps) if lasts(fault)]
