"""A whole cluster in one process and in virtual time, the same again for the same seed.

Owns the virtual-time loop, the network's weather, simulated processes and how they die, scenarios, and the checks
that hold at every moment of a run. Does not own any component: it runs the very code that runs on Ray, over an
in-memory transport and in-memory disks that lose what was not synced.

Concurrency: one thread, one event loop whose clock jumps from timer to timer. A thread, a socket or a process that a
component asks for raises `NotSimulated`; the order of everything follows from the seed.
"""

from rayplane.control_plane.simulation.cluster import Planted
from rayplane.control_plane.simulation.loop import Deadlock, Livelock, NotSimulated, UnknownAsyncio, VirtualLoop
from rayplane.control_plane.simulation.run import SimulationResult, simulate
from rayplane.control_plane.simulation.scenario import (
    Scenario,
    builtin_scenarios,
    load_scenario,
    parse_scenario,
)

__all__ = [
    "Deadlock",
    "Livelock",
    "NotSimulated",
    "Planted",
    "Scenario",
    "SimulationResult",
    "UnknownAsyncio",
    "VirtualLoop",
    "builtin_scenarios",
    "load_scenario",
    "parse_scenario",
    "simulate",
]
