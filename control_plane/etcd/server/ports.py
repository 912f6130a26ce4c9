"""Ports: what the parts of a member may ask of its replication, a few methods each, never the whole member."""

from typing import Any, Protocol

from google.protobuf.message import Message

from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.rpc import Stub
from rayplane.proto.etcd import rpc_pb2 as pb


class RaftStatus(Protocol):
    """Status of this member, as it knows it now."""

    member_id: int
    cluster_id: int
    applied: int

    @property
    def term(self) -> int: ...

    @property
    def is_leader(self) -> bool: ...

    @property
    def leader_id(self) -> int:
        """0 while no leader is known."""

    @property
    def is_learner(self) -> bool: ...

    def status(self) -> raft.Status: ...

    def header(self, revision: int) -> pb.ResponseHeader: ...


class Proposer(Protocol):
    """The way into the log."""

    async def propose(self, kind: Kind, request: Message) -> Any:
        """Its response, the header's revision set; of a convoy those of its transactions, or their refusals.

        Raises EtcdError: its refusal, or that its outcome is unknown.
        """

    def propose_unwatched(self, kind: Kind, request: Message) -> None:
        """For what is repeated anyway when it is lost; in the member's own name."""


class ReadBarrier(Protocol):
    """The wait before a linearizable read."""

    async def barrier(self) -> None:
        """Return when the applied state is linearizable with respect to the call. Raises Timeout, Stopped."""


class MembershipChanges(Protocol):
    """Changes of the list of members; all raise EtcdError."""

    async def add(self, peer_urls: list[str], *, learner: bool) -> tuple[pb.Member, list[pb.Member]]: ...

    async def remove(self, id_: int) -> list[pb.Member]: ...

    async def update(self, id_: int, peer_urls: list[str]) -> Any: ...

    async def promote(self, id_: int, *, forward: bool) -> list[pb.Member]: ...


class LeaderMoves(Protocol):
    """Moves of leadership, by somebody's wish."""

    async def move_leader(self, target: int) -> None:
        """Raises NotLeader, BadLeaderTransferee, TimeoutLeaderTransfer."""


class PeerStubs(Protocol):
    """Calls to the other members."""

    @property
    def peers(self) -> list[int]:
        """Ids, ascending."""

    def stub_of(self, peer: int) -> Stub | None:
        """None when its address is not known."""
