"""Room on machines, where an autoscaler of theirs brings more: as it counts it, by CPUs. Pure.

It is told how many nodes there are to be in all, and starts machines until they fit. So they are counted here as there:
what is on a machine beyond its CPUs, as nodes that a cluster was founded with may be, takes no room elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from rayplane.control_plane.cluster.topology import Machine, Role, Topology

CPUS: Final = "CPU"
Rooms = Mapping[str, float]
"""CPUs of each machine, by its id."""


def free(topology: Topology, machines: Sequence[Machine], rooms: Rooms, node_cpus: float) -> list[Machine]:
    """The machines that take another node, one entry for each: those that carry nodes already come first."""
    used = _used(topology)
    found = [
        machine
        for machine in sorted(topology.open(machines), key=lambda machine: -used[machine.id])
        for _ in range(_fit(rooms, machine, node_cpus) - used[machine.id])
    ]
    return found


def asked(
    topology: Topology, machines: Sequence[Machine], rooms: Rooms, node_cpus: float, *, missing: int
) -> list[dict[str, float]]:
    """What is asked for: what is in use, or with `missing` nodes more than fit all that there is and those."""
    used = _used(topology)
    fits = {machine.id: _fit(rooms, machine, node_cpus) for machine in machines}
    held = sum(fits.values()) if missing else sum(min(count, used[name]) for name, count in fits.items())
    return [{CPUS: node_cpus}] * (held + missing)


def _fit(rooms: Rooms, machine: Machine, node_cpus: float) -> int:
    return int(rooms.get(machine.id, 0.0) // node_cpus)


def _used(topology: Topology) -> Counter[str]:
    used = Counter[str]()
    for instance in topology.of(Role.NODE_HOST):
        used[instance.machine.id] += len(instance.nodes)
    return used
