"""A node that has joined: a node host in the foreground, whose credentials come from the API.

It is configured by what the cluster tells its nodes, and has the rights of a kubelet: no ingress, no replicas of
volumes, no network policies.
"""

import asyncio
import contextlib
import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rayplane.control_plane.api.authorization.node_identity import server_name
from rayplane.control_plane.cluster import signs
from rayplane.control_plane.cluster.components import Spec, node_host_config
from rayplane.control_plane.cluster.config import OFF, ON
from rayplane.control_plane.cluster.ending import Progress
from rayplane.control_plane.cluster.errors import ClusterError, NotAdmitted
from rayplane.control_plane.cluster.join.admission import Admitted, admitted
from rayplane.control_plane.cluster.join.certificates import Kind, asking
from rayplane.control_plane.cluster.join.config import JoinConfig
from rayplane.control_plane.cluster.ours import mark
from rayplane.control_plane.cluster.outside import log_to
from rayplane.control_plane.cluster.renewal import CHECK_EVERY_S, Renewal
from rayplane.control_plane.cluster.topology import Instance, Machine, Role, Topology
from rayplane.control_plane.component_base.version import VERSION
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import Credentials, key_hash
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.config import NodeHostConfig
from rayplane.node.host import NodeHost
from rayplane.node.runtime.isolation.probe import probe
from rayplane.storage.env import Env, LocalDisk, LockHeld, SystemClock, settle_heap
from rayplane.storage.env.marks import checked, raise_mark
from rayplane.storage.formats import NODE_HOST

CONNECT_S = 5.0


async def join(config: JoinConfig, say: Progress) -> None:
    """Join, and be a node until SIGTERM or SIGINT. Raises ClusterError, ApiError, OSError."""
    config.validate()
    with _alone(config):
        found = await admitted(config, SystemClock(), say)
        await _check_pods(found)
        spec = _spec(config, found, config.address or await _reached_from(found.apiservers))
        log_to(spec.log_file, found.config.log_format, spec.instance)
        env = Env(clock=SystemClock(), rng=random.Random(), disk=LocalDisk(spec.data_dir))
        network = GrpcNetwork(found.credentials, serving=found.serving)
        try:
            with signs.hold(found.plan.slot, joined=key_hash(found.credentials.ca)):
                await _run(config, spec, found, NodeHost(_host_config(spec), env, network), say)
        finally:
            await network.close()


async def _run(config: JoinConfig, spec: Spec, found: Admitted, host: NodeHost, say: Progress) -> None:
    env, renewals = host.env, None
    await raise_mark(env.disk, checked(env.disk, NODE_HOST, VERSION), NODE_HOST.newest, VERSION)
    try:
        await host.start()
        renewals = asyncio.create_task(_renew(config, found, host), name=f"certificates of {config.node}")
        settle_heap()
        say(f"node {config.node} is up at {host.advertised}; its log is {spec.log_file}")
        await _told_to_end()
        say("ending the pods of this node")
        await host.leave(for_good=False)
    finally:
        if renewals is not None:
            await cancel_and_wait(renewals)
        await host.stop()


@contextlib.contextmanager
def _alone(config: JoinConfig) -> Iterator[None]:
    """The directory, made if need be, for one process. Raises ClusterError."""
    mark(config.directory)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(LocalDisk(config.directory).lock("lock"))
        except LockHeld as e:
            raise ClusterError(f"another process is a node in {config.directory}: choose another --data-dir") from e
        yield


def _spec(config: JoinConfig, found: Admitted, address: str) -> Spec:
    """What the host would be told if it were the cluster's own."""
    ports, nodes = {"grpc": config.port}, (config.node,)
    instance = Instance(config.node, Role.NODE_HOST, Machine(address), ports, nodes)
    return Spec(
        instance=instance,
        config=found.config,
        plan=found.plan,
        topology=Topology(tuple(_api_server(n, one) for n, one in enumerate(found.apiservers))),
        credentials=found.credentials,
        secrets=None,
        data_dir=str(config.data),
        log_file=str(config.directory / "logs" / f"{config.node}.log"),
    )


def _api_server(number: int, address: str) -> Instance:
    host, _, port = address.rpartition(":")
    return Instance(f"apiserver-{number}", Role.APISERVER, Machine(host), {"grpc": int(port)})


def _host_config(spec: Spec) -> NodeHostConfig:
    """As the cluster's own, less what a kubelet has no right to."""
    return replace(
        node_host_config(spec),
        server_name=server_name(spec.instance.name),
        ingress_address="",
        ingress_tls_address="",
        volume_capacity="0",
        network_policy=OFF,
    )


async def _check_pods(found: Admitted) -> None:
    """Raises NotAdmitted where pods could not be kept apart here as everywhere in the cluster."""
    if not found.config.runs_processes:
        return
    if found.config.network_policy == ON:
        raise NotAdmitted("the cluster runs no pod where network policies are not kept, and nodes that join keep none")
    if found.plan.isolated:
        possible = await asyncio.get_running_loop().run_in_executor(None, probe)
        if not possible.works:
            raise NotAdmitted(f"pods of this cluster are isolated, and this machine does not let them: {possible.why}")


async def _reached_from(apiservers: Sequence[str]) -> str:
    """The address of this machine from which it reaches one of them. Raises ClusterError."""
    for one in apiservers:
        host, _, port = one.rpartition(":")
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                _, writer = await asyncio.open_connection(host, int(port))
            address: str = writer.get_extra_info("sockname")[0]
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return address
    raise ClusterError(
        f"no API server of the cluster is reached from this machine ({', '.join(apiservers)}): its machines need "
        "addresses that this one has a way to"
    )


async def _renew(config: JoinConfig, found: Admitted, host: NodeHost) -> None:
    """Keep both certificates fresh, until cancelled."""
    network, clock = host.network, host.env.clock
    assert isinstance(network, GrpcNetwork)
    client, serving = Kind.client(config.node), Kind.serving(config.node)
    first = Renewal(found.credentials, config.tls, clock, network, request=client.new)
    other = Renewal(found.serving, config.serving, clock, _Serving(network), request=serving.new)
    await asyncio.gather(
        first.run(asking(host.client, client), every_s=CHECK_EVERY_S),
        other.run(asking(host.client, serving), every_s=CHECK_EVERY_S),
    )


class _Serving:
    """The part of a network that is called."""

    def __init__(self, network: GrpcNetwork) -> None:
        self._network = network

    def renew(self, credentials: Credentials) -> None:
        self._network.renew_serving(credentials)


async def _told_to_end() -> None:
    """Return at the first signal; a second one interrupts what is still being done."""
    loop, ended, task = asyncio.get_running_loop(), asyncio.Event(), asyncio.current_task()
    assert task is not None

    def end() -> None:
        if ended.is_set():
            task.cancel()
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    await ended.wait()
