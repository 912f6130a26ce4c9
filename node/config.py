"""Configuration of a node host. Frozen; checked by `validate`; seconds where a name ends in `_s`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.timings import FAST, KUBERNETES, Timings
from rayplane.node.errors import ConfigError
from rayplane.node.restarts import KUBERNETES_RESTARTS, RestartTiming

SIMULATED = "simulated"
PROCESS = "process"
RUNTIMES = (SIMULATED, PROCESS)
PIDS_MAX = 2048
"""Processes and threads of one pod, where nothing else is said."""
SHUTDOWN_MAX_S = 120.0
"""How long a node may take to end its pods: whoever removes it waits for that."""
RUNTIME_CLASSES = "runtimeclasses.node.k8s.io"
"""The resource that says which handler a pod's `runtimeClassName` means."""
CRI = "cri:"
CRI_FORM = "cri:unix:///PATH"
"""The name of a runtime that is another program: where its socket is."""
NONE = "none"
NAMESPACES = "namespaces"
AUTO, ON, OFF = "auto", "on", "off"
RELAY = "relay"


@dataclass(frozen=True, slots=True)
class NodeTiming:
    """Spans of a node: how often it reports, how long pods wait."""

    lease_renew_s: float
    """Between two renewals of the node's Lease."""
    lease_duration_s: int
    """`leaseDurationSeconds` of the Lease: how long the node counts as well without a renewal."""
    fence_after_s: float
    """Without a renewal for this long the node stops its pods: just before the control plane replaces them."""
    restarts: RestartTiming
    """Back-off of containers."""
    status_every_s: float = 300.0
    """Between two refreshes of the node's status when nothing changed: Leases tell that it lives."""
    manifests_every_s: float = 20.0
    """Between two looks at the manifests of static pods."""
    pressure_every_s: float = 10.0
    """Between two looks at what the node has left."""
    pressure_transition_s: float = 300.0
    """How long a condition of pressure lasts after its last sight."""

    @staticmethod
    def of(timings: Timings) -> "NodeTiming":
        """A node's part of a cluster's timings."""
        leases = timings.nodes
        fast = leases.grace_s < KUBERNETES.nodes.grace_s
        return NodeTiming(
            lease_renew_s=leases.renew_s,
            lease_duration_s=leases.duration_s,
            fence_after_s=leases.fence_s,
            restarts=RestartTiming(Backoff(1.0, 30.0), 60.0, 1.0) if fast else KUBERNETES_RESTARTS,
            manifests_every_s=2.0 if fast else 20.0,
            pressure_every_s=2.0 if fast else 10.0,
            pressure_transition_s=10.0 if fast else 300.0,
        )


@dataclass(frozen=True, slots=True)
class EvictionLimits:
    """Thresholds below which a node evicts pods, by signal, as a kubelet's configuration has them.

    A disk that others fill is ordinary on a machine of people: unlike a kubelet's, these are not shares of it.
    """

    hard: Mapping[str, str] = field(
        default_factory=lambda: {
            "memory.available": "100Mi",
            "nodefs.available": "100Mi",
            "nodefs.inodesFree": "1000",
            "imagefs.available": "100Mi",
        }
    )
    soft: Mapping[str, str] = field(default_factory=dict)
    soft_grace: Mapping[str, str] = field(default_factory=dict)
    """How long each soft one must be met."""
    minimum_reclaim: Mapping[str, str] = field(default_factory=dict)
    """So much more is to be there before one counts as over."""
    soft_pod_grace_s: float = 0.0
    """Grace of pods that go for a soft threshold, at most their own."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node of a host."""

    name: str
    cpu: str = "4"
    """Capacity, a quantity."""
    memory: str = "8Gi"
    max_pods: int = 110
    runtime: str = SIMULATED
    """`simulated` (containers are data), `process` (containers are processes of this machine), or `cri:unix:///PATH`
    (containers are those of the runtime that serves CRI there)."""
    processes: bool = False
    """Pods of a simulated node may ask for processes by a RuntimeClass, as those of others may ask for none."""
    arch: str = "amd64"
    """Label kubernetes.io/arch."""
    zone: str = ""
    """Label topology.kubernetes.io/zone, when not empty."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Further labels."""
    static_pods: str = ""
    """Path of a directory of manifests on this machine, whose pods the node runs by itself; empty for none."""
    eviction: EvictionLimits = field(default_factory=EvictionLimits)
    """When the node evicts pods to save itself, where they are processes."""

    @property
    def runs_processes(self) -> bool:
        """Tells whether its pods are real unless they ask for something else."""
        return self.runtime == PROCESS or bool(self.cri_path)

    @property
    def cri_path(self) -> str:
        """The path of its runtime's socket; empty where that is one of this project."""
        return cri_path(self.runtime)

    @property
    def takes_processes(self) -> bool:
        """Tells whether any of its pods may be."""
        return self.processes or self.runs_processes


