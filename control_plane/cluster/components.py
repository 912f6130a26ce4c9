"""Components of all actors, built from their specs, the same in every host.

Each builder imports its component itself: an actor loads only what it runs, which is most of its start-up time.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rayplane.control_plane.cluster.config import (
    AUTO,
    MIXED,
    NAMESPACES,
    NONE,
    ON,
    REFUSE,
    SPREAD,
    AddressPlan,
    ClusterConfig,
    makes_processes,
    scheduler_configuration,
)
from rayplane.control_plane.cluster.join.settings import told_nodes
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.cluster.state import CRI_SOCKET
from rayplane.control_plane.cluster.topology import Instance, Role, Topology
from rayplane.control_plane.component_base.version import VERSION
from rayplane.control_plane.rpc import Network
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.control_plane.timings import SERVER_CHANGES
from rayplane.storage.env import Env

if TYPE_CHECKING:
    from rayplane.control_plane.etcd.server import MemberConfig
    from rayplane.control_plane.scheduler.config import SchedulerConfig
    from rayplane.node.config import NodeConfig, NodeHostConfig


class Component(Protocol):
    """A component: what every actor runs."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@runtime_checkable
class StopsItself(Protocol):
    """A component that ends by itself when it cannot go on; `failure` says why."""

    failure: BaseException | None

    async def wait_stopped(self) -> None: ...


@runtime_checkable
class Leaves(Protocol):
    """A component that can end its work in order before it is stopped."""

    def leave_s(self, *, for_good: bool) -> float:
        """How long that takes at most; 0 where there is nothing to be done."""

    async def leave(self, *, for_good: bool) -> None:
        """End it. `for_good`: it does not come back."""


def leave_s(component: Component | None, *, for_good: bool) -> float:
    """How long a component may take to end its work in order."""
    return component.leave_s(for_good=for_good) if isinstance(component, Leaves) else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """All that an actor needs to start, wherever it is started."""

    instance: Instance
    config: ClusterConfig
    plan: AddressPlan
    topology: Topology
    """The cluster as it was when the spec was made: where to find the others at first."""
    credentials: Credentials | None
    """None where the network itself knows who calls (the simulation)."""
    secrets: Secrets | None
    """Only for the supervisor, which makes specs, and (token and encryption keys) for API servers."""
    data_dir: str
    log_file: str
    front_proxy: Credentials | None = None
    """For API servers: what they show to servers of aggregated APIs."""
    restarted: bool = False
    """Whether this actor has run before, so that empty data would mean lost data."""


def build(spec: Spec, env: Env, network: Network, *, tls_dir: str | None, sockets: Sockets | None = None) -> Component:
    """The component of a spec; not yet started. `tls_dir`: where the credentials' files stand. `sockets`: None is the
    operating system's.
    """
    return _BUILDERS[spec.instance.role](spec, env, network, tls_dir, sockets)


def first_endpoint(spec: Spec, count: int) -> int:
    """Which of `count` replicas an actor asks first, so that clients spread: by the number in its name."""
    number = re.search(r"\d+$", spec.instance.name)
    return int(number.group()) % count if number and count else 0


def member_config(spec: Spec) -> "MemberConfig":
    """How the member of a spec is configured."""
    from rayplane.control_plane.etcd.server import MemberConfig

    scheme = "https" if spec.credentials else "http"
    founding = not (spec.instance.joins or spec.restarted)
    return MemberConfig(
        name=spec.instance.name,
        build=VERSION,
        client_address=spec.instance.endpoint("client"),
        peer_address=spec.instance.endpoint("peer"),
        initial_cluster={m.name: f"{scheme}://{m.endpoint('peer')}" for m in spec.topology.of(Role.MEMBER)},
        initial_cluster_token=spec.config.name,
        cluster_state="new" if founding else "existing",
        scheme=scheme,
        tick_s=spec.config.timings.tick_s,
        election_ticks=spec.config.timings.election_ticks,
    )


def _member(spec: Spec, env: Env, network: Network, tls_dir: str | None, sockets: Sockets | None) -> Component:
    from rayplane.control_plane.etcd.server import Member

    return Member(member_config(spec), env, network)


