"""Upkeep of replicated volumes that nobody uses: what is lost with a node is made anew, what shares a machine spread.

Whoever uses a volume looks after its replicas (`publication`). Of the others the first node in a volume's record that
is ready does: it takes the volume over as a writer does, by a new epoch, and writes what the replicas hold already. It
makes itself no writer in the record, so that the volume may be used or deleted at any moment: then this is what ends.

A host looks after one volume at a time, when nodes have come, gone or moved, and now and then.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from rayplane.control_plane.backoff import Backoff, Pauses
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.volumes.drivers.replicated.directory import Directory, VolumeRecord
from rayplane.node.volumes.drivers.replicated.duplicate import Held
from rayplane.node.volumes.drivers.replicated.follower import Follower
from rayplane.node.volumes.drivers.replicated.placement import doubled, machines_of
from rayplane.node.volumes.drivers.replicated.publication import Publication
from rayplane.node.volumes.drivers.replicated.quorum import prepare
from rayplane.node.volumes.drivers.replicated.replica_client import Replica, Stubs
from rayplane.node.volumes.drivers.replicated.replica_store import ReplicaStore
from rayplane.node.volumes.drivers.replicated.timing import ReplicationTiming
from rayplane.node.volumes.errors import VolumeError, called

log = logging.getLogger(__name__)

LOOK_EVERY_S = 300.0
"""A replica that was lost while its node stayed ready is found by that."""
REST_S = 30.0
"""Before a host that has held nothing yet asks itself again."""
IDLE_ROUNDS_MAX = 10
"""Looks at a volume on which nothing gets any further before it is left for later."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A volume that a node looks after."""

    node: str
    record: VolumeRecord
    revision: int
    make: Callable[[str], Replica]


class Upkeep:
    """The upkeep of what the nodes of a host hold; `stores` are those of nodes that hold anything."""

    def __init__(
        self,
        stores: Callable[[], Iterable[ReplicaStore]],
        *,
        directory: Directory,
        stubs: Stubs,
        timing: ReplicationTiming | None = None,
    ) -> None:
        self._stores, self._directory, self._stubs = stores, directory, stubs
        self._timing = timing or ReplicationTiming()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="upkeep of volumes")

    async def stop(self) -> None:
        await cancel_and_wait(self._task)

    async def _run(self) -> None:
        now, pauses = asyncio.get_running_loop().time, Pauses(Backoff(self._timing.spread_every_s, LOOK_EVERY_S))
        seen: Mapping[str, str] = {}
        look_at = now()
        while True:
            await asyncio.sleep(self._timing.spread_every_s if any(True for _ in self._stores()) else REST_S)
            try:
                ready = await called(self._directory.nodes()) if any(s.volumes() for s in self._stores()) else {}
                if not ready or (ready == seen and now() < look_at):
                    continue
                if ready != seen:
                    pauses.reset()
                is_done = await self._look(ready)
            except VolumeError as e:
                log.debug("volumes that nobody uses cannot be looked at: %s", e)
                is_done = False
            except Exception:
                log.exception("looking after volumes that nobody uses failed")
                is_done = False
            seen = ready
            if is_done:
                pauses.reset()
            look_at = now() + (LOOK_EVERY_S if is_done else pauses.next_s())

    async def _look(self, ready: Mapping[str, str]) -> bool:
        """Look after all that is this host's matter; whether nothing is left to do."""
        is_done = True
        for store in list(self._stores()):
            for volume_id in store.volumes():
                try:
                    case = await self._case(store.node, volume_id, ready)
                    if case is not None and await self._needs_care(case, ready):
                        is_done &= await self._care(case)
                except VolumeError as e:
                    log.info("volume %s, which nobody uses, is not whole yet: %s", volume_id, e)
                    is_done = False
        return is_done

    async def _case(self, node: str, volume_id: str, ready: Mapping[str, str]) -> _Case | None:
        """None where it is somebody else's matter."""
        found = await called(self._directory.read(volume_id))
        if found is None or found[0].deleted or found[0].writer or not found[0].is_whole:
            return None
        record, revision = found
        if next((n for n in record.replicas if n in ready), "") != node:
            return None

        def make(other: str) -> Replica:
            timeout_s = self._timing.call_timeout_s
            return Replica(volume_id, other, stubs=self._stubs, directory=self._directory, timeout_s=timeout_s)

        return _Case(node, record, revision, make)

    async def _needs_care(self, case: _Case, ready: Mapping[str, str]) -> bool:
        replicas = case.record.replicas
        there = {node: ready[node] for node in replicas if node in ready}
        if len(there) < len(replicas):
            return len(ready) > len(there)
        for node in replicas:
            if await Follower(case.make(node)).is_gone():
                return True
        machines = machines_of(there)
        is_room = set(machines_of(ready).values()) - set(machines.values())
        return bool(is_room and doubled(replicas, case.node, machines))

    async def _care(self, case: _Case) -> bool:
        """Take the volume over, have its replicas made and spread; whether that is done. Raises VolumeError."""
        record = replace(case.record, epoch=case.record.epoch + 1)
        revision = await called(self._directory.write(record, case.revision))
        if revision is None:
            return False  # somebody else has it now
        log.info("volume %s, which nobody uses, gets its replicas again", record.volume_id)
        version, source = await prepare(record, case.node, case.make)
        publication = Publication(
            record,
            revision,
            generation=version.generation,
            content=Held(source),
            directory=self._directory,
            replica=case.make,
            timing=self._timing,
            writer=case.node,
        )
        try:
            await publication.start()
            return await self._until_whole(case, publication)
        finally:
            await publication.stop()

    async def _until_whole(self, case: _Case, publication: Publication) -> bool:
        idle = 0
        while idle < IDLE_ROUNDS_MAX and not publication.fenced.is_set():
            await asyncio.sleep(self._timing.spread_every_s)
            now = replace(case, record=publication.record)
            found = await called(self._directory.read(now.record.volume_id))
            if found is None or found[0].deleted or found[0].epoch != now.record.epoch:
                return True
            if not publication.lagging and not await self._needs_care(now, await called(self._directory.nodes())):
                return True
            idle = 0 if publication.is_busy else idle + 1
        return False
