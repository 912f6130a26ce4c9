"""Base of the services: who may ask now, and the header of every answer.

Every response carries the member's header. A caller that sends the metadata `hasleader: true` is refused while no
leader is known. A learner answers serializable reads and status only.
"""

from typing import Any

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.ports import RaftStatus
from rayplane.control_plane.etcd.server.services.callers import Callers
from rayplane.control_plane.rpc import Context
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.mvcc import Store


class Base:
    """A service of one member."""

    def __init__(self, raft: RaftStatus, callers: Callers, store: Store) -> None:
        self.raft = raft
        self.callers = callers
        self.store = store

    def gate(self, context: Context, *, learner: bool = False) -> None:
        """Raises NoLeader, LearnerRefuses. `learner`: whether a learner may answer."""
        if context.metadata.get("hasleader") == "true" and not self.raft.leader_id:
            raise errors.NoLeader
        if not learner and self.raft.is_learner:
            raise errors.LearnerRefuses

    async def require_user(self, context: Context) -> None:
        """Once authentication is on, the caller must be somebody. Raises UserEmpty, InvalidAuthToken."""
        if self.callers.enabled:
            await self.callers.require_user(context)

    async def require_admin(self, context: Context) -> None:
        """Once authentication is on, the caller must have the root role. Raises PermissionDenied, UserEmpty..."""
        if self.callers.enabled:
            await self.callers.require_admin(context)

    def stamp(self, response: Any) -> Any:
        """Complete the header of a response that has the revision only."""
        header = response.header
        raft = self.raft
        header.cluster_id, header.member_id, header.raft_term = raft.cluster_id, raft.member_id, raft.term
        return response

    def header(self) -> pb.ResponseHeader:
        return self.raft.header(self.store.revision)
