"""Whether a node has room for a pod. Pure.

The scheduler has looked before, but two schedulers, or one that lost its lead, may have filled the same room; what
does not fit is refused here, and its controller makes another pod.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api.machinery import quantity
from rayplane.node.lifecycle import Rejected


@dataclass(frozen=True, slots=True)
class Room:
    """cpu in thousandths, memory in bytes, number of pods."""

    cpu: int
    memory: int
    pods: int = 1

    def __add__(self, other: "Room") -> "Room":
        return Room(self.cpu + other.cpu, self.memory + other.memory, self.pods + other.pods)

    def __sub__(self, other: "Room") -> "Room":
        return Room(self.cpu - other.cpu, self.memory - other.memory, self.pods - other.pods)


NOTHING = Room(0, 0, 0)


def pod_requests(spec: Mapping[str, Any]) -> Room:
    """What a pod asks for: its containers and sidecars together, or its largest init container if that is more."""
    running = _sum(_requests(c) for c in spec["containers"])
    largest = sidecars = NOTHING
    for container in spec.get("initContainers") or ():
        own = _requests(container)
        if container.get("restartPolicy") == "Always":
            sidecars += own
            own = NOTHING
        largest = _max(largest, own + sidecars)
    overhead = spec.get("overhead") or {}
    total = _max(running + sidecars, largest)
    cpu, memory = quantity.milli(overhead.get("cpu") or "0"), quantity.value(overhead.get("memory") or "0")
    return Room(total.cpu + cpu, total.memory + memory)


def refuse(wanted: Room, used: Room, capacity: Room) -> Rejected | None:
    """None when it fits, else the reason Kubernetes' kubelet gives."""
    for name, asked, taken, most in (
        ("pods", 1, used.pods, capacity.pods),
        ("cpu", wanted.cpu, used.cpu, capacity.cpu),
        ("memory", wanted.memory, used.memory, capacity.memory),
    ):
        if asked and taken + asked > most:
            text = f"Node didn't have enough resource: {name}, requested: {asked}, used: {taken}, capacity: {most}"
            return Rejected(f"OutOf{name}", f"Pod was rejected: {text}")
    return None


def _requests(container: Mapping[str, Any]) -> Room:
    requests = (container.get("resources") or {}).get("requests")
    if not requests:
        return Room(0, 0)
    return Room(quantity.milli(requests.get("cpu") or "0"), quantity.value(requests.get("memory") or "0"))


def _sum(rooms: Iterable[Room]) -> Room:
    cpu = memory = 0
    for room in rooms:
        cpu += room.cpu
        memory += room.memory
    return Room(cpu, memory)


def _max(a: Room, b: Room) -> Room:
    return Room(max(a.cpu, b.cpu), max(a.memory, b.memory))
