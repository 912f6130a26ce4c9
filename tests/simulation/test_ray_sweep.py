"""Seeds over a Ray cluster: all results come, a failure ends the rest, and Ray ends with it."""

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.processes, pytest.mark.timeout(600)]

# In a process of its own: Ray takes over a driver.
CODE = """
from rayplane.control_plane.simulation import Order, Ways, parse_scenario, sweep

TINY = '''
duration: 1s
cluster: {timing: fast, members: 1, apiservers: 1, nodes: 1, schedulers: 1, controllers: 1}
'''
order = Order(parse_scenario(TINY, source="tiny"))
found = {r.seed: r.trace_hash for r in sweep(order, range(1, 5), Ways(ray="local"))}
assert sorted(found) == [1, 2, 3, 4], found
assert found[2] == order.run(2).trace_hash
fails = Order(parse_scenario(TINY + "steps: [{await: {deployment: web, replicas: 1, within: 0s}}]", source="fails"))
assert len([*sweep(fails, range(1, 1000), Ways(ray="local"))]) == 1
print("done")
"""


@pytest.mark.turn(0, of=2)
def test_seeds_are_spread_over_ray_and_a_failure_ends_the_rest() -> None:
    # By default Ray's workers come after everything else, the other tests too.
    env = os.environ | {"RAY_worker_niceness": "0"}
    done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["done"]), done.stderr
