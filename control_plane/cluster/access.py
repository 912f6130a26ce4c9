"""An administrator's way into a running cluster, from what its state directory holds.

The clients are loaded when one goes in: who only names what is here, as every command does, has no use for them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson

from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import TOPOLOGY_KEY, Instance, Role, Topology
from rayplane.storage.env import Clock, SystemClock

if TYPE_CHECKING:
    from rayplane.control_plane.client import ApiClient, EtcdClient
    from rayplane.control_plane.rpc import Network
    from rayplane.control_plane.rpc.tls import Credentials

CONNECT_S = 1.0
LOOK_S = 5.0


@dataclass(slots=True)
class Access:
    """Clients that show the administrator's certificate. Valid inside `access`."""

    directory: StateDir
    state: ClusterState
    network: "Network"
    etcd: "EtcdClient"
    api: "ApiClient"
    supervisor: Any
    faults: Any
    """Its standing faults."""
    shown: "Callable[[], Credentials]"
    """The certificate, to be shown over HTTPS too."""
    topology: Topology = field(init=False)
    """As it was wanted when it was read last; at first as in `state`."""

    def __post_init__(self) -> None:
        self.topology = self.state.topology


@contextlib.asynccontextmanager
async def access(directory: StateDir, clock: Clock | None = None, *, patient: bool = False) -> AsyncIterator[Access]:
    """Raises NotUp when no cluster runs there. `patient`: with who is busy for long (see `GrpcNetwork`)."""
    state = directory.read_reachable()
    from rayplane.control_plane.cluster.renewal import renew_admin
    from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
    from rayplane.control_plane.rpc.tls import Credentials

    renew_admin(directory, state, (clock or SystemClock()).now())
    network = GrpcNetwork(Credentials.read(directory.admin), patient=patient)
    try:
        admin = _access(directory, state, network)
        if not await answers(state.topology.of(Role.SUPERVISOR)[0], "grpc"):
            # With its machine lost it is elsewhere, as others may be: members know where.
            admin = await followed(admin)
        yield admin
    finally:
        await network.close()


async def followed(admin: Access) -> Access:
    """The way into the cluster as its supervisor has changed it by now, where etcd tells."""
    if await refresh(admin.directory, admin) and (state := admin.directory.read_running()) != admin.state:
        return _access(admin.directory, state, admin.network)
    return admin


def _access(directory: StateDir, state: ClusterState, network: "Network") -> Access:
    from rayplane.control_plane.client import ApiClient, EtcdClient
    from rayplane.control_plane.rpc import Stub
    from rayplane.control_plane.rpc.tls import Credentials
    from rayplane.proto.rayplane.v1 import chaos_pb2
    from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

    supervisor = state.topology.of(Role.SUPERVISOR)[0].endpoint("grpc")
    return Access(
        directory=directory,
        state=state,
        network=network,
        etcd=EtcdClient(network, state.topology.endpoints(Role.MEMBER, "client")),
        api=ApiClient(network, state.topology.endpoints(Role.APISERVER, "grpc"), discovery=[supervisor]),
        supervisor=Stub(network.channel(supervisor), pb.DESCRIPTOR.services_by_name["Supervisor"]),
        faults=Stub(network.channel(supervisor), chaos_pb2.DESCRIPTOR.services_by_name["Faults"]),
        shown=lambda: Credentials.read(directory.admin),
    )


async def answers(instance: Instance, port: str) -> bool:
    """Whether somebody listens there: at once for a lost process, after a moment for a lost machine."""
    if port not in instance.ports:
        return False
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(instance.machine.address, instance.ports[port])
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def current_topology(admin: Access) -> Topology:
    """The topology as wanted now; as it was read last when etcd cannot tell. Its members are those that are asked."""
    found = await _stored(admin)
    if found is not None and found != admin.topology:
        # All that were there at first may be replaced while somebody looks on for hours.
        admin.etcd.endpoints.replace(found.endpoints(Role.MEMBER, "client"))
        admin.topology = found
    return admin.topology


async def _stored(admin: Access) -> Topology | None:
    from rayplane.control_plane.rpc import RpcError

    try:
        found = await admin.etcd.range(TOPOLOGY_KEY, timeout=LOOK_S)
    except RpcError:
        return None
    return Topology.from_json(orjson.loads(found.kvs[0].value)) if found.kvs else None


async def refresh(directory: StateDir, admin: Access) -> bool:
    """Remember the topology as it is now, so that the next command, and kubectl, find the actors; whether it is known.

    A `down` may have come meanwhile; and before an `up` is through, members know of the one before.
    """
    from rayplane.control_plane.cluster.renewal import repoint

    topology, state = await _stored(admin), directory.read()
    if topology is None or state is None or not state.running or state.topology.run != topology.run:
        return False
    if state.topology != topology:
        state = replace(state, topology=topology)
        directory.write(state)
        repoint(directory, state)
    return True


def endpoints(directory: StateDir, state: ClusterState) -> dict[str, Any]:
    """The answer of `rayplane endpoints`: where everything is, and what to show there."""
    topology = state.topology
    return {
        "kubeconfig": str(directory.kubeconfig),
        "apiserver": f"https://{topology.of(Role.LOAD_BALANCER)[0].endpoint('https')}",
        "apiservers": [f"https://{e}" for e in topology.endpoints(Role.APISERVER, "https")],
        "grpc": list(topology.endpoints(Role.APISERVER, "grpc")),
        "etcd": [f"https://{e}" for e in topology.endpoints(Role.MEMBER, "client")],
        "ingress": f"http://{state.plan.ingress_address}",
        "ingressTls": f"https://{state.plan.ingress_tls_address}",
        "ca": str(directory.admin / "ca.crt"),
        "cert": str(directory.admin / "tls.crt"),
        "key": str(directory.admin / "tls.key"),
    }
