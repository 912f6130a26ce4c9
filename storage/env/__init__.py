"""The outside world, injected: wall clock, randomness, disk.

Owns the three protocols that every component takes instead of calling the operating system, and their real
implementations. The simulation brings its own. Time spans are never here: they are the running event loop's time.
"""

from storage.env.clock import Clock, Env, SystemClock
from storage.env.disk import Disk, DiskError, File, LocalDisk, LockHeld
from storage.env.simulated import SimulatedDisk, SimulatedFile

__all__ = [
    "Clock",
    "Disk",
    "DiskError",
    "Env",
    "File",
    "LocalDisk",
    "LockHeld",
    "SimulatedDisk",
    "SimulatedFile",
    "SystemClock",
]
