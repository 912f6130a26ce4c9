"""The topology: the actors that a cluster should have. Pure: values in, values out.

The topology is the supervisor's wish list. It is kept in etcd under `TOPOLOGY_KEY`, so that any supervisor can go on
where another ended.
"""

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from rayplane.control_plane.cluster.config import ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError, UsageError

TOPOLOGY_KEY = b"/rayplane/topology"
# Below it, the names of members that were removed: their data may still lie somewhere and must not be found again. The
# highest `member-N` stands for all below it, so that there are never many.
RETIRED_PREFIX = b"/rayplane/retired/"
_NUMBERED = re.compile(r"member-(\d+)")


class Role(StrEnum):
    """Roles of actors."""

    MEMBER = "member"
    APISERVER = "apiserver"
    LOAD_BALANCER = "lb"
    SCHEDULER = "scheduler"
    CONTROLLERS = "controllers"
    NODE_HOST = "node-host"
    SUPERVISOR = "supervisor"


#: The roles whose actors have their data on one machine.
TIED = (Role.MEMBER, Role.NODE_HOST)

# The ports each role listens on.
PORTS: Mapping[Role, tuple[str, ...]] = {
    Role.MEMBER: ("client", "peer"),
    Role.APISERVER: ("grpc", "https"),
    Role.LOAD_BALANCER: ("https", "metrics"),
    Role.SCHEDULER: ("metrics",),
    Role.CONTROLLERS: ("metrics",),
    Role.NODE_HOST: ("grpc",),
    Role.SUPERVISOR: ("grpc",),
}


class Phase(StrEnum):
    """Phases of an actor. Any supervisor goes on from here."""

    JOINING = "joining"
    """A member that is to become a voter: it is added as a learner, started, promoted."""
    ACTIVE = "active"
    LEAVING = "leaving"
    """It is taken out of etcd, stopped, its nodes are deleted; then nothing of it is wanted any more."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of an actor: an address others reach, and the host's own name for it (a Ray node id)."""

    address: str = "127.0.0.1"
    id: str = ""


@dataclass(frozen=True, slots=True)
class Instance:
    """One actor."""

    name: str
    role: Role
    machine: Machine
    ports: Mapping[str, int] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    """A node host's nodes."""
    joins: bool = False
    """A member that was added to a running cluster."""
    phase: Phase = Phase.ACTIVE
    replaces: str = ""
    """The member whose place one that joins takes; that one leaves when this one votes."""
    kubelet_config: str = ""
    """Text of a node host's KubeletConfiguration; empty: it has the cluster's."""
    runtime: str = ""
    """A node host's runtime, as `ClusterConfig.runtime`; empty: it has the cluster's."""
    python: str = ""
    """The Python of the environment that it is to run in, which may have another build; empty: that of its host."""

    @property
    def stays(self) -> bool:
        return self.phase is not Phase.LEAVING

    def endpoint(self, port: str) -> str:
        return f"{self.machine.address}:{self.ports[port]}"

    @property
    def metrics(self) -> str:
        """host:port of the port that is for metrics alone; empty where there is none, as in earlier versions."""
        return self.endpoint("metrics") if "metrics" in self.ports else ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "role": self.role.value,
            "machine": {"address": self.machine.address, "id": self.machine.id},
            "ports": dict(self.ports),
            "nodes": list(self.nodes),
            "joins": self.joins,
            "phase": self.phase.value,
            "replaces": self.replaces,
            "kubelet_config": self.kubelet_config,
            "runtime": self.runtime,
            "python": self.python,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Instance":
        return Instance(
            name=data["name"],
            role=Role(data["role"]),
            machine=Machine(**data["machine"]),
            ports=data["ports"],
            nodes=tuple(data["nodes"]),
            joins=data["joins"],
            # Earlier versions wrote none of these.
            phase=Phase(data.get("phase", Phase.ACTIVE)),
            replaces=data.get("replaces", ""),
            kubelet_config=data.get("kubelet_config", ""),
            runtime=data.get("runtime", ""),
            python=data.get("python", ""),
        )


