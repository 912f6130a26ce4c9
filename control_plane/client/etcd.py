"""A client of etcd v3 (API reference: etcd documentation, "etcd API")."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

from google.protobuf.message import Message

from rayplane.control_plane.client import convoys
from rayplane.control_plane.client.endpoints import Endpoints, call_any
from rayplane.control_plane.client.standings import SERVICE, Standings
from rayplane.control_plane.client.stubs import Stubs
from rayplane.control_plane.component_base.metrics import Histograms
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.proto.etcd import rpc_pb2 as pb

_CONVOYS = convoys.SERVICE.name
_SERVICES = {**pb.DESCRIPTOR.services_by_name, _CONVOYS: convoys.SERVICE}
TIMEOUT_S = 5.0
#: As Kubernetes measures its calls to etcd.
BOUNDS_S = (
    *(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0),
    *(4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0),
)
_ADMIN_TIMEOUT_S = 15.0
# Who does not say in this time whether it leads is not asked first.
_LOOK_S = 0.5


class EtcdClient:
    """A client that calls any member that answers.

    Reads are tried again on another; writes only if they were never sent.

    Every method raises RpcError with etcd's code and text.
    """

    def __init__(self, network: Network, endpoints: Sequence[str]) -> None:
        self.endpoints = Endpoints(endpoints)
        self._network = network
        self._stub = Stubs(network, _SERVICES, self.endpoints).of
        self.durations = Histograms(BOUNDS_S)
        """Seconds that calls took, by the method's name."""
        self._term = 0  # the newest that was heard of
        self._preferred_in = 0  # the term whose leader is preferred
        self._convoys = convoys.Convoys(self.endpoints, self._txn, self._convoy_stub)

    async def range(
        self, key: bytes, range_end: bytes = b"", *, timeout: float = TIMEOUT_S, **options: Any
    ) -> pb.RangeResponse:
        """`options`: the other fields of RangeRequest (limit, revision, serializable, keys_only, ...)."""
        request = pb.RangeRequest(key=key, range_end=range_end, **options)
        response: pb.RangeResponse = await self._call("KV", "Range", request, timeout, idempotent=True)
        return response

    def standings(self) -> Standings:
        """A way to ask for the revision that takes one round trip; its owner stops it."""
        return Standings(self.endpoints, lambda address: Stub(self._network.channel(address), SERVICE))

    async def put(
        self,
        key: bytes,
        value: bytes,
        *,
        lease: int = 0,
        prev_kv: bool = False,
        timeout: float = TIMEOUT_S,
    ) -> pb.PutResponse:
        request = pb.PutRequest(key=key, value=value, lease=lease, prev_kv=prev_kv)
        response: pb.PutResponse = await self._call("KV", "Put", request, timeout)
        return response

    async def delete(
        self, key: bytes, range_end: bytes = b"", *, prev_kv: bool = False, timeout: float = TIMEOUT_S
    ) -> pb.DeleteRangeResponse:
        request = pb.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=prev_kv)
        response: pb.DeleteRangeResponse = await self._call("KV", "DeleteRange", request, timeout)
        return response

    async def txn(
        self,
        compare: Sequence[pb.Compare],
        success: Sequence[pb.RequestOp],
        failure: Sequence[pb.RequestOp] = (),
        *,
        timeout: float = TIMEOUT_S,
    ) -> pb.TxnResponse:
        """Those of the same turn of the event loop travel together, each for itself."""
        request = pb.TxnRequest(compare=compare, success=success, failure=failure)
        with self._measured("Txn"):
            return await self._convoys.txn(request, timeout)

    async def _txn(self, request: pb.TxnRequest, timeout: float) -> pb.TxnResponse:
        response: pb.TxnResponse = await self._ask("KV", "Txn", request, timeout)
        return response

    def _convoy_stub(self, address: str) -> Stub:
        return self._stub(_CONVOYS, address)

    async def compact(self, revision: int, *, physical: bool = False) -> pb.CompactionResponse:
        request = pb.CompactionRequest(revision=revision, physical=physical)
        response: pb.CompactionResponse = await self._call("KV", "Compact", request, _ADMIN_TIMEOUT_S)
        return response

    async def watch(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        start_revision: int = 0,
        prev_kv: bool = False,
        progress_notify: bool = False,
        sticky: bool = False,
    ) -> AsyncGenerator[pb.WatchResponse, None]:
        """One watch on one stream, on one member, from its `created` answer on.

        Ends with RpcError when the member goes away: the caller resumes at the revision after the last it saw. An
        answer with `canceled` set is the last one. `sticky`: on the member that is asked first.
        """
        create = pb.WatchCreateRequest(
            key=key,
            range_end=range_end,
            start_revision=start_revision,
            prev_kv=prev_kv,
            progress_notify=progress_notify,
        )
        address = self.endpoints.pick(sticky=sticky)
        requests = _held_open(pb.WatchRequest(create_request=create))
        stream = self._stub("Watch", address).Watch(requests, metadata={"hasleader": "true"})
        try:
            async with aclosing(stream) as responses:
                async for response in responses:
                    yield response
                    if response.canceled:
                        return
        except RpcError as e:
            if e.retryable:
                self.endpoints.failed(address)
            raise

    async def lease_grant(self, ttl_s: int, *, lease_id: int = 0) -> pb.LeaseGrantResponse:
        request = pb.LeaseGrantRequest(TTL=ttl_s, ID=lease_id)
        response: pb.LeaseGrantResponse = await self._call("Lease", "LeaseGrant", request, TIMEOUT_S)
        return response

    async def lease_revoke(self, lease_id: int) -> None:
        await self._call("Lease", "LeaseRevoke", pb.LeaseRevokeRequest(ID=lease_id), TIMEOUT_S)

    async def lease_keep_alive(self, lease_id: int) -> int:
        """Renew once; the remaining seconds, 0 when the lease is gone."""

        async def once(address: str, left: float) -> int:
            requests = _held_open(pb.LeaseKeepAliveRequest(ID=lease_id))
            stream = self._stub("Lease", address).LeaseKeepAlive(requests, timeout=left)
            async with aclosing(stream) as responses:
                async for response in responses:
                    return int(response.TTL)
            return 0

        return await call_any(self.endpoints, once, timeout=TIMEOUT_S, idempotent=True)

    async def status(self, address: str, *, timeout: float = TIMEOUT_S) -> pb.StatusResponse:
        """The status of one member."""
        stub = self._stub("Maintenance", address)
        response: pb.StatusResponse = await stub.Status(pb.StatusRequest(), timeout=timeout)
        return response

    async def hash_kv(self, address: str, revision: int, *, timeout: float = TIMEOUT_S) -> pb.HashKVResponse:
        """One member's hash of all keys up to a revision."""
        stub = self._stub("Maintenance", address)
        response: pb.HashKVResponse = await stub.HashKV(pb.HashKVRequest(revision=revision), timeout=timeout)
        return response

    async def prefer_leader(self, *, again: bool = True) -> None:
        """Ask the leading member first from now on: all others would have to ask it for what they answer.

        `again` False: look only when the one before failed, or an answer was of another term.
        """
        if not again and self.endpoints.preferred and self._term == self._preferred_in:
            return
        known = self.endpoints.pick(sticky=True)
        for address in (known, *(a for a in self.endpoints.addresses if a != known)):
            try:
                status = await self.status(address, timeout=_LOOK_S)
            except RpcError:
                continue
            if status.leader and status.leader == status.header.member_id:
                self.endpoints.prefer(address)
                self._preferred_in = self._term = status.header.raft_term
                return
        self.endpoints.prefer("")

    async def member_list(self, *, linearizable: bool = True) -> pb.MemberListResponse:
        """`linearizable` False: as the member that is asked knows it, without asking the others."""
        request = pb.MemberListRequest(linearizable=linearizable)
        response: pb.MemberListResponse = await self._call("Cluster", "MemberList", request, TIMEOUT_S, idempotent=True)
        return response

    async def member_add(self, peer_url: str, *, learner: bool) -> pb.MemberAddResponse:
        request = pb.MemberAddRequest(peerURLs=[peer_url], isLearner=learner)
        response: pb.MemberAddResponse = await self._call("Cluster", "MemberAdd", request, _ADMIN_TIMEOUT_S)
        return response

    async def member_promote(self, member_id: int) -> None:
        await self._call("Cluster", "MemberPromote", pb.MemberPromoteRequest(ID=member_id), _ADMIN_TIMEOUT_S)

    async def member_remove(self, member_id: int) -> None:
        await self._call("Cluster", "MemberRemove", pb.MemberRemoveRequest(ID=member_id), _ADMIN_TIMEOUT_S)

    async def move_leader(self, address: str, target_id: int) -> None:
        """Ask the leader at `address` to hand over."""
        stub = self._stub("Maintenance", address)
        await stub.MoveLeader(pb.MoveLeaderRequest(targetID=target_id), timeout=_ADMIN_TIMEOUT_S)

    async def caught_up(self) -> tuple[str, int]:
        """The address of a member that has all that was acknowledged before, and the revision it had come to."""

        async def asked(address: str, left: float) -> tuple[str, int]:
            request = pb.RangeRequest(key=b"\0", count_only=True)  # linearizable: a member that lags answers later
            response = await self._stub("KV", address).Range(request, timeout=left)
            return address, response.header.revision

        return await call_any(self.endpoints, asked, timeout=TIMEOUT_S, idempotent=True)

    async def snapshot(self, address: str) -> AsyncGenerator[pb.SnapshotResponse, None]:
        """The state of the member at `address` as a stream of chunks, the digest last."""
        stream = self._stub("Maintenance", address).Snapshot(pb.SnapshotRequest())
        async with aclosing(stream) as responses:
            async for response in responses:
                yield response

    async def _call(
        self, service: str, method: str, request: Message, timeout: float, *, idempotent: bool = False
    ) -> Any:
        with self._measured(method):
            return await self._ask(service, method, request, timeout, idempotent=idempotent)

    async def _ask(
        self, service: str, method: str, request: Message, timeout: float, *, idempotent: bool = False
    ) -> Any:
        async def once(address: str, left: float) -> Any:
            return await getattr(self._stub(service, address), method)(request, timeout=left)

        response = await call_any(self.endpoints, once, timeout=timeout, idempotent=idempotent, sticky=True)
        self._term = response.header.raft_term
        return response

    @contextmanager
    def _measured(self, method: str) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            yield
        finally:
            self.durations.observe(loop.time() - began, method)


async def _held_open(request: Message) -> AsyncIterator[Message]:
    """One request on a stream that stays open until the call is cancelled."""
    yield request
    await asyncio.get_running_loop().create_future()
