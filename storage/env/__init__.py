"""The outside world, injected: wall clock, randomness, disk.

Owns the three protocols that every component takes instead of calling the operating system, and their real
implementations; files that are their owner's alone (`private`); the named points where a test can make a process fail
(`failpoints`); what a serving process tells the garbage collector. The simulation brings its own disk. Does not own
spans of time: they are the running event loop's.
"""

from rayplane.storage.env.clock import AheadClock, Clock, Env, SystemClock
from rayplane.storage.env.disk import Disk, DiskError, File, LocalDisk, LockHeld
from rayplane.storage.env.heap import HeapSweep, growing_heap, settle_heap
from rayplane.storage.env.simulated import SimulatedDisk, SimulatedFile
from rayplane.storage.env.subdisk import SubDisk

__all__ = [
    "AheadClock",
    "Clock",
    "Disk",
    "DiskError",
    "Env",
    "File",
    "HeapSweep",
    "LocalDisk",
    "LockHeld",
    "SimulatedDisk",
    "SimulatedFile",
    "SubDisk",
    "SystemClock",
    "growing_heap",
    "settle_heap",
]
