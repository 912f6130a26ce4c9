"""Changes of the topology that people ask for: actors to be added and removed. Pure."""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from rayplane.control_plane.api.config_files import ConfigFileError
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.topology import Instance, Machine, Phase, Role, Topology, is_retired
from rayplane.node.kubelet.config_file import read_kubelet_configuration

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# Names that people gave to members are remembered for ever.
RETIRED_MAX = 1000
_ROLES = {"member": Role.MEMBER, "apiserver": Role.APISERVER, "node": Role.NODE_HOST}


def added(
    topology: Topology,
    kind: str,
    name: str,
    machines: Sequence[Machine],
    retired: Collection[str],
    *,
    kubelet_config: str = "",
    runtime: str = "",
) -> Instance:
    """The instance to add, without ports; an empty name picks the next free one. Raises UsageError."""
    role = _role(kind)
    if runtime and role is not Role.NODE_HOST:
        raise UsageError(f"a {kind} runs no pods, and has no --runtime; add a node")
    if kubelet_config:
        _check_kubelet(role, kind, kubelet_config)
    if name and not _NAME.fullmatch(name):
        raise UsageError(f"{name!r}: use lower-case letters, digits and '-', at most 63")
    nodes: tuple[str, ...] = ()
    if role is Role.NODE_HOST:
        nodes = (name or topology.next_node(),)
        name = topology.next_name(role)
        if any(nodes[0] in i.nodes for i in topology.instances):
            raise UsageError(f"there is a node called {nodes[0]!r} already; choose another name")
    if name and role is Role.MEMBER:
        _check_member(name, retired)
    if topology.has(name):
        raise UsageError(f"there is an actor called {name!r} already; choose another name")
    joins = role is Role.MEMBER
    return Instance(
        name=name or (topology.next_member(retired) if joins else topology.next_name(role)),
        role=role,
        machine=topology.least_used(topology.open(machines) or machines, role),
        nodes=nodes,
        joins=joins,
        phase=Phase.JOINING if joins else Phase.ACTIVE,
        kubelet_config=kubelet_config,
        runtime=runtime,
    )


def removed(topology: Topology, kind: str, name: str) -> Instance:
    """The instance to remove, LEAVING; an empty name picks the last one. Raises UsageError."""
    role = _role(kind)
    instance = _choose(topology, role, name)
    left = sum(i.phase is not Phase.LEAVING for i in topology.of(role) if i.name != instance.name)
    if role in (Role.MEMBER, Role.APISERVER) and left < 1:
        raise UsageError(f"{instance.name} is the last {kind}; a cluster needs one")
    return replace(instance, phase=Phase.LEAVING)


def drained(topology: Topology, address: str, machines: Sequence[Machine]) -> Topology:
    """The topology with a machine that is to be empty. Raises UsageError."""
    known = dict.fromkeys((*(m.address for m in machines), *topology.addresses))
    if address not in known:
        raise UsageError(f"no machine is called {address!r}; there are {', '.join(known)}")
    if address in topology.drained:
        return topology
    if all(m.address == address for m in topology.open(machines)):
        raise UsageError(f"{address} is the last machine that is not drained; the cluster must be somewhere")
    return replace(topology, drained=(*topology.drained, address))


def undrained(topology: Topology, address: str) -> Topology:
    """The topology with a machine that may be used again. Raises UsageError."""
    if address not in topology.drained:
        raise UsageError(f"{address!r} is not drained; {', '.join(topology.drained) or 'no machine'} is")
    return replace(topology, drained=tuple(a for a in topology.drained if a != address))


def called(instance: Instance) -> str:
    """How people call it: a node host that was added by the name of its node."""
    return instance.nodes[0] if instance.nodes else instance.name


def _check_kubelet(role: Role, kind: str, text: str) -> None:
    if role is not Role.NODE_HOST:
        raise UsageError(f"a {kind} has no kubelet to configure; add a node")
    try:
        read_kubelet_configuration(text)
    except ConfigFileError as e:
        raise UsageError(f"the node's KubeletConfiguration: {e}") from e


def _check_member(name: str, retired: Collection[str]) -> None:
    if is_retired(name, retired):
        raise UsageError(f"{name!r} is a name of members that were removed; choose another name")
    if len(retired) >= RETIRED_MAX:
        raise UsageError(f"{len(retired)} members have been removed that had names of their own; leave the name out")


def _choose(topology: Topology, role: Role, name: str) -> Instance:
    if not name:
        found = [i for i in topology.of(role) if i.phase is not Phase.LEAVING]
        if not found:
            raise UsageError("there is none to remove")
        return found[-1]
    instance = topology.node_host(name) if role is Role.NODE_HOST else topology.get(name)
    if instance.role is not role:
        raise UsageError(f"{name} is a {instance.role.value}")
    if len(instance.nodes) > 1:
        raise UsageError(f"{instance.name} carries {len(instance.nodes)} nodes, which go only together")
    return instance


def _role(kind: str) -> Role:
    if kind not in _ROLES:
        raise UsageError(f"{kind!r} cannot be added or removed; use {', '.join(_ROLES)}")
    return _ROLES[kind]
