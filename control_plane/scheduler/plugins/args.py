"""Arguments of plug-ins, with Kubernetes' defaults.

Source: API reference kubescheduler.config.k8s.io/v1 (NodeResourcesFitArgs and its like).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

CPU_AND_MEMORY = (("cpu", 1), ("memory", 1))


class Strategy(Enum):
    """Scoring strategies for a node's use."""

    MOST_ALLOCATED = "MostAllocated"
    LEAST_ALLOCATED = "LeastAllocated"
    REQUESTED_TO_CAPACITY_RATIO = "RequestedToCapacityRatio"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitArgs:
    """Arguments of NodeResourcesFit. `resources` are names with weights, `shape` points of (percent of use, score 0 to
    10) for the ratio strategy, by rising use.
    """

    strategy: Strategy = Strategy.LEAST_ALLOCATED
    resources: tuple[tuple[str, int], ...] = CPU_AND_MEMORY
    shape: tuple[tuple[int, int], ...] = ()
    ignored_resources: frozenset[str] = frozenset()
    ignored_resource_groups: frozenset[str] = frozenset()

    def ignores(self, resource: str) -> bool:
        """Whether a lack of an extended resource is none of this scheduler's business."""
        if "/" not in resource:
            return False
        return resource in self.ignored_resources or resource.partition("/")[0] in self.ignored_resource_groups


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancedArgs:
    """Arguments of NodeResourcesBalancedAllocation."""

    resources: tuple[tuple[str, int], ...] = CPU_AND_MEMORY


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAffinityArgs:
    """Arguments of NodeAffinity. `added_affinity` is a NodeAffinity of the API, for all pods of the profile."""

    added_affinity: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InterPodAffinityArgs:
    """Arguments of InterPodAffinity."""

    hard_pod_affinity_weight: int = 1
    ignore_preferred_terms_of_existing_pods: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadArgs:
    """Arguments of PodTopologySpread. `default_constraints` are those of `defaultingType: List`; None is `System`."""

    default_constraints: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeBindingArgs:
    """Arguments of VolumeBinding. `shape`: points as in FitArgs, of the use of storage."""

    bind_timeout_s: float = 600.0
    """A placed pod's volumes must be bound within this."""
    shape: tuple[tuple[int, int], ...] = ((0, 10), (100, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicResourcesArgs:
    """Arguments of DynamicResources."""

    binding_timeout_s: float = 600.0
    """Devices must be ready for a placed pod within this, from when they were allocated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionArgs:
    """Arguments of DefaultPreemption: how many nodes are tried out, at least."""

    min_candidate_nodes_percentage: int = 10
    min_candidate_nodes_absolute: int = 100
