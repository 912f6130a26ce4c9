"""A write-ahead log of opaque entries, and the snapshot files that let it be cut short.

Owns segments, records, checksums, group commit, recovery after a crash, and snapshot files. Does not know what is in
an entry: it is an index, a term and bytes; the hard state is bytes.

    wal = await Wal.create(disk, metadata)                 # once; makes the directory in one step
    wal, recovered = await Wal.open(disk)                  # reads everything before anything can be appended
    await wal.save(hard_state, [LogEntry(1, 1, b"..")])    # returns when durable; callers share syncs
    await wal.mark_snapshot(index, term); await wal.release(index)

    snapshots = SnapshotFiles(disk)
    await snapshots.write(SnapshotMark(index, term), chunks); snapshots.read(mark); await snapshots.prune(keep=2)

On disk: `wal/SEQUENCE-FIRSTINDEX.wal` (hexadecimal), preallocated with zeros, so the log ends where zeros begin. A
segment is a run of frames, each the work of one sync, at multiples of 8 bytes (little-endian):

    length u32 | crc u32 | type u8 | empty u16 | crc of these 11 bytes u32 | 0xA5 | payload | zeros | 0x5A

`crc` is CRC-32 of the payload, begun with that of the frame before it, so that a missing, swapped or foreign frame is
found. `empty` counts 512-byte sectors that are all zeros by themselves. The first frame of a segment (HEAD) repeats
metadata, hard state and snapshot mark, so that older segments can go, and says how long the file is, so that one that
was cut short is found. Once the next segment has its head, a FINISH frame ends the one before, so that a missing last
segment is found. A frame is written only after the one before it is synced; so only the very last frame, or a FINISH
before a segment that has nothing but its head, can be torn by a crash, and then its end or a sector of it is zeros.
Every other bad frame is corruption and refused: CorruptLog. The zeros tell them apart even for the last frame.

Concurrency: single-threaded; calls of `save` are written in call order by one writer task that lives as long as there
is work. After a failed write or sync the log refuses everything until it is opened again.
"""

from rayplane.storage.wal.errors import CorruptLog, CorruptSnapshotFile, LogExists, LogFailed, LogMissing, WalError
from rayplane.storage.wal.frames import LogEntry, SnapshotMark
from rayplane.storage.wal.log import Recovered, Wal
from rayplane.storage.wal.snapshots import SnapshotFiles

__all__ = [
    "CorruptLog",
    "CorruptSnapshotFile",
    "LogEntry",
    "LogExists",
    "LogFailed",
    "LogMissing",
    "Recovered",
    "SnapshotFiles",
    "SnapshotMark",
    "Wal",
    "WalError",
]
