"""An administrator's way into a running cluster, from what its state directory holds."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import orjson

from rayplane.control_plane.client import ApiClient, EtcdClient
from rayplane.control_plane.cluster.renewal import renew_admin
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import TOPOLOGY_KEY, Role, Topology
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from rayplane.storage.env import Clock, SystemClock


@dataclass(frozen=True, slots=True)
class Access:
    """Clients that show the administrator's certificate. Valid inside `access`."""

    directory: StateDir
    state: ClusterState
    network: GrpcNetwork
    etcd: EtcdClient
    api: ApiClient
    supervisor: Any


@contextlib.asynccontextmanager
async def access(directory: StateDir, clock: Clock | None = None) -> AsyncIterator[Access]:
    """Raises NotUp when no cluster runs there."""
    state = directory.read_running()
    renew_admin(directory, state, (clock or SystemClock()).now())
    network = GrpcNetwork(Credentials.read(directory.admin))
    supervisor = state.topology.of(Role.SUPERVISOR)[0].endpoint("grpc")
    try:
        yield Access(
            directory=directory,
            state=state,
            network=network,
            etcd=EtcdClient(network, state.topology.endpoints(Role.MEMBER, "client")),
            api=ApiClient(network, state.topology.endpoints(Role.APISERVER, "grpc"), discovery=[supervisor]),
            supervisor=Stub(network.channel(supervisor), pb.DESCRIPTOR.services_by_name["Supervisor"]),
        )
    finally:
        await network.close()


async def current_topology(admin: Access) -> Topology:
    """The topology as wanted now; the one of `up` when etcd cannot tell."""
    try:
        found = await admin.etcd.range(TOPOLOGY_KEY)
    except RpcError:
        return admin.state.topology
    return Topology.from_json(orjson.loads(found.kvs[0].value)) if found.kvs else admin.state.topology


async def refresh(directory: StateDir, admin: Access) -> None:
    """Remember the topology as it is now, so that the next command finds the actors."""
    directory.write(replace(admin.state, topology=await current_topology(admin)))


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
