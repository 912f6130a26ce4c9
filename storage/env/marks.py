"""Marks in directories: which format the data is of. What they mean is decided in `storage.formats`."""

from rayplane.storage.env.disk import Disk
from rayplane.storage.formats import Kept, Mark, check, raised

MARK_FILE = "format.json"


def checked(disk: Disk, kept: Kept, build: str) -> Mark:
    """The mark of a disk's data. Raises NewerFormat, CorruptMark."""
    where = disk.local_path(MARK_FILE) or MARK_FILE
    mark = Mark.decode(disk.read(MARK_FILE) if disk.exists(MARK_FILE) else None, where)
    check(kept, mark, where=where.removesuffix(f"/{MARK_FILE}"), build=build)
    return mark


async def raise_mark(disk: Disk, mark: Mark, to: int, build: str) -> Mark:
    """The mark that is there once nothing of a format is refused any more by those that know it. Raises DiskError."""
    higher = raised(mark, to, build)
    if higher is None:
        return mark
    await disk.write_atomic(MARK_FILE, higher.encode())
    return higher
