"""Witness of what the other members have made durable: by it, one whose disk was put back is found out.

In memory only: it is lost when this node's process ends.
"""

from __future__ import annotations

from rayplane.control_plane.etcd.raft.types import MessageType

#: A message of one of these types leaves only when the term that it carries is durable at its sender.
_PROVE_TERM = frozenset(
    {
        MessageType.APP,
        MessageType.APP_RESP,
        MessageType.HEARTBEAT,
        MessageType.SNAP,
        MessageType.VOTE,
        MessageType.VOTE_RESP,
    }
)


class Witness:
    """Per member the highest durable term, and the highest committed index that it has."""

    __slots__ = ("indexes", "terms")

    def __init__(self) -> None:
        self.terms: dict[int, int] = {}
        self.indexes: dict[int, int] = {}

    def heard(self, member: int, kind: MessageType, term: int) -> None:
        """A message of a higher term than before came from `member`."""
        if kind in _PROVE_TERM:
            self.terms[member] = term

    def acknowledged(self, member: int, index: int) -> None:
        """`member` has every committed entry up to `index`."""
        if self.indexes.get(member, 0) < index:
            self.indexes[member] = index
