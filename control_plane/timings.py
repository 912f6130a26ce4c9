"""The spans of a cluster that hold it together, each kept with the others it must be longer or shorter than.

Pure. A cluster has one `Timings`, made from `rayplane up --timing`; each component is handed its part. Spans are
seconds. Sources of `KUBERNETES`: the defaults of kube-controller-manager, kubelet and client-go's leader election.
"""

from dataclasses import dataclass

#: What a node's fence leaves between its last moment and the control plane's first: the controllers count in whole
#: seconds, and from seeing a renewal rather than from its sending.
FENCE_MARGIN_S = 1.0


class BadTimings(ValueError):
    """Spans that do not fit together; the message says which of them to change, and how."""


@dataclass(frozen=True, slots=True)
class ElectionTiming:
    """Leader election by a Lease: `retry_s` < `renew_deadline_s` < `duration_s`, so that two never lead at once."""

    duration_s: float = 15.0
    """How long a Lease is good without being renewed."""
    renew_deadline_s: float = 10.0
    """A leader that could not renew for this long steps down."""
    retry_s: float = 2.0
    """Between two attempts."""

    def __post_init__(self) -> None:
        if not 0 < self.retry_s < self.renew_deadline_s < self.duration_s:
            raise BadTimings(f"election timing must rise: retry < renew deadline < duration, not {self}")


@dataclass(frozen=True, slots=True)
class ServerChanges:
    """Spans until all who call API servers and members know of those that came."""

    discover_s: float = 3.0
    """How often clients and the load balancer ask who there is."""
    learn_s: float = 4.0
    """After one has come, another may go no sooner."""

    def __post_init__(self) -> None:
        if not 0 < self.discover_s < self.learn_s:
            raise BadTimings(
                f"discover_s {self.discover_s:g} must be positive and shorter than learn_s {self.learn_s:g}, or "
                "servers go before all know their successors: lengthen learn_s"
            )


SERVER_CHANGES = ServerChanges()


@dataclass(frozen=True, slots=True)
class NodeLeases:
    """Spans of node Leases: renewals, what the control plane makes of silence, when a node gives up by itself."""

    renew_s: float
    """Between two renewals of a node's Lease."""
    duration_s: int
    """`leaseDurationSeconds` of that Lease."""
    monitor_s: float
    """How often the controllers look at the Leases."""
    grace_s: float
    """A node whose Lease did not change for this long is NotReady."""
    toleration_s: int
    """How long pods by default stay on a node that is not ready (admission gives it to them): then they are evicted."""
    force_delete_s: float
    """How long after its eviction a pod on a lost node is deleted without its kubelet."""
    fence_s: float
    """A node that could not renew for this long stops its pods: before the control plane starts others for them."""

    def __post_init__(self) -> None:
        evicted_s = self.grace_s + self.toleration_s
        rules = (
            (0 < self.renew_s < self.duration_s, "renew_s must be positive and shorter than duration_s"),
            (self.monitor_s < self.grace_s, "monitor_s must be shorter than grace_s, or a lost node is seen too late"),
            (self.duration_s <= self.grace_s, "duration_s must not be longer than grace_s, or NotReady comes too soon"),
            (
                self.grace_s <= self.fence_s,
                "fence_s must be at least grace_s, or pods are stopped on nodes that count as ready",
            ),
            (
                self.fence_s <= evicted_s - FENCE_MARGIN_S,
                f"fence_s must be at most grace_s + toleration_s - {FENCE_MARGIN_S:g}, or pods without any grace run "
                "twice",
            ),
            (
                self.fence_s + self.renew_s <= evicted_s + self.force_delete_s - FENCE_MARGIN_S,
                "fence_s + renew_s must be shorter than grace_s + toleration_s + force_delete_s by "
                f"{FENCE_MARGIN_S:g}, or pods run twice: lengthen force_delete_s",
            ),
        )
        for holds, text in rules:
            if not holds:
                raise BadTimings(f"{text}; given {self}")


