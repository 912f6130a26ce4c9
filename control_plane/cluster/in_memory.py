"""Topology of a cluster in memory, and what its components are told: a machine of its own for each, the same ports."""

from dataclasses import replace

from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.topology import PORTS, Instance, Machine, Topology, founding

_NUMBERS = {"client": 2379, "peer": 2380, "grpc": 7443, "https": 6443, "metrics": 10250}


def simulated_spec(instance: Instance, config: ClusterConfig, topology: Topology) -> Spec:
    """What a component of such a cluster is told: without certificates, its data on a disk of its own."""
    return Spec(
        instance=instance,
        config=config,
        plan=AddressPlan(0),
        topology=topology,
        credentials=None,
        secrets=None,
        data_dir=instance.name,
        log_file="",
    )


def simulated_topology(config: ClusterConfig) -> Topology:
    """A new cluster's actors, each on a machine of its own."""
    return Topology(tuple(_placed(i, number) for number, i in enumerate(founding(config, (Machine(),)).instances)))


def _placed(instance: Instance, number: int) -> Instance:
    """On a machine of its own, the `number`th."""
    # Nobody scrapes a simulated cluster: components without a port for metrics serve none.
    ports = {label: _NUMBERS[label] for label in PORTS[instance.role] if label in _NUMBERS}
    machine = Machine(f"10.{number >> 8}.{number & 255}.1", instance.name)
    return replace(instance, machine=machine, ports=ports)
