"""Every port of a running cluster: who listens, what is spoken there and who may call.

What actors listen on is in the topology, and who may call there is what the policies of their services say. What Ray's
processes listen on is asked of Ray, and what stands there for services and pods follows from the address plan and the
services: sockets that come and go with pods are told by the network they are in.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.callers import SUPERVISOR
from rayplane.control_plane.cluster.config import AddressPlan
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.component_base import debugging
from rayplane.control_plane.etcd import callers as etcd
from rayplane.control_plane.rpc import Callers
from rayplane.node import callers as node
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

TIMEOUT_S = 30.0
NODE_PORTS = "30000-32767"
ANYONE = "anyone who reaches it"
AUTHENTICATED = "who authenticates, as RBAC says"


def who(callers: Mapping[str, Callers]) -> str:
    """Those who may call some method by their certificate; methods that judge their callers themselves are named."""
    named = Callers(
        users=frozenset(user for c in callers.values() for user in c.users),
        groups=frozenset(group for c in callers.values() for group in c.groups),
    )
    judging = [method for method, c in callers.items() if c.everyone]
    return f"{named}; each actor for itself: {', '.join(judging)}" if judging else str(named)


_METRICS = ("metrics and log over HTTP; mutual TLS", str(debugging.CALLERS))
# By role and port of `topology.PORTS`: what is spoken there, and who may call.
RULES: Mapping[tuple[Role, str], tuple[str, str]] = {
    (Role.MEMBER, "client"): ("etcd v3 gRPC, JSON gateway, metrics; mutual TLS", str(etcd.CLIENTS)),
    (Role.MEMBER, "peer"): ("Raft over gRPC; mutual TLS", str(etcd.PEERS)),
    (Role.APISERVER, "grpc"): ("rayplane.v1 gRPC; mutual TLS", AUTHENTICATED),
    (Role.APISERVER, "https"): ("Kubernetes REST; TLS", AUTHENTICATED),
    (Role.LOAD_BALANCER, "https"): ("TCP, passed on to an API server's https", "as the API servers"),
    (Role.LOAD_BALANCER, "metrics"): _METRICS,
    (Role.SCHEDULER, "metrics"): ("rayplane.v1 Scheduler gRPC, " + _METRICS[0], _METRICS[1]),
    (Role.CONTROLLERS, "metrics"): ("rayplane.v1 Controllers gRPC, " + _METRICS[0], _METRICS[1]),
    (Role.NODE_HOST, "grpc"): (
        "kubelet, volumes (CSI) and replicas over gRPC, metrics; mutual TLS",
        who(
            node.node(isolates=False)
            | node.VOLUME_REPLICA
            | node.CSI["Identity"]
            | node.CSI["Controller"]
            | node.CSI["Node"]
        ),
    ),
    (Role.SUPERVISOR, "grpc"): ("rayplane.v1 Supervisor gRPC, metrics; mutual TLS", who(SUPERVISOR)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One socket, or all those in a network."""

    owner: str
    address: str
    """HOST:PORT, or NETWORK:PORTS where PORTS is `*` or FIRST-LAST."""
    speaks: str
    callers: str

    def covers(self, host: str, port: int) -> bool:
        """Whether that socket is this one or one of these."""
        network, _, ports = self.address.rpartition(":")
        first, _, last = ports.partition("-")
        in_range = ports == "*" or int(first) <= port <= int(last or first)
        return in_range and ip_address(host) in ip_network(network)


async def listeners(admin: Access) -> list[Listener]:
    """Actors first, then what carries traffic of pods, then the host's own. Raises RpcError, ApiError."""
    answer = await admin.supervisor.Topology(pb.TopologyRequest(host_sockets=True), timeout=TIMEOUT_S)
    found = [*_of_actors(answer.instances), _claim(admin.state.plan)]
    if admin.state.topology.runtimes(admin.state.config.runtime) != {"simulated"}:
        found += of_traffic(admin.state.plan, (await admin.api.list("services")).items)
    callers = "who has Ray's token" if admin.state.host.get("owned") else "as that Ray cluster was set up"
    found += [Listener(owner=s.owner, address=s.address, speaks=s.speaks, callers=callers) for s in answer.host_sockets]
    return found


def _of_actors(instances: Iterable[pb.InstanceStatus]) -> list[Listener]:
    found = []
    for instance in instances:
        for label, port in sorted(instance.ports.items()):
            speaks, callers = RULES[Role(instance.role), label]
            address = f"{instance.machine}:{port}"
            found.append(Listener(owner=instance.name, address=address, speaks=speaks, callers=callers))
    return found


def _claim(plan: AddressPlan) -> Listener:
    host, port = plan.claim_address
    speaks = "nothing: it keeps other clusters from these addresses, and hangs up"
    return Listener(owner=Role.SUPERVISOR.value, address=f"{host}:{port}", speaks=speaks, callers=ANYONE)


def of_traffic(plan: AddressPlan, services: Iterable[Object]) -> list[Listener]:
    """Where processes of pods, and the node hosts on behalf of services, listen or may listen. Pure."""
    services = [s for s in services if meta.spec(s).get("clusterIP") not in (None, "", "None")]
    node_ports = [p for s in services for p in meta.spec(s).get("ports") or () if p.get("nodePort")]
    carried = "TCP, carried to the service's pods"
    ranges = [
        (f"services ({len(services)})", f"{plan.service_cidr}:*", carried),
        ("load balancer services", f"{plan.external_cidr}:*", carried),
        (f"node ports ({len(node_ports)})", f"{plan.pod_cidr}:{NODE_PORTS}", carried),
        ("ingress", plan.ingress_address, "HTTP, carried to the pods of the Ingress's services"),
        ("ingress", plan.ingress_tls_address, "HTTPS, the same"),
        ("pods", f"{plan.pod_cidr}:*", "what their programs speak"),
        # Where pods have a network of their own, the addresses of services are in that; this is the machine's.
        ("cluster DNS", f"127.{plan.dns.partition('.')[2]}:*", "DNS by UDP and TCP, for programs of this machine"),
    ]
    for service in services:
        for address in meta.spec(service).get("externalIPs") or ():
            for port in meta.spec(service).get("ports") or ():
                ranges.append((f"service {meta.key(service)}", f"{address}:{port['port']}", carried))
    return [Listener(owner=o, address=a, speaks=s, callers=ANYONE) for o, a, s in ranges]
