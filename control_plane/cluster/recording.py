"""The recorder of a cluster's history: tells a judge all that etcd holds of objects, in the order of revisions.

One task; the judge belongs to it and to whoever tells answers and facts on the same loop.
"""

import asyncio
from collections.abc import Callable

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.faults.steps import Condition
from rayplane.control_plane.invariants import Judge
from rayplane.control_plane.invariants.conditions import View, unmet
from rayplane.control_plane.invariants.stored import PREFIX, PREFIX_END, object_at, place_of
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd.kv_pb2 import Event
from rayplane.proto.etcd.rpc_pb2 import WatchResponse

RETRY_S = 0.2


class Moments:
    """Moments at which conditions on objects hold; also those that last until the next change only."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._waiting: list[tuple[Condition, asyncio.Future[None]]] = []

    async def until(self, condition: Condition) -> None:
        """Wait for one."""
        met: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((condition, met))
        self.changed()
        await met

    def changed(self) -> None:
        """Look at all that is waited for: something has changed."""
        for condition, met in self._waiting:
            if not met.done() and unmet(condition, self._view) is None:
                met.set_result(None)
        self._waiting = [(condition, met) for condition, met in self._waiting if not met.done()]


class Recorder:
    """A recorder that follows one etcd. `now`: seconds of the judge's clock; `changed` is called after each change."""

    def __init__(
        self, etcd: EtcdClient, judge: Judge, now: Callable[[], float], changed: Callable[[], None] = lambda: None
    ) -> None:
        self._etcd = etcd
        self._judge = judge
        self._now = now
        self._changed = changed
        self._versions: dict[bytes, int] = {}
        self.begun = asyncio.Event()
        """Set once what was there at first is known."""

    async def run(self) -> None:
        """Until cancelled."""
        revision = 0
        while True:
            try:
                revision = revision or await self._begin()
                async for answer in self._etcd.watch(PREFIX, PREFIX_END, start_revision=revision + 1):
                    revision = self._take(answer, revision)
                    if not revision:
                        break
            except RpcError:
                # Nobody answers now: what has happened meanwhile will be told later.
                pass
            await asyncio.sleep(RETRY_S)

    async def _begin(self) -> int:
        found = await self._etcd.range(PREFIX, PREFIX_END)
        placed = [(kv, place) for kv in found.kvs if (place := place_of(kv.key)) is not None]
        self._versions = {kv.key: kv.mod_revision for kv, _ in placed}
        objects = ((place.resource, object_at(place, kv.value, kv.mod_revision)) for kv, place in placed)
        self._judge.begin(self._now(), found.header.revision, objects)
        self.begun.set()
        return int(found.header.revision)

    def _take(self, answer: WatchResponse, revision: int) -> int:
        """The revision up to which all is told; 0 when history was compacted under the watch."""
        if answer.compact_revision:
            return 0
        for event in answer.events:
            kv = event.kv
            revision = max(revision, kv.mod_revision)
            place = place_of(kv.key)
            if place is None:
                continue
            gone = event.type == Event.DELETE
            if gone:
                self._versions.pop(kv.key, None)
            else:
                self._versions[kv.key] = kv.mod_revision
            obj = object_at(place, kv.value, kv.mod_revision)
            self._judge.changed(self._now(), place.resource, obj, kv.mod_revision, gone=gone)
            self._changed()
        return revision

    async def is_current(self) -> bool:
        """Whether all has been told that etcd holds now. Raises RpcError when nobody answers."""
        found = await self._etcd.range(PREFIX, PREFIX_END, keys_only=True)
        there = {kv.key: kv.mod_revision for kv in found.kvs if place_of(kv.key) is not None}
        return there == self._versions
