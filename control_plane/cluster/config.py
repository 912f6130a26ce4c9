"""The configuration of a cluster: what its user decides, equal for all its components."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from rayplane.control_plane.api.admission.plugins import names, switched_on
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.component_base.log_settings import FORMATS, TEXT
from rayplane.control_plane.durations import DurationError, parse_duration
from rayplane.control_plane.timings import DEFAULT_PROFILE, PROFILES, Timings
from rayplane.node.config import CRI_FORM, cri_path
from rayplane.node.images.errors import BadReference
from rayplane.node.images.registries import Registries

if TYPE_CHECKING:
    from rayplane.control_plane.apiserver.admission.configuration import AdmissionSettings
    from rayplane.control_plane.scheduler.configuration import Configuration
    from rayplane.node.kubelet.config_file import Settings

RAY, PROCESS = "ray", "process"
PACK, SPREAD = "pack", "spread"
AUTO, NAMESPACES = "auto", "namespaces"
MIXED = "mixed"
ON, OFF = "on", "off"
RELAY = "relay"
NONE = "none"
STAND_IN, REFUSE = "stand-in", "refuse"
"""In place of what is kept with the cluster: there is none any more."""
KEPT = (
    "admission_config",
    "audit_policy",
    "authentication_config",
    "authorization_config",
    "authentication_webhook",
    "enable_admission_plugins",
    "disable_admission_plugins",
    "autoscale",
    "unneeded_time",
    "ui",
    "timing",
    "history",
    "network_policy",
    "egress",
    "egress_allow",
    "scheduling",
    "scheduler_config",
    "pull",
    "missing_images",
    "kubelet_config",
)
"""What holds for a cluster until an `up` says otherwise."""
FILES = {
    name: f"{name}_file"
    for name in ("admission_config", "audit_policy", "authentication_config", "authorization_config")
}
"""Where the path stands beside a text that came from a file."""
# Each cluster of a machine takes one slot of 127/8, so that several can run side by side. Below the first slot are the
# addresses of the machine. A cluster keeps its slot for life, so what a number means stays.
SLOTS = 15
_PODS = 13
"""Prefix length of the range of a cluster's pods: 2048 nodes of 254 addresses, or more nodes of fewer."""
_NODE = 24
NODES_MAX = 8000
SCALED_MAX = 2000
"""Nodes of a cluster that an autoscaler may grow: each finds a range of addresses of the usual length."""
DEFAULT_HISTORY, HISTORY_MAX_S = "10m", 7 * 24 * 3600
PODS_MAX = 110
"""On a node, where it has so many addresses."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


def named(plugins: str) -> tuple[str, ...]:
    """The names in a flag for admission plug-ins."""
    return () if plugins == NONE else names(plugins)


def check_name(name: str) -> None:
    """Raises UsageError for what is no name of a cluster, and so of no directory."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"--name {name!r}: use lower-case letters, digits and '-', at most 40")


def check_runtime(runtime: str) -> None:
    """Raises UsageError for what is no runtime of nodes."""
    known = ("simulated", "process", MIXED)
    if runtime not in known and not cri_path(runtime):
        raise UsageError(f"--runtime {runtime!r}: use {' or '.join((*known, CRI_FORM))}")


