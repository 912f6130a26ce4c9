"""The gate of one node: pods that seem not to belong are looked at once more, and critical ones wait for room.

Bounded by the pods that are bound to the node: each waits at most once, and goes when it is deleted.
"""

import logging
from typing import Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.priority import is_critical
from rayplane.control_plane.client import ApiClient
from rayplane.node.kubelet import preemption
from rayplane.node.kubelet.admission import Allocations, Room, forbids, room_of, unwanted
from rayplane.node.kubelet.handlers import Handlers
from rayplane.node.kubelet.metrics import KubeletMetrics
from rayplane.node.kubelet.pod_worker import PodWorker
from rayplane.node.kubelet.stage_player import Worker
from rayplane.node.lifecycle import Evicted, Rejected
from rayplane.node.tasks import Tasks

log = logging.getLogger(__name__)


class GatedNode(Protocol):
    """The node whose gate this is. `node`: its object as last seen."""

    name: str
    node: Object | None
    metrics: KubeletMetrics

    @property
    def workers(self) -> list[Worker]: ...

    def take(self, pod: Object, room: Room, handler: str, refusal: Rejected | None) -> None: ...


class Gate:
    """A gate. `room`: what the node's pods hold; `handlers`: which runtime a pod asks for."""

    def __init__(self, node: GatedNode, room: Allocations, handlers: Handlers, client: ApiClient, tasks: Tasks) -> None:
        self._node, self._room, self._handlers = node, room, handlers
        self._client, self._tasks = client, tasks
        self._waiting: dict[str, Object] = {}  # as last seen, by uid

    def come(self, pod: Object) -> None:
        """A pod that the node has not taken yet came, or changed while it waits."""
        uid = meta.uid(pod)
        if uid in self._waiting:
            self._waiting[uid] = pod
            return
        node, room = self._node.node, room_of(pod)
        doubted = node is not None and self._may_not_belong(pod, room, node)
        if doubted or self._handlers.is_asked(pod):
            self._waiting[uid] = pod
            self._tasks.spawn(self._look_again(uid), f"second look at {meta.key(pod)}")
        else:
            self._admit(pod, room, self._handlers.default, None)

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        self._waiting.pop(uid, None)

    def _may_not_belong(self, pod: Object, room: Room, node: Object) -> Rejected | None:
        """Why a new pod is not for this node, as far as is known of the node: which may be of a moment ago."""
        if has_begun(pod):
            return None
        return unwanted(pod, node) or self._room.refuse_others(room, meta.status(node).get("allocatable") or {})

    async def _look_again(self, uid: str) -> None:
        """Judge a pod by the node as it is now, which whoever bound it may have known, and by its class."""
        name, node = self._node.name, self._node.node or {}
        try:
            node = await self._client.get("nodes", name)
        except ApiError as e:
            log.info("node %s judges a pod by what it knows: %s", name, e.message)
        handler = await self._handlers.of(self._waiting.get(uid) or {})
        pod = self._waiting.pop(uid, None)
        if pod is None:
            return
        room = room_of(pod)
        refusal = self._may_not_belong(pod, room, node)
        if isinstance(handler, Rejected):
            self._node.take(pod, room, self._handlers.default, refusal or handler)
        else:
            self._admit(pod, room, handler, refusal)

    def _admit(self, pod: Object, room: Room, handler: str, refusal: Rejected | None) -> None:
        """Take a new pod, or refuse it; a critical one that lacks room waits until others have ended for it."""
        victims = self._victims(pod, room)
        if not victims:
            self._node.take(pod, room, handler, refusal)
            return
        uid = meta.uid(pod)
        self._waiting[uid] = pod
        self._room.hold(room)  # what becomes free is not for others
        for worker in victims:
            if not worker.is_ending:
                self._preempt(worker)
        self._tasks.spawn(self._let_in(uid, room, handler, victims), f"room for {meta.key(pod)}")

    def _preempt(self, worker: PodWorker) -> None:
        reason, message = preemption.REASON, preemption.MESSAGE
        self._node.metrics.preemptions += 1
        worker.post(Evicted(reason, message, worker.machine.grace_s, preemption.DISRUPTION))

    def _victims(self, pod: Object, room: Room) -> list[PodWorker]:
        """Whom to end for a critical pod for which nothing but room is lacking."""
        known = self._node.node
        node = known or {}
        if has_begun(pod) or not is_critical(pod) or forbids(pod) or (known is not None and unwanted(pod, node)):
            return []
        lacking = self._room.lacking(room, meta.status(node).get("allocatable") or {})
        if not lacking or self._room.refuse_ports(room):
            return []
        # Where stages decide how a pod lives, they decide how it ends.
        plain = (worker for worker in self._node.workers if isinstance(worker, PodWorker))
        holding = {meta.uid(worker.pod): worker for worker in plain if worker.takes_room}
        holders = [preemption.Holder(worker.pod, worker.room, worker.is_ending) for worker in holding.values()]
        found = preemption.victims(pod, lacking, holders)
        return [holding[meta.uid(one.pod)] for one in found]

    async def _let_in(self, uid: str, room: Room, handler: str, victims: list[PodWorker]) -> None:
        """Take a pod for which others are ending, once they have: it is judged by what there is then."""
        try:
            for worker in victims:
                await worker.gave_up_room()
        finally:
            self._room.release(room)
        pod, node = self._waiting.pop(uid, None), self._node.node
        if pod is not None:
            refusal = None if node is None else self._may_not_belong(pod, room, node)
            self._node.take(pod, room, handler, refusal)


def has_begun(pod: Object) -> bool:
    """Whether the pod has its place here already, or is about to go."""
    return bool(meta.status(pod).get("startTime")) or meta.is_deleting(pod)
