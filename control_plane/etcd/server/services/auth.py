"""The Auth service: users, roles, tokens."""

import base64
from typing import Any

from google.protobuf.message import Message

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.ports import Proposer, RaftStatus, ReadBarrier
from rayplane.control_plane.etcd.server.services.base import Base
from rayplane.control_plane.etcd.server.services.callers import Callers
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine
from rayplane.control_plane.etcd.server.state_machine.auth.store import Caller
from rayplane.control_plane.rpc import Context
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1 import raft_pb2 as wire

#: Times a password is checked anew because users or roles changed meanwhile.
ATTEMPTS = 10


class AuthService(Base):
    """etcdserverpb.Auth. Changes go through the log and are judged there; looking needs a read barrier only."""

    def __init__(
        self, raft: RaftStatus, callers: Callers, machine: StateMachine, *, proposer: Proposer, reads: ReadBarrier
    ) -> None:
        super().__init__(raft, callers, machine.store)
        self._auth = machine.auth
        self._proposer = proposer
        self._reads = reads

    async def AuthEnable(self, request: pb.AuthEnableRequest, context: Context) -> pb.AuthEnableResponse:
        return await self._propose(Kind.AUTH_ENABLE, request, context)

    async def AuthDisable(self, request: pb.AuthDisableRequest, context: Context) -> pb.AuthDisableResponse:
        return await self._propose(Kind.AUTH_DISABLE, request, context)

    async def AuthStatus(self, request: pb.AuthStatusRequest, context: Context) -> pb.AuthStatusResponse:
        await self._look(context)
        return pb.AuthStatusResponse(header=self.header(), enabled=self._auth.enabled, authRevision=self._auth.revision)

    async def Authenticate(self, request: pb.AuthenticateRequest, context: Context) -> pb.AuthenticateResponse:
        self.gate(context)
        auth, callers = self._auth, self.callers
        await self._reads.barrier()
        for _ in range(ATTEMPTS):
            revision = auth.revision
            hashed = auth.password_of(request.name)
            if not await callers.secrets.matches(request.password, hashed):
                raise errors.AuthFailed
            prefix = "" if callers.jwt is not None else callers.secrets.token_prefix()
            proposal = wire.Authenticate(user=request.name, token_prefix=prefix)
            response: pb.AuthenticateResponse = self.stamp(await self._proposer.propose(Kind.AUTHENTICATE, proposal))
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
        if caller is not None and request.name != caller.user:
            self._auth.check_admin(caller)
        return pb.AuthUserGetResponse(header=self.header(), roles=self._auth.roles_of(request.name))

    async def UserList(self, request: pb.AuthUserListRequest, context: Context) -> pb.AuthUserListResponse:
        await self._look(context)
        return pb.AuthUserListResponse(header=self.header(), users=self._auth.users())

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
        if caller is not None and not self._auth.has_role(caller.user, request.role):
            self._auth.check_admin(caller)
        return pb.AuthRoleGetResponse(header=self.header(), perm=self._auth.permissions_of(request.role))

    async def RoleList(self, request: pb.AuthRoleListRequest, context: Context) -> pb.AuthRoleListResponse:
        await self._look(context)
        return pb.AuthRoleListResponse(header=self.header(), roles=self._auth.roles())

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
        return self.stamp(await self.callers.propose(kind, request, context))

    async def _look(self, context: Context, *, admin: bool = True) -> Caller | None:
        """Before users or roles are read: the state is the newest, and the caller may; None while all may."""
        self.gate(context)
        await self._reads.barrier()
        if not self._auth.enabled:
            return None
        caller = await self.callers.identify(context)
        if admin:
            self._auth.check_admin(caller)
        return caller

    async def _hashed(self, password: str) -> str:
        return base64.b64encode(await self.callers.secrets.hash(password)).decode()