def _apiserver(spec: Spec, env: Env, network: Network, tls_dir: str | None, sockets: Sockets | None) -> Component:
    from rayplane.control_plane.api.admission.plugins import names
    from rayplane.control_plane.apiserver.config import ApiServerConfig, AuditConfig, Files, Timing
    from rayplane.control_plane.apiserver.server import ApiServer

    config = ApiServerConfig(
        name=spec.instance.name,
        etcd_endpoints=spec.topology.endpoints(Role.MEMBER, "client"),
        supervisors=_discovery(spec),
        grpc_address=spec.instance.endpoint("grpc"),
        # Without certificates nobody can be told from anybody: no REST then where anybody could connect.
        https_address=spec.instance.endpoint("https") if tls_dir or sockets else None,
        tls_dir=tls_dir,
        token_key=spec.secrets.token_key if spec.secrets else b"",
        encryption=spec.secrets.encryption if spec.secrets else b"",
        authentication=spec.config.authentication_config,
        authorization=spec.config.authorization_config,
        admission=spec.config.admission_config,
        authentication_webhook=spec.config.authentication_webhook,
        files=Files(
            spec.config.authentication_config_file,
            spec.config.authorization_config_file,
            spec.config.audit_policy_file,
            spec.config.admission_config_file,
        ),
        service_cidr=spec.plan.service_cidr,
        # Simulated pods ask for no names, and their nodes have no sockets.
        dns_address=spec.plan.dns if any(map(makes_processes, spec.topology.runtimes(spec.config.runtime))) else "",
        external_cidr=spec.plan.external_cidr,
        timing=Timing.of(spec.config.timings, spec.config.history_s),
        admission_plugins_on=names(spec.config.enable_admission_plugins),
        admission_plugins_off=names(spec.config.disable_admission_plugins),
        experiments=True,
        ui=spec.config.ui == ON,
        audit=AuditConfig(spec.config.audit_policy) if spec.config.audit_policy else None,
    )
    return ApiServer(config, env, network, sockets=sockets)


def _load_balancer(spec: Spec, env: Env, network: Network, tls_dir: str | None, sockets: Sockets | None) -> Component:
    from rayplane.control_plane.client import ApiClient
    from rayplane.control_plane.loadbalancer import CHECK_INTERVAL_S, LoadBalancer, LoadBalancerConfig

    client = ApiClient(network, spec.topology.endpoints(Role.APISERVER, "grpc"), discovery=_discovery(spec))
    config = LoadBalancerConfig(
        address=spec.instance.endpoint("https"),
        metrics_address=spec.instance.metrics,
        backends=spec.topology.endpoints(Role.APISERVER, "https"),
        ca=spec.credentials.ca if spec.credentials else b"",
        check_interval_s=CHECK_INTERVAL_S * spec.config.timings.leisure,
        refresh_interval_s=SERVER_CHANGES.discover_s * spec.config.timings.leisure,
    )

    async def backends() -> list[str]:
        return list((await client.discover()).https)

    return LoadBalancer(config, find_backends=backends, sockets=sockets, network=network)


def scheduler_config(spec: Spec, env: Env) -> "SchedulerConfig":
    """How the cluster's schedulers are configured."""
    from rayplane.control_plane.scheduler.config import SchedulerConfig

    return with_profiles(
        SchedulerConfig(
            identity=_identity(spec, env),
            api_endpoints=_api_endpoints(spec),
            discovery=_discovery(spec),
            address=spec.instance.metrics,
            election=spec.config.timings.election,
        ),
        spec.config,
    )


def with_profiles(scheduler: "SchedulerConfig", config: ClusterConfig) -> "SchedulerConfig":
    """A scheduler's configuration with the profiles of a cluster, and whatever else a file of its own says."""
    from rayplane.control_plane.scheduler.config import default_profiles

    scheduler = replace(scheduler, profiles=default_profiles(spreads=config.scheduling == SPREAD))
    return scheduler_configuration(config.scheduler_config).applied(scheduler) if config.scheduler_config else scheduler


def _scheduler(spec: Spec, env: Env, network: Network, tls_dir: str | None, sockets: Sockets | None) -> Component:
    from rayplane.control_plane.scheduler.service import Scheduler

    return Scheduler(scheduler_config(spec, env), env, network)


