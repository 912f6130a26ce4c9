"""What volume backends refuse. `code` names the gRPC status that a caller sees."""

from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class VolumeError(Exception):
    """Root of this package's errors."""

    code: str = "INTERNAL"


class CorruptVolume(VolumeError):
    """Bytes do not match their hash: this replica is damaged and must be replaced."""

    code = "DATA_LOSS"


class VolumeNotFound(VolumeError):
    """There is no such volume, or no replica of it here."""

    code = "NOT_FOUND"


class VolumeConflict(VolumeError):
    """A volume of this name exists with another size: use another name."""

    code = "ALREADY_EXISTS"


class NoCapacity(VolumeError):
    """The node (or every node) has too little unreserved space: delete volumes or configure a larger capacity."""

    code = "RESOURCE_EXHAUSTED"


class VolumeFull(VolumeError):
    """The files are larger than the volume's capacity: remove some or claim a larger volume."""

    code = "RESOURCE_EXHAUSTED"


class Fenced(VolumeError):
    """Another node has taken over writing this volume; nothing this writer does counts any more."""

    code = "ABORTED"


class StaleReplica(VolumeError):
    """The replica's content is not what the call builds on: read its inventory and send the difference again."""

    code = "FAILED_PRECONDITION"


class WrongNode(VolumeError):
    """The volume cannot be used on this node now: its bytes are elsewhere, or another node is using it."""

    code = "FAILED_PRECONDITION"


class NoQuorum(VolumeError):
    """Too few replicas answer for a majority: bring their nodes back; retried meanwhile."""

    code = "UNAVAILABLE"


class InvalidVolume(VolumeError):
    """A malformed volume id, size or capability."""

    code = "INVALID_ARGUMENT"


class PeerError(VolumeError):
    """A call to another node failed; `code` is the status it failed with."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


async def called(call: Awaitable[T]) -> T:
    """Await a call to a peer; whatever error type its transport has becomes a PeerError with the same status."""
    try:
        return await call
    except Exception as e:
        code = getattr(e, "code", "UNAVAILABLE")
        raise PeerError(str(getattr(code, "name", code)), str(e)) from e
