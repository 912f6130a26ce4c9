"""The real supervisor heals a simulated cluster; the same again for the same seed."""

import pytest

from rayplane.control_plane.simulation.healing import heal

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("seed", range(1, 4))
def test_the_supervisor_heals_whatever_is_lost(seed: int) -> None:
    result = heal(seed, faults=7)
    assert result.failures == []
    assert result.acknowledged > 50
    assert result.supervisors > 1 or result.lost_machines > 0


def test_the_same_seed_heals_in_the_same_way() -> None:
    assert heal(1, faults=3).trace_hash == heal(1, faults=3).trace_hash != heal(2, faults=3).trace_hash