def _controllers(spec: Spec, env: Env, network: Network, tls_dir: str | None, sockets: Sockets | None) -> Component:
    from rayplane.control_plane.controllers.config import ControllersConfig, Timing
    from rayplane.control_plane.controllers.manager.manager import ControllerManager

    config = ControllersConfig(
        identity=_identity(spec, env),
        api_endpoints=_api_endpoints(spec),
        discovery=_discovery(spec),
        address=spec.instance.metrics,
        timing=Timing.of(spec.config.timings),
        pod_cidr=spec.plan.pod_cidr,
        node_cidr_mask=spec.config.node_prefix,
        external_cidr=spec.plan.external_cidr,
        reserved_addresses=(spec.plan.ingress_address.partition(":")[0], spec.plan.claim_address[0]),
        ca_certificate=spec.credentials.ca.decode() if spec.credentials else "",
        node_hosts=told_nodes(spec.config, spec.plan),
        server=f"https://{spec.topology.of(Role.LOAD_BALANCER)[0].endpoint('https')}",
    )
    return ControllerManager(config, env, network)


def node_config(config: ClusterConfig, name: str, machine: str) -> "NodeConfig":
    """How a node on a machine is configured."""
    from rayplane.node.config import NodeConfig

    return NodeConfig(
        name=name,
        cpu=config.node_cpu,
        memory=config.node_memory,
        max_pods=config.node_pods,
        runtime="simulated" if config.runtime == MIXED else config.runtime,
        processes=config.runtime == MIXED,
        zone=machine,
    )


def _node_host(spec: Spec, env: Env, network: Network, tls_dir: str | None, sockets: Sockets | None) -> Component:
    from rayplane.node.host import NodeHost

    return NodeHost(node_host_config(spec), env, network)


def node_host_config(spec: Spec) -> "NodeHostConfig":
    """How the node host of a spec is configured."""
    from rayplane.node.config import NodeHostConfig, NodeTiming, cri_path
    from rayplane.node.dns.machine import machine_address

    cluster = replace(spec.config, runtime=spec.instance.runtime or spec.config.runtime)
    config = NodeHostConfig(
        nodes=tuple(node_config(cluster, name, spec.instance.machine.address) for name in spec.instance.nodes),
        apiservers=_api_endpoints(spec),
        discovery=_discovery(spec),
        address=spec.instance.endpoint("grpc"),
        timing=NodeTiming.of(spec.config.timings),
        isolation=NAMESPACES if spec.plan.isolated else NONE,
        network_policy=spec.config.network_policy or AUTO,
        egress=spec.config.egress or NONE,
        egress_allow=spec.config.egress_networks,
        machine_file=f"{os.path.dirname(spec.data_dir)}/isolation",
        image_dir=f"{os.path.dirname(spec.data_dir)}/images",
        registries=spec.config.registries.allowed,
        registry_mirrors=spec.config.registries.mirrors,
        refuses_images=spec.config.missing_images == REFUSE,
        services=spec.plan.service_cidr,
        dns=spec.plan.dns,
        foreign_dns=machine_address() if spec.credentials and cri_path(cluster.runtime) else "",
        loopback_networks=(spec.plan.pod_cidr, spec.plan.service_cidr, spec.plan.external_cidr),
        # Without certificates this is a simulation, which has no sockets for an ingress to listen on.
        ingress_address=spec.plan.ingress_address if spec.credentials else "",
        ingress_tls_address=spec.plan.ingress_tls_address if spec.credentials else "",
        cri_socket=os.path.join(spec.data_dir, CRI_SOCKET) if spec.credentials else "",
    )
    if text := spec.instance.kubelet_config or spec.config.kubelet_config:
        config = spec.config.kubelet_settings(text).applied(config)
    return config


def _identity(spec: Spec, env: Env) -> str:
    """Unique over restarts: a replica that comes back must not take itself for the one that led."""
    return f"{spec.instance.name}_{env.uuid()}"


def _api_endpoints(spec: Spec) -> tuple[str, ...]:
    endpoints = spec.topology.endpoints(Role.APISERVER, "grpc")
    first = first_endpoint(spec, len(endpoints))
    return endpoints[first:] + endpoints[:first]


def _discovery(spec: Spec) -> tuple[str, ...]:
    """Who tells where the API servers are when none of those that an actor knows is left."""
    return spec.topology.endpoints(Role.SUPERVISOR, "grpc")


_Builder = Callable[[Spec, Env, Network, str | None, Sockets | None], Component]
_BUILDERS: dict[Role, _Builder] = {
    Role.MEMBER: _member,
    Role.APISERVER: _apiserver,
    Role.LOAD_BALANCER: _load_balancer,
    Role.SCHEDULER: _scheduler,
    Role.CONTROLLERS: _controllers,
    Role.NODE_HOST: _node_host,
}
