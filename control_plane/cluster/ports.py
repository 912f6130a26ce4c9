"""Ports that stay an actor's own, so that it comes back at the same address.

They lie below the range from which the kernel gives ports to outgoing connections, or one of those could take an
actor's port while it is being restarted.
"""

import asyncio
import contextlib
import errno
import random
import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from rayplane.control_plane.cluster.config import SLOTS, AddressPlan
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.topology import PORTS, Topology
from rayplane.control_plane.rpc.sockets import serving

RANGE = range(20_100, 29_900)
SHARE = len(RANGE) // SLOTS
TRIES = 2000


def share(plan: AddressPlan) -> range:
    """A cluster's part of `RANGE`: of two that start on a machine at once neither takes a port that the other chose."""
    first = RANGE.start + plan.slot * SHARE
    return range(first, first + SHARE)


def free_port(host: str, taken: Collection[int], rng: random.Random, preferred: range = RANGE) -> int:
    """A port that nothing uses on this machine and that is not in `taken`, from `RANGE` if `preferred` has none."""
    for ports in (preferred, RANGE):
        for _ in range(TRIES):
            port = rng.choice(ports)
            if port not in taken and can_bind(host, port):
                return port
    raise ClusterError(f"found no free port from {RANGE.start} to {RANGE.stop} on {host}; close some servers")


async def claim(host: str, port: int) -> asyncio.Server:
    """Listen, and hang up on whoever calls: that somebody listens is all that it says."""
    return await serving(asyncio.start_server(_hang_up, host, port, start_serving=False))


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def can_bind(host: str, port: int) -> bool:
    """Whether a server could listen there now. A foreign address cannot be tried and counts as free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as e:
            return e.errno == errno.EADDRNOTAVAIL  # not an address of this machine
    return True


def is_local(address: str) -> bool:
    """Whether an address is this machine's."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError as e:
            return e.errno != errno.EADDRNOTAVAIL
    return True


def with_ports(topology: Topology, rng: random.Random, preferred: range = RANGE) -> Topology:
    """Give every actor its ports, each used once in the whole cluster."""
    taken: set[int] = set()
    instances = []
    for instance in topology.instances:
        ports = {}
        for label in PORTS[instance.role]:
            ports[label] = free_port(instance.machine.address, taken, rng, preferred)
            taken.add(ports[label])
        instances.append(replace(instance, ports=ports))
    return replace(topology, instances=tuple(instances))


def all_plans(rng: random.Random) -> list[AddressPlan]:
    """In any order: two who try them at the same moment should not both begin with the first."""
    return [AddressPlan(slot) for slot in rng.sample(range(SLOTS), SLOTS)]


@contextlib.contextmanager
def reserved(plans: Sequence[AddressPlan]) -> Iterator[AddressPlan]:
    """The first plan that no cluster has. Nobody else gets it meanwhile; the cluster itself claims it when it is up."""
    for plan in plans:
        with socket.socket() as reservation:
            try:
                reservation.bind(plan.reservation_address)
                reservation.listen(1)
            except OSError:
                continue
            if can_bind(*plan.claim_address):
                yield plan
                return
    if len(plans) == 1:
        raise ClusterError(f"another cluster has the addresses {plans[0].pod_cidr} of this one now; take it down first")
    raise ClusterError(
        f"{len(plans)} clusters run on this machine already, and there are addresses for no more; take one down"
    )
