"""The Lock service: the owner of a contest (see `contest`) holds the lock."""

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.ports import RaftStatus
from rayplane.control_plane.etcd.server.services.base import Base
from rayplane.control_plane.etcd.server.services.callers import Callers
from rayplane.control_plane.etcd.server.services.contest import Contest, as_client, or_leave
from rayplane.control_plane.rpc import Context, RpcError
from rayplane.proto.etcd import v3lock_pb2 as lock_pb
from rayplane.storage.mvcc import Store


class LockService(Base):
    """v3lockpb.Lock: a name is locked as long as its key and the key's lease last."""

    def __init__(self, raft: RaftStatus, callers: Callers, store: Store, contest: Contest) -> None:
        super().__init__(raft, callers, store)
        self._contest = contest

    async def Lock(self, request: lock_pb.LockRequest, context: Context) -> lock_pb.LockResponse:
        """Waits for its turn as long as the call lives. A lease that holds the lock already gets it again."""
        self.gate(context)
        contest, prefix = self._contest, request.name + b"/"
        with as_client():
            lease = await contest.session(request.lease, context)
            place = await contest.enter(prefix, lease, b"", context)
            header = place.header
            if not place.first:
                response = await or_leave(contest, place, context, contest.turn(prefix, place, context))
                if not response.kvs:
                    raise RpcError(errors.Code.UNKNOWN, "mutex: session is expired")
                header = response.header
        return lock_pb.LockResponse(header=header, key=place.key)

    async def Unlock(self, request: lock_pb.UnlockRequest, context: Context) -> lock_pb.UnlockResponse:
        self.gate(context)
        with as_client():
            return lock_pb.UnlockResponse(header=await self._contest.delete(request.key, context))
