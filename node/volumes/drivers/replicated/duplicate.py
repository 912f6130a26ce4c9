"""Copies of replicated volumes: what replicas of one volume have committed becomes the content of another.

The bytes go from replica to replica, over the node that makes the copy; they are of one generation, so of one moment.
"""

import errno
from collections.abc import Callable

from rayplane.node.volumes.drivers.replicated.directory import Directory, VolumeRecord
from rayplane.node.volumes.drivers.replicated.manifest import Manifest, hash_block
from rayplane.node.volumes.drivers.replicated.publication import Publication
from rayplane.node.volumes.drivers.replicated.replica_client import Replica
from rayplane.node.volumes.drivers.replicated.timing import ReplicationTiming
from rayplane.node.volumes.errors import NoQuorum, PeerError
from rayplane.storage.errors import Code

ROUNDS_MAX = 60
"""Waits for a majority, each as long as a barrier's, until a copy is given up."""
READS_MAX = 5
"""Readings of a manifest that changes meanwhile."""


class Held:
    """The content that a replica of another volume holds; None: that of an empty one."""

    def __init__(self, source: Replica | None) -> None:
        self._source = source
        self._manifest: Manifest | None = None if source is not None else {}

    async def scan(self) -> tuple[Manifest, bool]:
        if self._manifest is None and self._source is not None:
            self._manifest = await _manifest(self._source)
        return self._manifest or {}, True

    async def block(self, wanted: bytes, path: bytes, offset: int, length: int) -> bytes | None:
        """None where the volume has moved on: its present content is copied then. Raises OSError where the source does
        not answer or is damaged, which is a failure however often it is read again."""
        try:
            found = await self._source.fetch([wanted]) if self._source is not None else []
        except PeerError as e:
            if e.code is not Code.FAILED_PRECONDITION:
                raise OSError(errno.EIO, str(e)) from e
            found = []
        if len(found) == 1 and hash_block(found[0]) == wanted:
            return found[0]
        if self._source is not None:
            self._manifest = None
        return None


async def _manifest(source: Replica) -> Manifest:
    why = ""
    for _ in range(READS_MAX):
        try:
            return (await source.manifest())[1]
        except PeerError as e:
            why = str(e)
    raise OSError(errno.EIO, f"node {source.node} does not tell what its replica holds: {why}")


async def ship(
    record: VolumeRecord,
    revision: int,
    source: Replica | None,
    *,
    generation: int,
    directory: Directory,
    replica: Callable[[str], Replica],
    timing: ReplicationTiming,
) -> None:
    """Have a majority of a volume's replicas hold what `source` does. Raises NoQuorum, Fenced, VolumeError."""
    publication = Publication(
        record,
        revision,
        generation=generation,
        content=Held(source),
        directory=directory,
        replica=replica,
        timing=timing,
    )
    try:
        for waited in range(ROUNDS_MAX):
            try:
                await (publication.sync() if waited else publication.start())
                return
            except NoQuorum:
                if waited == ROUNDS_MAX - 1:
                    raise
    finally:
        await publication.stop()
