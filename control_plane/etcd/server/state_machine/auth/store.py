"""Users, roles and who may do what: the replicated part of etcd's authentication.

Every change goes through the log and raises the auth revision. A caller is a user name and the auth revision at which
it was told who it is; it travels with the proposal and is judged where the request is applied, so that a grant or
revocation before it in the log counts and one after it does not. A caller of an older revision is refused.

Authentication is off until `enable`; while it is off nobody asks this module anything but for `enabled`. The user
"root" with the role "root" must exist to enable it, and neither can be taken away while it is on.

Members of a cluster that runs on (lease expiry, alarms) and components whose client certificate is in one of the
configured root groups act as INTERNAL: as root, at any auth revision. So a cluster outlives that someone enables
authentication.

Deterministic, write-through to the backend buckets "auth", "auth_users", "auth_roles", hence part of every snapshot.
Tokens are not: each member remembers those whose Authenticate it has applied (`tokens`).
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.state_machine.auth.ranges import Ranges, is_valid_grant
from rayplane.control_plane.etcd.server.state_machine.auth.tokens import SimpleTokens
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd.auth_pb2 import Permission, Role, User
from rayplane.proto.rayplane.v1 import raft_pb2 as wire
from rayplane.storage.keyvalue import Backend

ROOT = "root"
_ENABLED, _REVISION, _ISSUED = b"authEnabled", b"authRevision", b"tokensIssued"
#: Longest name that is its own key in the backend; longer ones are kept under their digest.
_KEY_MAX = 255


@dataclass(frozen=True, slots=True)
class Caller:
    """The user who asks, as of which auth revision. Revision 0: nobody has said who asks."""

    user: str = ""
    revision: int = 0


NOBODY = Caller()
INTERNAL = Caller(ROOT, (1 << 64) - 1)


def as_caller(kind: Kind, request: Message, caller: Caller) -> tuple[Kind, Message]:
    """The proposal of a request in somebody's name."""
    wrapped = wire.AsCaller(
        user=caller.user, auth_revision=caller.revision, kind=kind, request=request.SerializeToString()
    )
    return Kind.AS_CALLER, wrapped


@dataclass(frozen=True, slots=True)
class _Grants:
    root: bool
    read: Ranges
    write: Ranges


