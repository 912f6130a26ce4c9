"""Metrics of the process that etcd has beside those of all Prometheus clients (see `component_base.exposition`)."""

import contextlib
import os
import resource
from collections.abc import Iterable

from rayplane.control_plane.component_base.metrics import Family, gauge


def file_descriptors() -> Iterable[Family]:
    """Those that are open, where the system tells, and how many may be."""
    yield gauge("os_fd_limit", "File descriptors that may be open.", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    with contextlib.suppress(OSError):
        yield gauge("os_fd_used", "Open file descriptors.", len(os.listdir("/proc/self/fd")))
