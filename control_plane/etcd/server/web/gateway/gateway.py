"""The JSON gateway: the etcd v3 services over HTTP/1.1, as etcd's grpc-gateway serves them.

A call is a POST whose body is its request as JSON; a stream's body is one JSON value after the other, as long as the
client likes. The answer is one JSON object, or for streams a chunk `{"result": ...}` and a line end per message, with
`{"error": ...}` last when the stream fails. Metadata of the call: the `Authorization` header (a token), and headers
`Grpc-Metadata-<name>`. `Grpc-Timeout` bounds it.

Concurrency: a call runs in the task of its HTTP request, which the server cancels when the client leaves.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.web.gateway.calls import (
    Requests,
    break_of,
    context_of,
    limit_of,
    message_of,
    refusal_of,
    told,
)
from rayplane.control_plane.etcd.server.web.gateway.messages import as_object, dump
from rayplane.control_plane.etcd.server.web.gateway.syntax import JsonError
from rayplane.control_plane.etcd.server.web.gateway.websocket import is_socket, serve_socket
from rayplane.control_plane.rpc import Callers, Method, RpcError, Service, expiry, identity_of_transport

#: Paths below /v3/ of each call, by its gRPC path.
ROUTES: dict[str, tuple[str, ...]] = {
    "/etcdserverpb.KV/Range": ("kv/range",),
    "/etcdserverpb.KV/Put": ("kv/put",),
    "/etcdserverpb.KV/DeleteRange": ("kv/deleterange",),
    "/etcdserverpb.KV/Txn": ("kv/txn",),
    "/etcdserverpb.KV/Compact": ("kv/compaction",),
    "/etcdserverpb.Watch/Watch": ("watch",),
    "/etcdserverpb.Lease/LeaseGrant": ("lease/grant",),
    "/etcdserverpb.Lease/LeaseRevoke": ("lease/revoke", "kv/lease/revoke"),
    "/etcdserverpb.Lease/LeaseKeepAlive": ("lease/keepalive",),
    "/etcdserverpb.Lease/LeaseTimeToLive": ("lease/timetolive", "kv/lease/timetolive"),
    "/etcdserverpb.Lease/LeaseLeases": ("lease/leases", "kv/lease/leases"),
    "/etcdserverpb.Cluster/MemberAdd": ("cluster/member/add",),
    "/etcdserverpb.Cluster/MemberRemove": ("cluster/member/remove",),
    "/etcdserverpb.Cluster/MemberUpdate": ("cluster/member/update",),
    "/etcdserverpb.Cluster/MemberList": ("cluster/member/list",),
    "/etcdserverpb.Cluster/MemberPromote": ("cluster/member/promote",),
    "/etcdserverpb.Maintenance/Alarm": ("maintenance/alarm",),
    "/etcdserverpb.Maintenance/Status": ("maintenance/status",),
    "/etcdserverpb.Maintenance/Defragment": ("maintenance/defragment",),
    # HashKV has the same path in etcd, and loses.
    "/etcdserverpb.Maintenance/Hash": ("maintenance/hash",),
    "/etcdserverpb.Maintenance/Snapshot": ("maintenance/snapshot",),
    "/etcdserverpb.Maintenance/MoveLeader": ("maintenance/transfer-leadership",),
    "/etcdserverpb.Maintenance/Downgrade": ("maintenance/downgrade",),
    "/etcdserverpb.Auth/AuthEnable": ("auth/enable",),
    "/etcdserverpb.Auth/AuthDisable": ("auth/disable",),
    "/etcdserverpb.Auth/AuthStatus": ("auth/status",),
    "/etcdserverpb.Auth/Authenticate": ("auth/authenticate",),
    "/etcdserverpb.Auth/UserAdd": ("auth/user/add",),
    "/etcdserverpb.Auth/UserGet": ("auth/user/get",),
    "/etcdserverpb.Auth/UserList": ("auth/user/list",),
    "/etcdserverpb.Auth/UserDelete": ("auth/user/delete",),
    "/etcdserverpb.Auth/UserChangePassword": ("auth/user/changepw",),
    "/etcdserverpb.Auth/UserGrantRole": ("auth/user/grant",),
    "/etcdserverpb.Auth/UserRevokeRole": ("auth/user/revoke",),
    "/etcdserverpb.Auth/RoleAdd": ("auth/role/add",),
    "/etcdserverpb.Auth/RoleGet": ("auth/role/get",),
    "/etcdserverpb.Auth/RoleList": ("auth/role/list",),
    "/etcdserverpb.Auth/RoleDelete": ("auth/role/delete",),
    "/etcdserverpb.Auth/RoleGrantPermission": ("auth/role/grant",),
    "/etcdserverpb.Auth/RoleRevokePermission": ("auth/role/revoke",),
    "/v3lockpb.Lock/Lock": ("lock/lock",),
    "/v3lockpb.Lock/Unlock": ("lock/unlock",),
    "/v3electionpb.Election/Campaign": ("election/campaign",),
    "/v3electionpb.Election/Proclaim": ("election/proclaim",),
    "/v3electionpb.Election/Leader": ("election/leader",),
    "/v3electionpb.Election/Observe": ("election/observe",),
    "/v3electionpb.Election/Resign": ("election/resign",),
}
JSON_HEADERS = {"Content-Type": "application/json"}
#: Sent with every answer that a service gave.
_SERVED_HEADERS = JSON_HEADERS | {"Grpc-Metadata-Content-Type": "application/grpc"}


class Gateway:
    """A gateway that answers HTTP requests from the handlers of services. `headers` go with every answer."""

    def __init__(self, services: Sequence[Service], headers: dict[str, str]) -> None:
        self._headers = headers
        self._calls: dict[str, tuple[Method, Callable[..., Any]]] = {}
        self._callers: dict[str, Callers] = {}
        for service in services:
            for path, call in service.handlers.items():
                for route in ROUTES.get(path, ()):
                    self._calls[f"/v3/{route}"] = call
                    self._callers[f"/v3/{route}"] = service.callers[path]

    async def answer(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """The response to a request for `path`, which begins with /v3/."""
        call = self._calls.get(path)
        if call is None:
            return self.text(404, "Not Found")
        identity = identity_of_transport(request.transport)
        refusal = expiry(identity) or self._callers[path].refusal(identity, call[0].path)
        if refusal is not None:
            return self._refusal(refusal)
        if is_socket(request):
            return await serve_socket(request, *call)
        if request.method != "POST":
            return self.text(405, "Method Not Allowed")
        method, function = call
        # A body of known length is read whole: parsing what is not complete yet would be wasted.
        whole = "Content-Length" in request.headers
        requests = Requests(request.content.readany, method.request_type, whole=whole)
        try:
            limit = limit_of(request)
            if method.server_streaming:
                return await self._stream(request, requests, method, function, limit)
            try:
                message = await requests.first()
            except JsonError as e:
                raise RpcError(errors.Code.INVALID_ARGUMENT, str(e)) from None
            async with limit:
                response = await function(message, context_of(request))
        except ConnectionError:
            raise
        except Exception as e:
            return self._refusal(told(e))
        body = dump(as_object(message_of(response, method)))
        return web.Response(body=body, headers=self._headers | _SERVED_HEADERS)

    def text(self, status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
        """A plain answer of the server itself, with a line end."""
        plain = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
        return web.Response(status=status, body=text.encode() + b"\n", headers=self._headers | plain | (headers or {}))

    def _refusal(self, error: RpcError) -> web.Response:
        status, body = refusal_of(error)
        return web.Response(status=status, body=dump(body), headers=self._headers | JSON_HEADERS)

    async def _stream(
        self,
        request: web.BaseRequest,
        requests: Requests,
        method: Method,
        function: Callable[..., Any],
        limit: asyncio.Timeout,
    ) -> web.StreamResponse:
        """A streamed answer; its head goes out with the first message."""
        try:
            first = await requests.next() if method.client_streaming else await requests.first()
        except JsonError as e:
            # etcd's gateway names no code for the first message of a stream.
            code = errors.Code.UNKNOWN if method.client_streaming else errors.Code.INVALID_ARGUMENT
            raise RpcError(code, str(e)) from None
        argument: Any = requests.all(first) if method.client_streaming else first
        response = web.StreamResponse(headers=self._headers | _SERVED_HEADERS)
        if request.version >= (1, 1):
            response.enable_chunked_encoding()
        try:
            async with limit, contextlib.aclosing(function(argument, context_of(request))) as messages:
                async for message in messages:
                    if not response.prepared:
                        await response.prepare(request)
                    await response.write(b'{"result":' + dump(as_object(message_of(message, method))) + b"}\n")
        except ConnectionError:
            raise
        except Exception as e:
            return await self._broken(request, response, told(e), method)
        if not response.prepared:
            for name in _SERVED_HEADERS.keys() - JSON_HEADERS.keys():
                del response.headers[name]
            await response.prepare(request)
        await response.write_eof()
        return response

    async def _broken(
        self, request: web.BaseRequest, response: web.StreamResponse, error: RpcError, method: Method
    ) -> web.StreamResponse:
        """End a stream with an error."""
        if not response.prepared and not method.client_streaming and error.code is errors.Code.DEADLINE_EXCEEDED:
            # etcd's gateway waits for the head of such an answer as it waits for a whole one.
            return self._refusal(error)
        status, body = break_of(error)
        if not response.prepared:
            response = web.StreamResponse(status=status, headers=self._headers | JSON_HEADERS)
            response.enable_chunked_encoding()
            await response.prepare(request)
        await response.write(dump(body))
        await response.write_eof()
        return response
