"""Errors of volume drivers."""

from collections.abc import Awaitable
from typing import TypeVar

from rayplane.node.errors import NodeError
from rayplane.storage.errors import Code

T = TypeVar("T")


class VolumeError(NodeError):
    """A volume driver refuses or fails."""


class CorruptVolume(VolumeError):
    """Bytes do not match their hash: this replica is damaged and must be replaced."""

    code = Code.DATA_LOSS


class VolumeNotFound(VolumeError):
    """There is no such volume, or no replica of it here."""

    code = Code.NOT_FOUND


class VolumeConflict(VolumeError):
    """A volume of this name exists with another size: use another name."""

    code = Code.ALREADY_EXISTS


class NoCapacity(VolumeError):
    """The node (or every node) has too little unreserved space: delete volumes or configure a larger capacity."""

    code = Code.RESOURCE_EXHAUSTED


class VolumeFull(VolumeError):
    """The files are larger than the volume's capacity: remove some or claim a larger volume."""

    code = Code.RESOURCE_EXHAUSTED


class VolumeBusy(VolumeError):
    """The volume's files changed all the time while they were copied: try again, or stop its writers."""

    code = Code.ABORTED


class TooSmall(VolumeError):
    """The volume asked for is smaller than what it is to be made from: ask for a larger one."""

    code = Code.OUT_OF_RANGE


class Fenced(VolumeError):
    """Another node has taken over writing this volume; nothing this writer does counts any more."""

    code = Code.ABORTED


class NotTheWriter(VolumeError):
    """The caller's certificate is not that of the node which it names, or which writes this volume."""

    code = Code.PERMISSION_DENIED


class StaleReplica(VolumeError):
    """The replica's content is not what the call builds on: read its inventory and send the difference again."""

    code = Code.FAILED_PRECONDITION


class WrongNode(VolumeError):
    """The volume cannot be used on this node now: its bytes are elsewhere, or another node is using it."""

    code = Code.FAILED_PRECONDITION


class StaleToken(VolumeError):
    """A list cannot go on from there: begin it again."""

    code = Code.ABORTED


class NoQuorum(VolumeError):
    """Too few replicas answer for a majority: bring their nodes back; retried meanwhile."""

    code = Code.UNAVAILABLE


class NotFilled(VolumeError):
    """The replica was lost and counts for nothing until its writer has filled it: ask the others."""

    code = Code.UNAVAILABLE


class NotOffered(VolumeError):
    """The driver does not offer this."""

    code = Code.UNIMPLEMENTED


class InvalidVolume(VolumeError):
    """A malformed volume id, size or capability."""

    code = Code.INVALID_ARGUMENT


class PeerError(VolumeError):
    """A call to another node failed; `code` is the status it failed with."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


async def called(call: Awaitable[T]) -> T:
    """Await a call to a peer; whatever error type its transport has becomes a PeerError with the same status."""
    try:
        return await call
    except Exception as e:
        code = getattr(e, "code", Code.UNAVAILABLE)
        name = getattr(code, "name", "")
        raise PeerError(Code[name] if name in Code.__members__ else Code.UNKNOWN, str(e)) from e
