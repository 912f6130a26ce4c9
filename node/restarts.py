"""Spans before a node tries something of a pod again.

By itself, since each actor reads a cluster's configuration and few need the life cycle of pods.
"""

from dataclasses import dataclass

from rayplane.control_plane.backoff import Backoff


@dataclass(frozen=True, slots=True)
class RestartTiming:
    """Spans before trying again, in seconds."""

    backoff: Backoff
    """Waits before the second and further restarts; the first one is immediate, as in Kubernetes."""
    reset_after_s: float
    """A container which ran this long starts over with the shortest wait."""
    retry_s: float
    """Wait after a failure that is not the container's own (missing ConfigMap, volume, address)."""


KUBERNETES_RESTARTS = RestartTiming(Backoff(10.0, 300.0), 600.0, 10.0)
