"""Changes of containers and sandboxes, for clients that watch: what differs between two looks at the inventory.

Looks are taken while somebody watches: at once when a container that a client made changes, and now and then for the
kubelets' pods. A client that falls behind is told so, and lists again. Bounds: clients, and what each may be behind.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

from rayplane.node.cri.inventory import ContainerEntry, Inventory, SandboxEntry
from rayplane.node.errors import TooMany
from rayplane.proto.cri import cri_pb2 as pb

WATCHERS_MAX = 16
BEHIND_MAX = 4096
LOOK_S = 1.0
#: Looks take at most such a part of the host's time, however many pods it has.
LOOK_SHARE = 0.05
_Kind = pb.ContainerEventType
_CREATED, _STARTED = _Kind.CONTAINER_CREATED_EVENT, _Kind.CONTAINER_STARTED_EVENT
_STOPPED, _DELETED = _Kind.CONTAINER_STOPPED_EVENT, _Kind.CONTAINER_DELETED_EVENT
#: Events that lead to a state, in their order.
_LEADING = {
    pb.ContainerState.CONTAINER_CREATED: (_CREATED,),
    pb.ContainerState.CONTAINER_RUNNING: (_CREATED, _STARTED),
    pb.ContainerState.CONTAINER_EXITED: (_CREATED, _STARTED, _STOPPED),
}
_SANDBOX = {
    pb.PodSandboxState.SANDBOX_READY: (_CREATED, _STARTED),
    pb.PodSandboxState.SANDBOX_NOTREADY: (_CREATED, _STARTED, _STOPPED),
}
_Seen = dict[str, tuple[tuple[int, ...], str]]
"""Id to the events that have led to its state, and the sandbox it belongs to."""


class EventFeed:
    """A feed of changes. `now`: nanoseconds since 1970."""

    def __init__(self, inventory: Inventory, now: Callable[[], int]) -> None:
        self._inventory = inventory
        self._now = now
        self._watchers: dict[asyncio.Queue[pb.ContainerEventResponse | None], None] = {}
        self._seen: _Seen = {}
        self._timer: asyncio.TimerHandle | None = None
        self._soon = False

    def kick(self) -> None:
        """Something has changed: look at it at the end of this turn of the loop."""
        if self._watchers and not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._kicked)

    def _kicked(self) -> None:
        self._soon = False
        if self._watchers:
            self._look()

    async def watch(self) -> AsyncIterator[pb.ContainerEventResponse]:
        """Events from now on. Raises TooMany: for one watcher too many, and for one that is too far behind."""
        if len(self._watchers) >= WATCHERS_MAX:
            raise TooMany(f"{WATCHERS_MAX} clients watch here: end some first")
        queue: asyncio.Queue[pb.ContainerEventResponse | None] = asyncio.Queue(BEHIND_MAX)
        if not self._watchers:
            self._seen = self._states(*self._entries())
        self._watchers[queue] = None
        self._again(LOOK_S)
        try:
            while (event := await queue.get()) is not None:
                yield event
            raise TooMany(f"more than {BEHIND_MAX} events were not taken: list everything, and watch again")
        finally:
            self._watchers.pop(queue, None)
            if not self._watchers and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _again(self, pause_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._look)

    def _entries(self) -> tuple[list[SandboxEntry], list[ContainerEntry]]:
        return [*self._inventory.sandboxes()], [*self._inventory.containers()]

    @staticmethod
    def _states(sandboxes: list[SandboxEntry], containers: list[ContainerEntry]) -> _Seen:
        seen: _Seen = {s.status.id: (_SANDBOX[s.status.state], s.status.id) for s in sandboxes}
        seen.update((c.status.id, (_LEADING.get(c.status.state, ()), c.sandbox_id)) for c in containers)
        return seen

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        sandboxes, containers = self._entries()
        before, self._seen = self._seen, self._states(sandboxes, containers)
        self._again(max(LOOK_S, (loop.time() - began_at) / LOOK_SHARE))
        changes = [*_changes(before, self._seen)]
        if not changes:
            return
        by_id = {s.status.id: s.status for s in sandboxes}
        for ident, kind, sandbox_id in changes:
            event = pb.ContainerEventResponse(
                container_id=ident,
                container_event_type=kind,  # type: ignore[arg-type]
                created_at=self._now(),
                pod_sandbox_status=by_id.get(sandbox_id),
                containers_statuses=[c.status for c in containers if c.sandbox_id == sandbox_id],
            )
            for queue in [*self._watchers]:
                self._give(queue, event)

    def _give(self, queue: "asyncio.Queue[pb.ContainerEventResponse | None]", event: pb.ContainerEventResponse) -> None:
        try:
            queue.put_nowait(event)
        except asyncio.QueueFull:
            self._watchers.pop(queue, None)
            with contextlib.suppress(asyncio.QueueEmpty):
                queue.get_nowait()  # the end comes in its place
            queue.put_nowait(None)


def _changes(before: _Seen, now: _Seen) -> Iterator[tuple[str, int, str]]:
    for ident, (events, sandbox_id) in now.items():
        known = before.get(ident, ((), ""))[0]
        for kind in events[len(known) :]:
            yield ident, kind, sandbox_id
    for ident, (_, sandbox_id) in before.items():
        if ident not in now:
            yield ident, _DELETED, sandbox_id
