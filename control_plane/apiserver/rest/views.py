"""Paths of the dashboard's views beside objects: packing, how the cluster stands, what was, why, and faults.

RBAC has the word: on the paths themselves, as on other paths that are no resources, on objects that a view tells of,
and on faults as on the resource `faults` of the group `chaos.rayplane.io`. Packing is of this server's watch caches;
the rest the supervisor knows.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

import orjson
from aiohttp import web
from google.protobuf.json_format import MessageToDict

from rayplane.control_plane.api.errors import ApiError, BadRequest, MethodNotAllowed, UnsupportedMediaType
from rayplane.control_plane.api.machinery.decoding import JSON
from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.config import Timing
from rayplane.control_plane.apiserver.flowcontrol.fairness import elsewhere
from rayplane.control_plane.apiserver.outgoing.supervisors import FAULTS, GROUP, Supervisors
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.rpc.json_lines import streamed
from rayplane.control_plane.rpc.static_files import HEADERS
from rayplane.proto.rayplane.v1 import chaos_pb2 as pb
from rayplane.proto.rayplane.v1 import supervisor_pb2

PREFIX = "/rayplane/v1/"
_VIEWS = supervisor_pb2.DESCRIPTOR.services_by_name["Views"]
_FAULTS = pb.DESCRIPTOR.services_by_name["Faults"]
_FAULTS_PATH = f"{PREFIX}{FAULTS}"
_VERBS = {"GET": "list", "POST": "create", "DELETE": "delete"}
_FAULT_BYTES_MAX = 64 * 1024


def goes_on(request: web.BaseRequest) -> bool:
    """Whether it asks for what is told for as long as somebody looks."""
    return request.path in (f"{PREFIX}control-plane", f"{PREFIX}packing") and "at" not in request.query


def fault_asked(request: web.BaseRequest) -> tuple[str, str]:
    """The verb on `faults` that a request is, and the fault's name; no verb where it is none."""
    verb = _VERBS.get(request.method, "") if request.path == _FAULTS_PATH else ""
    # A right to some names is none to begin faults, whose names nobody knows yet, nor to all of them.
    return verb, request.query.get("id", "") if verb == "delete" else ""


class Views:
    """The views of one cluster. `answer` raises ApiError."""

    def __init__(self, registry: ObjectRegistry, supervisors: Supervisors, timing: Timing) -> None:
        self._registry = registry
        self._timing = timing
        self._supervisors = supervisors

    async def answer(self, request: web.BaseRequest, user: User) -> web.StreamResponse:
        view = request.path.removeprefix(PREFIX)
        if view == FAULTS:
            async with asyncio.timeout(self._timing.request_timeout_s):
                return await self._faults(request, user)
        await self._registry.authorizer.check_path(user, request.method.lower(), request.path)
        if request.method != "GET":
            raise MethodNotAllowed(details={})
        # A parameter that comes twice is the first one, for RBAC and for who answers.
        parameters = dict(request.query)
        for asked in _objects(view, parameters):
            await self._registry.authorizer.check_written(user, **asked)
        values = self._packing(parameters) if view == "packing" else self._look(view, parameters)
        if view == "control-plane":
            may = await self._registry.authorizer.decide(user.asks("list", group=GROUP, resource=FAULTS))
            values = values if may.allowed else _without_faults(values)
        if goes_on(request):
            # As watches end: rights are looked at anew when the page comes again.
            values = _until(asyncio.get_running_loop().time() + self._timing.watch_timeout_s, values)
        else:
            values = _soon(self._timing.request_timeout_s, values)
        return await streamed(request, values, (ApiError,), starting=audit.response_starts)

    async def _packing(self, query: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        if "at" in query:
            yield orjson.dumps(await self._registry.packed.then(query["at"]))
            return
        async with aclosing(self._registry.packed.news()) as news:
            async for one in news:
                yield orjson.dumps(one)

    async def _look(self, view: str, query: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        asked = supervisor_pb2.LookRequest(view=view, parameters=query)
        async with aclosing(self._supervisors.told(_VIEWS, "Look", asked)) as told:
            async for one in told:
                yield one.json

    async def _faults(self, request: web.BaseRequest, user: User) -> web.StreamResponse:
        """As `rayplane.v1.Chaos` has them."""
        verb, id_ = fault_asked(request)
        if not verb:
            raise MethodNotAllowed(details={})
        await self._registry.authorizer.check_written(user, verb, name=id_, group=GROUP, resource=FAULTS)
        if verb == "create":
            fault = pb.BeginRequest(fault=await _fault(request), by=user.name)
            return _answer(await self._ask("Begin", fault))
        if verb == "delete":
            return _answer((await self._ask("End", pb.EndRequest(id=id_), name=id_)).fault)
        targets, found = (
            await self._ask("Targets", pb.TargetsRequest()),
            await self._ask("List", pb.ListFaultsRequest()),
        )
        return _answer(targets, faults=MessageToDict(found).get("faults", []))

    async def _ask(self, method: str, message: Any, *, name: str = "") -> Any:
        with elsewhere():
            return await self._supervisors.ask(_FAULTS, method, message, of=(GROUP, FAULTS, name))


async def _until(end: float, values: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The values that come before `end`, by the loop's time."""
    async with aclosing(values):
        async for one in values:
            if asyncio.get_running_loop().time() >= end:
                return
            yield one


async def _soon(limit_s: float, values: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The one value of a view that does not go on. Raises TimeoutError."""
    # Who is asked may ask this server before it answers.
    with elsewhere():
        async with asyncio.timeout(limit_s), aclosing(values):
            one = await anext(values, None)
    if one is not None:
        yield one


async def _without_faults(values: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """How the control plane stands, as where nobody says which faults last."""
    async with aclosing(values):
        async for one in values:
            yield orjson.dumps({**orjson.loads(one), "faults": None})


def _objects(view: str, parameters: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The rights to objects without which a view of them is refused."""
    namespace, name = parameters.get("namespace", ""), parameters.get("name", "")
    if view == "changes":
        yield {"verb": "list", "group": "*", "resource": "*", "namespace": namespace, "name": ""}
    if view in ("explain", "why"):
        resource, _, group = parameters.get("resource", "").partition(".") if view == "why" else ("pods", "", "")
        yield {"verb": "get", "group": group, "resource": resource, "namespace": namespace, "name": name}


async def _fault(request: web.BaseRequest) -> str:
    """Raises BadRequest, UnsupportedMediaType."""
    if request.content_type != JSON:
        # Browsers send other kinds of text for pages of anybody, and ask nobody first.
        raise UnsupportedMediaType(f"a fault comes as {JSON}", details={})
    if (request.content_length or 0) > _FAULT_BYTES_MAX or len(body := await request.read()) > _FAULT_BYTES_MAX:
        raise BadRequest(f"a fault has no more than {_FAULT_BYTES_MAX} bytes")
    audit.body(body, JSON)
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise BadRequest(f"the body is no JSON: {e}") from e
    fault = found.get("fault") if isinstance(found, dict) else None
    if not isinstance(fault, str):
        raise BadRequest('say which fault: {"fault": "stop: {target: leader, for: 10s}"}')
    return fault


def _answer(message: Any, **more: Any) -> web.StreamResponse:
    body = orjson.dumps({**MessageToDict(message), **more})
    return web.Response(body=body, headers=HEADERS | {"Content-Type": JSON})
