"""Ports that stay an actor's own, so that it comes back at the same address.

They lie below the range from which the kernel gives ports to outgoing connections, or one of those could take an
actor's port while it is being restarted.
"""

import errno
import random
import socket
from collections.abc import Collection
from dataclasses import replace

from rayplane.control_plane.cluster.config import SLOTS, AddressPlan
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.topology import PORTS, Topology

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
