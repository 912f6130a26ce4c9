"""etcdserverpb.Auth, and finding out who calls.

A caller shows a token (metadata `token`, or `authorization` as the JSON gateway passes it), or else is whom its client
certificate names: the user of the certificate's common name, or INTERNAL when it is in one of the configured groups.
"""

import asyncio
import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from rayplane.control_plane.etcd.server import errors
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.services.kv import Base
from rayplane.control_plane.etcd.server.services.passwords import Secrets, default_secrets
from rayplane.control_plane.etcd.server.state_machine.auth.checks import check_lease_read, check_lease_write, check_txn
from rayplane.control_plane.etcd.server.state_machine.auth.store import INTERNAL, NOBODY, Caller, as_caller
from rayplane.control_plane.etcd.server.state_machine.auth.tokens import number_of, parse_auth_token
from rayplane.control_plane.rpc import Context
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1 import raft_pb2 as wire
from rayplane.storage.env import Env

if TYPE_CHECKING:
    from rayplane.control_plane.etcd.server.member import Member

#: Times a password is checked anew because users or roles changed meanwhile.
ATTEMPTS = 10
#: How a watch is told that it may not be: etcd's text for a gRPC status.
_GO_NAMES = {
    errors.Code.INVALID_ARGUMENT: "InvalidArgument",
    errors.Code.PERMISSION_DENIED: "PermissionDenied",
    errors.Code.UNAUTHENTICATED: "Unauthenticated",
}


class Callers:
    """Who calls, and what they may do outside the log. To be asked only while authentication is on."""

    def __init__(self, member: "Member", env: Env) -> None:
        self.secrets: Secrets = default_secrets(env, member.config.bcrypt_cost)
        self.jwt = parse_auth_token(member.config.auth_token, lambda path: Path(path).read_bytes())
        self.clock = env.clock
        self._member = member

    async def identify(self, context: Context) -> Caller:
        """NOBODY where there is neither token nor certificate. Raises InvalidAuthToken, Timeout."""
        auth = self._member.machine.auth
        token = context.metadata.get("token") or context.metadata.get("authorization")
        if token:
            return await self._holder(token.removeprefix("Bearer "))
        identity = context.identity
        if identity is None:
            return NOBODY
        if not self._member.config.auth_root_groups.isdisjoint(identity.groups):
            return INTERNAL
        return Caller(identity.user, auth.revision) if identity.user else NOBODY

    async def _holder(self, token: str) -> Caller:
        auth = self._member.machine.auth
        if self.jwt is not None:
            read = self.jwt.read(token, self.clock)
            if read is None:
                raise errors.InvalidAuthToken
            return Caller(*read)
        number = number_of(token)
        if number is None:
            raise errors.InvalidAuthToken
        if number > auth.issued:
            # Handed out by another member: this one may only have to come up to it.
            await self._member.barrier()
        user = auth.tokens.user_of(token, asyncio.get_running_loop().time())
        if user is None:
            raise errors.InvalidAuthToken
        return Caller(user, auth.revision)

    async def sign(self, kind: Kind, request: Message, context: Context) -> tuple[Kind, Message]:
        """The proposal in the caller's name."""
        caller = await self.identify(context)
        return as_caller(kind, request, caller) if caller.revision else (kind, request)

    async def require_user(self, context: Context) -> Caller:
        """Raises UserEmpty, InvalidAuthToken."""
        caller = await self.identify(context)
        if not caller.revision:
            raise errors.UserEmpty
        return caller

    async def require_admin(self, context: Context) -> None:
        """Raises UserEmpty, UserNotFound, PermissionDenied, InvalidAuthToken."""
        caller = await self.identify(context)
        self._member.machine.auth.check_admin(caller)

    async def check_range(self, context: Context, key: bytes, end: bytes) -> None:
        """To be called right before the reading, with nothing awaited in between."""
        caller = await self.identify(context)
        self._member.machine.auth.check_read(caller, key, end)

    async def check_txn(self, context: Context, request: pb.TxnRequest) -> None:
        """For a transaction that only reads, right before it runs."""
        caller = await self.identify(context)
        check_txn(self._member.machine.auth, self._member.lessor, caller, request)

    async def watch_refusal(self, context: Context, request: pb.WatchCreateRequest) -> str:
        """Why the watch may not be; empty if it may."""
        try:
            await self.check_range(context, request.key or b"\0", request.range_end)
        except errors.EtcdError as e:
            refusal = e if e.status in _GO_NAMES else errors.PermissionDenied()
            return f"rpc error: code = {_GO_NAMES[refusal.status]} desc = {refusal.message}"
        return ""

    async def check_renewal(self, context: Context, lease_id: int) -> None:
        """Who keeps a lease alive must be allowed to write its keys."""
        caller = await self.require_user(context)
        check_lease_write(self._member.machine.auth, self._member.lessor, caller, lease_id)

    async def check_lease_keys(self, context: Context, *lease_ids: int) -> None:
        """Who asks what hangs on leases must be allowed to read it."""
        caller = await self.require_user(context)
        for lease_id in lease_ids:
            check_lease_read(self._member.machine.auth, self._member.lessor, caller, lease_id)


