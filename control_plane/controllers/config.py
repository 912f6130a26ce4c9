"""Settings of the controller manager."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Of the Lease that the manager which leads holds.
LEASE_NAME = "kube-controller-manager"


@dataclass(frozen=True, slots=True)
class Timing:
    """Spans in seconds. Source of the `kubernetes` profile: kube-controller-manager's defaults."""

    node_monitor_period: float = 0.5
    """How often leases of nodes are looked at."""
    node_grace: float = 4.0
    """A node whose lease did not change for this long is NotReady."""
    eviction_after: float = 5.0
    """How long admission lets pods tolerate a lost node by default; what is force-deleted counts from there on."""
    force_delete_grace: float = 2.0
    """How long after eviction a terminating pod on a lost node is deleted without its kubelet."""
    lease_duration: float = 4.0
    """Leader election: how long a lease is good without being renewed."""
    renew_deadline: float = 3.0
    """Leader election: a leader that could not renew for this long steps down."""
    retry_period: float = 0.5
    """Leader election: time between attempts."""
    coalesce: float = 0.05
    """Changes of pods are gathered for this long before their owner's status or endpoints are written."""
    pod_gc_period: float = 2.0
    """How often pods are checked for nodes that are gone."""

    def __post_init__(self) -> None:
        if not self.retry_period < self.renew_deadline < self.lease_duration:
            raise ValueError(
                "leader election needs retry_period < renew_deadline < lease_duration, got "
                f"{self.retry_period}, {self.renew_deadline}, {self.lease_duration}"
            )
        if self.node_monitor_period >= self.node_grace:
            raise ValueError("node_monitor_period must be shorter than node_grace")


FAST = Timing()
KUBERNETES = Timing(
    node_monitor_period=5.0,
    node_grace=40.0,
    eviction_after=300.0,
    force_delete_grace=60.0,
    lease_duration=15.0,
    renew_deadline=10.0,
    retry_period=2.0,
    coalesce=0.1,
    pod_gc_period=20.0,
)
PROFILES = {"fast": FAST, "kubernetes": KUBERNETES}


@dataclass(frozen=True, slots=True)
class ControllersConfig:
    """Configuration of one controller manager replica."""

    identity: str
    """Holder identity in the Lease; unique among replicas and over restarts."""
    api_endpoints: tuple[str, ...] = ()
    """host:port of the API servers' gRPC."""
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
    workers: int = 8
    """Workers of each controller."""
    batch_size: int = 200
    """Most operations in one call to the API server."""
    barrier_timeout: float = 30.0
    """Seconds to wait for the caches to show an own write before going on without."""
    csi_timeout: float = 30.0
    """Seconds for one call to a volume backend."""
    garbage_collected: tuple[str, ...] = (
        "pods",
        "replicasets.apps",
        "deployments.apps",
        "statefulsets.apps",
        "daemonsets.apps",
        "jobs.batch",
        "cronjobs.batch",
        "controllerrevisions.apps",
        "replicationcontrollers",
        "services",
        "endpoints",
        "endpointslices.discovery.k8s.io",
        "configmaps",
        "secrets",
        "serviceaccounts",
        "persistentvolumeclaims",
        "persistentvolumes",
        "ingresses.networking.k8s.io",
        "networkpolicies.networking.k8s.io",
        "poddisruptionbudgets.policy",
        "horizontalpodautoscalers.autoscaling",
        "roles.rbac.authorization.k8s.io",
        "rolebindings.rbac.authorization.k8s.io",
        "leases.coordination.k8s.io",
        "nodes",
        "namespaces",
    )
    """Resources whose owner references the garbage collector follows; custom resources are added when defined."""
