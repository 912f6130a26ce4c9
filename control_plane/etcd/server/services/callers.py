"""Callers, once authentication is on: who they are, and proposals in their name.

A caller shows a token (metadata `token`, or `authorization` as the JSON gateway passes it), or else is whom its client
certificate names: the user of the certificate's common name, or INTERNAL when it is in one of the configured groups.
"""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.etcd.server.ports import Proposer, ReadBarrier
from rayplane.control_plane.etcd.server.services.passwords import Secrets, default_secrets
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine
from rayplane.control_plane.etcd.server.state_machine.auth.checks import check_lease_read, check_lease_write, check_txn
from rayplane.control_plane.etcd.server.state_machine.auth.store import INTERNAL, NOBODY, Caller, as_caller
from rayplane.control_plane.etcd.server.state_machine.auth.tokens import number_of, parse_auth_token
from rayplane.control_plane.rpc import Context
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.env import Env

#: How a watch is told that it may not be: etcd's text for a gRPC status.
_GO_NAMES = {
    errors.Code.INVALID_ARGUMENT: "InvalidArgument",
    errors.Code.PERMISSION_DENIED: "PermissionDenied",
    errors.Code.UNAUTHENTICATED: "Unauthenticated",
}


class Callers:
    """Callers of one member, and what they may do outside the log; asked only while authentication is `enabled`."""

    def __init__(
        self, config: MemberConfig, env: Env, machine: StateMachine, *, proposer: Proposer, reads: ReadBarrier
    ) -> None:
        self.secrets: Secrets = default_secrets(env, config.bcrypt_cost)
        self.jwt = parse_auth_token(config.auth_token, lambda path: Path(path).read_bytes())
        self.clock = env.clock
        self._root_groups = config.auth_root_groups
        self._auth = machine.auth
        self._lessor = machine.lessor
        self._proposer = proposer
        self._reads = reads

    @property
    def enabled(self) -> bool:
        return self._auth.enabled

    async def identify(self, context: Context) -> Caller:
        """NOBODY where there is neither token nor certificate. Raises InvalidAuthToken, Timeout."""
        token = context.metadata.get("token") or context.metadata.get("authorization")
        if token:
            return await self._holder(token.removeprefix("Bearer "))
        identity = context.identity
        if identity is None:
            return NOBODY
        if not self._root_groups.isdisjoint(identity.groups):
            return INTERNAL
        return Caller(identity.user, self._auth.revision) if identity.user else NOBODY

    async def _holder(self, token: str) -> Caller:
        if self.jwt is not None:
            read = self.jwt.read(token, self.clock)
            if read is None:
                raise errors.InvalidAuthToken
            return Caller(*read)
        number = number_of(token)
        if number is None:
            raise errors.InvalidAuthToken
        if number > self._auth.issued:
            # Handed out by another member: this one may only have to come up to it.
            await self._reads.barrier()
        user = self._auth.tokens.user_of(token, asyncio.get_running_loop().time())
        if user is None:
            raise errors.InvalidAuthToken
        return Caller(user, self._auth.revision)

    def propose(self, kind: Kind, request: Message, context: Context) -> Awaitable[Any]:
        """Put a request through the log in the caller's name. Raises EtcdError, when it is awaited."""
        if self._auth.enabled:
            return self._propose_signed(kind, request, context)
        return self._proposer.propose(kind, request)

    async def _propose_signed(self, kind: Kind, request: Message, context: Context) -> Any:
        caller = await self.identify(context)
        if caller.revision:
            kind, request = as_caller(kind, request, caller)
        return await self._proposer.propose(kind, request)

    async def require_user(self, context: Context) -> Caller:
        """Raises UserEmpty, InvalidAuthToken."""
        caller = await self.identify(context)
        if not caller.revision:
            raise errors.UserEmpty
        return caller

    async def require_admin(self, context: Context) -> None:
        """Raises UserEmpty, UserNotFound, PermissionDenied, InvalidAuthToken."""
        caller = await self.identify(context)
        self._auth.check_admin(caller)

    async def check_range(self, context: Context, key: bytes, end: bytes) -> None:
        """To be called right before the reading, with nothing awaited in between."""
        caller = await self.identify(context)
        self._auth.check_read(caller, key, end)

    async def check_txn(self, context: Context, request: pb.TxnRequest) -> None:
        """For a transaction that only reads, right before it runs."""
        caller = await self.identify(context)
        check_txn(self._auth, self._lessor, caller, request)

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
        check_lease_write(self._auth, self._lessor, caller, lease_id)

    async def check_lease_keys(self, context: Context, *lease_ids: int) -> None:
        """Who asks what hangs on leases must be allowed to read it."""
        caller = await self.require_user(context)
        for lease_id in lease_ids:
            check_lease_read(self._auth, self._lessor, caller, lease_id)
