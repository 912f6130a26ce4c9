"""A whole cluster in one process and in virtual time, the same again for the same seed.

Owns the virtual-time loop, the network's weather, simulated processes and how they die, scenarios, and the checks
that hold at every moment of a run. Does not own any component: it runs the very code that runs on Ray, over an
in-memory transport and in-memory disks that lose what was not synced.

Concurrency: one thread, one event loop whose clock jumps from timer to timer. A thread, a socket or a process that a
component asks for raises `NotSimulated`; the order of everything follows from the seed.
"""

from rayplane.control_plane.simulation.cluster import Planted
from rayplane.control_plane.simulation.loop import Deadlock, Livelock, NotSimulated, UnknownAsyncio, VirtualLoop
from rayplane.control_plane.simulation.plan import Plan, Strike, read_plan, write_plan
from rayplane.control_plane.simulation.result import SimulationResult
from rayplane.control_plane.simulation.run import Fork, Setup, simulate
from rayplane.control_plane.simulation.scenario import (
    Scenario,
    builtin_scenarios,
    load_scenario,
    parse_scenario,
)
from rayplane.control_plane.simulation.sweep import Order, SweepFailed, Tally, Ways, cores, shrunk, sweep
from rayplane.control_plane.simulation.user_code import UserFile, read_file

__all__ = [
    "Deadlock",
    "Fork",
    "Livelock",
    "NotSimulated",
    "Order",
    "Plan",
    "Planted",
    "Scenario",
    "Setup",
    "SimulationResult",
    "Strike",
    "SweepFailed",
    "Tally",
    "UnknownAsyncio",
    "UserFile",
    "VirtualLoop",
    "Ways",
    "builtin_scenarios",
    "cores",
    "load_scenario",
    "parse_scenario",
    "read_file",
    "read_plan",
    "shrunk",
    "simulate",
    "sweep",
    "write_plan",
]
