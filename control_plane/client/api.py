"""A client of the API over gRPC: objects in, objects out, `ApiError` when the server says no."""

import asyncio
import contextlib
import copy
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec
from urllib.parse import quote

import grpc
import orjson
from google.protobuf.message import Message

from rayplane.control_plane.api import errors, leadership
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ops
from rayplane.control_plane.client.endpoints import Endpoints, call_any
from rayplane.control_plane.client.stubs import Stubs
from rayplane.control_plane.rpc import Network, RpcError
from rayplane.control_plane.timings import SERVER_CHANGES
from rayplane.proto.rayplane.v1 import aggregation_pb2, pods_pb2
from rayplane.proto.rayplane.v1 import objects_pb2 as pb

_SERVICES = {
    name: service
    for module in (pb, pods_pb2, aggregation_pb2)
    for name, service in module.DESCRIPTOR.services_by_name.items()
}
_P = ParamSpec("_P")
# The class below has a method `list`, which hides the type inside it.
_Answers = list[Object | ApiError]
_Events = list["WatchEvent"]
_Objects = list[Object]
TIMEOUT_S = 10.0
LIST_PAGE = 5000
# How often a client that makes calls asks where the API servers are.
DISCOVER_EVERY_S = SERVER_CHANGES.discover_s
DISCOVER_AGAIN_S = 0.2
_DISCOVER_TIMEOUT_S = 1.0
_PURGE_TIMEOUT_S = 30.0
_READ_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class ObjectList:
    """The answer to a list: items as of `resource_version`."""

    items: list[Object]
    resource_version: str
    continue_token: str = ""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event: `type` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Object


def _single(
    build: Callable[_P, pb.Operation], *, idempotent: bool = False
) -> Callable[Concatenate["ApiClient", _P], Coroutine[Any, Any, Object]]:
    """The method of a client that takes what `build` takes and makes one call of it."""

    @functools.wraps(build)
    async def call(self: "ApiClient", *args: _P.args, **kwargs: _P.kwargs) -> Object:
        return await self._answered(build(*args, **kwargs), idempotent=idempotent)

    return call


