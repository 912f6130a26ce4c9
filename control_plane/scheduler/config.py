"""Settings of the scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.scheduler.extenders import Extender
from rayplane.control_plane.scheduler.plugins.args import FitArgs, SpreadArgs, Strategy
from rayplane.control_plane.timings import FAST, ElectionTiming

DEFAULT_FILTERS = (
    "NodeUnschedulable",
    "NodeName",
    "TaintToleration",
    "NodeAffinity",
    "NodePorts",
    "NodeResourcesFit",
    "VolumeRestrictions",
    "NodeVolumeLimits",
    "VolumeBinding",
    "VolumeZone",
    "PodTopologySpread",
    "InterPodAffinity",
    "DynamicResources",
    "NodeDeclaredFeatures",
)
DEFAULT_SCORES = (
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodeResourcesFit", 1),
    ("VolumeBinding", 1),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    ("DynamicResources", 2),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
)
#: By use alone: neither of these would take the fullest, or the emptiest, node.
_BY_USE = tuple(score for score in DEFAULT_SCORES if score[0] != "NodeResourcesBalancedAllocation")


DEVICES = "DynamicResources"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One schedulerName: which plug-ins are asked, in what order, with what weights and arguments.

    Unless told otherwise, Kubernetes' default profile. `args` has an instance of the classes in `plugins.args` for
    each plug-in that is not to work with its defaults, by the plug-in's name.
    """

    name: str
    filters: tuple[str, ...] = DEFAULT_FILTERS
    scores: tuple[tuple[str, int], ...] = DEFAULT_SCORES
    args: Mapping[str, Any] = field(default_factory=dict)
    #: Whether pods that find no node may have others of lower priority deleted (DefaultPreemption).
    preempts: bool = True
    #: Whether pods that find no node are told what became of their claims to devices (DynamicResources).
    deallocates: bool = True
    #: Whether pods with `schedulingGates` wait (SchedulingGates).
    gates: bool = True
    #: Whether pods of a pod group are decided together (GangScheduling).
    gangs: bool = True
    #: Whether the scheduler binds by itself what no other plug-in binds (DefaultBinder).
    binds: bool = True
    #: Names of plug-ins that are not Kubernetes' own, by extension point, in the order in which they are asked.
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _by_use(name: str, strategy: Strategy) -> Profile:
    args = {"NodeResourcesFit": FitArgs(strategy=strategy), "PodTopologySpread": SpreadArgs(default_constraints=())}
    return Profile(name=name, scores=_BY_USE, args=args)


def default_profiles(*, spreads: bool = False) -> tuple[Profile, Profile]:
    """The profiles that are there without a configuration file. `spreads`: also the default one takes the emptiest."""
    strategy = Strategy.LEAST_ALLOCATED if spreads else Strategy.MOST_ALLOCATED
    return _by_use("default-scheduler", strategy), _by_use("spread-scheduler", Strategy.LEAST_ALLOCATED)


DEFAULT_PROFILES = default_profiles()


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
    #: Programs elsewhere that have a say, in the order in which they are asked.
    extenders: tuple[Extender, ...] = ()
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

    def __post_init__(self) -> None:
        if not self.profiles or len({p.name for p in self.profiles}) != len(self.profiles):
            raise ValueError("profiles must have different names, and there must be one at least")
        for name in ("cycle_pods_max", "bind_batch_max", "bind_calls_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
