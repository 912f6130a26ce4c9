"""Errors of the raft library.

Expected ones say what to do; InvariantViolated means a bug or a damaged log.
"""

from __future__ import annotations


class RaftError(Exception):
    """Root of all errors of this package."""

    retryable = False


class ConfigError(RaftError):
    """The Config contradicts itself."""


class ProposalDropped(RaftError):
    """The proposal is not in the log and never will be; propose again, to `leader` when it is
    another member.

    `leader` is NONE (0) while nobody leads.
    """

    retryable = True

    def __init__(self, reason: str, leader: int = 0) -> None:
        super().__init__(f"proposal dropped: {reason}")
        self.reason = reason
        self.leader = leader


class ReadIndexDropped(RaftError):
    """The read was not taken: nobody leads, or too many reads wait. Ask again later."""

    retryable = True


class ConfChangeRefused(RaftError):
    """The membership change cannot follow the present configuration, or another one is still
    pending.
    """

    def __init__(self, reason: str, *, retryable: bool) -> None:
        super().__init__(f"membership change refused: {reason}")
        self.retryable = retryable


class TransferRefused(RaftError):
    """Leadership cannot go to that member, or nobody leads."""


class StorageError(RaftError):
    """Root of what a log read can meet."""


class Compacted(StorageError):
    """The index lies before the log's start: the entry is only in a snapshot."""


class Unavailable(StorageError):
    """The index lies after the log's end."""


class SnapshotOutOfDate(StorageError):
    """The snapshot is not newer than the one the storage holds."""


class SnapshotUnavailable(StorageError):
    """No snapshot can be sent now; raft asks again later."""

    retryable = True


class InvariantViolated(RaftError):
    """A state that cannot be: a bug, a driver that broke the Ready contract, or a damaged log. Stop the
    member.
    """


class LostEntries(InvariantViolated):
    """This member does not have any more what it had made durable and acknowledged: its disk was put back to an older
    state. It may neither vote nor serve again under its id.
    """


def invariant(holds: bool, message: str) -> None:
    """Assert what must always hold; stays on under `python -O`."""
    if not holds:
        raise InvariantViolated(message)