@dataclass(frozen=True, slots=True)
class NodeScaling:
    """Spans of an autoscaler of nodes: between two looks, until a needless node goes, until one is expected no more."""

    look_s: float
    unneeded_s: float
    provision_s: float

    def __post_init__(self) -> None:
        if not 0 < self.look_s < self.unneeded_s < self.provision_s:
            raise BadTimings(f"spans of an autoscaler must rise: look < unneeded < provision, not {self}")


@dataclass(frozen=True, slots=True)
class Timings:
    """The spans of one cluster."""

    tick_s: float
    """Of an etcd member: between two heartbeats of its leader."""
    election_ticks: int
    """Ticks without a heartbeat after which a member stands for election; up to twice as many by chance."""
    endpoint_lease_s: int
    """Time to live of an API server's entry among the endpoints of service `kubernetes`."""
    election: ElectionTiming
    nodes: NodeLeases
    scaling: NodeScaling
    leisure: float = 1.0
    """How many times longer than usual those wait who only look whether all is still well: the load balancer at API
    servers, these at who leads, the supervisor at actors while nothing is to be done."""

    @property
    def election_s(self) -> float:
        """How long members may wait for a leader before they elect one."""
        return 2 * self.election_ticks * self.tick_s

    def __post_init__(self) -> None:
        silent_s = self.election_s
        if self.tick_s <= 0 or self.election_ticks < 5:
            raise BadTimings("tick_s must be positive and election_ticks at least 5: heartbeats need several chances")
        if self.leisure < 1:
            raise BadTimings(f"leisure {self.leisure:g} must be at least 1: the usual spans are short enough")
        if silent_s >= self.election.renew_deadline_s:
            raise BadTimings(
                f"an election of etcd takes up to {silent_s:g} s: election.renew_deadline_s "
                f"{self.election.renew_deadline_s:g} must be longer, or each costs the scheduler its lead"
            )
        if silent_s >= self.nodes.grace_s:
            raise BadTimings(
                f"an election of etcd takes up to {silent_s:g} s: nodes.grace_s {self.nodes.grace_s:g} must be longer, "
                "or each makes all nodes NotReady"
            )


FAST = Timings(
    tick_s=0.1,
    election_ticks=8,
    endpoint_lease_s=10,
    election=ElectionTiming(4.0, 3.0, 0.5),
    nodes=NodeLeases(
        renew_s=1.0, duration_s=4, monitor_s=0.5, grace_s=4.0, toleration_s=5, force_delete_s=2.0, fence_s=8.0
    ),
    scaling=NodeScaling(look_s=1.0, unneeded_s=30.0, provision_s=120.0),
)
KUBERNETES = Timings(
    # Heartbeats are most of what an idle cluster does; who waits 40 s for a node can wait 2.5 s for a leader.
    tick_s=0.5,
    election_ticks=5,
    endpoint_lease_s=15,
    election=ElectionTiming(),
    nodes=NodeLeases(
        renew_s=10.0, duration_s=40, monitor_s=5.0, grace_s=40.0, toleration_s=300, force_delete_s=60.0, fence_s=330.0
    ),
    scaling=NodeScaling(look_s=10.0, unneeded_s=600.0, provision_s=900.0),
)
SPARSE = Timings(
    # For long spans of virtual time and for clusters that idle: what an idle cluster does is done every minute.
    tick_s=10.0,
    election_ticks=5,
    endpoint_lease_s=180,
    election=ElectionTiming(240.0, 180.0, 60.0),
    nodes=NodeLeases(
        renew_s=60.0,
        duration_s=300,
        monitor_s=60.0,
        grace_s=300.0,
        toleration_s=300,
        force_delete_s=120.0,
        fence_s=360.0,
    ),
    scaling=NodeScaling(look_s=60.0, unneeded_s=600.0, provision_s=900.0),
    leisure=30.0,
)
PROFILES = {"fast": FAST, "kubernetes": KUBERNETES, "sparse": SPARSE}
DEFAULT_PROFILE = "fast"
