"""Bytes of the log and of the peer wire: requests as entries, raft's values as protobuf. Pure.

A NORMAL entry's data is a head of nine bytes (request id u64, kind u8, big-endian) and the request's protobuf. The
proposer waits under the request id for the outcome; every member applies by kind. A log record is one byte of entry
type and the entry's data. Kind numbers are on disk: append only.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum

from google.protobuf.message import DecodeError, Message

from rayplane.control_plane.etcd import raft
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1 import raft_pb2 as wire
from rayplane.storage.wal import LogEntry

#: The service that members have for each other.
PEER = wire.DESCRIPTOR.services_by_name["Peer"]
_HEAD = struct.Struct(">QB")
_HARD_STATE = struct.Struct(">QQQ")
_REQUEST_ID = struct.Struct(">Q")


class Kind(IntEnum):
    """Kinds of requests in NORMAL entries."""

    PUT = 1
    DELETE_RANGE = 2
    TXN = 3
    COMPACT = 4
    LEASE_GRANT = 5
    LEASE_REVOKE = 6
    LEASE_CHECKPOINT = 7
    ALARM = 8
    ATTRIBUTES = 9
    MEMBER_UPDATE = 10
    AS_CALLER = 11
    AUTHENTICATE = 12
    AUTH_ENABLE = 13
    AUTH_DISABLE = 14
    USER_ADD = 15
    USER_DELETE = 16
    USER_CHANGE_PASSWORD = 17
    USER_GRANT_ROLE = 18
    USER_REVOKE_ROLE = 19
    ROLE_ADD = 20
    ROLE_DELETE = 21
    ROLE_GRANT_PERMISSION = 22
    ROLE_REVOKE_PERMISSION = 23
    CONVOY = 24
    LEVEL = 25


_TYPES: dict[int, type[Message]] = {
    Kind.PUT: pb.PutRequest,
    Kind.DELETE_RANGE: pb.DeleteRangeRequest,
    Kind.TXN: pb.TxnRequest,
    Kind.COMPACT: pb.CompactionRequest,
    Kind.LEASE_GRANT: pb.LeaseGrantRequest,
    Kind.LEASE_REVOKE: pb.LeaseRevokeRequest,
    Kind.LEASE_CHECKPOINT: pb.LeaseCheckpointRequest,
    Kind.ALARM: pb.AlarmRequest,
    Kind.ATTRIBUTES: wire.Attributes,
    Kind.MEMBER_UPDATE: pb.MemberUpdateRequest,
    Kind.AS_CALLER: wire.AsCaller,
    Kind.AUTHENTICATE: wire.Authenticate,
    Kind.AUTH_ENABLE: pb.AuthEnableRequest,
    Kind.AUTH_DISABLE: pb.AuthDisableRequest,
    Kind.USER_ADD: pb.AuthUserAddRequest,
    Kind.USER_DELETE: pb.AuthUserDeleteRequest,
    Kind.USER_CHANGE_PASSWORD: pb.AuthUserChangePasswordRequest,
    Kind.USER_GRANT_ROLE: pb.AuthUserGrantRoleRequest,
    Kind.USER_REVOKE_ROLE: pb.AuthUserRevokeRoleRequest,
    Kind.ROLE_ADD: pb.AuthRoleAddRequest,
    Kind.ROLE_DELETE: pb.AuthRoleDeleteRequest,
    Kind.ROLE_GRANT_PERMISSION: pb.AuthRoleGrantPermissionRequest,
    Kind.ROLE_REVOKE_PERMISSION: pb.AuthRoleRevokePermissionRequest,
    Kind.CONVOY: wire.Convoy,
    Kind.LEVEL: wire.Level,
}


class CorruptEntry(Exception):
    """A committed entry cannot be read: the log is damaged, or was written by a newer version."""


def encode_request(request_id: int, kind: Kind, request: Message) -> bytes:
    return _HEAD.pack(request_id, kind) + request.SerializeToString()


def decode_head(data: bytes) -> tuple[int, int]:
    """(request id, kind) of an entry's data."""
    try:
        request_id, kind = _HEAD.unpack_from(data)
    except struct.error as e:
        raise CorruptEntry(f"an entry of {len(data)} bytes is too short for its head") from e
    return request_id, kind


