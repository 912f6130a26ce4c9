"""Errors of the etcd v3 API, one class each, with etcd's exact gRPC codes and texts.

Source: etcd's public v3 error table (rpctypes). The wire has a status code and a text and no other name for an error,
many share a code, and stock clients match the texts: so the text is what a class is known by on the other side, here
(`recognised`) and nowhere else.
"""

from typing import ClassVar

import grpc

from rayplane.control_plane.rpc import RpcError

Code = grpc.StatusCode
PREFIX = "etcdserver: "


class EtcdError(RpcError):
    """An error of the etcd v3 API: a member's own word. Subclasses are the rows of the table."""

    status: ClassVar[grpc.StatusCode] = Code.UNKNOWN
    text: ClassVar[str] = ""
    prefix: ClassVar[str] = PREFIX
    taken: ClassVar[bool] = False
    """Whether the request may have been taken, so that it may still be done."""

    def __init__(self) -> None:
        super().__init__(self.status, self.prefix + self.text)


class EmptyKey(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "key is not provided"


class KeyNotFound(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "key not found"


class ValueProvided(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "value is provided"


class LeaseProvided(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "lease is provided"


class TooManyOps(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "too many operations in txn request"


class DuplicateKey(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "duplicate key given in txn request"


class InvalidSortOption(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "invalid sort option"


class Compacted(EtcdError):
    status, text = Code.OUT_OF_RANGE, "mvcc: required revision has been compacted"


class FutureRevision(EtcdError):
    status, text = Code.OUT_OF_RANGE, "mvcc: required revision is a future revision"


class Corrupt(EtcdError):
    status, text = Code.DATA_LOSS, "corrupt cluster"


class NoSpace(EtcdError):
    status, text = Code.RESOURCE_EXHAUSTED, "mvcc: database space exceeded"


class LeaseNotFound(EtcdError):
    status, text = Code.NOT_FOUND, "requested lease not found"


class LeaseExists(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "lease already exists"


class LeaseTTLTooLarge(EtcdError):
    status, text = Code.OUT_OF_RANGE, "too large lease TTL"


class MemberExists(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "member ID already exist"


class PeerURLExists(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "Peer URLs already exists"


class MemberNotEnoughStarted(EtcdError):
    # etcd 3.5 loses the code that its table has.
    status, text = Code.UNKNOWN, "re-configuration failed due to not enough started members"


class MemberBadURLs(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "given member URLs are invalid"


class MemberNotFound(EtcdError):
    status, text = Code.NOT_FOUND, "member not found"


class MemberNotLearner(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "can only promote a learner member"


class LearnerNotReady(EtcdError):
    status, text = (
        Code.FAILED_PRECONDITION,
        "can only promote a learner member which is in sync with leader",
    )


class TooManyLearners(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "too many learner members in cluster"


class UnhealthyCluster(EtcdError):
    status, text = Code.UNAVAILABLE, "unhealthy cluster"


class BadLeaderTransferee(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "bad leader transferee"


class NotLeader(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "not leader"


class LearnerRefuses(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "rpc not supported for learner"


class RequestTooLarge(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "request is too large"


class UnknownMethod(EtcdError):
    text = "unknown method"


class WrongDowngradeVersionFormat(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "wrong downgrade target version format"


class InvalidDowngradeTargetVersion(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "invalid downgrade target version"


class NoInflightDowngrade(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "no inflight downgrade job"


class NotCapable(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "not capable"


class TooManyRequests(EtcdError):
    status, text = Code.RESOURCE_EXHAUSTED, "too many requests"


class NoLeader(EtcdError):
    status, text = Code.UNAVAILABLE, "no leader"


class LeaderChanged(EtcdError):
    status, text = Code.UNAVAILABLE, "leader changed"
    taken = True


class Stopped(EtcdError):
    status, text = Code.UNAVAILABLE, "server stopped"
    taken = True


class Timeout(EtcdError):
    status, text = Code.UNAVAILABLE, "request timed out"
    taken = True


class TimeoutLeaderTransfer(EtcdError):
    status, text = Code.UNAVAILABLE, "request timed out, leader transfer took too long"
    taken = True


class TimeoutConnectionLost(EtcdError):
    status, text = Code.UNAVAILABLE, "request timed out, possibly due to connection lost"
    taken = True


class AuthNotEnabled(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "authentication is not enabled"


class PermissionDenied(EtcdError):
    status, text = Code.PERMISSION_DENIED, "permission denied"


class RootUserNotExist(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "root user does not exist"


class RootRoleNotExist(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "root user does not have root role"


class UserExists(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "user name already exists"


class UserEmpty(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "user name is empty"


class UserNotFound(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "user name not found"


class RoleExists(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "role name already exists"


class RoleNotFound(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "role name not found"


class RoleEmpty(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "role name is empty"


class RoleNotGranted(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "role is not granted to the user"


class PermissionNotGiven(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "permission not given"


class PermissionNotGranted(EtcdError):
    status, text = Code.FAILED_PRECONDITION, "permission is not granted to the role"


class AuthFailed(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "authentication failed, invalid user ID or password"


class AuthOldRevision(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "revision of auth store is old"


class InvalidAuthToken(EtcdError):
    status, text = Code.UNAUTHENTICATED, "invalid auth token"


class InvalidAuthManagement(EtcdError):
    status, text = Code.INVALID_ARGUMENT, "invalid auth management"


class NoPasswordUser(EtcdError):
    prefix, text = "auth: ", "authentication failed, password was given for no password user"


class VerifyOnly(EtcdError):
    prefix, text = "auth: ", "token signing attempted with verify-only key"


class PasswordTooLong(EtcdError):
    prefix, text = "bcrypt: ", "password length exceeds 72 bytes"


class WatchCanceled(EtcdError):
    status, text = Code.CANCELLED, "watch canceled"
    taken = True


_ROWS = {row.prefix + row.text: row for row in EtcdError.__subclasses__()}


def recognised(error: RpcError) -> RpcError:
    """The row of the table that an error of a call is; others as they are.

    The connection's own findings and errors of anything between are in no row, nor are a later etcd's.
    """
    if error.unsent or isinstance(error, EtcdError):
        return error
    row = _ROWS.get(error.message)
    return row() if row is not None and row.status is error.code else error
