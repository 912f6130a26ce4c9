"""Callers of the scheduler's services, by method."""

from rayplane.control_plane.rpc import ADMINISTRATORS, each

#: Of `rayplane.v1.Scheduler`.
SCHEDULER = each(ADMINISTRATORS, "Explain")
