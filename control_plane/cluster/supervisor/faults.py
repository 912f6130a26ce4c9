"""The gRPC service `rayplane.v1.Faults`: what can be struck, the faults that stand, and trials.

API servers serve the same to their callers as `rayplane.v1.Chaos`.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import fields
from typing import cast

from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.supervisor.notes import Standing
from rayplane.control_plane.cluster.supervisor.standing import StandingFaults
from rayplane.control_plane.cluster.supervisor.trials import Trials
from rayplane.control_plane.cluster.topology import Role, Topology
from rayplane.control_plane.cluster.victims import ROLES
from rayplane.control_plane.faults.form import VERBS, as_step, example, parse_fault, word_of
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.faults.vocabulary import TARGETS, Fault
from rayplane.control_plane.identities import API_SERVERS
from rayplane.control_plane.rpc import Context
from rayplane.proto.rayplane.v1 import chaos_pb2 as pb

BY_CHARS_MAX = 512


class FaultsService:
    """The methods, over the standing faults, trials and the topology as it is wanted now."""

    def __init__(self, standing: StandingFaults, trials: Trials, topology: Callable[[], Topology]) -> None:
        self._standing = standing
        self._trials = trials
        self._topology = topology

    async def Targets(self, request: pb.TargetsRequest, context: Context) -> pb.TargetsResponse:
        topology = self._topology()
        return pb.TargetsResponse(
            targets=[pb.ChaosTarget(target=target, names=_names(topology, target)) for target in TARGETS],
            verbs=[
                pb.ChaosVerb(
                    verb=verb,
                    fields=[word_of(field.name) for field in fields(kind)],
                    refused=self._standing.refusal(example(kind)),
                )
                for verb, kind in VERBS.items()
            ],
        )

    async def Begin(self, request: pb.BeginRequest, context: Context) -> pb.ActiveFault:
        try:
            fault = parse_fault(request.fault)
        except FormError as e:
            raise UsageError(str(e)) from e
        caller = context.identity.user if context.identity is not None else ""
        return _told(await self._standing.begin(fault, (request.by or caller)[:BY_CHARS_MAX]))

    async def End(self, request: pb.EndRequest, context: Context) -> pb.EndResponse:
        return pb.EndResponse(fault=_told(await self._standing.end(request.id)))

    async def List(self, request: pb.ListFaultsRequest, context: Context) -> pb.ListFaultsResponse:
        return pb.ListFaultsResponse(faults=map(_told, self._standing.all()))

    async def Heal(self, request: pb.HealRequest, context: Context) -> pb.HealResponse:
        healed, left = await self._standing.heal()
        return pb.HealResponse(healed=map(_told, healed), left=map(_told, left))

    async def Run(self, request: pb.TrialRequest, context: Context) -> AsyncIterator[pb.TrialResponse]:
        if not request.by and context.identity is not None and API_SERVERS in context.identity.groups:
            raise UsageError("an API server says who asks for a trial")
        async with contextlib.aclosing(self._trials.run(request)) as told:
            async for one in told:
                yield one


def _names(topology: Topology, target: str) -> list[str]:
    role = ROLES.get(target)
    if role is None:
        return []
    found = topology.of(role)
    return [node for one in found for node in one.nodes] if role is Role.NODE_HOST else [one.name for one in found]


def _told(one: Standing) -> pb.ActiveFault:
    made = pb.ActiveFault(
        id=one.id, fault=as_step(cast(Fault, one.broken.fault)), hit=one.broken.hit, by=one.by, failed=one.why
    )
    made.began.FromMicroseconds(round(one.began_s * 1e6))
    if not one.is_of_trial:
        made.ends.FromMicroseconds(round(one.ends_s * 1e6))
    return made
