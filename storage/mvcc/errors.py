"""Errors of the MVCC store."""

from typing import ClassVar

from rayplane.storage.errors import Code, StorageError


class MvccError(StorageError):
    """The store refuses a read or a write."""

    code: ClassVar[Code] = Code.INTERNAL


class CompactedError(MvccError):
    """The asked revision is below the compacted one: read again without a revision, or watch from a newer one."""

    code = Code.OUT_OF_RANGE

    def __init__(self, revision: int, compacted: int) -> None:
        super().__init__(f"revision {revision} has been compacted; the oldest readable one is {compacted}")
        self.revision = revision
        self.compacted = compacted


class FutureRevisionError(MvccError):
    """The asked revision has not been written yet."""

    code = Code.OUT_OF_RANGE

    def __init__(self, revision: int, current: int) -> None:
        super().__init__(f"revision {revision} is a future one; the current revision is {current}")
        self.revision = revision
        self.current = current
