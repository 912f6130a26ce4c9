"""Errors of the key-value file."""

from typing import ClassVar

from rayplane.storage.errors import Code, StorageError


class BackendError(StorageError):
    """The backend's files cannot be used or are full; the message says what to do."""

    code: ClassVar[Code] = Code.INTERNAL


class CorruptStore(BackendError):
    """Bytes of the backend's files have changed. What a log and snapshots can rebuild is rebuilt at the next start."""

    code = Code.DATA_LOSS

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"the key-value file {path} is damaged: {reason}; restart its process, which rebuilds it if it keeps a "
            "log and snapshots (else move the file away and restore a copy), and have the disk checked"
        )


class CorruptSnapshot(StorageError):
    """A snapshot stream is cut short or altered: fetch it again from its source. The store is as it was."""

    code = Code.DATA_LOSS


class CorruptFile(StorageError):
    """Bytes of a small file have changed: restore it, or remove it if what it holds can be done without."""

    code = Code.DATA_LOSS

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}; restore it, or remove it if you can do without what it holds")
