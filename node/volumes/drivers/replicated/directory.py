"""Records of replicated volumes: which nodes hold one and who may write it. A port to something linearizable (etcd)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from rayplane.node.volumes.backend import Snapshot


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """Record of a replicated volume, on which all nodes agree."""

    volume_id: str
    capacity_bytes: int
    replicas: tuple[str, ...]
    """Nodes that hold a replica and count for majorities."""
    epoch: int = 0
    """Grows with each publication; 0 means never published."""
    writer: str = ""
    """The node that it is published on."""
    deleted: bool = False
    """Gone for everyone; kept until its last replica is removed."""
    origin: str = ""
    """The volume or snapshot that its content is copied from."""
    filled_at: str = ""
    """When that was (ISO 8601); nobody uses a copy before."""
    snapshot: bool = False
    """It is never published."""

    @property
    def is_whole(self) -> bool:
        return bool(self.filled_at) or not self.origin

    def as_snapshot(self) -> Snapshot:
        return Snapshot(self.volume_id, self.origin, self.capacity_bytes, datetime.fromisoformat(self.filled_at))


class Directory(Protocol):
    """Records with compare-and-swap, and the nodes that can hold replicas."""

    async def read(self, volume_id: str) -> tuple[VolumeRecord, int] | None:
        """The record and its revision, as of now (not a cached past)."""

    async def write(self, record: VolumeRecord, revision: int) -> int | None:
        """Replace the record at `revision` (0: create it); its new revision, or None if it has another by now."""

    async def remove(self, volume_id: str) -> None: ...

    async def records(self) -> list[VolumeRecord]:
        """All of them."""

    async def nodes(self) -> dict[str, str]:
        """Address (host:port) of the host of every node that is ready to hold replicas, by node name."""

    async def address(self, node: str) -> str | None:
        """Return the last known address of a node's host, ready or not."""


class MemoryDirectory:
    """Records in memory: for tests and for hosts that share a process."""

    def __init__(self) -> None:
        self._records: dict[str, tuple[VolumeRecord, int]] = {}
        self._revision = 0
        self.addresses: dict[str, str] = {}
        self.unready: set[str] = set()

    async def read(self, volume_id: str) -> tuple[VolumeRecord, int] | None:
        return self._records.get(volume_id)

    async def write(self, record: VolumeRecord, revision: int) -> int | None:
        present = self._records.get(record.volume_id)
        if (present[1] if present else 0) != revision:
            return None
        self._revision += 1
        self._records[record.volume_id] = (record, self._revision)
        return self._revision

    async def remove(self, volume_id: str) -> None:
        self._records.pop(volume_id, None)

    async def records(self) -> list[VolumeRecord]:
        return [record for record, _ in self._records.values()]

    async def nodes(self) -> dict[str, str]:
        return {node: address for node, address in sorted(self.addresses.items()) if node not in self.unready}

    async def address(self, node: str) -> str | None:
        return self.addresses.get(node)
