"""A volume's content as data: files as lists of block hashes, their differences, versions and majorities. Pure."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from rayplane.proto.rayplane.v1.volumes_pb2 import DIRECTORY, FILE, SYMLINK, VolumeFile, VolumeFileKind, VolumeVersion

BLOCK_BYTES = 64 * 1024
LARGE_BLOCK_BYTES = 1024 * 1024
LARGE_FILE_BYTES = 512 * 1024 * 1024
BATCH_BYTES = 2 * 1024 * 1024
"""About how much travels in one call; gRPC's default limit is 4 MiB."""


class Version(NamedTuple):
    """Version of a volume's content (VolumeVersion); ordered."""

    epoch: int
    generation: int

    @staticmethod
    def of(message: VolumeVersion) -> "Version":
        return Version(message.epoch, message.generation)

    def message(self) -> VolumeVersion:
        return VolumeVersion(epoch=self.epoch, generation=self.generation)


EMPTY = Version(0, 0)


class Entry(NamedTuple):
    """One file, directory or symbolic link. `uid` and `gid`: among the numbers that pods have, else 0."""

    kind: VolumeFileKind
    mode: int
    size: int = 0
    block_bytes: int = 0
    blocks: tuple[bytes, ...] = ()
    target: bytes = b""
    uid: int = 0
    gid: int = 0

    @staticmethod
    def of(message: VolumeFile) -> "Entry":
        return Entry(
            message.kind,
            message.mode,
            message.size,
            message.block_bytes,
            tuple(message.blocks),
            message.target,
            message.uid,
            message.gid,
        )

    def message(self, path: bytes) -> VolumeFile:
        return VolumeFile(
            path=path,
            kind=self.kind,
            mode=self.mode,
            size=self.size,
            block_bytes=self.block_bytes,
            blocks=self.blocks,
            target=self.target,
            uid=self.uid,
            gid=self.gid,
        )


Manifest = Mapping[bytes, Entry]
"""Entries by path. Parents of a path are entries too."""


class Difference(NamedTuple):
    """Change that makes one manifest of another; `new_blocks` says where each unknown block is: path and position."""

    files: dict[bytes, Entry]
    removed: list[bytes]
    new_blocks: dict[bytes, tuple[bytes, int]]


def difference(old: Manifest, new: Manifest) -> Difference:
    """Changes from `old` to `new`, in path order. A renamed file's blocks are known, so only its name travels."""
    removed = sorted(path for path in old if path not in new)
    files = {
        path: entry for path, entry in sorted(new.items()) if old.get(path) is not entry and old.get(path) != entry
    }
    known = {block for path in (*removed, *files) if path in old for block in old[path].blocks}
    blocks: dict[bytes, tuple[bytes, int]] = {}
    for path, entry in files.items():
        for position, block in enumerate(entry.blocks):
            if block not in known:
                blocks.setdefault(block, (path, position * entry.block_bytes))
    return Difference(files, removed, blocks)


def hash_block(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def block_bytes(size: int) -> int:
    """Return the size of the blocks that a file of this size is cut into."""
    return BLOCK_BYTES if size <= LARGE_FILE_BYTES else LARGE_BLOCK_BYTES


def used_bytes(manifest: Manifest) -> int:
    return sum(entry.size for entry in manifest.values())


def majority(replicas: Iterable[str]) -> int:
    """Return how many of these make a majority."""
    return len(set(replicas)) // 2 + 1


def check_path(path: bytes) -> bool:
    """Tell whether a path stays inside the volume."""
    return bool(path) and all(part not in (b"", b".", b"..") for part in path.split(b"/")) and b"\0" not in path


def batches(blocks: Iterable[bytes], sizes: Mapping[bytes, int] | int) -> Iterator[list[bytes]]:
    """Hashes in groups whose blocks are about BATCH_BYTES together."""
    batch: list[bytes] = []
    total = 0
    for block in blocks:
        size = sizes if isinstance(sizes, int) else sizes[block]
        if batch and total + size > BATCH_BYTES:
            yield batch
            batch, total = [], 0
        batch.append(block)
        total += size
    if batch:
        yield batch


__all__ = [
    "BATCH_BYTES",
    "BLOCK_BYTES",
    "DIRECTORY",
    "EMPTY",
    "FILE",
    "SYMLINK",
    "Difference",
    "Entry",
    "Manifest",
    "Version",
    "batches",
    "block_bytes",
    "check_path",
    "difference",
    "hash_block",
    "majority",
    "used_bytes",
]
