"""Settings of the controller manager."""

from __future__ import annotations

from dataclasses import dataclass, field

from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.timings import FAST, KUBERNETES, ElectionTiming, NodeLeases, Timings

#: Of the Lease that the manager which leads holds.
LEASE_NAME = "kube-controller-manager"


@dataclass(frozen=True, slots=True)
class AutoscalerTiming:
    """Spans of the horizontal pod autoscaler, in seconds: those of kube-controller-manager's flags by default."""

    sync_s: float = 15.0
    """Between two looks at an autoscaler."""
    downscale_stabilization_s: float = 300.0
    """For how long a higher number of replicas is kept, where the autoscaler's behavior does not say."""
    cpu_initialization_s: float = 300.0
    """While a pod is younger, its use of CPU counts only if it is ready and was measured since."""
    initial_readiness_s: float = 30.0
    """A pod that is not ready after this long has been ready before."""


_FAST_AUTOSCALER = AutoscalerTiming(2.0, 30.0, 5.0, 2.0)


@dataclass(frozen=True, slots=True)
class Timing:
    """The part of a cluster's `Timings` that concerns controllers, and their own spans, in seconds."""

    nodes: NodeLeases = FAST.nodes
    election: ElectionTiming = FAST.election
    coalesce_s: float = 0.05
    """Changes of pods are gathered for this long before their owner's status or endpoints are written."""
    pod_gc_s: float = 2.0
    """How often pods are checked for nodes that are gone."""
    collect_s: float = 5.0
    """How often aggregated APIs are looked through for objects of owners that are gone."""
    autoscaler: AutoscalerTiming = _FAST_AUTOSCALER
    quarantine_s: float = 2.0
    """Pods of a node that is gone are left alone for this long: it may be made anew."""
    force_detach_s: float = 15.0
    """After this long what no pod uses is detached from a node that is not ready, though the node says it uses it."""
    eviction_rate: float = 10.0
    """Nodes of a zone whose pods begin to be evicted, in a second."""
    secondary_eviction_rate: float = 1.0
    """The same in a large zone most of which is lost."""

    @staticmethod
    def of(timings: Timings) -> Timing:
        """As often as suits a cluster with these timings."""
        if timings.nodes.grace_s < KUBERNETES.nodes.grace_s:
            return Timing(timings.nodes, timings.election)
        return Timing(
            timings.nodes,
            timings.election,
            coalesce_s=0.1,
            pod_gc_s=20.0,
            collect_s=30.0,
            quarantine_s=40.0,
            force_detach_s=360.0,
            eviction_rate=0.1,
            secondary_eviction_rate=0.01,
            autoscaler=AutoscalerTiming(),
        )


def collected_resources() -> tuple[str, ...]:
    """All resources that are stored, but for Events, which go by themselves."""
    return tuple(info.name for info in builtin_registry().stored() if info.kind != "Event")


@dataclass(frozen=True, slots=True)
class ControllersConfig:
    """Configuration of one controller manager replica."""

    identity: str
    """Holder identity in the Lease; unique among replicas and over restarts."""
    api_endpoints: tuple[str, ...] = ()
    """host:port of the API servers' gRPC."""
    discovery: tuple[str, ...] = ()
    """host:port of supervisors at first: they tell where the API servers are, and sign certificates."""
    address: str = ""
    """host:port where its metrics are served; empty: nowhere."""
    timing: Timing = field(default_factory=Timing)
    pod_cidr: str = "127.64.0.0/12"
    """Nodes get parts of this."""
    node_cidr_mask: int = 24
    """Prefix length of a node's part."""
    external_cidr: str = "127.200.0.0/16"
    """Services of type LoadBalancer get addresses of this."""
    reserved_addresses: tuple[str, ...] = ()
    """Addresses of it that are somebody's already."""
    ca_certificate: str = ""
    """PEM of the cluster's CA, put into the ConfigMap `kube-root-ca.crt` of each namespace; empty: none is made."""
    server: str = ""
    """URL of the API for those who join, in the ConfigMap `cluster-info`; empty: there is none."""
    node_hosts: str = ""
    """What nodes that join are told of the cluster's, in the ConfigMap `rayplane-node-hosts`; empty: there is none."""
    terminated_pods_max: int = 12_500
    """Of pods that have ended, more than these are not kept; 0: all are."""
    workers: int = 8
    """Workers of each controller."""
    batch_size: int = 200
    """Most operations in one call to the API server."""
    barrier_timeout_s: float = 30.0
    """Seconds to wait for the caches to show an own write before they are read anew."""
    csi_timeout_s: float = 30.0
    """Seconds for one call to a volume backend."""
    garbage_collected: tuple[str, ...] = field(default_factory=collected_resources)
    """Resources whose owner references the garbage collector follows; custom resources are added when defined."""