class AuthStore:
    """Users, roles, the switch and the revision. Methods named for a request apply it and return its response."""

    def __init__(self, backend: Backend, tokens: SimpleTokens) -> None:
        self.enabled = False
        self.revision = 1
        self.issued = 0
        self.tokens = tokens
        self._backend = backend
        self._users: dict[str, User] = {}
        self._roles: dict[str, Role] = {}
        self._grants: dict[str, _Grants] = {}
        self.appliers: dict[Kind, Any] = {
            Kind.AUTHENTICATE: self.authenticate,
            Kind.AUTH_ENABLE: self.enable,
            Kind.AUTH_DISABLE: self.disable,
            Kind.USER_ADD: self.add_user,
            Kind.USER_DELETE: self.delete_user,
            Kind.USER_CHANGE_PASSWORD: self.change_password,
            Kind.USER_GRANT_ROLE: self.grant_role,
            Kind.USER_REVOKE_ROLE: self.revoke_role,
            Kind.ROLE_ADD: self.add_role,
            Kind.ROLE_DELETE: self.delete_role,
            Kind.ROLE_GRANT_PERMISSION: self.grant_permission,
            Kind.ROLE_REVOKE_PERMISSION: self.revoke_permission,
        }

    def load(self) -> None:
        """Read everything anew: at start, and after the store was replaced."""
        known = self.revision
        self.enabled = self._backend.get("auth", _ENABLED) == b"\1"
        self.revision = int.from_bytes(self._backend.get("auth", _REVISION) or b"\1", "big")
        self.issued = int.from_bytes(self._backend.get("auth", _ISSUED) or b"", "big")
        users = (User.FromString(value) for _, value in self._backend.scan("auth_users"))
        self._users = {user.name.decode(): user for user in users}
        roles = (Role.FromString(value) for _, value in self._backend.scan("auth_roles"))
        self._roles = {role.name.decode(): role for role in roles}
        self._grants = {}
        if not self.enabled or self.revision != known:
            # Whatever made the difference may have ended some tokens.
            self.tokens.clear()

    # The switch and tokens

    def enable(self, request: pb.AuthEnableRequest, now: float) -> Message:
        if not self.enabled:
            root = self._users.get(ROOT)
            if root is None:
                raise errors.RootUserNotExist
            if ROOT not in root.roles:
                raise errors.RootRoleNotExist
            self.enabled = True
            self._backend.put("auth", _ENABLED, b"\1")
        return pb.AuthEnableResponse()

    def disable(self, request: pb.AuthDisableRequest, now: float) -> Message:
        if self.enabled:
            self.enabled = False
            self._backend.put("auth", _ENABLED, b"\0")
            self._changed()
            self.tokens.clear()
        return pb.AuthDisableResponse()

    def authenticate(self, request: wire.Authenticate, now: float) -> Message:
        """The password was checked before: here the token becomes known to every member.

        Its number lets a member tell a token that it has not heard of yet from one that has ended.
        """
        self.password_of(request.user)
        if not request.token_prefix:
            return pb.AuthenticateResponse()
        self.issued += 1
        self._backend.put("auth", _ISSUED, self.issued.to_bytes(8, "big"))
        token = f"{request.token_prefix}.{self.issued}"
        self.tokens.assign(token, request.user, now)
        return pb.AuthenticateResponse(token=token)

    def password_of(self, user: str) -> bytes:
        """A user's password hash. Raises AuthNotEnabled, AuthFailed, NoPasswordUser."""
        if not self.enabled:
            raise errors.AuthNotEnabled
        held = self._users.get(user)
        if held is None:
            raise errors.AuthFailed
        if held.options.no_password:
            raise errors.NoPasswordUser
        return held.password

    # Users

    def add_user(self, request: pb.AuthUserAddRequest, now: float) -> Message:
        if not request.name:
            raise errors.UserEmpty
        if request.name in self._users:
            raise errors.UserExists
        user = User(name=request.name.encode(), options=request.options)
        if not request.options.no_password:
            user.password = _unpacked(request.hashedPassword)
        self._put_user(user)
        self._changed()
        return pb.AuthUserAddResponse()

    def delete_user(self, request: pb.AuthUserDeleteRequest, now: float) -> Message:
        if self.enabled and request.name == ROOT:
            raise errors.InvalidAuthManagement
        self._user(request.name)
        del self._users[request.name]
        self._backend.delete("auth_users", _key(request.name.encode()))
        self._changed()
        self.tokens.forget_user(request.name)
        return pb.AuthUserDeleteResponse()

    def change_password(self, request: pb.AuthUserChangePasswordRequest, now: float) -> Message:
        user = self._user(request.name)
        changed = User(name=user.name, roles=user.roles, options=user.options)
        if not user.options.no_password:
            changed.password = _unpacked(request.hashedPassword)
        self._put_user(changed)
        self._changed()
        self.tokens.forget_user(request.name)
        return pb.AuthUserChangePasswordResponse()

    def grant_role(self, request: pb.AuthUserGrantRoleRequest, now: float) -> Message:
        user = self._user(request.user)
        if request.role != ROOT:
            self._role(request.role)
        if request.role not in user.roles:
            roles = sorted([*user.roles, request.role])
            self._put_user(User(name=user.name, password=user.password, roles=roles, options=user.options))
            self._changed()
        return pb.AuthUserGrantRoleResponse()

    def revoke_role(self, request: pb.AuthUserRevokeRoleRequest, now: float) -> Message:
        if self.enabled and request.name == ROOT and request.role == ROOT:
            raise errors.InvalidAuthManagement
        user = self._user(request.name)
        if request.role not in user.roles:
            raise errors.RoleNotGranted
        self._put_user(_without_role(user, request.role))
        self._changed()
        return pb.AuthUserRevokeRoleResponse()

    # Roles

    def add_role(self, request: pb.AuthRoleAddRequest, now: float) -> Message:
        if not request.name:
            raise errors.RoleEmpty
        if request.name in self._roles:
            raise errors.RoleExists
        self._put_role(Role(name=request.name.encode()))
        self._changed()
        return pb.AuthRoleAddResponse()

    def delete_role(self, request: pb.AuthRoleDeleteRequest, now: float) -> Message:
        if self.enabled and request.role == ROOT:
            raise errors.InvalidAuthManagement
        self._role(request.role)
        del self._roles[request.role]
        self._backend.delete("auth_roles", _key(request.role.encode()))
        for user in list(self._users.values()):
            if request.role in user.roles:
                self._put_user(_without_role(user, request.role))
        self._changed()
        return pb.AuthRoleDeleteResponse()

    def grant_permission(self, request: pb.AuthRoleGrantPermissionRequest, now: float) -> Message:
        if not request.HasField("perm"):
            raise errors.PermissionNotGiven
        new = request.perm
        if not is_valid_grant(new.key, new.range_end):
            raise errors.InvalidAuthManagement
        role = self._role(request.name)
        kept = [p for p in role.keyPermission if (p.key, p.range_end) != (new.key, new.range_end)]
        permissions = sorted([*kept, new], key=lambda p: p.key)
        self._put_role(Role(name=role.name, keyPermission=permissions))
        self._changed()
        return pb.AuthRoleGrantPermissionResponse()

    def revoke_permission(self, request: pb.AuthRoleRevokePermissionRequest, now: float) -> Message:
        role = self._role(request.role)
        kept = [p for p in role.keyPermission if (p.key, p.range_end) != (request.key, request.range_end)]
        if len(kept) == len(role.keyPermission):
            raise errors.PermissionNotGranted
        self._put_role(Role(name=role.name, keyPermission=kept))
        self._changed()
        return pb.AuthRoleRevokePermissionResponse()

    # Reading

    def users(self) -> list[str]:
        return sorted(self._users)

    def roles(self) -> list[str]:
        return sorted(self._roles)

    def roles_of(self, user: str) -> list[str]:
        """Raises UserNotFound."""
        return list(self._user(user).roles)

    def permissions_of(self, role: str) -> list[Permission]:
        """Raises RoleNotFound."""
        return list(self._role(role).keyPermission)

    def has_role(self, user: str, role: str) -> bool:
        held = self._users.get(user)
        return held is not None and role in held.roles

    # Judging

    def check_admin(self, caller: Caller) -> None:
        """Raises UserEmpty, UserNotFound, PermissionDenied, unless the caller has the root role."""
        if not caller.user:
            raise errors.UserEmpty
        if ROOT not in self._user(caller.user).roles:
            raise errors.PermissionDenied

    def is_admin(self, caller: Caller) -> bool:
        return self.has_role(caller.user, ROOT)

    def check_read(self, caller: Caller, key: bytes, end: bytes = b"") -> None:
        """Raises UserEmpty, AuthOldRevision, PermissionDenied."""
        grants = self._grants_of(caller)
        if not grants.root and not grants.read.covers(key, end):
            raise errors.PermissionDenied

    def check_write(self, caller: Caller, key: bytes, end: bytes = b"") -> None:
        """Raises UserEmpty, AuthOldRevision, PermissionDenied."""
        grants = self._grants_of(caller)
        if not grants.root and not grants.write.covers(key, end):
            raise errors.PermissionDenied

    def _grants_of(self, caller: Caller) -> _Grants:
        if not caller.revision:
            raise errors.UserEmpty
        if caller.revision < self.revision:
            raise errors.AuthOldRevision
        grants = self._grants.get(caller.user)
        if grants is None:
            grants = self._grants[caller.user] = self._collect(caller.user)
        return grants

    def _collect(self, name: str) -> _Grants:
        user = self._users.get(name)
        if user is None:
            raise errors.PermissionDenied
        granted = [p for role in user.roles if role in self._roles for p in self._roles[role].keyPermission]
        return _Grants(
            ROOT in user.roles,
            Ranges((p.key, p.range_end) for p in granted if p.permType != Permission.WRITE),
            Ranges((p.key, p.range_end) for p in granted if p.permType != Permission.READ),
        )

    # Keeping

    def _user(self, name: str) -> User:
        user = self._users.get(name)
        if user is None:
            raise errors.UserNotFound
        return user

    def _role(self, name: str) -> Role:
        role = self._roles.get(name)
        if role is None:
            raise errors.RoleNotFound
        return role

    def _put_user(self, user: User) -> None:
        self._users[user.name.decode()] = user
        self._backend.put("auth_users", _key(user.name), user.SerializeToString())

    def _put_role(self, role: Role) -> None:
        self._roles[role.name.decode()] = role
        self._backend.put("auth_roles", _key(role.name), role.SerializeToString())

    def _changed(self) -> None:
        self.revision += 1
        self._backend.put("auth", _REVISION, self.revision.to_bytes(8, "big"))
        self._grants = {}


def _without_role(user: User, role: str) -> User:
    kept = [r for r in user.roles if r != role]
    return User(name=user.name, password=user.password, roles=kept, options=user.options)


def _unpacked(hashed: str) -> bytes:
    try:
        return base64.b64decode(hashed, validate=True)
    except (binascii.Error, ValueError):
        raise errors.NoPasswordUser from None


def _key(name: bytes) -> bytes:
    return name if len(name) <= _KEY_MAX else b"\0" + hashlib.sha256(name).digest()
