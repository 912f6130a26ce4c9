"""What the MVCC store refuses, and why. `code` names the gRPC status a server answers with."""

from typing import ClassVar


class MvccError(Exception):
    """Root of this package's errors."""

    code: ClassVar[str] = "INTERNAL"


class CompactedError(MvccError):
    """The asked revision is below the compacted one: read again without a revision, or watch from a newer one."""

    code = "OUT_OF_RANGE"

    def __init__(self, revision: int, compacted: int) -> None:
        super().__init__(f"revision {revision} has been compacted; the oldest readable one is {compacted}")
        self.revision = revision
        self.compacted = compacted


class FutureRevisionError(MvccError):
    """The asked revision has not been written yet."""

    code = "OUT_OF_RANGE"

    def __init__(self, revision: int, current: int) -> None:
        super().__init__(f"revision {revision} is a future one; the current revision is {current}")
        self.revision = revision
        self.current = current


class CorruptSnapshot(MvccError):
    """A snapshot stream is cut short or altered: fetch it again from its source. The store is as it was."""

    code = "DATA_LOSS"


class BackendError(MvccError):
    """The backend's files cannot be used or are full; the message says what to do."""


class CorruptStore(BackendError):
    """Bytes of the backend's files have changed. What a log and snapshots can rebuild is rebuilt at the next start."""

    code = "DATA_LOSS"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"the store {path} is damaged: {reason}; restart this member, which rebuilds it from its snapshot and "
            "log, and have the disk checked"
        )
