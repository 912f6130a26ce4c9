"""Admission of pods: a node takes those that it has room for, and that want it. Pure.

The scheduler has looked before, but two schedulers, or one that lost its lead, may have filled the same room, and who
binds a pod by hand asks nobody; what does not fit is refused here, and its controller makes another pod.
Source: Kubernetes concepts "Pod Lifecycle", "Node-pressure Eviction"; reasons and messages as the kubelet gives them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_affinity import admits, required_terms
from rayplane.control_plane.api.pods.ports import HostPort, HostPorts, host_ports
from rayplane.control_plane.api.pods.resources import pod_requests, whole
from rayplane.control_plane.api.taints import NO_EXECUTE, tolerates
from rayplane.node.kernel_parameters import forbidden
from rayplane.node.lifecycle import Rejected

_COUNTED_APART = frozenset({"cpu", "memory", "pods"})
_OS = "kubernetes.io/os"
_STRICT = "Strict"


@dataclass(frozen=True, slots=True)
class Room:
    """cpu in thousandths, memory in bytes, number of pods; other resources in whole units; ports of the node."""

    cpu: int
    memory: int
    pods: int = 1
    others: tuple[tuple[str, int], ...] = ()
    ports: tuple[HostPort, ...] = ()


NOTHING = Room(0, 0, 0)


def room_of(pod: Object, *, reported: bool = True) -> Room:
    """Return what a pod takes of a node. Without `reported`: what its spec asks for now.

    Resources that devices stand behind are none of the node's own.
    """
    requests = pod_requests(pod, reported=reported)
    mapped = (meta.status(pod).get("extendedResourceClaimStatus") or {}).get("requestMappings") or ()
    apart = _COUNTED_APART.union(one.get("resourceName") for one in mapped)
    others = tuple((name, whole(name, amount)) for name, amount in requests.items() if name not in apart)
    cpu, memory = whole("cpu", requests.get("cpu", 0)), whole("memory", requests.get("memory", 0))
    return Room(cpu, memory, others=others, ports=tuple(host_ports(meta.spec(pod))))


def refuse(wanted: Room, used: Room, capacity: Room) -> Rejected | None:
    """Compare requests with a node's room: None when they fit, else the reason that Kubernetes' kubelet gives."""
    return _insufficient((
        ("pods", 1, used.pods, capacity.pods),
        ("cpu", wanted.cpu, used.cpu, capacity.cpu),
        ("memory", wanted.memory, used.memory, capacity.memory),
    ))  # fmt: skip


def _insufficient(amounts: Iterable[tuple[str, int, int, int]]) -> Rejected | None:
    for name, asked, taken, most in amounts:
        if asked and taken + asked > most:
            text = f"Node didn't have enough resource: {name}, requested: {asked}, used: {taken}, capacity: {most}"
            return Rejected(f"OutOf{name}", text)
    return None


def unwanted(pod: Object, node: Object) -> Rejected | None:
    """Why a pod does not want this node, or this node not the pod; None when all is well."""
    spec, labels = meta.spec(pod), meta.labels(node)
    selector = spec.get("nodeSelector") or {}
    if _OS in selector and selector[_OS] != labels.get(_OS):
        text = f"Failed to admit pod as the `{_OS}` label doesn't match node label"
        return Rejected("PodOSSelectorNodeLabelDoesNotMatch", text)
    if (spec.get("os") or {}).get("name") not in (None, "", labels.get(_OS, "linux")):
        text = "Failed to admit pod as the OS field doesn't match node OS"
        return Rejected("PodOSNotSupported", text)
    features = meta.status(node).get("features") or {}
    policy = (spec.get("securityContext") or {}).get("supplementalGroupsPolicy")
    if policy == _STRICT and features.get("supplementalGroupsPolicy") is False:
        text = f"SupplementalGroupsPolicy={_STRICT} is not supported in this node"
        return Rejected("SupplementalGroupsPolicyNotSupported", text)
    if not selector.items() <= labels.items() or not admits(required_terms(spec), labels, meta.name(node)):
        return _failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
    tolerations = spec.get("tolerations") or ()
    for taint in meta.spec(node).get("taints") or ():
        if taint.get("effect") == NO_EXECUTE and not any(tolerates(t, taint) for t in tolerations):
            return _failed("TaintToleration", "node(s) had taints that the pod didn't tolerate")
    return None


def forbids(pod: Object) -> Rejected | None:
    """Why a node does not let a pod have what it asks of the kernel; None when it may."""
    name = forbidden(meta.spec(pod))
    if not name:
        return None
    return Rejected("SysctlForbidden", f'forbidden sysctl: "{name}" not allowlisted')


def _failed(predicate: str, why: str) -> Rejected:
    return Rejected(predicate, f"Predicate {predicate} failed: {why}")


class Allocations:
    """Counts what the pods of one node hold of it."""

    def __init__(self, capacity: Room) -> None:
        self._capacity = capacity
        self._cpu = self._memory = self._pods = 0
        self._others: Counter[str] = Counter()
        self._ports = HostPorts()

    def hold(self, room: Room) -> None:
        self._count(room, 1)

    def release(self, room: Room) -> None:
        self._count(room, -1)

    def _count(self, room: Room, sign: int) -> None:
        self._cpu += sign * room.cpu
        self._memory += sign * room.memory
        self._pods += sign * room.pods
        for name, amount in room.others:
            self._others[name] += sign * amount
        for port in room.ports:
            self._ports.count(port, sign)

    def exceeded(self, wanted: Room) -> str | None:
        """Say what a pod wants more of than there is; None when it would fit into an empty node."""
        amounts = (("cpu", wanted.cpu, self._capacity.cpu), ("memory", wanted.memory, self._capacity.memory))
        for name, asked, most in amounts:
            if asked > most:
                return f"Node didn't have enough capacity: {name}, requested: {asked}, capacity: {most}"
        return None

    def lacking(self, wanted: Room, allocatable: Mapping[str, str]) -> dict[str, int]:
        """By resource, how much more a pod wants than is left; ports are not counted so."""
        amounts = [
            ("pods", 1, self._pods, self._capacity.pods),
            ("cpu", wanted.cpu, self._cpu, self._capacity.cpu),
            ("memory", wanted.memory, self._memory, self._capacity.memory),
        ]
        for name, amount in wanted.others:
            if name in allocatable:
                amounts.append((name, amount, self._others[name], quantity.value(allocatable[name])))
        return {name: taken + asked - most for name, asked, taken, most in amounts if asked and taken + asked > most}

    def refuse(self, wanted: Room) -> Rejected | None:
        """Say why a pod does not fit beside the others; None when it does."""
        return refuse(wanted, Room(self._cpu, self._memory, self._pods), self._capacity)

    def refuse_others(self, wanted: Room, allocatable: Mapping[str, str]) -> Rejected | None:
        """The same for other resources; those that the node does not have at all are not its matter."""
        return _insufficient(
            (name, amount, self._others[name], quantity.value(allocatable[name]))
            for name, amount in wanted.others
            if name in allocatable
        )

    def refuse_ports(self, wanted: Room) -> Rejected | None:
        """The same for ports of the node."""
        if self._ports.conflict(wanted.ports):
            return _failed("NodePorts", "node(s) didn't have free ports for the requested pod ports")
        return None
