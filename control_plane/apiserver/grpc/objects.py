"""The gRPC face: service Objects (and Discovery) of `rayplane.v1` over the registry.

Errors travel as gRPC status with details (see `errors`). The events of a watch that are ready together travel in one
message.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from rayplane.control_plane.api.errors import ApiError, BadRequest, InternalError, RequestEntityTooLarge, Unauthorized
from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.grpc import batches
from rayplane.control_plane.apiserver.grpc.calls import Calls
from rayplane.control_plane.apiserver.grpc.errors import rpc_error
from rayplane.control_plane.apiserver.grpc.options import (
    delete_options,
    list_options,
    patch_kind,
    watch_options,
    write_options,
)
from rayplane.control_plane.apiserver.registry.reading import Listing, WatchItem
from rayplane.control_plane.apiserver.registry.registry import error_json
from rayplane.control_plane.apiserver.requests import ANONYMOUS, Answer, Target, User
from rayplane.control_plane.rpc import Context
from rayplane.control_plane.rpc.faults import FaultLog
from rayplane.control_plane.rpc.service import MESSAGE_BYTES_MAX, Encoded
from rayplane.proto.rayplane.v1 import objects_pb2 as pb

_faults = FaultLog(logging.getLogger(__name__))

T = TypeVar("T")

_JSON = "application/json"
_OPERATIONS_MAX = 10_000
# Of a batch's answers together, which have to fit into one message with what is around them.
_ANSWERS_BYTES_MAX = MESSAGE_BYTES_MAX * 3 // 4
# Of a stream's message, which is larger where a single object is: libraries of gRPC take 4 MiB unless told otherwise.
_MESSAGE_BYTES = 1 << 20
_MESSAGE_ITEMS = 1000
# What is made of the items of a watch, and kept with them.
_MESSAGES = "messages of gRPC"


class ObjectsService:
    """Handler of `rayplane.v1.Objects`. `body_bytes`: the largest object or patch that is taken."""

    def __init__(self, calls: Calls, *, body_bytes: int) -> None:
        self._calls = calls
        self._registry = calls.registry
        self._body_bytes = body_bytes
        self._verbs: dict[str, Callable[[User, Target, Any, Context], Awaitable[Answer]]] = {
            "get": self._get,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
        }

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
            return await self._listed(user, context, "list", request)

        return await self._calls.answered(context, run)

    async def ListStream(self, request: pb.ListRequest, context: Context) -> AsyncIterator[pb.ListResponse]:
        page = pb.ListRequest()
        page.CopyFrom(request)
        page.limit = min(max(request.limit, 0) or _MESSAGE_ITEMS, _MESSAGE_ITEMS)
        while True:
            answer = await self.List(page, context)
            token = getattr(answer, "continue")
            for items in list(_parts(answer.items, len)) or [()]:
                # None of these is a page to go on from: what follows comes by itself.
                yield pb.ListResponse(resource_version=answer.resource_version, items=items, warnings=answer.warnings)
            if not token:
                return
            setattr(page, "continue", token)
            # The token knows what the pages are of.
            page.resource_version = page.resource_version_match = ""

    async def DeleteCollection(self, request: pb.DeleteCollectionRequest, context: Context) -> pb.ListResponse:
        async def run(user: User) -> pb.ListResponse:
            return await self._listed(user, context, "deletecollection", request)

        return await self._calls.answered(context, run)

    async def Batch(self, request: pb.BatchRequest, context: Context) -> pb.BatchResponse:
        async def run(user: User) -> pb.BatchResponse:
            if len(request.operations) > _OPERATIONS_MAX:
                raise RequestEntityTooLarge(
                    f"{len(request.operations)} operations in a batch: limit is {_OPERATIONS_MAX}"
                )
            left = None if request.quiet else [_ANSWERS_BYTES_MAX]
            results = await batches.run(request.operations, lambda op: self._in_batch(user, context, op, left))
            return pb.BatchResponse(results=results)

        return await self._calls.answered(context, run)

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[Encoded]:
        registry = self._registry
        async with (
            self._calls.stream(context, "watch", request) as (user, target),
            contextlib.aclosing(registry.watch(user, target, watch_options(request))) as groups,
        ):
            started = False
            async for items in groups:
                if not started:
                    audit.started()
                    started = True
                for count, message in items.form(_MESSAGES, _messages):
                    registry.requests.sent(target.info, count)
                    yield message

    # --- single operations --------------------------------------------------------------------

    async def _get(self, user: User, target: Target, request: pb.GetRequest, _: Context) -> Answer:
        return Answer(await self._registry.get(user, target, request.resource_version))

    async def _create(self, user: User, target: Target, request: pb.CreateRequest, context: Context) -> Answer:
        options = write_options(request.options, context)
        return await self._registry.create(user, target, self._body(request.json), _JSON, options)

    async def _update(self, user: User, target: Target, request: pb.UpdateRequest, context: Context) -> Answer:
        options = write_options(request.options, context)
        return await self._registry.update(user, target, self._body(request.json), _JSON, options)

    async def _patch(self, user: User, target: Target, request: pb.PatchRequest, context: Context) -> Answer:
        kind, options = patch_kind(request.type, target.info), write_options(request.options, context, patches=True)
        return await self._registry.patch(user, target, kind, self._body(request.patch), options)

    async def _delete(self, user: User, target: Target, request: pb.DeleteRequest, _: Context) -> Answer:
        return await self._registry.delete(user, target, delete_options(request))

    def _body(self, data: bytes) -> bytes:
        if len(data) > self._body_bytes:
            raise RequestEntityTooLarge(f"Request entity too large: limit is {self._body_bytes}")
        return data

    async def _in_batch(
        self, user: User, context: Context, operation: pb.Operation, left: list[int] | None
    ) -> pb.Result:
        """`left`: how many bytes of answers there is room for, counted down; None where the caller wants none."""
        name = operation.WhichOneof("op")
        try:
            if name is None:
                raise BadRequest("an operation of the batch is empty")
            answer = await self._run(user, context, name, getattr(operation, name))
        except ApiError as e:
            return pb.Result(status=error_json(e))
        except Exception as e:
            # One object that trips over a bug must not fail those that came with it: all nodes of a host, say.
            _faults.tell(f"an operation of a batch failed: {name}", e)
            return pb.Result(status=error_json(InternalError(f"Internal error occurred: {type(e).__name__}: {e}")))
        if left is None:
            return pb.Result(warnings=answer.warnings, created=answer.created, accepted=answer.accepted)
        left[0] -= len(answer.json)
        if left[0] < 0:
            text = "the operation was done, but the answers to the batch are too large: read the object by itself"
            return pb.Result(status=error_json(RequestEntityTooLarge(text)))
        return pb.Result(json=answer.json, warnings=answer.warnings, created=answer.created, accepted=answer.accepted)

    # --- common -------------------------------------------------------------------------------

    async def _one(self, context: Context, verb: str, request: Any) -> pb.Object:
        async def run(user: User) -> pb.Object:
            a = await self._run(user, context, verb, request)
            return pb.Object(json=a.json, warnings=a.warnings, created=a.created, accepted=a.accepted)

        return await self._calls.answered(context, run)

    async def _run(self, user: User, context: Context, verb: str, request: Any) -> Answer:
        """One operation, followed by the audit log."""
        calls = self._calls
        ref = request.ref
        measured = calls.measured(verb, ref, user)
        with measured, calls.audit.follow(user, context, verb, request) as trail:
            try:
                target = calls.known_target(verb, ref) or await calls.target(verb, ref)
                measured.info = target.info
                answer = await self._verbs[verb](user, target, request, context)
            except ApiError as e:
                await calls.may_be_told(e, user, verb, ref)
                raise
            if trail is not None:
                trail.end(201 if verb == "create" else 200, answer.json, _JSON)
        warning = self._registry.kinds.warning(target.info)
        return replace(answer, warnings=[*answer.warnings, warning]) if warning else answer

    async def _listed(
        self, user: User, context: Context, verb: str, request: pb.ListRequest | pb.DeleteCollectionRequest
    ) -> pb.ListResponse:
        calls = self._calls
        with calls.measured(verb, request.ref, user), calls.audit.follow(user, context, verb, request) as trail:
            try:
                target = await calls.target(verb, request.ref)
                listing = await self._listing(user, target, request)
            except ApiError as e:
                await calls.may_be_told(e, user, verb, request.ref)
                raise
            items = [self._registry.kinds.json(target.info, e) for e in listing.entries]
            if trail is not None:
                trail.end(200, _list_json(target, items) if trail.wants_response else b"", _JSON)
        answer = pb.ListResponse(
            resource_version=str(listing.revision),
            remaining=listing.remaining,
            items=items,
            warnings=[warning] if (warning := self._registry.kinds.warning(target.info)) else (),
        )
        setattr(answer, "continue", listing.continue_token)
        return answer

    async def _listing(
        self, user: User, target: Target, request: pb.ListRequest | pb.DeleteCollectionRequest
    ) -> Listing:
        options = list_options(request)
        if isinstance(request, pb.ListRequest):
            return await self._registry.list(user, target, options)
        return await self._registry.delete_collection(user, target, options, delete_options(request))


class DiscoveryService:
    """Handler of `rayplane.v1.Discovery`. `endpoints` tells who is where."""

    def __init__(self, calls: Calls, endpoints: Callable[[], pb.EndpointsResponse]) -> None:
        self._calls = calls
        self._endpoints = endpoints

    async def Endpoints(self, request: pb.EndpointsRequest, context: Context) -> pb.EndpointsResponse:
        """For whoever has a name, while a majority of the members answers: what was seen last may be untrue since."""
        try:
            if (await self._calls.user(context)).name == ANONYMOUS:
                raise Unauthorized()
            self._calls.registry.hub.check_hearing()
        except ApiError as e:
            raise rpc_error(e) from e
        return self._endpoints()


def _messages(items: Sequence[WatchItem]) -> list[tuple[int, Encoded]]:
    """Messages of a watch, and how many events each tells of: all who are told the same are sent the same bytes."""
    made = []
    for part in _parts(items, lambda item: len(item.json)):
        message = pb.WatchResponse(events=[pb.WatchEvent(type=i.type, json=i.json) for i in part])
        made.append((len(part), Encoded(message.SerializeToString())))
    return made


def _parts(items: Sequence[T], size: Callable[[T], int]) -> Iterator[Sequence[T]]:
    """Items in messages of which none is too large, unless one item is."""
    begin = held = 0
    for at, item in enumerate(items):
        held += size(item)
        if at > begin and (held > _MESSAGE_BYTES or at - begin >= _MESSAGE_ITEMS):
            yield items[begin:at]
            begin, held = at, size(item)
    if begin < len(items):
        yield items[begin:]


def _list_json(target: Target, items: Sequence[bytes]) -> bytes:
    """The same list as one JSON document."""
    info = target.info
    head = b'{"kind":"%s","apiVersion":"%s","items":[' % (info.list_kind.encode(), info.api_version.encode())
    return head + b",".join(items) + b"]}"
