"""The configuration that an API server gets when it starts."""

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from rayplane.control_plane.api.admission.plugins import switched_on
from rayplane.control_plane.api.podsecurity.levels import MODES, PREFIX, LevelVersion, Policy, parse_labels
from rayplane.control_plane.identities import ADMINISTRATOR, MASTERS
from rayplane.control_plane.rpc.gate import HttpLimits
from rayplane.control_plane.timings import Timings

# Of an election: members that could elect one in time are given the time to answer, too.
_ELECTION_AND_MORE = 1.25
BOOKMARK_INTERVAL_S = 60.0
# So exact is the time of a revision.
_CLOCK_S = 2.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Spans in seconds. The defaults fit the `fast` profile of a cluster."""

    bookmark_interval_s: float = BOOKMARK_INTERVAL_S
    """How often a watcher that asked for bookmarks gets one."""

    watch_timeout_s: float = 3000.0
    """A watch without a timeout of its own ends after this long, plus up to as much again."""

    fresh_timeout_s: float = 3.0
    """How long a read waits for the cache to catch up before it asks etcd directly."""

    request_timeout_s: float = 30.0
    """A request that is no watch is given up after this long."""

    etcd_patience_s: float = 2.0
    """How long no majority of etcd's members may answer before requests that need one are refused."""

    @property
    def queue_wait_s(self) -> float:
        """How long a request waits for seats: a quarter of its time, as in kube-apiserver."""
        return self.request_timeout_s / 4

    endpoint_lease_s: int = 10
    """Time to live of this server's entry among the endpoints of the `kubernetes` service."""

    compaction_interval_s: float = 300.0
    """How often the servers together compact etcd's history; 0 is never."""

    history_s: float = 0.0
    """For how long history is kept at least, where that is longer and etcd has room for it."""

    clock_interval_s: float = 0.0
    """How often the servers together write down the time, by which history is found; 0 is never."""

    event_ttl_s: int = 3600
    """Events are removed this long after they were written."""

    file_pause_s: float = 5.0
    """How often the files of the configuration are looked at."""

    webhook_retry_s: float = 0.5
    """The first pause before a webhook that decides about requests is asked again."""

    leisure: float = 1.0
    """How many times longer than usual this server waits between two looks at who leads and who else serves."""

    toleration_seconds: int = 5
    """How long pods by default stay on a node that is not ready or unreachable."""

    @staticmethod
    def of(timings: Timings, history_s: float = 0.0) -> "Timing":
        """An API server's part of a cluster's timings; with `history_s`, history can be found by time."""
        return Timing(
            toleration_seconds=timings.nodes.toleration_s,
            endpoint_lease_s=timings.endpoint_lease_s,
            leisure=timings.leisure,
            bookmark_interval_s=BOOKMARK_INTERVAL_S * timings.leisure,
            etcd_patience_s=_ELECTION_AND_MORE * timings.election_s,
            history_s=history_s,
            clock_interval_s=_CLOCK_S if history_s else 0.0,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what a server keeps and accepts."""

    history_events: int = 4096
    """Recent changes kept over all resources, from which a cache that is loaded late is rebuilt."""

    history_at_start: int = 1000
    """Revisions of history replayed at start, so that watchers of a replaced server may go on."""

    history_bytes: int = 64 << 20
    """Bytes of objects in them; and so many in the recent changes of one resource, and waiting for one watcher."""

    resource_events: int = 4096
    """Recent changes kept for each resource; a watch that starts before them is answered 410."""

    watcher_events: int = 8192
    """Changes waiting for one watcher; a slower one is ended and has to watch anew."""

    requests_in_flight: int = 128
    """Seats for requests that are worked on at the same time, shared out among the priority levels."""

    body_bytes: int = 3 * 1024 * 1024
    """Largest request body, as in Kubernetes."""

    update_attempts: int = 32
    """Tries of an update against concurrent writers before it is answered with a conflict."""


@dataclass(frozen=True, slots=True)
class PodSecurityConfig:
    """Pod Security Standards for namespaces that say nothing, and who is held to none (PodSecurityConfiguration)."""

    defaults: Mapping[str, str] = field(default_factory=dict)
    """`enforce`, `audit`, `warn` and their `-version`s, with the values of the namespace labels."""

    exempt_usernames: frozenset[str] = frozenset()
    exempt_namespaces: frozenset[str] = frozenset()
    exempt_runtime_classes: frozenset[str] = frozenset()

    def policy(self) -> Policy:
        """The defaults, read. ValueError."""
        known = {mode + part for mode in MODES for part in ("", "-version")}
        unknown = sorted(self.defaults.keys() - known)
        if unknown:
            raise ValueError(f"pod_security.defaults has {', '.join(unknown)}; use {', '.join(sorted(known))}")
        policy, errors = parse_labels({PREFIX + k: v for k, v in self.defaults.items()}, Policy())
        if errors:
            raise ValueError(f"pod_security.defaults: {'; '.join(str(e) for e in errors)}")
        # Here, unlike in labels, nothing follows from another mode.
        return policy if "warn" in self.defaults else replace(policy, warn=LevelVersion())


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """Recording of requests, in `audit.log` on the server's disk."""

    policy: str
    """Text of an `audit.k8s.io/v1` Policy."""

    file_bytes: int = 100 * 1024 * 1024
    """The file is put aside when it would get larger."""

    files_kept: int = 5
    """How many files that were put aside are kept, newest first."""

    queue_events: int = 10_000
    """Events waiting to be written; more are dropped and counted."""

    queue_bytes: int = 64 * 1024 * 1024
    """Bytes of bodies that wait with them."""


AUTHENTICATION, AUTHORIZATION, AUDIT, ADMISSION = "authentication", "authorization", "audit", "admission"
Take = Callable[[str], Awaitable[None]]
"""Puts a text that can be read in the place of the one before. ValueError leaves that as it was."""


@dataclass(frozen=True, slots=True)
class Files:
    """Absolute paths of the files that texts of the configuration come from: what they say later is taken over.

    Where there is none, or no such file, the text holds.
    """

    authentication: str = ""
    authorization: str = ""
    audit: str = ""
    admission: str = ""


@dataclass(frozen=True, slots=True)
class ApiServerConfig:
    """One API server. Everything but `name` and the addresses must be equal on all servers of a cluster."""

    name: str = "apiserver-0"
    etcd_endpoints: tuple[str, ...] = ()
    """host:port of the members' client ports."""

    supervisors: tuple[str, ...] = ()
    """host:port of supervisors at first: they carry out faults."""

    grpc_address: str = "127.0.0.1:0"
    https_address: str | None = "127.0.0.1:0"
    """host:port to serve REST on; None serves gRPC only."""

    advertise_host: str = ""
    """Host that others reach this server by; empty: the host of the addresses."""

    tls_dir: str | None = None
    """Directory with ca.crt, tls.crt, tls.key and, in `front-proxy`, the same to show to servers of aggregated APIs.
    None serves REST as plain HTTP and trusts gRPC callers."""

    token_key: bytes = b""
    """PEM of the P-256 key that signs service-account tokens; empty: none are issued or accepted."""

    token_seconds_max: int = 365 * 24 * 3600
    """Longest life of a service-account token; who asks for more gets this, and older tokens end by it too."""

    encryption: bytes = field(default=b"", repr=False)
    """YAML of Kubernetes' EncryptionConfiguration: what is encrypted in etcd, with which keys; empty: nothing is."""

    static_tokens: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    """Bearer token -> (user, groups)."""

    authentication: str = ""
    """YAML of an AuthenticationConfiguration: other issuers of tokens, and who may be anonymous; empty: everybody."""

    authorization: str = ""
    """YAML of an AuthorizationConfiguration: who decides, in which order; empty: Node, then RBAC."""

    admission: str = ""
    """YAML of an AdmissionConfiguration: what plug-ins are told."""

    authentication_webhook: str = ""
    """Path of a kubeconfig file: who is sent tokens that nobody here knows; empty: nobody."""

    files: Files = field(default_factory=Files)
    issuer: str = "https://kubernetes.default.svc.cluster.local"
    anonymous_grpc_user: tuple[str, tuple[str, ...]] = (ADMINISTRATOR, (MASTERS,))
    """Who a gRPC caller without a certificate is, where the server runs without TLS."""

    service_cidr: str = "127.96.0.0/16"
    dns_address: str = ""
    """The service `kube-dns` has it, in that range; empty: nodes serve no DNS, and there is no such service."""
    external_cidr: str = "127.97.0.0/16"
    node_port_range: tuple[int, int] = (30000, 32767)
    http: HttpLimits = field(default_factory=HttpLimits)
    timing: Timing = field(default_factory=Timing)
    limits: Limits = field(default_factory=Limits)
    pod_security: PodSecurityConfig = field(default_factory=PodSecurityConfig)
    admission_plugins_on: tuple[str, ...] = ()
    """Names of admission plug-ins that are on beside those that are anyway, as Kubernetes has them."""
    admission_plugins_off: tuple[str, ...] = ()
    experiments: bool = False
    """Whether Chaos Mesh's kinds are served from the first: somebody has to carry experiments out."""
    ui: bool = False
    """Whether the dashboard's page is served below `/ui/`."""
    audit: AuditConfig | None = None
    """None: nothing is recorded."""

    def validate(self) -> None:
        """Raise ValueError with what to change."""
        if not self.etcd_endpoints:
            raise ValueError("etcd_endpoints is empty; name at least one member's host:port")
        low, high = self.node_port_range
        if not 0 < low <= high < 65536:
            raise ValueError(f"node_port_range {low}-{high} is no range of ports")
        if ipaddress.ip_network(self.service_cidr).num_addresses < 8:
            raise ValueError(f"service_cidr {self.service_cidr} has no room for services; use /29 or larger")
        if self.dns_address and ipaddress.ip_address(self.dns_address) not in ipaddress.ip_network(self.service_cidr):
            raise ValueError(f"dns_address {self.dns_address} is not in service_cidr {self.service_cidr}")
        if self.token_seconds_max < 600:
            raise ValueError("token_seconds_max is shorter than the shortest token there is, 600 seconds")
        if min(self.limits.resource_events, self.limits.watcher_events, self.limits.requests_in_flight) < 1:
            raise ValueError("limits must be positive")
        switched_on(self.admission_plugins_on, self.admission_plugins_off)
        self.pod_security.policy()
