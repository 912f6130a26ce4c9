"""The replicated state machine: what each committed request does to store, leases, members and alarms.

Deterministic: the same entries give the same state on every member; nothing here asks for time (`now` only starts the
leader's lease timers), chance or the network. A refusal (EtcdError) is part of the outcome and changes nothing.
"""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from rayplane.control_plane.etcd.raft import ConfChange, ConfState
from rayplane.control_plane.etcd.server.codec import (
    CorruptEntry,
    Kind,
    conf_state_from_wire,
    conf_state_to_wire,
    parse_request,
)
from rayplane.control_plane.etcd.server.state_machine import kv
from rayplane.control_plane.etcd.server.state_machine.alarms import Alarms
from rayplane.control_plane.etcd.server.state_machine.auth.checks import authorize
from rayplane.control_plane.etcd.server.state_machine.auth.store import NOBODY, AuthStore, Caller
from rayplane.control_plane.etcd.server.state_machine.auth.tokens import SimpleTokens
from rayplane.control_plane.etcd.server.state_machine.lessor import Lessor
from rayplane.control_plane.etcd.server.state_machine.level import Level
from rayplane.control_plane.etcd.server.state_machine.membership import Membership
from rayplane.control_plane.etcd_errors import EtcdError
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1 import raft_pb2 as wire
from rayplane.storage.mvcc import Change, CompactedError, FutureRevisionError, Store

_CONF_STATE = b"conf_state"
Notify = Callable[[int, list[Change]], None]


