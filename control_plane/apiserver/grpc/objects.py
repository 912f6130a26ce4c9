"""The gRPC face: service Objects (and Discovery) of `rayplane.v1` over the registry.

Errors travel as gRPC status with the Kubernetes Status as JSON in the details. The events of a
watch that are ready together travel in one message.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import grpc

from rayplane.control_plane.api.errors import ApiError, InternalError, NotFound, Timeout, UnsupportedMediaType
from rayplane.control_plane.api.machinery.patching import PatchKind
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.apiserver.flowcontrol.batches import Batches, resource_of
from rayplane.control_plane.apiserver.flowcontrol.fairness import is_urgent
from rayplane.control_plane.apiserver.grpc.auditing import CallAudit
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry, error_json
from rayplane.control_plane.apiserver.requests import (
    DeleteOptions,
    ListOptions,
    Target,
    User,
    WriteOptions,
)
from rayplane.control_plane.rpc import Context, RpcError
from rayplane.control_plane.rpc.faults import FaultLog
from rayplane.proto.rayplane.v1 import objects_pb2 as pb

_faults = FaultLog(logging.getLogger(__name__))

T = TypeVar("T")

_JSON = "application/json"
# Events in one message of a watch, which has to stay below the largest message there may be.
_EVENTS_MAX = 1000
_PATCH_KINDS: dict[int, PatchKind] = {
    pb.MERGE: "merge",
    pb.JSON: "json",
    pb.STRATEGIC: "strategic",
    pb.APPLY: "apply",
}


def _patch_kind(number: int) -> PatchKind:
    kind = _PATCH_KINDS.get(number)
    if kind is None:
        raise UnsupportedMediaType(f"there is no patch type {number}")
    return kind


def rpc_error(error: ApiError) -> RpcError:
    code = getattr(grpc.StatusCode, error.grpc_status, grpc.StatusCode.UNKNOWN)
    return RpcError(code, error.message, error_json(error))


class ObjectsService:
    """Handler of `rayplane.v1.Objects`."""

    def __init__(self, registry: ObjectRegistry, *, timeout_s: float) -> None:
        self._registry = registry
        self._timeout_s = timeout_s
        self._batches = Batches()
        self._audit = CallAudit(registry.auditor, registry.kinds)

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.Object:
        return await self._one(context, "get", request)

    async def Create(self, request: pb.CreateRequest, context: Context) -> pb.Object:
        return await self._one(context, "create", request)

    async def Update(self, request: pb.UpdateRequest, context: Context) -> pb.Object:
        return await self._one(context, "update", request)

    async def Patch(self, request: pb.PatchRequest, context: Context) -> pb.Object:
        return await self._one(context, "patch", request)

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.Object:
        return await self._one(context, "delete", request)

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:
        async def run(user: User) -> pb.ListResponse:
            with self._measured("list", request.ref), self._audit.follow(user, context, "list", request) as trail:
                target = await self._target(request.ref)
                listing = await self._registry.list(user, target, _list_options(request))
                kinds = self._registry.kinds
                items = [kinds.json(target.info, e) for e in listing.entries]
                if trail is not None:
                    trail.end(200, _list_json(target, items) if trail.wants_response else b"", _JSON)
            answer = pb.ListResponse(
                resource_version=str(listing.revision),
                remaining=listing.remaining or 0,
                items=items,
            )
            setattr(answer, "continue", listing.continue_token)
            return answer

        return await self._answered(context, (request.ref.resource,), run, mutating=False)

    async def DeleteCollection(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:
        async def run(user: User) -> pb.ListResponse:
            measured = self._measured("deletecollection", request.ref)
            with measured, self._audit.follow(user, context, "deletecollection", request) as trail:
                target = await self._target(request.ref)
                listing = await self._registry.delete_collection(user, target, _list_options(request), DeleteOptions())
                kinds = self._registry.kinds
                items = [kinds.json(target.info, e) for e in listing.entries]
                if trail is not None:
                    trail.end(200, _list_json(target, items) if trail.wants_response else b"", _JSON)
            return pb.ListResponse(resource_version=str(listing.revision), items=items)

        return await self._answered(context, (request.ref.resource,), run, mutating=True)

    async def Batch(self, request: pb.BatchRequest, context: Context) -> pb.BatchResponse:
        async def run(user: User) -> pb.BatchResponse:
            results = await self._batches.run(request.operations, lambda op: self._in_batch(user, context, op))
            return pb.BatchResponse(results=results)

        return await self._answered(context, map(resource_of, request.operations), run, mutating=True)

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        try:
            user = await self._registry.authenticator.of_call(context)
            initial = request.send_initial_events
            options = ListOptions(
                label_selector=request.label_selector,
                field_selector=request.field_selector,
                resource_version=request.resource_version,
                resource_version_match="NotOlderThan" if initial else "",
                allow_bookmarks=request.allow_bookmarks,
                send_initial_events=initial or None,
            )
            with self._measured("watch", request.ref), self._audit.follow(user, context, "watch", request) as trail:
                target = await self._target(request.ref)
                async with contextlib.aclosing(self._registry.watch(user, target, options)) as groups:
                    started = False
                    async for items in groups:
                        if trail is not None and not started:
                            trail.start()
                            started = True
                        for at in range(0, len(items), _EVENTS_MAX):
                            part = items[at : at + _EVENTS_MAX]
                            self._registry.requests.sent(target.info, len(part))
                            yield pb.WatchResponse(events=[pb.WatchEvent(type=i.type, json=i.json) for i in part])
                if trail is not None:
                    trail.end(200)
        except ApiError as e:
            raise rpc_error(e) from e

    # --- single operations --------------------------------------------------------------------

    async def _get(self, user: User, request: pb.GetRequest) -> bytes:
        target = await self._target(request.ref)
        return await self._registry.get(user, target, request.resource_version)

    async def _create(self, user: User, request: pb.CreateRequest) -> bytes:
        answer = await self._registry.create(
            user, await self._target(request.ref), request.json, _JSON, _write_options(request.options)
        )
        return answer.json

    async def _update(self, user: User, request: pb.UpdateRequest) -> bytes:
        answer = await self._registry.update(
            user, await self._target(request.ref), request.json, _JSON, _write_options(request.options)
        )
        return answer.json

    async def _patch(self, user: User, request: pb.PatchRequest) -> bytes:
        answer = await self._registry.patch(
            user,
            await self._target(request.ref),
            _patch_kind(request.type),
            request.patch,
            _write_options(request.options),
        )
        return answer.json

    async def _delete(self, user: User, request: pb.DeleteRequest) -> bytes:
        grace = request.grace_period_seconds if request.HasField("grace_period_seconds") else None
        options = DeleteOptions(
            grace_period_s=grace,
            propagation_policy=request.propagation_policy,
            uid=request.uid,
            resource_version=request.resource_version,
            dry_run=request.dry_run,
        )
        answer = await self._registry.delete(user, await self._target(request.ref), options)
        return answer.json

    async def _in_batch(self, user: User, context: Context, operation: pb.Operation) -> pb.Result:
        name = operation.WhichOneof("op")
        if name is None:
            error = ApiError("an operation of the batch is empty", reason="BadRequest", code=400)
            return pb.Result(status=error_json(error))
        try:
            return pb.Result(json=await self._run(user, context, name, getattr(operation, name)))
        except ApiError as e:
            return pb.Result(status=error_json(e))
        except Exception as e:
            # One object that trips over a bug must not fail those that came with it: all nodes of a host, say.
            _faults.tell(f"an operation of a batch failed: {name}", e)
            return pb.Result(status=error_json(InternalError(f"Internal error occurred: {type(e).__name__}: {e}")))

    # --- common -------------------------------------------------------------------------------

    async def _one(self, context: Context, verb: str, request: Any) -> pb.Object:
        async def answer(user: User) -> pb.Object:
            return pb.Object(json=await self._run(user, context, verb, request))

        return await self._answered(context, (request.ref.resource,), answer, mutating=verb != "get")

    async def _run(self, user: User, context: Context, verb: str, request: Any) -> bytes:
        """One operation, followed by the audit log."""
        run: Callable[[User, Any], Awaitable[bytes]] = getattr(self, f"_{verb}")
        with self._measured(verb, request.ref), self._audit.follow(user, context, verb, request) as trail:
            data = await run(user, request)
            if trail is not None:
                trail.end(201 if verb == "create" else 200, data, _JSON)
        return data

    def _measured(self, verb: str, ref: pb.ResourceRef) -> "_Measured":
        return _Measured(self._registry, verb, ref)

    async def _answered(
        self, context: Context, plurals: Iterable[str], run: Callable[[User], Awaitable[T]], *, mutating: bool
    ) -> T:
        """`plurals`: the resources that the call is about."""
        try:
            async with asyncio.timeout(self._timeout_s):
                user = await self._registry.authenticator.of_call(context)
                with self._registry.fairness.slot(urgent=is_urgent(user, plurals), mutating=mutating):
                    return await run(user)
        except ApiError as e:
            raise rpc_error(e) from e
        except TimeoutError as e:
            text = "request did not complete within the allotted timeout"
            raise rpc_error(Timeout(text, details={})) from e

    async def _target(self, ref: pb.ResourceRef) -> Target:
        return await self._registry.target(
            ref.group,
            ref.version,
            ref.resource,
            namespace=ref.namespace,
            name=ref.name,
            subresource=ref.subresource,
        )


class _Measured:
    """The time and the outcome of one operation."""

    __slots__ = ("_began", "_ref", "_registry", "_verb")

    def __init__(self, registry: ObjectRegistry, verb: str, ref: pb.ResourceRef) -> None:
        self._registry, self._verb, self._ref = registry, verb, ref

    def __enter__(self) -> None:
        self._began = asyncio.get_running_loop().time()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        ref, verb = self._ref, self._verb
        info: ResourceInfo | None = None
        with contextlib.suppress(NotFound):
            info = self._registry.kinds.find(ref.group, ref.version, ref.resource)
        seconds = asyncio.get_running_loop().time() - self._began
        method = verb if info is not None else "POST"  # what all of gRPC is
        self._registry.requests.add(method, info, _code(verb, error), seconds, ref.subresource)


def _code(verb: str, error: BaseException | None) -> int:
    if error is None or (verb == "watch" and not isinstance(error, Exception)):
        return 201 if verb == "create" else 200
    if isinstance(error, ApiError):
        return error.code
    return 500 if isinstance(error, Exception) else 504  # given up by the client, or too late


class DiscoveryService:
    """Handler of `rayplane.v1.Discovery`. `endpoints` tells the servers (grpc, https) and etcd members."""

    def __init__(self, endpoints: Callable[[], tuple[list[str], list[str], list[str]]]) -> None:
        self._endpoints = endpoints

    async def Endpoints(self, request: pb.EndpointsRequest, context: Context) -> pb.EndpointsResponse:
        grpc_addresses, https, etcd = self._endpoints()
        return pb.EndpointsResponse(grpc=grpc_addresses, https=https, etcd=etcd)


def _write_options(options: pb.WriteOptions) -> WriteOptions:
    return WriteOptions(
        dry_run=options.dry_run,
        # Components name nobody: it would make each of their writes half as costly again, and every pod larger by half.
        field_manager=options.field_manager,
        # Components of the cluster send what they have read: there is nothing to warn of.
        field_validation=options.field_validation or "Ignore",
        force=options.force,
    )


def _list_options(request: pb.ListRequest) -> ListOptions:
    return ListOptions(
        label_selector=request.label_selector,
        field_selector=request.field_selector,
        limit=request.limit,
        continue_token=getattr(request, "continue"),
        resource_version=request.resource_version,
        resource_version_match=request.resource_version_match,
    )


def _list_json(target: Target, items: Sequence[bytes]) -> bytes:
    """The same list as one JSON document."""
    info = target.info
    head = b'{"kind":"%s","apiVersion":"%s","items":[' % (info.list_kind.encode(), info.api_version.encode())
    return head + b",".join(items) + b"]}"
