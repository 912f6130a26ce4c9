"""Settings of the scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.timings import FAST, ElectionTiming


class Strategy(Enum):
    """Scoring strategies for a node's use (Kubernetes: NodeResourcesFit's scoringStrategy)."""

    MOST_ALLOCATED = "MostAllocated"
    LEAST_ALLOCATED = "LeastAllocated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One schedulerName. Weights as in Kubernetes' default plugins; each plugin's score is 0 to 100."""

    name: str
    strategy: Strategy
    resources_weight: int = 1
    taint_weight: int = 3
    affinity_weight: int = 2
    interpod_weight: int = 2
    spread_weight: int = 2


DEFAULT_PROFILES = (
    Profile(name="default-scheduler", strategy=Strategy.MOST_ALLOCATED),
    Profile(name="spread-scheduler", strategy=Strategy.LEAST_ALLOCATED),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Configuration of one scheduler replica. Spans in seconds."""

    #: Holder identity in the Lease; unique among replicas and over restarts.
    identity: str
    #: host:port of the API servers' gRPC.
    api_endpoints: tuple[str, ...] = ()
    #: host:port of others that tell where the API servers are.
    discovery: tuple[str, ...] = ()
    #: host:port where its metrics are served; empty: nowhere.
    address: str = ""
    profiles: tuple[Profile, ...] = DEFAULT_PROFILES
    election: ElectionTiming = FAST.election
    #: Pods decided in one go, without letting other tasks run.
    cycle_pods_max: int = 256
    #: Bindings in one call to the API server.
    bind_batch_max: int = 128
    #: Calls with bindings on their way at the same time; further cycles wait.
    bind_calls_max: int = 8
    #: A pod that found no node waits so long, doubling up to the maximum, before it may try again.
    backoff: Backoff = field(default_factory=lambda: Backoff(1.0, 10.0))
    #: A pod that no event concerned tries again after this.
    unschedulable_retry_s: float = 300.0
    #: A placed pod's volumes must be bound within this.
    volume_bind_timeout_s: float = 600.0
    #: Nodes looked at for victims of one preemption.
    preemption_nodes_max: int = 100

    def __post_init__(self) -> None:
        if not self.profiles or len({p.name for p in self.profiles}) != len(self.profiles):
            raise ValueError("profiles must have different names, and there must be one at least")
        for name in ("cycle_pods_max", "bind_batch_max", "bind_calls_max", "preemption_nodes_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
