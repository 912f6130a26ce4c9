"""Backups of a cluster's state: one self-contained, self-checking file.

Owns the file format and its verification. Does not know where the state comes from nor how a cluster is rebuilt: the
content is an MVCC snapshot stream, taken as opaque chunks.

    await write_backup(disk, "x.rpbackup", BackupHeader(cluster="default", revision=7, created="2026-..."), chunks)
    header = verify_backup(disk, "x.rpbackup")
    header, chunks = read_backup(disk, "x.rpbackup")

File: magic "RPBACKUP" | version u16 | header length u32 | header (JSON) | content | content length u64 | sha256 of all
bytes before it; integers are big-endian.

Concurrency: plain calls; `write_backup` awaits its source and the disk. Two writers of one path: the last one wins.
"""

from rayplane.storage.backup.file import (
    BackupError,
    BackupHeader,
    CorruptBackup,
    NotABackup,
    TruncatedBackup,
    UnsupportedBackup,
    read_backup,
    verify_backup,
    write_backup,
)

__all__ = [
    "BackupError",
    "BackupHeader",
    "CorruptBackup",
    "NotABackup",
    "TruncatedBackup",
    "UnsupportedBackup",
    "read_backup",
    "verify_backup",
    "write_backup",
]