def decode_request(data: bytes, kind: int) -> Message:
    """The request of an entry whose head named `kind`."""
    return parse_request(data[_HEAD.size :], kind)


def parse_request(data: bytes, kind: int) -> Message:
    """A request of this kind from its protobuf."""
    if kind not in _TYPES:
        raise CorruptEntry(f"an entry is of unknown kind {kind}: start a version that knows it")
    try:
        return _TYPES[kind].FromString(data)
    except DecodeError as e:
        raise CorruptEntry(f"an entry of kind {Kind(kind).name} cannot be decoded") from e


def encode_member(request_id: int, member: pb.Member) -> bytes:
    """The context of a membership change."""
    return _REQUEST_ID.pack(request_id) + member.SerializeToString()


def decode_member(context: bytes) -> tuple[int, pb.Member]:
    """(request id, member) of a membership change; id 0 when nobody waits."""
    try:
        (request_id,) = _REQUEST_ID.unpack_from(context)
        return request_id, pb.Member.FromString(context[_REQUEST_ID.size :])
    except (struct.error, DecodeError) as e:
        raise CorruptEntry("the context of a membership change cannot be decoded") from e


# Log records


def to_record(entry: raft.Entry) -> LogEntry:
    return LogEntry(entry.index, entry.term, bytes((entry.type,)) + entry.data)


def from_record(record: LogEntry) -> raft.Entry:
    return raft.Entry(record.term, record.index, raft.EntryType(record.data[0]), record.data[1:])


def encode_hard_state(state: raft.HardState) -> bytes:
    return _HARD_STATE.pack(state.term, state.vote, state.commit)


def decode_hard_state(data: bytes) -> raft.HardState:
    return raft.HardState(*_HARD_STATE.unpack(data)) if data else raft.HardState()


# Peer wire


def conf_state_to_wire(state: raft.ConfState) -> wire.ConfState:
    return wire.ConfState(voters=state.voters, learners=state.learners)


def conf_state_from_wire(state: wire.ConfState) -> raft.ConfState:
    return raft.ConfState(tuple(sorted(state.voters)), tuple(sorted(state.learners)))


def message_to_wire(message: raft.Message, out: wire.Message) -> None:
    """Fill in a new message of the wire, in its place: what is put there later is copied."""
    out.type, out.to, out.term = message.type, message.to, message.term
    setattr(out, "from", message.from_)
    out.log_term, out.index, out.commit = message.log_term, message.index, message.commit
    out.context, out.durable = message.context, message.durable
    if message.reject:
        out.reject, out.reject_hint = True, message.reject_hint
    add = out.entries.add
    for entry in message.entries:
        add(term=entry.term, index=entry.index, type=entry.type, data=entry.data)
    if message.snapshot is not None:
        snapshot, held = message.snapshot, out.snapshot
        held.index, held.term, held.data = snapshot.index, snapshot.term, snapshot.data
        held.conf_state.CopyFrom(conf_state_to_wire(snapshot.conf_state))


_ENTRY_TYPES: Sequence[raft.EntryType] = (raft.EntryType.NORMAL, raft.EntryType.CONF_CHANGE)


def message_from_wire(message: wire.Message) -> raft.Message:
    snapshot = None
    if message.HasField("snapshot"):
        held = message.snapshot
        snapshot = raft.Snapshot(held.index, held.term, conf_state_from_wire(held.conf_state), held.data)
    return raft.Message(
        type=raft.MessageType(message.type),
        to=message.to,
        from_=getattr(message, "from"),
        term=message.term,
        log_term=message.log_term,
        index=message.index,
        entries=tuple([raft.Entry(e.term, e.index, _ENTRY_TYPES[e.type], e.data) for e in message.entries]),
        commit=message.commit,
        reject=message.reject,
        reject_hint=message.reject_hint,
        snapshot=snapshot,
        context=message.context,
        durable=message.durable,
    )
