"""The machine that a node of real pods is on, as it tells of it."""

import functools
import os
from pathlib import Path

from rayplane.node.config import NodeConfig
from rayplane.node.kubelet.registration import Machine

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine_of(node: NodeConfig) -> Machine:
    """The machine of a node, as its status tells it (`nodeInfo` of v1.NodeStatus)."""
    return _this_machine() if node.runs_processes else Machine()


@functools.cache
def _this_machine() -> Machine:
    try:
        boot_id = _BOOT_ID.read_text().strip()
    except OSError:
        boot_id = ""  # nobody hears of reboots then
    return Machine(boot_id, os.uname().release)
