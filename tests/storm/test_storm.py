"""A short storm on a live cluster in one process; longer ones, and those on Ray, are made by hand (see the package)."""

import pytest

from control_plane.cluster.config import PROCESS
from control_plane.cluster.scenario import Strike
from tests.storm.plan import Compact, Freeze, Plan, Timed
from tests.storm.storm import storm

#: The process stood still again and again while Leases were written: none was ever written afterwards. And who started
#: soon after a compaction never did.
SEEN = (
    *(Timed(n * 2.5, Freeze(1.5)) for n in range(4)),
    Timed(10.5, Compact()),
    Timed(10.5, Strike("KILL", "apiserver", "apiserver-1")),
)


@pytest.mark.e2e
@pytest.mark.timeout(300)
async def test_a_cluster_comes_to_rest_after_a_storm_and_status_told_the_truth() -> None:
    await storm(Plan(host=PROCESS, seed=7, seconds=15, pressure=2, first=SEEN), print)
