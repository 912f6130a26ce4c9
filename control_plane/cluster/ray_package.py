"""The package of rayplane in the tables of Ray's head, from which machines get it that have none.

Ray counts who needs it, and forgets that when its head starts anew, be it with the same tables: as soon as one of those
who came since then ends, it throws the package away, though all others still need it on machines that come later. So
whoever starts actors keeps it there.
"""

import logging
import tempfile
import time
from collections.abc import Iterable
from typing import Any

import ray
from ray._private.runtime_env.packaging import upload_package_if_needed
from ray.exceptions import RayError

from rayplane.control_plane.cluster.ray_cluster import NOT_PACKED, PACKAGE
from rayplane.control_plane.cluster.topology import Machine

log = logging.getLogger(__name__)

# Ray keeps for ten minutes what it was asked to. It starts a supervisor anew by itself, also where there is none yet.
KEEP_EVERY_S = 60.0


class Package:
    """The package that this process was started with, if it was with one."""

    def __init__(self) -> None:
        self._kept_at = -KEEP_EVERY_S
        self._machines: frozenset[Machine] = frozenset()

    def keep_for(self, machines: Iterable[Machine]) -> None:
        """See to it now and then, and for each machine that comes."""
        known = frozenset(machines)
        if known - self._machines or time.monotonic() >= self._kept_at + KEEP_EVERY_S:
            self.keep()
        self._machines = known

    def keep(self) -> None:
        """Put it there if it is not, and have it stay. What keeps it from that is said by whoever misses it."""
        for uri in ray.get_runtime_context().runtime_env.get("py_modules", ()):
            try:
                with tempfile.TemporaryDirectory() as folder:
                    packing: dict[str, Any] = {"include_parent_dir": True, "excludes": [*NOT_PACKED]}
                    if upload_package_if_needed(uri, folder, str(PACKAGE), True, **packing):
                        log.warning("Ray had thrown rayplane's package away: it has it again")
            except (RayError, RuntimeError, OSError) as e:
                log.warning("rayplane's package cannot be kept in Ray: %s", e)
        self._kept_at = time.monotonic()
