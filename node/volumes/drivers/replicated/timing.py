"""Spans of the replication of volumes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicationTiming:
    """Spans in seconds."""

    scan_interval_s: float = 0.2
    """Between two looks at the directory."""
    call_timeout_s: float = 5.0
    """Of one call to a replica."""
    barrier_timeout_s: float = 10.0
    """After this long without a majority the barrier answers an error."""
    repair_after_s: float = 10.0
    """A replica that fails this long is replaced."""
    spread_every_s: float = 2.0
    """So often is looked for replicas that share a machine, and for volumes that nobody uses."""
    retry_min_s: float = 0.1
    retry_max_s: float = 2.0
