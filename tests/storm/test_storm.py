"""A short storm on a live cluster in one process; longer ones, and those on Ray, are made by hand (see the package)."""

import pytest

from rayplane.control_plane.cluster.config import PROCESS
from rayplane.control_plane.faults.vocabulary import Kill, Stop, Target
from tests.storm.plan import THE_PROCESS, Cancel, Compact, Plan, Timed
from tests.storm.storm import storm

#: The process stood still again and again while Leases were written and given up: none was ever written afterwards. And
#: who started soon after a compaction never did.
STILL_S = 2.5
SEEN = (
    *(Timed(n * 3.0, Stop(THE_PROCESS, STILL_S)) for n in range(3)),
    *(Timed(n * 3.0 + STILL_S, Cancel(100, 0.01)) for n in range(3)),
    Timed(9.5, Compact()),
    Timed(9.5, Kill(Target("apiserver", "apiserver-1"))),
)


@pytest.mark.turn(1, of=2)
@pytest.mark.e2e
@pytest.mark.timeout(600)
async def test_a_cluster_comes_to_rest_after_a_storm_and_status_told_the_truth() -> None:
    await storm(Plan(host=PROCESS, seed=7, seconds=12, pressure=1, first=SEEN), print)
