"""The KV service: the first and the last step of a put, a range, a transaction."""

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.etcd.server.ports import Proposer, RaftStatus, ReadBarrier
from rayplane.control_plane.etcd.server.services.base import Base
from rayplane.control_plane.etcd.server.services.callers import Callers
from rayplane.control_plane.etcd.server.services.quota import Quota
from rayplane.control_plane.etcd.server.services.ranges import Ranges
from rayplane.control_plane.etcd.server.state_machine import kv
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine
from rayplane.control_plane.rpc import Context, Encoded
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.mvcc import MvccError

#: What etcd's envelope adds to a request besides its length.
ENVELOPE_BYTES = 15


class KVService(Base):
    """etcdserverpb.KV."""

    def __init__(
        self,
        raft: RaftStatus,
        callers: Callers,
        machine: StateMachine,
        *,
        config: MemberConfig,
        ranges: Ranges,
        proposer: Proposer,
        reads: ReadBarrier,
        quota: Quota,
    ) -> None:
        super().__init__(raft, callers, machine.store)
        self._config = config
        self._ranges = ranges
        self._proposer = proposer
        self._reads = reads
        self._quota = quota

    async def Range(self, request: pb.RangeRequest, context: Context) -> pb.RangeResponse | Encoded:
        self.gate(context, learner=request.serializable)
        kv.check_range(request)
        response = await self._ranges.range_encoded(request, context)
        return response if isinstance(response, Encoded) else self.stamp(response)  # type: ignore[no-any-return]

    async def Put(self, request: pb.PutRequest, context: Context) -> pb.PutResponse:
        self.gate(context)
        kv.check_put(request)
        self._check_size(request.ByteSize(), puts=True)
        response: pb.PutResponse = self.stamp(await self.callers.propose(Kind.PUT, request, context))
        return response

    async def DeleteRange(self, request: pb.DeleteRangeRequest, context: Context) -> pb.DeleteRangeResponse:
        self.gate(context)
        kv.check_delete(request)
        self._check_size(request.ByteSize(), puts=False)
        response: pb.DeleteRangeResponse = self.stamp(await self.callers.propose(Kind.DELETE_RANGE, request, context))
        return response

    async def Txn(self, request: pb.TxnRequest, context: Context) -> pb.TxnResponse:
        self.gate(context)
        nature = self.check_txn(request)
        if not nature.writes:
            self._ranges.check_sound()
            if not kv.is_serializable(request):
                await self._reads.barrier()
            if self.callers.enabled:
                await self.callers.check_txn(context, request)
            try:
                response: pb.TxnResponse = kv.run_read_only_txn(self.store, request)
            except MvccError as e:
                raise kv.from_store(e) from None
        else:
            response = await self.callers.propose(Kind.TXN, request, context)
        self.stamp(response)
        return response

    async def Compact(self, request: pb.CompactionRequest, context: Context) -> pb.CompactionResponse:
        self.gate(context)
        await self.require_admin(context)
        response: pb.CompactionResponse = self.stamp(await self._proposer.propose(Kind.COMPACT, request))
        return response

    def check_txn(self, request: pb.TxnRequest) -> kv.TxnNature:
        """What it may do. Raises EtcdError for one that may not be proposed."""
        nature = kv.check_txn(request, self._config.max_txn_ops)
        if nature.writes:
            self._check_size(request.ByteSize(), puts=nature.puts)
        return nature

    def _check_size(self, size: int, *, puts: bool) -> None:
        """Raises RequestTooLarge, NoSpace."""
        # etcd measures the request in its envelope: a field with its length, and the header with a request id.
        if size + ENVELOPE_BYTES + (size.bit_length() + 6) // 7 > self._config.max_request_bytes:
            raise errors.RequestTooLarge
        if puts:
            self._quota.check(size)
