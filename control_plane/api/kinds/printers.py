"""How objects become rows of tables: columns and cells per kind, as kubectl shows them.

Owns: the texts of cells. Does not own: the Table object around the rows
(`control_plane.api.machinery.tables`).
Concurrency: pure functions; the time rows are aged by is an argument.
"""

from __future__ import annotations

from rayplane.control_plane.api.kinds import (
    printers_cluster as cluster,
)
from rayplane.control_plane.api.kinds import (
    printers_network as network,
)
from rayplane.control_plane.api.kinds import (
    printers_storage as storage,
)
from rayplane.control_plane.api.kinds import (
    printers_workloads as workloads,
)
from rayplane.control_plane.api.kinds.core import pod_printer as pods
from rayplane.control_plane.api.machinery.columns import Printer

PRINTERS: dict[tuple[str, str], Printer] = {
    **pods.PRINTERS,
    **workloads.PRINTERS,
    **network.PRINTERS,
    **storage.PRINTERS,
    **cluster.PRINTERS,
}
"""Printers by (API group, kind)."""