class ApiClient:
    """A client that calls the API servers in turn; what cannot have had an effect is tried again on another.

    `resource` is "pods" or "deployments.apps" (plural and group; the version is the group's preferred one). Raises
    `ApiError` subclasses; ServiceUnavailable when no server answered in time and nothing was done, Timeout when a write
    got no answer and may have been done. `follow`: learn of servers that came and went, else only the named ones are
    called. `discovery`: supervisors, as far as they are known at first: they tell of servers, too, and are asked when
    none answers, since all may have been replaced.
    `user_agent`: whom managedFields name where a write names nobody.
    """

    def __init__(
        self,
        network: Network,
        endpoints: Sequence[str],
        *,
        token: str = "",
        user_agent: str = "",
        timeout: float = TIMEOUT_S,
        follow: bool = True,
        discovery: Sequence[str] = (),
    ) -> None:
        self.endpoints = Endpoints(endpoints)
        self._metadata = {"authorization": f"Bearer {token}"} if token else {}
        if user_agent:
            self._metadata["user-agent"] = user_agent
        self._timeout_s = timeout
        self._stub = Stubs(network, _SERVICES, self.endpoints).of
        self._follow = follow
        self._supervisors = Endpoints(discovery) if discovery else None
        self._may_write: Callable[[], bool] | None = None
        self._claim: Callable[[], str] | None = None
        self._discover_at: float | None = None
        self._announced_known = False

    def fenced(self, may_write: Callable[[], bool], claim: Callable[[], str] | None = None) -> "ApiClient":
        """The same client, whose writes raise ServiceUnavailable, unsent, while `may_write` says no.

        With `claim` (see `api.leadership`) servers refuse them with Conflict once the Lease is held otherwise.
        """
        made = copy.copy(self)
        made._may_write, made._claim = may_write, claim
        return made

    def acting(
        self, user: str, groups: Sequence[str] = (), *, uid: str = "", extra: Mapping[str, Sequence[str]] = {}
    ) -> "ApiClient":
        """The same client, whose calls are made as another user, as far as the caller may."""
        made = copy.copy(self)
        made._metadata = {**self._metadata, "impersonate-user": user}
        if groups:
            made._metadata["impersonate-group"] = ",".join(groups)
        if uid:
            made._metadata["impersonate-uid"] = uid
        if extra:
            # Names of metadata have no %, in which keys would have to be written.
            pairs = [f"{quote(key, '')}={quote(value, '')}" for key, values in extra.items() for value in values]
            made._metadata["impersonate-extra"] = ",".join(pairs)
        return made

    def bearing(self, token: str) -> "ApiClient":
        """The same client, whose calls are made as the owner of a token."""
        made = copy.copy(self)
        made._metadata = {**self._metadata, "impersonate-token": token}
        return made

    get = _single(ops.get, idempotent=True)

    async def list(
        self,
        resource: str,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_token: str = "",
        resource_version: str = "",
    ) -> ObjectList:
        """One page when `limit` is given, else everything; as it was at `resource_version` (but for "0")."""
        items: _Objects = []
        while True:
            request = pb.ListRequest(
                ref=ops.ref(resource, namespace),
                label_selector=label_selector,
                field_selector=field_selector,
                limit=limit or LIST_PAGE,
                resource_version="" if continue_token else resource_version,
            )
            setattr(request, "continue", continue_token)
            response = await self._call("Objects", "List", request, idempotent=True)
            items.extend(orjson.loads(item) for item in response.items)
            continue_token = getattr(response, "continue")
            if limit or not continue_token:
                return ObjectList(items, response.resource_version, continue_token)

    create = _single(ops.create)
    update = _single(ops.update)
    update_status = _single(ops.update_status)
    patch = _single(ops.patch)
    apply = _single(ops.apply)
    delete = _single(ops.delete)

    async def delete_collection(
        self,
        resource: str,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        grace_period_s: int | None = None,
        propagation: str = "",
        dry_run: bool = False,
    ) -> _Objects:
        """What was deleted, or is being deleted: everything that is selected."""
        request = pb.DeleteCollectionRequest(
            ref=ops.ref(resource, namespace),
            label_selector=label_selector,
            field_selector=field_selector,
            grace_period_seconds=grace_period_s,
            propagation_policy=propagation,
            dry_run=dry_run,
        )
        response = await self._call("Objects", "DeleteCollection", request)
        return [orjson.loads(item) for item in response.items]

    async def pages(
        self, resource: str, namespace: str = "", *, label_selector: str = "", field_selector: str = "", limit: int = 0
    ) -> AsyncGenerator[_Objects, None]:
        """Everything that is selected, as of one moment, in parts as they come: `limit` objects at most each."""
        request = pb.ListRequest(
            ref=ops.ref(resource, namespace),
            label_selector=label_selector,
            field_selector=field_selector,
            limit=limit,
        )
        try:
            async with aclosing(await self.open_stream("Objects", "ListStream", request)) as responses:
                async for response in responses:
                    yield [orjson.loads(item) for item in response.items]
        except RpcError as e:
            raise api_error(e) from e

    async def open_stream(self, service: str, method: str, request: Any) -> AsyncGenerator[Any, None]:
        """The answers to one request or a stream of requests, from the first server that takes the call.

        They raise RpcError.
        """
        await self._follow_servers(_DISCOVER_TIMEOUT_S)
        return self._stream(service, method, request)

    async def _stream(self, service: str, method: str, request: Any) -> AsyncGenerator[Any, None]:
        begun, tries = False, 0
        while True:
            address = self.endpoints.pick()
            call = getattr(self._stub(service, address), method)
            try:
                async with aclosing(call(request, metadata=self._metadata)) as answers:
                    async for answer in answers:
                        begun = True
                        yield answer
                return
            except RpcError as e:
                if e.retryable:
                    self.endpoints.failed(address)
                tries += 1
                # Of a stream of requests some may be lost once there is a connection.
                untouched = e.refused or (e.unsent and isinstance(request, Message))
                if begun or not untouched or tries >= len(self.endpoints.addresses):
                    raise

    async def batch(
        self, operations: Sequence[pb.Operation], *, timeout: float | None = None, quiet: bool = False
    ) -> _Answers:
        """Independent operations in one call; an answer or an error for each, in their order.

        `quiet`: who only asks what failed gets empty objects for the rest.
        """
        if not operations:
            return []
        request = pb.BatchRequest(operations=operations, quiet=quiet)
        response = await self._call("Objects", "Batch", request, timeout=timeout)
        return [
            errors.from_status(orjson.loads(r.status)) if r.status else {} if quiet else orjson.loads(r.json)
            for r in response.results
        ]

    async def purge_aggregated(self, namespace: str) -> aggregation_pb2.PurgeResponse:
        """Delete what a namespace holds in aggregated APIs, once; what was found."""
        request, limit_s = aggregation_pb2.PurgeRequest(namespace=namespace), _PURGE_TIMEOUT_S
        found: aggregation_pb2.PurgeResponse = await self._call("Aggregation", "Purge", request, timeout=limit_s)
        return found

    async def collect_aggregated(self) -> aggregation_pb2.CollectResponse:
        """Delete what aggregated APIs hold for owners that are gone, once; what was done."""
        request, limit_s = aggregation_pb2.CollectRequest(), _PURGE_TIMEOUT_S
        found: aggregation_pb2.CollectResponse = await self._call("Aggregation", "Collect", request, timeout=limit_s)
        return found

    async def read_aggregated(
        self,
        group: str,
        versions: Sequence[str],
        resource: str,
        namespace: str = "",
        *,
        name: str = "",
        subresource: str = "",
        query: str = "",
        kind: str = "",
    ) -> Any | None:
        """What an aggregated API answers to a GET; None where nobody serves any of the versions. Raises ApiError.

        `kind`: in place of the resource, in these versions if possible.
        """
        request = aggregation_pb2.ReadRequest(
            group=group,
            versions=versions,
            namespace=namespace,
            resource=resource,
            name=name,
            subresource=subresource,
            query=query,
            kind=kind,
        )
        found = await self._call("Aggregation", "Read", request, timeout=_READ_TIMEOUT_S)
        return orjson.loads(found.json) if found.served else None

    async def patch_aggregated(
        self, api_version: str, kind: str, name: str, namespace: str, steps: Sequence[Any], *, subresource: str = ""
    ) -> Any | None:
        """What an aggregated API answers to a JSON patch; None where nobody serves the kind. Raises ApiError."""
        group, _, version = api_version.rpartition("/")
        request = aggregation_pb2.PatchAggregatedRequest(
            group=group,
            versions=[version],
            namespace=namespace,
            name=name,
            subresource=subresource,
            kind=kind,
            patch=orjson.dumps(steps),
        )
        found = await self._call("Aggregation", "Patch", request, timeout=_READ_TIMEOUT_S)
        return orjson.loads(found.json) if found.served else None

    async def watch(
        self,
        resource: str,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        send_initial_events: bool = False,
    ) -> AsyncGenerator[_Events, None]:
        """Events from `resource_version` on, in groups as they came; bookmarks included.

        Raises Expired (410) when the version is too old: list again. Raises ServiceUnavailable when the server goes
        away: watch again from the last version seen.
        """
        request = pb.WatchRequest(
            ref=ops.ref(resource, namespace),
            label_selector=label_selector,
            field_selector=field_selector,
            resource_version=resource_version,
            allow_bookmarks=True,
            send_initial_events=send_initial_events,
        )
        try:
            # Whoever only watches has to learn of new servers here.
            async with aclosing(await self.open_stream("Objects", "Watch", request)) as responses:
                async for response in responses:
                    events = [WatchEvent(e.type, orjson.loads(e.json)) for e in response.events]
                    for event in events:
                        if event.type == "ERROR":
                            raise errors.from_status(event.object)
                    yield events
        except RpcError as e:
            raise api_error(e) from e

    async def discover(self) -> pb.EndpointsResponse:
        """Where all replicas are now; calls go to those API servers from here on."""
        response: pb.EndpointsResponse = await self._call(
            "Discovery", "Endpoints", pb.EndpointsRequest(), idempotent=True
        )
        self.endpoints.replace(list(response.grpc))
        self._learn_supervisors(response)
        return response

    @property
    def supervisors(self) -> tuple[str, ...]:
        """host:port of the supervisors, as servers told last: a supervisor whose machine is lost goes on elsewhere."""
        return self._supervisors.addresses if self._supervisors is not None else ()

    def _learn_supervisors(self, response: pb.EndpointsResponse) -> None:
        if self._supervisors is not None:
            self._supervisors.replace(list(response.supervisors))

    async def _follow_servers(self, limit_s: float) -> None:
        """Learn of servers that came and went, now and then: all that were named at first may be replaced."""
        if not self._follow:
            return
        now = asyncio.get_running_loop().time()
        if self._discover_at is None:
            self._discover_at = now + DISCOVER_EVERY_S
        if now < self._discover_at:
            return
        self._discover_at = now + DISCOVER_EVERY_S
        address = self.endpoints.pick()
        try:
            response = await self._ask_who_is_there(address, limit_s)
        except RpcError as e:
            if not e.details:
                self.endpoints.failed(address)  # lest the call itself goes to the one that is silent
            # Servers may come and go faster than a few such looks: the next call asks another.
            self._discover_at = now + DISCOVER_AGAIN_S
            await self._follow_others(limit_s)
            return
        self._learn_supervisors(response)
        # Servers that are not reached by the names they give never are.
        known = set(response.grpc) & set(self.endpoints.addresses)
        self._announced_known = self._announced_known or bool(known)
        if self._announced_known:
            self.endpoints.replace(list(response.grpc))

    async def _follow_others(self, limit_s: float) -> None:
        """Ask those who are no API servers: they name them as they were told to be, answering or not."""
        for address in self.supervisors:
            with contextlib.suppress(RpcError):
                self.endpoints.replace(list((await self._ask_who_is_there(address, limit_s)).grpc))
                self._announced_known = True
                return

    async def _ask_who_is_there(self, address: str, limit_s: float) -> pb.EndpointsResponse:
        stub = self._stub("Discovery", address)
        response: pb.EndpointsResponse = await stub.Endpoints(
            pb.EndpointsRequest(), timeout=limit_s, metadata=self._metadata
        )
        return response

    async def _answered(self, operation: pb.Operation, *, idempotent: bool = False) -> Object:
        """The answer to one operation, in a call of its own."""
        which = operation.WhichOneof("op")
        assert which is not None, "an operation says what it is"
        response = await self._call("Objects", which.title(), getattr(operation, which), idempotent=idempotent)
        obj: Object = orjson.loads(response.json)
        return obj

    async def _call(
        self,
        service: str,
        method: str,
        request: Message,
        *,
        idempotent: bool = False,
        timeout: float | None = None,
    ) -> Any:
        began = asyncio.get_running_loop().time()
        timeout = timeout or self._timeout_s
        await self._follow_servers(min(_DISCOVER_TIMEOUT_S, timeout / 4))
        timeout -= asyncio.get_running_loop().time() - began

        async def once(address: str, left: float) -> Any:
            # As late as can be: whoever stood still may have lost the right meanwhile.
            if not idempotent and self._may_write is not None and not self._may_write():
                raise errors.ServiceUnavailable("this replica does not lead any more; nothing was done")
            call = getattr(self._stub(service, address), method)
            metadata = self._metadata
            if not idempotent and self._claim is not None:
                metadata = {**metadata, leadership.HEADER: self._claim()}
            try:
                return await call(request, timeout=left, metadata=metadata)
            except RpcError as e:
                if _undone(e):
                    raise RpcError(e.code, e.message, e.details, unsent=True) from e
                raise

        try:
            return await call_any(self.endpoints, once, timeout=timeout, idempotent=idempotent)
        except RpcError as e:
            if e.retryable and not (idempotent or e.details or e.unsent):
                text = f"the API server went away before it answered; look before trying again: {e.message}"
                raise errors.Timeout(text) from e
            raise api_error(e) from e


def _undone(error: RpcError) -> bool:
    """Whether a server says that it has done nothing, and that it is worth while to try again (see `outcomes`)."""
    if not (error.retryable and error.details):
        return False
    told = errors.from_status(orjson.loads(error.details))
    return isinstance(told, errors.ServiceUnavailable) and told.retry_after is not None


def api_error(error: RpcError) -> ApiError:
    """The API's error that a failed call carries, or the one that tells of the failed call."""
    if error.details:
        return errors.from_status(orjson.loads(error.details))
    if error.code is grpc.StatusCode.UNAVAILABLE:
        return errors.ServiceUnavailable(f"no API server answered: {error.message}")
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.Timeout("the API server did not answer in time")
    return errors.InternalError(str(error))