@dataclass(frozen=True, slots=True)
class Topology:
    """All actors of a cluster, the supervisor among them."""

    instances: tuple[Instance, ...]
    run: str = ""
    """Names the `up` it comes from. Hosts name machines anew at each `up`, so an older one's are of no use."""
    drained: tuple[str, ...] = ()
    """Addresses of machines that are to be empty."""

    def of(self, role: Role) -> tuple[Instance, ...]:
        return tuple(i for i in self.instances if i.role is role)

    def has(self, name: str) -> bool:
        return any(i.name == name for i in self.instances)

    def get(self, name: str) -> Instance:
        for instance in self.instances:
            if instance.name == name:
                return instance
        names = ", ".join(i.name for i in self.instances)
        raise UsageError(f"no actor is called {name!r}; there are {names}")

    def runtimes(self, usual: str) -> set[str]:
        """The runtimes of all nodes; `usual`: of those that have the cluster's, which more may come to have."""
        return {usual, *(i.runtime or usual for i in self.of(Role.NODE_HOST))}

    def endpoints(self, role: Role, port: str) -> tuple[str, ...]:
        return tuple(i.endpoint(port) for i in self.of(role))

    def with_instance(self, instance: Instance) -> "Topology":
        if self.has(instance.name):
            raise UsageError(f"there is an actor called {instance.name!r} already; choose another name")
        return replace(self, instances=(*self.instances, instance))

    def replaced(self, instance: Instance) -> "Topology":
        return replace(self, instances=tuple(instance if i.name == instance.name else i for i in self.instances))

    def without(self, name: str) -> "Topology":
        return replace(self, instances=tuple(i for i in self.instances if i.name != name))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses of all machines that carry an actor."""
        return tuple(dict.fromkeys(i.machine.address for i in self.instances))

    @property
    def ports(self) -> set[int]:
        """Ports of all actors."""
        return {port for i in self.instances for port in i.ports.values()}

    def node_host(self, node: str) -> Instance:
        """The host that carries a node; `node` may be the host's own name."""
        for instance in self.of(Role.NODE_HOST):
            if node in (instance.name, *instance.nodes):
                return instance
        raise UsageError(f"no node is called {node!r}")

    def next_name(self, role: Role, besides: Collection[str] = ()) -> str:
        """The first free `role-N` that is not one of `besides`."""
        taken = {i.name for i in self.instances} | set(besides)
        return next(n for k in range(len(taken) + 1) if (n := f"{role.value}-{k}") not in taken)

    def next_member(self, retired: Collection[str]) -> str:
        """The first free `member-N` above all that retired."""
        first = highest_retired(retired) + 1
        return next(n for k in itertools.count(first) if not self.has(n := f"member-{k}"))

    def next_node(self) -> str:
        taken = {n for i in self.instances for n in i.nodes}
        return next(n for k in range(len(taken) + 1) if (n := f"node-{k}") not in taken)

    def open(self, machines: Iterable[Machine]) -> list[Machine]:
        """Those of some machines that are not drained."""
        return [m for m in machines if m.address not in self.drained]

    def least_used(self, machines: Sequence[Machine], role: Role | None = None, but: str = "") -> Machine:
        """The first of some machines, of which there is at least one, that carries the fewest actors.

        `role`: first of all the fewest of that role, which are there to survive each other's machines; one called `but`
        and those that leave do not count.
        """
        alike, load = Counter[Machine](), Counter[Machine]()
        for instance in self.instances:
            load[instance.machine] += 1
            alike[instance.machine] += instance.role is role and instance.stays and instance.name != but
        return min(machines, key=lambda m: (alike[m], load[m]))

    def to_json(self) -> dict[str, Any]:
        return {"run": self.run, "instances": [i.to_json() for i in self.instances], "drained": list(self.drained)}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Topology":
        instances = tuple(Instance.from_json(d) for d in data["instances"])
        return Topology(instances, data["run"], tuple(data.get("drained", ())))


