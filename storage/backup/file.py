"""The backup file; its format is described in the package."""

import hashlib
import json
import struct
from collections.abc import AsyncIterable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rayplane.storage.env import Disk
from rayplane.storage.env.private import own_name
from rayplane.storage.errors import StorageError

VERSION = 1
CHUNK_BYTES = 1024 * 1024
HEADER_BYTES_MAX = 64 * 1024
_MAGIC = b"RPBACKUP"
_PREFIX = struct.Struct(">8sHI")
_TAIL = struct.Struct(">Q32s")


class BackupError(StorageError):
    """A backup file cannot be read."""


class NotABackup(BackupError):
    """The file is something else, or there is none: check its name."""


class UnsupportedBackup(BackupError):
    """The file is of a newer format: use a newer rayplane."""


class TruncatedBackup(BackupError):
    """The file is cut short: copy it again from where it was made, or use another backup."""


class CorruptBackup(BackupError):
    """The file has been altered: copy it again from where it was made, or use another backup."""


@dataclass(frozen=True, slots=True)
class BackupHeader:
    """The header of a backup. `created` is RFC 3339; all up to `revision` is in it, and what came while it was made.

    `origin` is for whoever restores it: JSON that describes the cluster it was made of.
    """

    cluster: str
    revision: int
    created: str
    origin: dict[str, Any] = field(default_factory=dict)


async def write_backup(
    disk: Disk, path: str, header: BackupHeader, chunks: Iterable[bytes] | AsyncIterable[bytes]
) -> int:
    """Write a backup beside `path` and rename it there once it is durable; returns its size in bytes.

    Raises DiskError, or what `chunks` raises; then `path` is as it was.
    """
    described = json.dumps(asdict(header)).encode()
    temporary = own_name(path)
    file = disk.append_file(temporary, at=0)
    digest = hashlib.sha256()
    length = 0

    def put(data: bytes) -> None:
        digest.update(data)
        file.append(data)

    try:
        put(_PREFIX.pack(_MAGIC, VERSION, len(described)) + described)
        if isinstance(chunks, AsyncIterable):
            async for chunk in chunks:
                length += len(chunk)
                put(chunk)
        else:
            for chunk in chunks:
                length += len(chunk)
                put(chunk)
        put(length.to_bytes(8))
        file.append(digest.digest())
        await file.sync()
        size = file.size()
    except BaseException:
        file.close()
        disk.remove(temporary)
        raise
    file.close()
    disk.rename(temporary, path)
    await disk.sync_dir(path.rpartition("/")[0])
    return size


def read_backup(disk: Disk, path: str) -> tuple[BackupHeader, Iterator[bytes]]:
    """Header and content; everything is verified before the first chunk.

    Raises NotABackup, UnsupportedBackup, TruncatedBackup, CorruptBackup.
    """
    header, data, start = _verify(disk, path)
    stop = len(data) - _TAIL.size
    return header, (data[at : min(at + CHUNK_BYTES, stop)] for at in range(start, stop, CHUNK_BYTES))


def verify_backup(disk: Disk, path: str) -> BackupHeader:
    """Check a backup from end to end; raises as `read_backup` does."""
    return _verify(disk, path)[0]


def _verify(disk: Disk, path: str) -> tuple[BackupHeader, bytes, int]:
    """Header, whole file, and where its content begins."""
    try:
        data = disk.read(path)
    except FileNotFoundError as e:
        raise NotABackup(f"there is no file {path}: check its name") from e
    if data[: len(_MAGIC)] != _MAGIC[: len(data)] or not data:
        raise NotABackup(f"{path} is not a backup file: check its name")
    again = "copy it again from where it was made, or use another backup"
    if len(data) < _PREFIX.size:
        raise TruncatedBackup(f"{path} is cut short: {again}")
    _, version, described = _PREFIX.unpack_from(data)
    if version > VERSION:
        raise UnsupportedBackup(f"{path} has format {version}, this rayplane reads up to {VERSION}: use a newer one")
    start = _PREFIX.size + described
    if described > HEADER_BYTES_MAX:
        raise CorruptBackup(f"{path} has been altered: {again}")
    if len(data) < start + _TAIL.size:
        raise TruncatedBackup(f"{path} is cut short: {again}")
    length, digest = _TAIL.unpack_from(data, len(data) - _TAIL.size)
    if hashlib.sha256(memoryview(data)[: -len(digest)]).digest() == digest:
        return BackupHeader(**json.loads(data[_PREFIX.size : start])), data, start
    if length != len(data) - start - _TAIL.size:
        # The last bytes are not a tail: the rest was never copied (or the tail itself was hit).
        raise TruncatedBackup(f"{path} is cut short: {again}")
    raise CorruptBackup(f"{path} has been altered: {again}")
