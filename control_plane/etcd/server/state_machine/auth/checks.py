"""Rights that each request needs, by the rules of etcd 3.5. Pure; asked only while authentication is on.

    put                  write the key; read it for prev_kv; write all keys of the lease that it hangs the key on
    delete               write the range; read it for prev_kv
    transaction          read what it compares; what all operations of both branches need, nested ones too
    lease revoke         write all keys of the lease
    users, roles, switch the root role; but everyone may look at oneself and the own roles (`services.auth`)

Judged before the log, by the member that is asked: reads and watches; members, compaction, alarms, moving the leader,
snapshots and hashes, which need the root role; granting a lease, which needs a user. Here etcd's later 3.5 releases
are stricter than its first ones, and so is this. Asking for members, status and alarms is open to everyone, as in all
releases but the latest: monitors and clients that look for endpoints do it without a token.
"""

from collections.abc import Callable
from typing import Any

from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.state_machine.auth.store import AuthStore, Caller
from rayplane.control_plane.etcd.server.state_machine.lessor import Lessor
from rayplane.proto.etcd import rpc_pb2 as pb

_Check = Callable[[AuthStore, Lessor, Caller, Any], None]


def authorize(auth: AuthStore, lessor: Lessor, caller: Caller, kind: int, request: Any) -> None:
    """Judge a committed request before it is applied. Raises UserEmpty, AuthOldRevision, PermissionDenied..."""
    check = _CHECKS.get(kind)
    if check is not None:
        check(auth, lessor, caller, request)


def check_txn(auth: AuthStore, lessor: Lessor, caller: Caller, request: pb.TxnRequest) -> None:
    for compare in request.compare:
        auth.check_read(caller, compare.key, compare.range_end)
    for op in (*request.success, *request.failure):
        kind = op.WhichOneof("request")
        if kind == "request_range":
            auth.check_read(caller, op.request_range.key, op.request_range.range_end)
        elif kind == "request_put":
            _check_put(auth, lessor, caller, op.request_put)
        elif kind == "request_delete_range":
            _check_delete(auth, lessor, caller, op.request_delete_range)
        elif kind == "request_txn":
            check_txn(auth, lessor, caller, op.request_txn)


def check_lease_write(auth: AuthStore, lessor: Lessor, caller: Caller, lease_id: int) -> None:
    """Who touches a lease must be allowed to write everything that hangs on it."""
    if lessor.exists(lease_id) and not auth.is_admin(caller):
        for key in sorted(lessor.get(lease_id).keys):
            auth.check_write(caller, key)


def check_lease_read(auth: AuthStore, lessor: Lessor, caller: Caller, lease_id: int) -> None:
    """Who is told a lease's keys must be allowed to read them."""
    if lessor.exists(lease_id) and not auth.is_admin(caller):
        for key in sorted(lessor.get(lease_id).keys):
            auth.check_read(caller, key)


def _check_put(auth: AuthStore, lessor: Lessor, caller: Caller, request: pb.PutRequest) -> None:
    auth.check_write(caller, request.key)
    if request.lease:
        check_lease_write(auth, lessor, caller, request.lease)
    if request.prev_kv:
        auth.check_read(caller, request.key)


def _check_delete(auth: AuthStore, lessor: Lessor, caller: Caller, request: pb.DeleteRangeRequest) -> None:
    auth.check_write(caller, request.key, request.range_end)
    if request.prev_kv:
        auth.check_read(caller, request.key, request.range_end)


def _check_revoke(auth: AuthStore, lessor: Lessor, caller: Caller, request: pb.LeaseRevokeRequest) -> None:
    check_lease_write(auth, lessor, caller, request.ID)


def _check_admin(auth: AuthStore, lessor: Lessor, caller: Caller, request: Any) -> None:
    auth.check_admin(caller)


_CHECKS: dict[int, _Check] = {
    Kind.PUT: _check_put,
    Kind.DELETE_RANGE: _check_delete,
    Kind.TXN: check_txn,
    Kind.LEASE_REVOKE: _check_revoke,
    Kind.AUTH_ENABLE: _check_admin,
    Kind.AUTH_DISABLE: _check_admin,
    Kind.USER_ADD: _check_admin,
    Kind.USER_DELETE: _check_admin,
    Kind.USER_CHANGE_PASSWORD: _check_admin,
    Kind.USER_GRANT_ROLE: _check_admin,
    Kind.USER_REVOKE_ROLE: _check_admin,
    Kind.ROLE_ADD: _check_admin,
    Kind.ROLE_DELETE: _check_admin,
    Kind.ROLE_GRANT_PERMISSION: _check_admin,
    Kind.ROLE_REVOKE_PERMISSION: _check_admin,
}
