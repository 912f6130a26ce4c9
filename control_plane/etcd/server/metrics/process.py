"""Metrics of the process: what the operating system says of it, under the names that all Prometheus clients use.

Only Linux tells everything; elsewhere what it does not tell is left out.
"""

import contextlib
import os
import resource
from pathlib import Path

from rayplane.control_plane.etcd.server.metrics.text import Text

_PROC = Path("/proc")
_SELF = _PROC / "self"
_TICKS_S = os.sysconf("SC_CLK_TCK")
_STAT_START_TIME, _STAT_VIRTUAL_BYTES, _STAT_RESIDENT_PAGES = 19, 20, 21


def add_process(text: Text) -> None:
    """CPU time, memory, file descriptors."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    text.counter("process_cpu_seconds_total", "User and system CPU time in seconds.", usage.ru_utime + usage.ru_stime)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    text.gauge("process_max_fds", "File descriptors that may be open.", most)
    text.gauge("os_fd_limit", "File descriptors that may be open.", most)
    with contextlib.suppress(OSError):
        used = len(os.listdir(_SELF / "fd"))
        text.gauge("process_open_fds", "Open file descriptors.", used)
        text.gauge("os_fd_used", "Open file descriptors.", used)
        # What follows the program's name, which may hold anything, in parentheses.
        stat = (_SELF / "stat").read_text().rpartition(")")[2].split()
        resident = int(stat[_STAT_RESIDENT_PAGES]) * resource.getpagesize()
        text.gauge("process_resident_memory_bytes", "Resident memory in bytes.", resident)
        text.gauge("process_virtual_memory_bytes", "Virtual memory in bytes.", int(stat[_STAT_VIRTUAL_BYTES]))
        started = int(stat[_STAT_START_TIME]) / _TICKS_S + _boot_time()
        text.gauge("process_start_time_seconds", "Start of the process in seconds since the epoch.", started)


def _boot_time() -> int:
    for line in (_PROC / "stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "btime":
            return int(value)
    return 0