def makes_processes(runtime: str) -> bool:
    """Tells whether there may be processes of this project's own on nodes of a runtime."""
    return runtime in ("process", MIXED)


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """The cluster's part of 127/8 (RFC 1122 3.2.1.3: all of it is this machine).

    Where pods are isolated they have a network of their own, and with the services' addresses are in 10/8 (RFC 1918).
    """

    slot: int
    isolated: bool = False

    @property
    def networks(self) -> tuple[str, ...]:
        """All that it has."""
        return self.pod_cidr, self.service_cidr, self.external_cidr

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "AddressPlan":
        """The plan of a mapping that may hold more."""
        return AddressPlan(data["slot"], data.get("isolated", False))

    @property
    def _first(self) -> int:
        return 10 if self.isolated else 127

    @property
    def _base(self) -> int:
        return 16 * (self.slot + 1)

    @property
    def pod_cidr(self) -> str:
        return f"{self._first}.{self._base}.0.0/{_PODS}"

    @property
    def service_cidr(self) -> str:
        return f"{self._first}.{self._base + 8}.0.0/16"

    @property
    def first_service(self) -> str:
        """The address of service `kubernetes`."""
        return f"{self._first}.{self._base + 8}.0.1"

    @property
    def dns(self) -> str:
        """The address of the cluster's DNS server."""
        return f"{self._first}.{self._base + 8}.0.10"

    @property
    def external_cidr(self) -> str:
        """Addresses of LoadBalancer services and of the ingress."""
        return f"127.{self._base + 9}.0.0/16"

    @property
    def ingress_address(self) -> str:
        return f"127.{self._base + 9}.0.1:8080"

    @property
    def ingress_tls_address(self) -> str:
        return f"127.{self._base + 9}.0.1:8443"

    @property
    def claim_address(self) -> tuple[str, int]:
        """Whoever listens here owns the slot."""
        return f"127.{self._base + 9}.255.254", 20_000

    @property
    def reservation_address(self) -> tuple[str, int]:
        """Whoever listens here is about to own it."""
        return f"127.{self._base + 9}.255.254", 20_001


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """The flags of `rayplane up`, checked."""

    name: str = "default"
    host: str = RAY
    """`ray` (actors) or `process` (everything in one process)."""
    address: str = ""
    """Ray cluster to join, `auto` or host:port; empty starts one."""
    members: int = 3
    apiservers: int = 2
    schedulers: int = 2
    controllers: int = 2
    nodes: int = 3
    """Node hosts with `nodes_per_host` nodes each."""
    nodes_per_host: int = 1
    node_cpu: str = "4"
    node_memory: str = "8Gi"
    autoscale: str = ""
    """How many nodes there may be, `MIN:MAX`: nodes come when pods find none, and go when nobody needs them; `none`
    or empty as before, or none: there are as many as were asked for."""
    unneeded_time: str = ""
    """How long a node must be needless until it goes, such as `10m`; empty: as before, or as `timing` has it."""
    runtime: str = "simulated"
    """`simulated`, `process`, `mixed` (simulated, but for pods whose RuntimeClass has the handler `process`), or
    `cri:unix:///PATH` of a container runtime's socket on each machine.
    """
    isolation: str = ""
    """`namespaces` or `none`; `auto` or empty: what the cluster has, or what the machine of the first `up` can."""
    network_policy: str = ""
    """Whether network policies are kept: `on`, `off`, or `auto` (where they can be); empty: as before, or `auto`."""
    egress: str = ""
    """How isolated pods reach what is outside of the cluster: `relay` or `none`; empty: as before, or `none`."""
    egress_allow: str = ""
    """Networks of the machine's own that the relay reaches too, with commas between; `none` for none; kept."""
    timing: str = ""
    """`fast` or `kubernetes`; empty for `fast` (`up`: for what the cluster had before)."""
    history: str = ""
    """For how long the past can be seen at least, such as `1h`; empty (`up`: as before, or `10m`) for some minutes
    that no time leads to."""
    audit_policy: str = ""
    """Text of the API servers' audit policy; empty records nothing (`up`: whatever the cluster did before)."""
    authentication_config: str = ""
    """Text of the API servers' AuthenticationConfiguration; as `audit_policy`, also those that follow."""
    authorization_config: str = ""
    """Text of their AuthorizationConfiguration."""
    admission_config: str = ""
    """Text of their AdmissionConfiguration."""
    audit_policy_file: str = ""
    """Where that text came from: API servers on a machine that has this file read it again when it changes."""
    authentication_config_file: str = ""
    authorization_config_file: str = ""
    admission_config_file: str = ""
    enable_admission_plugins: str = ""
    """Names of the API servers' admission plug-ins that are on beside those that are anyway, with commas between; kept
    as `audit_policy`."""
    disable_admission_plugins: str = ""
    authentication_webhook: str = ""
    """Path of a kubeconfig file, on the machines of API servers, of the webhook that reviews tokens."""
    ui: str = ""
    """Whether API servers serve the dashboard's page: `on` or `off`; empty: as before, or `off`."""
    scheduling: str = ""
    """What `default-scheduler` does, `pack` or `spread`; empty: what it did before, or `pack`."""
    scheduler_config: str = ""
    """Text of the schedulers' KubeSchedulerConfiguration, in place of their own profiles; kept as `audit_policy`."""
    pull: str = ""
    """The registries that images are pulled from, with commas between and `=ADDRESS` for a mirror, or `all`; kept as
    `audit_policy`."""
    missing_images: str = ""
    """What becomes of an image that is not there: the machine does `stand-in` for it, or it is a `refuse`."""
    kubelet_config: str = ""
    """Text of the nodes' KubeletConfiguration; kept as `audit_policy`."""
    log_format: str = TEXT
    """`text` or `json` (`up`: also of a cluster that had another before)."""
    ray_tls: bool = False
    """Ray's own processes speak mutual TLS to each other (`up`: also if the cluster did so before)."""

    def validate(self) -> None:
        """Raises UsageError that names the flag."""
        check_name(self.name)
        check_runtime(self.runtime)
        for flag, value, allowed in (
            ("--host", self.host, (RAY, PROCESS)),
            ("--isolation", self.isolation or AUTO, (AUTO, NAMESPACES, NONE)),
            ("--network-policy", self.network_policy or AUTO, (AUTO, ON, OFF)),
            ("--ui", self.ui or OFF, (ON, OFF)),
            ("--egress", self.egress or NONE, (NONE, RELAY)),
            ("--timing", self.timing or DEFAULT_PROFILE, tuple(PROFILES)),
            ("--log-format", self.log_format, FORMATS),
            ("--scheduling", self.scheduling or PACK, (PACK, SPREAD)),
            ("--missing-images", self.missing_images or STAND_IN, (STAND_IN, REFUSE)),
        ):
            if value not in allowed:
                raise UsageError(f"{flag} {value!r}: use {' or '.join(allowed)}")
        self._validate_counts()
        for flag, text in (("--node-cpu", self.node_cpu), ("--node-memory", self.node_memory)):
            if not quantity.is_quantity(text) or quantity.milli(text) <= 0:
                raise UsageError(f"{flag} {text!r}: use a positive quantity such as 4, 500m or 8Gi")
        if self.address and self.host != RAY:
            raise UsageError("--address: only a cluster on Ray can join a Ray cluster")
        if self.ray_tls and (self.address or self.host != RAY):
            raise UsageError("--ray-tls: only for a Ray cluster that `up` starts; another has TLS as it was set up")
        self._validate_scaling()
        self._validate_history()
        self._validate_networks()
        self._validate_files()
        self._validate_plugins()

    def _validate_counts(self) -> None:
        if self.members < 1 or self.members % 2 == 0:
            raise UsageError(
                f"--members {self.members}: use an odd number; an even one tolerates no more failures than one less"
            )
        for flag, count, low, high in (
            ("--members", self.members, 1, 9),
            ("--apiservers", self.apiservers, 1, 50),
            ("--schedulers", self.schedulers, 1, 9),
            ("--controllers", self.controllers, 1, 9),
            ("--nodes", self.nodes, 0, 2000),
            ("--nodes-per-host", self.nodes_per_host, 1, 2000),
        ):
            if not low <= count <= high:
                raise UsageError(f"{flag} {count}: use {low} to {high}")
        if self.nodes * self.nodes_per_host > NODES_MAX:
            raise UsageError(f"--nodes times --nodes-per-host: at most {NODES_MAX} nodes fit the pod address range")

    @property
    def registries(self) -> Registries:
        """Where images are pulled from. Raises BadReference."""
        return Registries.of("" if self.pull == NONE else self.pull)

    def _validate_scaling(self) -> None:
        if self.autoscales and not re.fullmatch(r"\d{1,4}:\d{1,4}", self.autoscale):
            raise UsageError(f"--autoscale {self.autoscale!r}: use MIN:MAX, such as 1:10, or {NONE}")
        least, most = self.node_limits
        if self.autoscales and not (least <= most and 1 <= most <= SCALED_MAX):
            raise UsageError(f"--min-nodes {least}, --max-nodes {most}: use 0 to {SCALED_MAX}, and no less than before")
        try:
            spans = self.unneeded_s > 0
        except DurationError as e:
            raise UsageError(f"--scale-down-unneeded-time: {e}") from e
        if not spans:
            raise UsageError(f"--scale-down-unneeded-time {self.unneeded_time!r}: use a span such as 30s or 10m")

    def _validate_history(self) -> None:
        try:
            kept = not self.history or 0 < self.history_s <= HISTORY_MAX_S
        except DurationError as e:
            raise UsageError(f"--history: {e}") from e
        if not kept:
            raise UsageError(
                f"--history {self.history!r}: use a span such as 30m or 1h, at most {HISTORY_MAX_S // 3600}h"
            )

    @property
    def autoscales(self) -> bool:
        return self.autoscale not in ("", NONE)

    @property
    def node_limits(self) -> tuple[int, int]:
        """The fewest and the most nodes that an autoscaler may leave."""
        least, _, most = self.autoscale.partition(":") if self.autoscales else ("0", "", "0")
        return int(least), int(most)

    @property
    def unneeded_s(self) -> float:
        """Raises DurationError."""
        return parse_duration(self.unneeded_time) if self.unneeded_time else self.timings.scaling.unneeded_s

    @property
    def history_s(self) -> float:
        """For how long history is kept; 0 where nobody wants it for longer than it is anyway. Raises DurationError."""
        return parse_duration(self.history) if self.history else 0.0

    def _validate_networks(self) -> None:
        for text in self.egress_networks:
            try:
                IPv4Network(text)
            except ValueError as e:
                raise UsageError(f"--egress-allow: {e}; use networks of IPv4 such as 192.0.2.0/24") from e

    @property
    def egress_networks(self) -> tuple[str, ...]:
        return () if self.egress_allow in ("", NONE) else tuple(self.egress_allow.split(","))

    def _validate_plugins(self) -> None:
        try:
            self.registries  # noqa: B018  # raises
        except BadReference as e:
            raise UsageError(f"--pull: {e}") from e
        on, off = (named(text) for text in (self.enable_admission_plugins, self.disable_admission_plugins))
        try:
            switched_on(on, off)
        except ValueError as e:
            raise UsageError(f"--enable-admission-plugins, --disable-admission-plugins: {e}") from e

    def _validate_files(self) -> None:
        from rayplane.control_plane.api.config_files import ConfigFileError

        if self.scheduling and self.scheduler_config not in ("", NONE):
            raise UsageError("--scheduling: with a --scheduler-config it is its profiles that count; give one of both")
        for flag, text, read, kind in (
            ("--audit-policy", self.audit_policy, _audit, "Policy of audit.k8s.io/v1"),
            ("--authentication-config", self.authentication_config, _authentication, "AuthenticationConfiguration"),
            ("--authorization-config", self.authorization_config, _webhooks, "AuthorizationConfiguration"),
            ("--admission-control-config-file", self.admission_config, _admission, "AdmissionConfiguration"),
            ("--scheduler-config", self.scheduler_config, scheduler_configuration, "KubeSchedulerConfiguration"),
            ("--kubelet-config", self.kubelet_config, self.kubelet_settings, "KubeletConfiguration"),
        ):
            if text not in ("", NONE):
                try:
                    read(text)
                except ConfigFileError as e:
                    raise UsageError(f"{flag} is no {kind}: {e}") from e

    @property
    def runs_processes(self) -> bool:
        """Tells whether there may be processes on its nodes."""
        return makes_processes(self.runtime)

    @property
    def kubeconfigs(self) -> list[str]:
        """Paths of the kubeconfig files that API servers read."""
        found = [self.authentication_webhook] if self.authentication_webhook not in ("", NONE) else []
        images = _admission(self.admission_config).images if self.admission_config not in ("", NONE) else None
        found += [images.kubeconfig] if images is not None else []
        return found + (_webhooks(self.authorization_config) if self.authorization_config not in ("", NONE) else [])

    @property
    def node_prefix(self) -> int:
        """Prefix length of the range of a node's pods, so that there is one for each node."""
        return _NODE + max(0, (self.nodes * self.nodes_per_host - 1).bit_length() - (_NODE - _PODS))

    @property
    def node_pods(self) -> int:
        """How many pods a node takes: each needs an address, beside those of the range's ends and the node itself."""
        return min(PODS_MAX, self._node_addresses)

    @property
    def _node_addresses(self) -> int:
        return (1 << (32 - self.node_prefix)) - 3

    def kubelet_settings(self, text: str) -> "Settings":
        """What a KubeletConfiguration means for nodes of this cluster. ConfigFileError."""
        from rayplane.node.kubelet.config_file import read_kubelet_configuration

        return read_kubelet_configuration(text, pods_max=self._node_addresses)

    @property
    def timings(self) -> Timings:
        return PROFILES[self.timing or DEFAULT_PROFILE]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "ClusterConfig":
        return ClusterConfig(**data)


# Imported where they are asked for: with them comes all that compiles expressions, into each actor.


def _audit(text: str) -> object:
    from rayplane.control_plane.api.audit import read_policy

    return read_policy(text)


def _authentication(text: str) -> object:
    from rayplane.control_plane.apiserver.authentication.configuration import read_authentication

    return read_authentication(text)


def _admission(text: str) -> "AdmissionSettings":
    from rayplane.control_plane.apiserver.admission.configuration import read_admission

    return read_admission(text)


def _webhooks(text: str) -> list[str]:
    """The kubeconfig files of those who authorize."""
    from rayplane.control_plane.apiserver.authorization.configuration import WebhookSettings, read_authorization

    return [one.kubeconfig for one in read_authorization(text) if isinstance(one, WebhookSettings)]


def scheduler_configuration(text: str) -> "Configuration":
    """What a KubeSchedulerConfiguration means. ConfigFileError."""
    from rayplane.control_plane.scheduler.configuration import read_configuration
    from rayplane.control_plane.scheduler.installed import points_of_installed

    return read_configuration(text, points_of_installed())
