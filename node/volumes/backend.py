"""Port of volume drivers: what each does, whatever keeps the bytes."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from rayplane.node.volumes.errors import InvalidVolume

_VOLUME_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """A volume as created. `nodes` are those that can use it (empty means every node), `replicas` those that hold
    replicas of its bytes."""

    volume_id: str
    capacity_bytes: int
    nodes: tuple[str, ...] = ()
    replicas: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """A volume ready on this node. `path` is a directory (an imaginary one in simulation).

    `sync_socket`, where there is one, is a Unix socket for the pod's processes (their RAYPLANE_VOLUME_SYNC): a line
    "sync" is answered "ok <generation>" once every change made before is durable on a majority of replicas, or
    "error <reason>". `block`: it is no directory, but a block device of the machine.
    """

    path: str
    sync_socket: str = ""
    block: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes that a volume holds and may hold."""

    used_bytes: int
    capacity_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot as taken. `size_bytes`: what a volume that is made from it must hold."""

    snapshot_id: str
    volume_id: str
    size_bytes: int
    taken_at: datetime


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a new volume's content: a snapshot, or another volume of the same driver."""

    snapshot_id: str = ""
    volume_id: str = ""


class Backend(Protocol):
    """One node's end of a kind of volume. All calls may be repeated: what is done already is not an error."""

    @property
    def node(self) -> str: ...

    async def start(self) -> None:
        """Read what is on the disk."""

    async def stop(self) -> None:
        """Bring published volumes to rest; their directories stay."""

    async def create(self, volume_id: str, capacity_bytes: int, source: Source | None = None) -> VolumeInfo:
        """Reserve space for a volume, and fill it. Raises NoCapacity, VolumeConflict, InvalidVolume, TooSmall."""

    async def expand(self, volume_id: str, capacity_bytes: int) -> VolumeInfo:
        """Reserve more space for a volume, in use or not. Raises NoCapacity, VolumeNotFound."""

    async def delete(self, volume_id: str) -> None:
        """Remove a volume, its bytes and its reservation. Raises WrongNode while it is in use."""

    async def find(self, volume_id: str) -> VolumeInfo:
        """Return what is known of a volume. Raises VolumeNotFound."""

    def published_at(self, volume_id: str) -> Published:
        """Return where a volume is while it is published here. Raises InvalidVolume."""

    async def publish(self, volume_id: str) -> Published:
        """Make a volume usable on this node. Raises VolumeNotFound, WrongNode, NoQuorum."""

    async def unpublish(self, volume_id: str) -> None:
        """Take a volume out of use on this node; changes are durable when it returns."""

    async def usage(self, volume_id: str) -> Usage:
        """Return what a volume holds. Raises VolumeNotFound."""

    async def free_bytes(self) -> int:
        """Return the bytes that could still be reserved on this node."""


@runtime_checkable
class Snapshots(Protocol):
    """The part of a backend that takes snapshots, where it has one."""

    async def snapshot(self, name: str, volume_id: str) -> Snapshot:
        """Copy a volume as it is at one moment; durable when it returns. Raises VolumeNotFound, VolumeBusy."""

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; nothing if there is none."""

    async def snapshots(self) -> list[Snapshot]:
        """Return the snapshots that this node can tell of."""


def check_volume(volume_id: str, capacity_bytes: int = 1) -> None:
    """Check a volume's id and size. Raises InvalidVolume."""
    if not _VOLUME_ID.fullmatch(volume_id):
        raise InvalidVolume(f"volume id {volume_id!r} must be of letters, digits, dots, dashes and underscores")
    if capacity_bytes <= 0:
        raise InvalidVolume(f"volume {volume_id} must have a size above zero, not {capacity_bytes}")