class AuthService(Base):
    """etcdserverpb.Auth. Changes go through the log and are judged there; looking needs a read barrier only."""

    async def AuthEnable(self, request: pb.AuthEnableRequest, context: Context) -> pb.AuthEnableResponse:
        return await self._propose(Kind.AUTH_ENABLE, request, context)

    async def AuthDisable(self, request: pb.AuthDisableRequest, context: Context) -> pb.AuthDisableResponse:
        return await self._propose(Kind.AUTH_DISABLE, request, context)

    async def AuthStatus(self, request: pb.AuthStatusRequest, context: Context) -> pb.AuthStatusResponse:
        await self._look(context)
        auth = self.member.machine.auth
        return pb.AuthStatusResponse(header=self.header(), enabled=auth.enabled, authRevision=auth.revision)

    async def Authenticate(self, request: pb.AuthenticateRequest, context: Context) -> pb.AuthenticateResponse:
        self.gate(context)
        member, auth, callers = self.member, self.member.machine.auth, self.member.callers
        await member.barrier()
        for _ in range(ATTEMPTS):
            revision = auth.revision
            hashed = auth.password_of(request.name)
            if not await callers.secrets.matches(request.password, hashed):
                raise errors.AuthFailed
            prefix = "" if callers.jwt is not None else callers.secrets.token_prefix()
            proposal = wire.Authenticate(user=request.name, token_prefix=prefix)
            response: pb.AuthenticateResponse = self.stamp(await member.propose(Kind.AUTHENTICATE, proposal))
            if revision == auth.revision:
                if callers.jwt is not None:
                    response.token = callers.jwt.sign(request.name, revision, callers.clock)
                return response
        raise errors.AuthOldRevision

    async def UserAdd(self, request: pb.AuthUserAddRequest, context: Context) -> pb.AuthUserAddResponse:
        self.gate(context)
        if not request.options.no_password:
            request.hashedPassword = await self._hashed(request.password)
        request.password = ""
        return await self._propose(Kind.USER_ADD, request, context)

    async def UserGet(self, request: pb.AuthUserGetRequest, context: Context) -> pb.AuthUserGetResponse:
        caller = await self._look(context, admin=False)
        auth = self.member.machine.auth
        if caller is not None and request.name != caller.user:
            auth.check_admin(caller)
        return pb.AuthUserGetResponse(header=self.header(), roles=auth.roles_of(request.name))

    async def UserList(self, request: pb.AuthUserListRequest, context: Context) -> pb.AuthUserListResponse:
        await self._look(context)
        return pb.AuthUserListResponse(header=self.header(), users=self.member.machine.auth.users())

    async def UserDelete(self, request: pb.AuthUserDeleteRequest, context: Context) -> pb.AuthUserDeleteResponse:
        return await self._propose(Kind.USER_DELETE, request, context)

    async def UserChangePassword(
        self, request: pb.AuthUserChangePasswordRequest, context: Context
    ) -> pb.AuthUserChangePasswordResponse:
        self.gate(context)
        if request.password:
            request.hashedPassword = await self._hashed(request.password)
            request.password = ""
        return await self._propose(Kind.USER_CHANGE_PASSWORD, request, context)

    async def UserGrantRole(
        self, request: pb.AuthUserGrantRoleRequest, context: Context
    ) -> pb.AuthUserGrantRoleResponse:
        return await self._propose(Kind.USER_GRANT_ROLE, request, context)

    async def UserRevokeRole(
        self, request: pb.AuthUserRevokeRoleRequest, context: Context
    ) -> pb.AuthUserRevokeRoleResponse:
        return await self._propose(Kind.USER_REVOKE_ROLE, request, context)

    async def RoleAdd(self, request: pb.AuthRoleAddRequest, context: Context) -> pb.AuthRoleAddResponse:
        return await self._propose(Kind.ROLE_ADD, request, context)

    async def RoleGet(self, request: pb.AuthRoleGetRequest, context: Context) -> pb.AuthRoleGetResponse:
        caller = await self._look(context, admin=False)
        auth = self.member.machine.auth
        if caller is not None and not auth.has_role(caller.user, request.role):
            auth.check_admin(caller)
        return pb.AuthRoleGetResponse(header=self.header(), perm=auth.permissions_of(request.role))

    async def RoleList(self, request: pb.AuthRoleListRequest, context: Context) -> pb.AuthRoleListResponse:
        await self._look(context)
        return pb.AuthRoleListResponse(header=self.header(), roles=self.member.machine.auth.roles())

    async def RoleDelete(self, request: pb.AuthRoleDeleteRequest, context: Context) -> pb.AuthRoleDeleteResponse:
        return await self._propose(Kind.ROLE_DELETE, request, context)

    async def RoleGrantPermission(
        self, request: pb.AuthRoleGrantPermissionRequest, context: Context
    ) -> pb.AuthRoleGrantPermissionResponse:
        return await self._propose(Kind.ROLE_GRANT_PERMISSION, request, context)

    async def RoleRevokePermission(
        self, request: pb.AuthRoleRevokePermissionRequest, context: Context
    ) -> pb.AuthRoleRevokePermissionResponse:
        return await self._propose(Kind.ROLE_REVOKE_PERMISSION, request, context)

    async def _propose(self, kind: Kind, request: Message, context: Context) -> Any:
        self.gate(context)
        return self.stamp(await self.member.propose(kind, request, context))

    async def _look(self, context: Context, *, admin: bool = True) -> Caller | None:
        """Before users or roles are read: the state is the newest, and the caller may; None while all may."""
        self.gate(context)
        await self.member.barrier()
        auth = self.member.machine.auth
        if not auth.enabled:
            return None
        caller = await self.member.callers.identify(context)
        if admin:
            auth.check_admin(caller)
        return caller

    async def _hashed(self, password: str) -> str:
        return base64.b64encode(await self.member.callers.secrets.hash(password)).decode()