def highest_retired(retired: Collection[str]) -> int:
    """The highest number of a member that retired; -1 when none has."""
    return max((_number(name) for name in retired), default=-1)


def is_retired(name: str, retired: Collection[str]) -> bool:
    """Whether a member of this name may never be again."""
    return name in retired or -1 < _number(name) <= highest_retired(retired)


def spared(retired: Collection[str]) -> frozenset[str]:
    """The names that say no more than the others do, and need not be kept."""
    return frozenset(name for name in retired if -1 < _number(name) < highest_retired(retired))


def _number(member: str) -> int:
    found = _NUMBERED.fullmatch(member)
    return int(found[1]) if found is not None else -1


def founding(config: ClusterConfig, machines: tuple[Machine, ...]) -> Topology:
    """The topology of a new cluster, without ports: each role is spread over the machines in turn."""
    if not machines:
        raise ClusterError("no machine to run on: start a Ray cluster with at least one node")
    counts = {
        Role.MEMBER: config.members,
        Role.APISERVER: config.apiservers,
        Role.SCHEDULER: config.schedulers,
        Role.CONTROLLERS: config.controllers,
        Role.NODE_HOST: config.nodes,
    }
    instances = [
        Instance(Role.SUPERVISOR.value, Role.SUPERVISOR, machines[0]),
        Instance(Role.LOAD_BALANCER.value, Role.LOAD_BALANCER, machines[0]),
    ]
    for role, count in counts.items():
        for k in range(count):
            instance = Instance(f"{role.value}-{k}", role, machines[k % len(machines)])
            if role is Role.NODE_HOST:
                first = k * config.nodes_per_host
                nodes = tuple(f"node-{n}" for n in range(first, first + config.nodes_per_host))
                instance = replace(instance, nodes=nodes)
            instances.append(instance)
    return Topology(tuple(instances))


def of_one_build(topology: Topology) -> Topology:
    """The topology of a cluster that is brought up: all actors run what their host does."""
    return replace(topology, instances=tuple(replace(i, python="") for i in topology.instances))


def newest_of(topologies: Sequence[Topology]) -> Topology:
    """The topology that knows of the member that came last; the first of those. There is at least one."""
    return max(topologies, key=lambda t: highest_retired([i.name for i in t.of(Role.MEMBER)]))


def on_machines(
    topology: Topology,
    machines: Sequence[Machine],
    holders: Mapping[str, Sequence[Machine]],
    *,
    elastic: bool = False,
) -> Topology:
    """The topology of a cluster that was down, on the machines that there are now.

    Hosts name machines anew at each start, and each may have another address now, also one that another had: they are
    found again by what lies on them (`holders`: by name of the actor, where it ran last first). Who has no data, or
    need not come back, goes anywhere. `elastic`: Ray brings machines for nodes, and ended them while nothing ran there;
    those nodes leave.
    """
    by_address = {m.address: m for m in machines}
    # Another machine may have the address of one that is not there any more.
    placed = replace(topology, instances=(), drained=tuple(a for a in topology.drained if a in by_address))
    usable = placed.open(machines) or machines
    for instance in topology.instances:
        there, held = by_address.get(instance.machine.address), holders.get(instance.name, ())
        # What lies elsewhere may be from before it moved.
        machine = there if not held or there in held else held[0]
        if machine is None and elastic and instance.role is Role.NODE_HOST:
            instance = replace(instance, phase=Phase.LEAVING)
        elif machine is None and instance.role in TIED and instance.phase is Phase.ACTIVE:
            raise ClusterError(
                f"{instance.name} ran on {instance.machine.address}, which is not in the Ray cluster now, and no other "
                "machine has its data: add that machine to the Ray cluster"
            )
        placed = placed.with_instance(replace(instance, machine=machine or placed.least_used(usable, instance.role)))
    return placed


def crowded(topology: Topology) -> list[str]:
    """Roles whose actors share a machine although they exist to survive the loss of one."""
    return [
        role.value
        for role in (Role.MEMBER, Role.APISERVER, Role.NODE_HOST)
        if len(found := topology.of(role)) > len({i.machine for i in found})
    ]
