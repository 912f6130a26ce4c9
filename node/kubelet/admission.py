"""Admission of pods: a node takes those that it has room for. Pure.

The scheduler has looked before, but two schedulers, or one that lost its lead, may have filled the same room; what
does not fit is refused here, and its controller makes another pod.
"""

from dataclasses import dataclass

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.resources import pod_requests, whole
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


def room_of(pod: Object) -> Room:
    """Return what a pod takes of a node."""
    requests = pod_requests(pod)
    return Room(whole("cpu", requests.get("cpu", 0)), whole("memory", requests.get("memory", 0)))


def refuse(wanted: Room, used: Room, capacity: Room) -> Rejected | None:
    """Compare requests with a node's room: None when they fit, else the reason that Kubernetes' kubelet gives."""
    for name, asked, taken, most in (
        ("pods", 1, used.pods, capacity.pods),
        ("cpu", wanted.cpu, used.cpu, capacity.cpu),
        ("memory", wanted.memory, used.memory, capacity.memory),
    ):
        if asked and taken + asked > most:
            text = f"Node didn't have enough resource: {name}, requested: {asked}, used: {taken}, capacity: {most}"
            return Rejected(f"OutOf{name}", f"Pod was rejected: {text}")
    return None


class Allocations:
    """Counts what the pods of one node hold of its capacity."""

    def __init__(self, capacity: Room) -> None:
        self._capacity = capacity
        self._held = NOTHING

    def hold(self, room: Room) -> None:
        self._held += room

    def release(self, room: Room) -> None:
        self._held -= room

    def refuse(self, wanted: Room) -> Rejected | None:
        """Say why a pod does not fit beside the others; None when it does."""
        return refuse(wanted, self._held, self._capacity)
