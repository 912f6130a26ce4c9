"""The Election service: the owner of a contest (see `contest`) leads, its key's value is what it proclaims.

A leader is known by its `LeaderKey`: key and creation revision. Who has lost the key, with its lease or by resigning,
is refused ("election: not leader").
"""

import contextlib
from collections.abc import AsyncIterator

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.ports import RaftStatus
from rayplane.control_plane.etcd.server.services.base import Base
from rayplane.control_plane.etcd.server.services.callers import Callers
from rayplane.control_plane.etcd.server.services.contest import Contest, Place, as_client, or_leave
from rayplane.control_plane.rpc import Context, RpcError
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd import v3election_pb2 as election_pb
from rayplane.proto.etcd.kv_pb2 import Event, KeyValue
from rayplane.storage.key_ranges import prefix_end
from rayplane.storage.mvcc import Store


def _refusal(text: str) -> RpcError:
    return RpcError(errors.Code.UNKNOWN, text)


class ElectionService(Base):
    """v3electionpb.Election."""

    def __init__(self, raft: RaftStatus, callers: Callers, store: Store, contest: Contest) -> None:
        super().__init__(raft, callers, store)
        self._contest = contest

    async def Campaign(self, request: election_pb.CampaignRequest, context: Context) -> election_pb.CampaignResponse:
        """Waits to be elected as long as the call lives.

        A lease that is lost meanwhile loses the election too; etcd says that it was won.
        """
        self.gate(context)
        contest, prefix = self._contest, request.name + b"/"
        with as_client():
            lease = await contest.session(request.lease, context)
            place = await contest.enter(prefix, lease, request.value, context)
            await or_leave(contest, place, context, self._win(prefix, place, request.value, context))
        leader = election_pb.LeaderKey(name=request.name, key=place.key, rev=place.revision, lease=lease)
        return election_pb.CampaignResponse(header=place.header, leader=leader)

    async def _win(self, prefix: bytes, place: Place, value: bytes, context: Context) -> None:
        if place.value != value:
            await self._proclaim(place.key, place.revision, place.lease, value, context)
        if not place.first and not (await self._contest.turn(prefix, place, context)).kvs:
            raise _refusal("election: not leader")

    async def Proclaim(self, request: election_pb.ProclaimRequest, context: Context) -> election_pb.ProclaimResponse:
        self.gate(context)
        leader = _given(request)
        with as_client():
            lease = await self._contest.session(leader.lease, context)
            header = await self._proclaim(leader.key, leader.rev, lease, request.value, context)
        return election_pb.ProclaimResponse(header=header)

    async def _proclaim(
        self, key: bytes, revision: int, lease: int, value: bytes, context: Context
    ) -> pb.ResponseHeader:
        put = pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))
        response = await self._contest.txn(pb.TxnRequest(compare=[_is(key, revision)], success=[put]), context)
        if not response.succeeded:
            raise _refusal("election: not leader")
        return response.header

    async def Leader(self, request: election_pb.LeaderRequest, context: Context) -> election_pb.LeaderResponse:
        self.gate(context)
        with as_client():
            response = await self._contest.oldest(request.name + b"/", context)
            if not response.kvs:
                raise _refusal("election: no leader")
        return election_pb.LeaderResponse(header=response.header, kv=response.kvs[0])

    async def Resign(self, request: election_pb.ResignRequest, context: Context) -> election_pb.ResignResponse:
        """Does nothing when the key is not the leader's any more."""
        self.gate(context)
        leader = _given(request)
        delete = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=leader.key))
        request_txn = pb.TxnRequest(compare=[_is(leader.key, leader.rev)], success=[delete])
        with as_client():
            response = await self._contest.txn(request_txn, context)
        return election_pb.ResignResponse(header=response.header)

    async def Observe(
        self, request: election_pb.LeaderRequest, context: Context
    ) -> AsyncIterator[election_pb.LeaderResponse]:
        """Each leader, and each value it proclaims, from the present one on; waits while there is none."""
        self.gate(context)
        contest, prefix = self._contest, request.name + b"/"
        with as_client():
            while True:
                response = await contest.oldest(prefix, context)
                header = response.header
                leader = response.kvs[0] if response.kvs else None
                if leader is None:
                    found = await self._first_put(prefix, header.revision + 1, context)
                    if found is None:
                        continue
                    header, leader = found
                yield election_pb.LeaderResponse(header=header, kv=leader)
                watch = contest.watch(leader.key, b"", header.revision + 1, context)
                async with contextlib.aclosing(watch) as responses:
                    async for change in responses:
                        deleted = False
                        for event in change.events:
                            deleted = event.type == Event.DELETE
                            if deleted:
                                break
                            yield election_pb.LeaderResponse(header=change.header, kv=event.kv)
                        if deleted:
                            break

    async def _first_put(
        self, prefix: bytes, revision: int, context: Context
    ) -> tuple[pb.ResponseHeader, KeyValue] | None:
        """The first key put under a prefix; None when history was compacted."""
        watch = self._contest.watch(prefix, prefix_end(prefix), revision, context)
        async with contextlib.aclosing(watch) as responses:
            async for response in responses:
                for event in response.events:
                    if event.type == Event.PUT:
                        # What follows is watched from this key's own revision on.
                        response.header.revision = event.kv.mod_revision
                        return response.header, event.kv
        return None


def _given(request: election_pb.ProclaimRequest | election_pb.ResignRequest) -> election_pb.LeaderKey:
    if not request.HasField("leader"):
        raise _refusal('"leader" field must be provided')
    return request.leader


def _is(key: bytes, revision: int) -> pb.Compare:
    return pb.Compare(key=key, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=revision)
