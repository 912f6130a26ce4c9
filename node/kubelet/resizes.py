"""Resizes of the pods of one node: those whose specs have changed are given what they ask for, now or when it is there.

Nobody waits for longer than his pod lives: those that are deferred are bounded by the pods of the node.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.qos import GUARANTEED, qos_class
from rayplane.node.kubelet.admission import Allocations, Room, room_of
from rayplane.node.kubelet.resizing import (
    DEFERRED,
    NOTHING_PENDING,
    new_images,
    new_resources,
    refusal,
    summary,
)
from rayplane.node.lifecycle import Event, PodMachine, Respecified


class ResizedPod(Protocol):
    """A pod of the node, and the room it holds there."""

    pod: Object
    machine: PodMachine
    room: Room

    def change_room(self, room: Room) -> None: ...

    def post(self, event: Event) -> None: ...


class Resizes:
    """The changes of a node's pods. `room`: what its pods hold of it."""

    def __init__(self, room: Allocations) -> None:
        self._room = room
        self._deferred: dict[ResizedPod, None] = {}
        self._looking = False

    def look(self, pod: ResizedPod) -> None:
        """The pod's spec may ask for something else than it has."""
        given: Mapping[str, dict[str, Any]] = {name: c.spec for name, c in pod.machine.by_name.items()}
        images = new_images(pod.pod, given)
        if images.containers:
            pod.post(Respecified(images.containers, images.restart))
        given = {name: c.spec for name, c in pod.machine.by_name.items()}
        asked = new_resources(pod.pod, given, pod.machine.spec.get("resources"))
        if not asked:
            self._settle(pod)
            return
        want = room_of(pod.pod, reported=False)
        refused = refusal(pod.pod, pod.room, want, self._room)
        if refused is not None:
            if refused.reason == DEFERRED:
                self._deferred[pod] = None
            else:
                self._deferred.pop(pod, None)
            pod.post(refused)
            return
        self._settle(pod)
        pod.post(Respecified(asked.containers, asked.restart, asked.of_pod, summary(pod.pod)))
        pod.change_room(want)

    def _settle(self, pod: ResizedPod) -> None:
        self._deferred.pop(pod, None)
        if pod.machine.resize_pending[0]:
            pod.post(NOTHING_PENDING)

    def look_again(self) -> None:
        """There is more room: whoever matters most comes first."""
        if self._looking or not self._deferred:
            return
        self._looking = True
        try:
            for pod in sorted(self._deferred, key=_rank):
                self.look(pod)
        finally:
            self._looking = False

    def forget(self, pod: ResizedPod) -> None:
        self._deferred.pop(pod, None)


def _rank(pod: ResizedPod) -> tuple[int, bool]:
    return -(meta.spec(pod.pod).get("priority") or 0), qos_class(pod.pod) != GUARANTEED
