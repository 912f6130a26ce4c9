"""Service Chaos of `rayplane.v1`: faults of the cluster, for whom RBAC lets begin and end them.

The supervisor carries them out and keeps their ends. Who may is a matter of the resources `faults` and `trials` of the
group `chaos.rayplane.io`, which are stored nowhere. What a trial makes, changes and deletes its caller must have the
right to. Faults are no such thing: they hit with the cluster's own rights, so that a trial takes that to faults, too.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from orjson import dumps

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery.decoding import JSON
from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.grpc.calls import Calls
from rayplane.control_plane.apiserver.grpc.errors import rpc_error
from rayplane.control_plane.apiserver.outgoing.supervisors import FAULTS, GROUP, VERSION, Supervisors
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.rpc import Context
from rayplane.proto.rayplane.v1 import chaos_pb2 as pb
from rayplane.proto.rayplane.v1 import objects_pb2

TRIALS = "trials"
_SERVICE = pb.DESCRIPTOR.services_by_name["Faults"]
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class _Asking:
    """A call as the audit log takes it."""

    ref: objects_pb2.ResourceRef
    json: bytes = b""


class ChaosService:
    """Handler of `rayplane.v1.Chaos`."""

    def __init__(self, calls: Calls, supervisors: Supervisors) -> None:
        self._calls = calls
        self._supervisors = supervisors

    async def Targets(self, request: pb.TargetsRequest, context: Context) -> pb.TargetsResponse:
        return await self._passed(context, "list", request, pb.TargetsResponse)

    async def Begin(self, request: pb.BeginRequest, context: Context) -> pb.ActiveFault:
        return await self._passed(context, "create", request, pb.ActiveFault)

    async def End(self, request: pb.EndRequest, context: Context) -> pb.EndResponse:
        return await self._passed(context, "delete", request, pb.EndResponse, name=request.id)

    async def List(self, request: pb.ListFaultsRequest, context: Context) -> pb.ListFaultsResponse:
        return await self._passed(context, "list", request, pb.ListFaultsResponse)

    async def Heal(self, request: pb.HealRequest, context: Context) -> pb.HealResponse:
        return await self._passed(context, "deletecollection", request, pb.HealResponse)

    async def Run(self, request: pb.TrialRequest, context: Context) -> AsyncIterator[pb.TrialResponse]:
        calls, ref = self._calls, objects_pb2.ResourceRef(group=GROUP, version=VERSION, resource=TRIALS)
        try:
            user, asking = await calls.user(context), _Asking(ref, _json(request))
            with calls.measured("create", ref, user), calls.audit.follow(user, context, "create", asking) as trail:
                for resource in (TRIALS, FAULTS):
                    await calls.registry.authorizer.check_written(
                        user, "create", name="", group=GROUP, resource=resource
                    )
                _says(request, user)
                audit.started()
                of = GROUP, TRIALS, request.id
                async with contextlib.aclosing(self._supervisors.told(_SERVICE, "Run", request, of=of)) as told:
                    async for one in told:
                        yield one
                if trail is not None:
                    trail.end(201)
        except ApiError as e:
            raise rpc_error(e) from e

    async def _passed(self, context: Context, verb: str, request: Any, answers: type[M], *, name: str = "") -> M:
        """What the supervisor answers, to whom may ask it."""
        calls = self._calls
        ref = objects_pb2.ResourceRef(group=GROUP, version=VERSION, resource=FAULTS, name=name)

        async def run(user: User) -> M:
            asking = _Asking(ref, _json(request))
            with calls.measured(verb, ref, user), calls.audit.follow(user, context, verb, asking) as trail:
                written = {"group": GROUP, "resource": FAULTS}
                await calls.registry.authorizer.check_written(user, verb, name=name, **written)
                if isinstance(request, pb.BeginRequest):
                    request.by = user.name
                method = context.path.rpartition("/")[2]
                answer: M = await self._supervisors.ask(_SERVICE, method, request, of=(GROUP, FAULTS, name))
                if trail is not None:
                    body = _json(answer) if trail.wants_response else b""
                    trail.end(201 if verb == "create" else 200, body, JSON)
                return answer

        return await calls.answered(context, run)


def _says(request: pb.TrialRequest, user: User) -> None:
    """Who asks for a trial, whatever the request said."""
    request.by, request.uid = user.name, user.uid
    request.groups[:] = user.groups
    request.extra.clear()
    for key, values in user.extra.items():
        request.extra[key].values[:] = values


def _json(message: Message) -> bytes:
    return dumps(MessageToDict(message))
