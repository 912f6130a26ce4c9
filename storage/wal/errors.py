"""Errors of the write-ahead log."""

from rayplane.storage.errors import StorageError


class WalError(StorageError):
    """The log cannot be opened, read or written."""


class LogMissing(WalError):
    """There is no log in this directory: the member is new here, or its disk is lost."""


class LogExists(WalError):
    """There is a log already: open it, or use another directory."""


class LogFailed(WalError):
    """A write or sync failed, so what is durable is unknown: repair the disk and open the log again."""


class CorruptLog(WalError):
    """Bytes that were durable once have changed. Never repaired in place: the message names them."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(
            f"{path} is damaged at offset {offset}: {reason}; remove this member from the cluster, delete its data "
            "directory and add it again, or restore a backup"
        )
        self.path = path
        self.offset = offset


class CorruptSnapshotFile(WalError):
    """A snapshot file does not match its digest or is cut short."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"snapshot file {path} is damaged: {reason}; remove this member from the cluster, delete its data "
            "directory and add it again, or restore a backup"
        )
        self.path = path