class StateMachine:
    """Everything a member knows by the log. `notify` is told each revision's events as they happen; nobody at first."""

    def __init__(
        self, store: Store, *, min_lease_ttl_s: int = 1, auth_token_ttl_s: float = 300.0, build: str = ""
    ) -> None:
        self.store = store
        self.lessor = Lessor(min_lease_ttl_s)
        self.members = Membership(store.backend)
        self.alarms = Alarms(store.backend)
        self.level = Level(store.backend, build)
        self.auth = AuthStore(store.backend, SimpleTokens(auth_token_ttl_s))
        self.notify: Notify = lambda revision, changes: None
        # For the metrics.
        self.puts = self.deletes = self.txns = 0
        self._appliers: dict[int, Callable[[Any, float], Message]] = {
            Kind.PUT: self._put,
            Kind.DELETE_RANGE: self._delete_range,
            Kind.TXN: self._txn,
            Kind.COMPACT: self._compact,
            Kind.LEASE_GRANT: self._lease_grant,
            Kind.LEASE_REVOKE: self._lease_revoke,
            Kind.LEASE_CHECKPOINT: self._lease_checkpoint,
            Kind.ALARM: self._alarm,
            Kind.ATTRIBUTES: self._attributes,
            Kind.MEMBER_UPDATE: self._member_update,
            Kind.AS_CALLER: self._as_caller,
            Kind.LEVEL: self._raise_level,
        }
        for kind, apply in self.auth.appliers.items():
            self._appliers[kind] = self._with_header(apply)
        self.load()

    def load(self) -> None:
        """Read leases, members, users and alarms from the store: at start, and after it was replaced."""
        backend = self.store.backend
        leases = [_decode_lease(key, value) for key, value in backend.scan("lease")]
        attached = [(key, lease) for lease, keys in sorted(self.store.attachments().items()) for key in keys]
        self.lessor.load(leases, attached)
        self.members.load()
        self.auth.load()
        self.alarms.load()
        self.level.load()

    @property
    def conf_state(self) -> ConfState:
        """The raft configuration as of the store's applied index."""
        data = self.store.backend.get("meta", _CONF_STATE)
        return conf_state_from_wire(wire.ConfState.FromString(data or b""))

    def save_conf_state(self, state: ConfState) -> None:
        encoded = conf_state_to_wire(state).SerializeToString()
        self.store.backend.put("meta", _CONF_STATE, encoded)

    def apply(self, kind: int, request: Any, now: float, *, told: bool = True) -> Any:
        """Apply one request; the response has the header's revision set. Raises EtcdError when it is refused.

        Of a convoy: the response of each transaction, or its refusal. `told` False: nobody waits for the response,
        which is left out where that spares work.
        """
        if kind == Kind.CONVOY:
            return [self._one_of_many(txn, now, told=told) for txn in request.transactions]
        try:
            if self.auth.enabled:
                authorize(self.auth, self.lessor, NOBODY, kind, request)
            if kind == Kind.TXN and not told:
                return self._run_txn(request, told=False)
            return self._appliers[kind](request, now)
        except (CompactedError, FutureRevisionError) as e:
            raise kv.from_store(e) from None

    def apply_conf_change(self, change: ConfChange, member: pb.Member) -> None:
        """Raises EtcdError when the change does not fit (any more); the caller then tells raft of a change of NONE."""
        self.members.check(change, member)
        self.members.apply(change, member)

    def _one_of_many(self, request: pb.TxnRequest, now: float, *, told: bool) -> Message | EtcdError | None:
        try:
            response: Message | None = self.apply(Kind.TXN, request, now, told=told)
        except EtcdError as e:
            return e
        return response

    # Callers

    def _as_caller(self, request: wire.AsCaller, now: float) -> Message:
        kind = request.kind
        if kind in (Kind.AS_CALLER, Kind.CONVOY):
            raise CorruptEntry(f"a request in somebody's name is of kind {Kind(kind).name}, which has its own names")
        inner = parse_request(request.request, kind)
        if self.auth.enabled:
            authorize(self.auth, self.lessor, Caller(request.user, request.auth_revision), kind, inner)
        return self._appliers[kind](inner, now)

    def _with_header(self, apply: Callable[[Any, float], Any]) -> Callable[[Any, float], Message]:
        def applier(request: Any, now: float) -> Message:
            response: Message = apply(request, now)
            response.header.revision = self.store.revision  # type: ignore[attr-defined]
            return response

        return applier

    # Keys

    def _put(self, request: pb.PutRequest, now: float) -> Message:
        self.alarms.check_space()
        response = pb.PutResponse()
        with self.store.write() as txn:
            kv.run_put(txn, request, self.lessor, response)
        self._written(txn.revision, txn.events)
        return response

    def _delete_range(self, request: pb.DeleteRangeRequest, now: float) -> Message:
        self.alarms.check_sound()
        with self.store.write() as txn:
            response = kv.run_delete(txn, request)
        self._written(txn.revision, txn.events)
        return response

    def _txn(self, request: pb.TxnRequest, now: float) -> Message:
        response = self._run_txn(request, told=True)
        assert response is not None
        return response

    def _run_txn(self, request: Any, *, told: bool) -> Message | None:
        if self.alarms:
            self.alarms.check_sound()
            if kv.puts_anything(request):
                self.alarms.check_space()
        with self.store.write() as txn:
            response = kv.run_txn(txn, self.store, request, self.lessor, told=told)
        self.txns += 1
        self._written(txn.revision, txn.events)
        return response

    def _written(self, revision: int, events: list[Change]) -> None:
        if not events:
            return
        lessor = self.lessor
        for event in events:
            if event.type:
                self.deletes += 1
            else:
                self.puts += 1
            # A put hangs the key on its lease or on none; a delete event's lease is 0.
            if event.lease or lessor.is_attached(event.key):
                lessor.attach(event.key, event.lease)
        self.notify(revision, events)

    def _compact(self, request: pb.CompactionRequest, now: float) -> Message:
        self.alarms.check_sound()
        self.store.compact(request.revision)
        return pb.CompactionResponse(header=self._header())

    # Leases

    def _lease_grant(self, request: pb.LeaseGrantRequest, now: float) -> Message:
        self.alarms.check_space()
        ttl_s = self.lessor.check_grant(request.ID, request.TTL)
        lease = self.lessor.grant(request.ID, ttl_s, now)
        self._save_lease(lease.id)
        return pb.LeaseGrantResponse(header=self._header(), ID=request.ID, TTL=ttl_s)

    def _lease_revoke(self, request: pb.LeaseRevokeRequest, now: float) -> Message:
        self.alarms.check_sound()
        lease = self.lessor.get(request.ID)
        with self.store.write() as txn:
            for key in sorted(lease.keys):
                txn.delete_range(key, prev_kv=False)
        self.lessor.revoke(request.ID)
        self.store.backend.delete("lease", _lease_key(request.ID))
        if txn.events:
            self.notify(txn.revision, txn.events)
        return pb.LeaseRevokeResponse(header=self._header())

    def _lease_checkpoint(self, request: pb.LeaseCheckpointRequest, now: float) -> Message:
        for checkpoint in request.checkpoints:
            if self.lessor.checkpoint(checkpoint.ID, checkpoint.remaining_TTL, now):
                self._save_lease(checkpoint.ID)
        return pb.LeaseCheckpointResponse(header=self._header())

    def _save_lease(self, lease_id: int) -> None:
        lease = self.lessor.get(lease_id)
        value = lease.ttl_s.to_bytes(8, "big") + lease.remaining.to_bytes(8, "big")
        self.store.backend.put("lease", _lease_key(lease_id), value)

    # Alarms and members

    def _alarm(self, request: pb.AlarmRequest, now: float) -> Message:
        return pb.AlarmResponse(header=self._header(), alarms=self.alarms.apply(request))

    def _attributes(self, request: wire.Attributes, now: float) -> Message:
        self.members.set_attributes(request.id, request.name, request.client_urls, request.peer_urls)
        return wire.Attributes()

    def _member_update(self, request: pb.MemberUpdateRequest, now: float) -> Message:
        self.members.set_peer_urls(request.ID, request.peerURLs)
        return pb.MemberUpdateResponse(header=self._header(), members=self.members.all())

    def _raise_level(self, request: wire.Level, now: float) -> Message:
        self.level.apply(request)
        return wire.LevelRaised()

    def _header(self) -> pb.ResponseHeader:
        return pb.ResponseHeader(revision=self.store.revision)


def _lease_key(lease_id: int) -> bytes:
    return lease_id.to_bytes(8, "big", signed=True)


def _decode_lease(key: bytes, value: bytes) -> tuple[int, int, int]:
    return (
        int.from_bytes(key, "big", signed=True),
        int.from_bytes(value[:8], "big"),
        int.from_bytes(value[8:], "big"),
    )