def cri_path(runtime: str) -> str:
    """The path in a runtime's name; empty where that names none."""
    if not runtime.startswith(CRI):
        return ""
    path = runtime.removeprefix(CRI).removeprefix("unix://")
    return path if path.startswith("/") else ""


@dataclass(frozen=True, slots=True)
class NodeHostConfig:
    """One node host: the nodes it carries and where it reaches the cluster."""

    nodes: tuple[NodeConfig, ...]
    apiservers: tuple[str, ...]
    """gRPC endpoints, host:port."""
    discovery: tuple[str, ...] = ()
    """host:port of others that tell where the API servers are."""
    address: str = "127.0.0.1:0"
    """Where the host's gRPC services listen; port 0 is any free one."""
    advertise_host: str = ""
    """The machine's address as others dial it; empty means the host part of `address`."""
    server_name: str = ""
    """What the host is called in TLS, where its certificate is a node's own; empty: it has one of the cluster's."""
    timing: NodeTiming = field(default_factory=lambda: NodeTiming.of(FAST))
    volume_dir: str = "volumes"
    """Volume backends' directory, on the injected disk."""
    volume_capacity: str = "64Gi"
    """What the volume backends of one node may hold; 0: it has no volumes."""
    isolation: str = NONE
    """How real pods are kept apart: `namespaces` of the kernel, or `none`."""
    machine_file: str = ""
    """Path of a file that the cluster's hosts on this machine share, where pods are isolated."""
    services: str = ""
    """The network of the services' addresses, where pods are isolated."""
    dns: str = ""
    """The address of the cluster's DNS server; empty for none."""
    foreign_dns: str = ""
    """The address of this machine at which pods of another project's runtime ask the cluster's DNS; empty: they have
    the machine's own servers."""
    cri_socket: str = ""
    """Path where CRI is served to this user's programs; empty: it is not."""
    network_policy: str = AUTO
    """Whether network policies are kept: `on` (no pod starts where they cannot be), `off`, `auto` (where they can)."""
    egress: str = NONE
    """How isolated pods reach what is outside of the cluster: by the `relay` of their host, or `none`."""
    egress_allow: tuple[str, ...] = ()
    """Networks of IPv4 that the relay reaches although it would refuse them, being the machine's own."""
    image_dir: str = ""
    """The directory of images, which the cluster's hosts on this machine share; empty: there are none."""
    registries: tuple[str, ...] = ()
    """The registries that images are pulled from, or `all`; none: images come from archives and builds alone."""
    registry_mirrors: Mapping[str, str] = field(default_factory=dict)
    """Addresses that are asked before a registry, by its name."""
    refuses_images: bool = False
    """Whether an image that is not there is refused; else this machine stands for it, or it is simulated."""
    pod_dir: str = "pods"
    """Files and logs of real pods, on the injected disk."""
    answer_dir: str = "answers"
    """Files that logs of simulated containers may be read from, on the injected disk."""
    log_file_bytes: int = 10 * 1024 * 1024
    """A file of a container's log holds so much (containerLogMaxSize),"""
    log_files: int = 5
    """and there are so many of them, the one that is written among them (containerLogMaxFiles)."""
    shutdown_grace_s: float = 0.0
    """How long all pods have to end before the host is stopped; 0: they are ended with it, and go on when it is
    back."""
    shutdown_grace_critical_s: float = 0.0
    """The part of that which is for critical pods, after the others have ended."""
    shutdown_by_priority: tuple[tuple[int, float], ...] = ()
    """In place of both: seconds for the pods of at least a priority, below the next one."""
    pod_pids_limit: int = PIDS_MAX
    """Processes and threads of one pod; -1: any number. Without control groups a few more may be, for a moment."""
    image_gc_high_percent: int = 85
    """From this part of the disk on images that nobody uses go,"""
    image_gc_low_percent: int = 80
    """until it is at this one,"""
    image_gc_min_age_s: float = 120.0
    """those whose last use is so long ago."""
    proxy: bool | None = None
    """Whether to listen on service addresses; None: when a node here runs real processes."""
    loopback_networks: tuple[str, ...] = ()
    """Parts of 127/8 in which services may have addresses: the others are other clusters' and the machine's own. Empty:
    any."""
    ingress_address: str = ""
    """host:port of the cluster's ingress; empty: this host serves none."""
    ingress_tls_address: str = ""
    """The same for HTTPS."""
    external_addresses: tuple[str, ...] = ()
    """Further addresses the ingress answers Ingress objects with; empty: the host part of `ingress_address`."""
    batch_window_s: float = 0.02
    """How long status writes wait for company."""
    shared_informer_from: int = 5
    """With at least this many nodes the host watches all pods once, else those of each node."""
    events_per_s: float = 20.0
    """Normal Events of pods written at this rate (with a burst of five seconds' worth); Warnings always are."""

    def validate(self) -> None:
        """ConfigError that names the field."""
        if not self.nodes:
            raise ConfigError("nodes: give at least one")
        if not self.apiservers:
            raise ConfigError("apiservers: give at least one gRPC endpoint")
        names = [n.name for n in self.nodes]
        if len(set(names)) != len(names):
            raise ConfigError("nodes: two have the same name")
        for node in self.nodes:
            _validate_node(node)
        for name, value, known in (
            ("isolation", self.isolation, (NONE, NAMESPACES)),
            ("egress", self.egress, (NONE, RELAY)),
            ("network_policy", self.network_policy, (AUTO, ON, OFF)),
        ):
            if value not in known:
                raise ConfigError(f"{name}: {value!r} is none of {', '.join(known)}")
        if self.network_policy == ON and self.runs_processes and not self.isolates:
            raise ConfigError(f"network_policy: {ON} needs isolation {NAMESPACES}")
        timing = self.timing
        if not timing.lease_renew_s < timing.lease_duration_s <= timing.fence_after_s:
            raise ConfigError("timing: need lease_renew_s < lease_duration_s <= fence_after_s")

    @property
    def pod_processes(self) -> int:
        """Processes of a pod at most; 0 for any number."""
        return max(0, self.pod_pids_limit)

    @property
    def isolates(self) -> bool:
        """Tells whether pods have namespaces of their own here."""
        return self.isolation == NAMESPACES and any(n.takes_processes and not n.cri_path for n in self.nodes)

    @property
    def outer_networks(self) -> tuple[str, ...]:
        """The cluster's parts of 127/8, which to a pod with a network of its own would be the pod itself."""
        return tuple(network for network in self.loopback_networks if network.startswith("127."))

    def led_out(self, runtime: str) -> tuple[str, ...]:
        """The cluster's networks that pods of a runtime at a socket are led to, as they are in that runtime's own:
        services are in one network, isolated pods' first.
        """
        first = next((node.runtime for node in self.nodes if node.cri_path), "")
        return self.loopback_networks if runtime == first and not self.isolates else ()

    @property
    def keeps_volumes(self) -> bool:
        """Tells whether volumes may lie here."""
        return quantity.value(self.volume_capacity) > 0

    @property
    def runs_processes(self) -> bool:
        """Tells whether there may be processes here."""
        return any(n.takes_processes for n in self.nodes)


def _validate_node(node: NodeConfig) -> None:
    if node.runtime not in RUNTIMES and not node.cri_path:
        raise ConfigError(f"nodes: runtime {node.runtime!r} is none of {', '.join((*RUNTIMES, CRI_FORM))}")
    if node.max_pods < 1:
        raise ConfigError("nodes: max_pods must be at least 1")
    for text in (node.cpu, node.memory):
        if not quantity.is_quantity(text):
            raise ConfigError(f"nodes: {text!r} is no quantity; write 4, 500m or 8Gi")
