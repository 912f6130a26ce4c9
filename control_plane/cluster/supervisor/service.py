"""The gRPC service `rayplane.v1.Supervisor`: tells the topology, changes it, kills, renews certificates."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from typing import Protocol

from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.host import Host, Losing, Runs
from rayplane.control_plane.cluster.node_runtime import check_serves
from rayplane.control_plane.cluster.patience import Patience
from rayplane.control_plane.cluster.pki import identity_of_actor
from rayplane.control_plane.cluster.supervisor.changes import added, called, drained, removed, undrained
from rayplane.control_plane.cluster.supervisor.starts import StartRecords
from rayplane.control_plane.cluster.supervisor.weathering import Weathering
from rayplane.control_plane.cluster.topology import Instance, Phase, Role, Topology
from rayplane.control_plane.faults.vocabulary import LOST_MAX_S
from rayplane.control_plane.rpc import Context, RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.proto.rayplane.v1 import objects_pb2
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

# How long somebody who waits for an answer waits for the host; then what was seen last counts.
GLANCE_TIMEOUT_S = 2.0
# In fair time: joins and departures are given up earlier.
CHANGE_WAIT_S = 240.0

#: Ten years: an authority lasts no longer.
SPAN_MAX_S = 10 * 365 * 86_400.0

_UNTOLD = Runs("")
# The classes below have methods of the same name, which hide the type inside them.
_Topology = Topology


class Control(Protocol):
    """The service's needs of whoever reconciles."""

    records: StartRecords
    running: frozenset[str]

    @property
    def topology(self) -> Topology: ...

    def reason(self, name: str) -> str: ...

    def wake(self) -> None: ...

    def renew(self, name: str) -> None: ...

    async def turn(self) -> None: ...

    async def look(self, timeout: float) -> None: ...

    async def change(self, edit: Callable[[Topology, frozenset[str]], Topology], why: str) -> None: ...


Renew = Callable[[Instance, bytes, bool], bytes]
"""A certificate for an actor, for the key of a request (PKCS #10, PEM); True: as a front proxy. Raises ValueError."""


class Signing(Protocol):
    """The signer of requests for certificates that users make."""

    async def sign(self, name: str, uid: str) -> bytes:
        """PEM. Raises RpcError."""


class SupervisorService:
    """The methods; each is told who calls by its context."""

    def __init__(
        self,
        control: Control,
        host: Host,
        renew: Renew,
        signing: Signing,
        weather: Weathering,
        check_runtime: Callable[[str], None],
        *,
        now: Callable[[], float],
        slowdown: Callable[[], float],
    ) -> None:
        self._control = control
        self._host = host
        self._renew = renew
        self._signing = signing
        self._check_runtime = check_runtime
        self._now = now
        self._slowdown = slowdown
        self.weather = weather

    async def Topology(self, request: pb.TopologyRequest, context: Context) -> pb.TopologyResponse:
        with contextlib.suppress(TimeoutError):
            await self._control.look(GLANCE_TIMEOUT_S)
        absent = await self._host.absent()
        builds = await self._host.builds() if request.builds else {}
        rows = [
            self._row(i, absent.get(i.name, ""), builds.get(i.name, _UNTOLD)) for i in self._control.topology.instances
        ]
        sockets = await self._host.sockets() if request.host_sockets else []
        return pb.TopologyResponse(
            instances=rows,
            host_sockets=[pb.HostSocket(**asdict(s)) for s in sockets],
            machines=await self._machines() if request.machines else [],
        )

    async def _machines(self) -> list[pb.MachineStatus]:
        """None where the host does not say so soon."""
        drained = self._control.topology.drained
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GLANCE_TIMEOUT_S):
                room, heads = await self._host.room(), [m.address for m in await self._host.machines()][:1]
                return [
                    pb.MachineStatus(address=at, resources=has, drained=at in drained, head=at in heads)
                    for at, has in room.items()
                ]
        return []

    async def Add(self, request: pb.AddRequest, context: Context) -> pb.ChangeResponse:
        machines = await self._host.machines()
        instance: Instance | None = None
        own = {"kubelet_config": request.kubelet_config, "runtime": request.runtime}
        if request.runtime:
            self._check_runtime(request.runtime)
            # On another machine its node says whether it does.
            if {m.address for m in machines} == {self._control.topology.of(Role.SUPERVISOR)[0].machine.address}:
                await check_serves(request.runtime)

        def edit(topology: _Topology, retired: frozenset[str]) -> _Topology:
            nonlocal instance
            if instance is None:
                instance = added(topology, request.role, request.name, machines, retired, **own)
            # It may have been stored though nobody heard of it.
            return topology if topology.has(instance.name) else topology.with_instance(instance)

        await self._control.change(edit, f"a {request.role} is added")
        assert instance is not None
        if instance.role is Role.MEMBER:
            await self._joined(instance.name)
        else:
            await self._started(instance.name)
        return pb.ChangeResponse(name=called(instance))

    async def Remove(self, request: pb.RemoveRequest, context: Context) -> pb.ChangeResponse:
        instance: Instance | None = None

        def edit(topology: _Topology, retired: frozenset[str]) -> _Topology:
            nonlocal instance
            if instance is None:
                instance = removed(topology, request.role, request.name)
            return topology.replaced(instance)

        await self._control.change(edit, f"a {request.role} is removed")
        assert instance is not None
        name = instance.name
        await self._until(lambda: self._phase(name) is not Phase.LEAVING, f"{name} has not left yet")
        if self._phase(name) is not None:
            raise ClusterError(f"{name} stays: not all other members are healthy; see `rayplane status`")
        return pb.ChangeResponse(name=called(instance))

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        machines = await self._host.machines()

        def edit(topology: _Topology, _: frozenset[str]) -> _Topology:
            return (
                undrained(topology, request.machine) if request.undo else drained(topology, request.machine, machines)
            )

        await self._control.change(edit, f"{request.machine} is {'used again' if request.undo else 'drained'}")
        return pb.DrainResponse(machines=self._control.topology.drained)

    async def Move(self, request: pb.MoveRequest, context: Context) -> pb.ChangeResponse:
        name, python = request.name, request.python
        if self._control.topology.get(name).role is Role.SUPERVISOR:
            raise UsageError("the supervisor runs in its host's environment; replace that")

        def edit(topology: _Topology, retired: frozenset[str]) -> _Topology:
            return topology.replaced(replace(topology.get(name), python=python))

        await self._control.change(edit, f"{name} moves to {python or 'the environment of its host'}")
        runs = (await self._host.builds()).get(name)
        # The environment may have been changed in place.
        if runs is None or runs.python != python or (request.version and runs.version != request.version):
            self._control.renew(name)
        await self._started(name)
        return pb.ChangeResponse(name=name)

    async def Kill(self, request: pb.KillRequest, context: Context) -> pb.KillResponse:
        instance = self._control.topology.get(request.name)
        self._control.records.forgive(instance.name)
        pid = await self._host.kill(instance.name, request.signal or "KILL")
        self._control.wake()
        return pb.KillResponse(name=instance.name, pid=pid)

    async def LoseMachine(self, request: pb.LoseMachineRequest, context: Context) -> pb.LoseMachineResponse:
        host = self._host
        if not isinstance(host, Losing):
            raise UsageError("machines can be lost where Ray runs on several: use `rayplane up --host ray --address`")
        if request.undo:
            alive = await host.recall(request.machine)
            self._control.wake()
            return pb.LoseMachineResponse(alive=alive)
        if not 0 < request.for_s <= LOST_MAX_S:
            raise UsageError(f"a machine is lost for more than nothing and at most {LOST_MAX_S:.0f} s")
        await host.lose(request.machine, request.for_s)
        return pb.LoseMachineResponse()

    async def Disturb(self, request: pb.DisturbRequest, context: Context) -> pb.DisturbResponse:
        await self.weather.tell(request)
        return pb.DisturbResponse()

    async def Advance(self, request: pb.AdvanceRequest, context: Context) -> AsyncIterator[pb.AdvanceResponse]:
        if not 0 < request.span_s < SPAN_MAX_S:
            raise UsageError(f"time goes forward by more than nothing and less than {SPAN_MAX_S:.0f} s")
        await self._host.advance(request.span_s)
        yield pb.AdvanceResponse(ahead_s=self._host.ahead_s)

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:
        instance = self._control.topology.get(request.name)
        if context.identity != identity_of_actor(instance):
            raise RpcError(Code.PERMISSION_DENIED, f"only {instance.name} itself may renew its certificate")
        try:
            return pb.RenewResponse(certificate=self._renew(instance, request.csr, request.front_proxy))
        except ValueError as e:
            raise RpcError(Code.INVALID_ARGUMENT, f"this is no request for a certificate: {e}") from e

    async def Sign(self, request: pb.SignRequest, context: Context) -> pb.SignResponse:
        return pb.SignResponse(certificate=await self._signing.sign(request.name, request.uid))

    def _row(self, instance: Instance, absent: str, runs: Runs) -> pb.InstanceStatus:
        name, records = instance.name, self._control.records
        is_self = instance.role is Role.SUPERVISOR
        return pb.InstanceStatus(
            name=name,
            role=instance.role.value,
            machine=instance.machine.address,
            running=(name in self._control.running and not absent) or is_self,
            pid=os.getpid() if is_self else 0,
            starts=records.counts.get(name, 0),
            ports=dict(instance.ports),
            failures=records.failures.get(name, 0),
            reason=absent or self._reason(instance),
            build=runs.version,
            runs_in=runs.python,
        )

    def _reason(self, instance: Instance) -> str:
        """Why the last start failed, and what comes of it."""
        reason = self._control.records.reasons.get(instance.name, "")
        heir = next((i for i in self._control.topology.instances if i.replaces == instance.name), None)
        return f"{reason}; {heir.name} takes its place" if reason and heir is not None else reason

    def _phase(self, name: str) -> Phase | None:
        topology = self._control.topology
        return topology.get(name).phase if topology.has(name) else None

    async def _joined(self, name: str) -> None:
        """Return when a member votes. ClusterError with the reason when nothing is left of it instead."""
        why = ""

        def is_decided() -> bool:
            nonlocal why
            why = self._control.reason(name) or why
            return self._phase(name) in (Phase.ACTIVE, None)

        await self._until(is_decided, f"{name} has not joined yet")
        if self._phase(name) is None:
            raise ClusterError(f"{name} could not join: {why or 'it was removed'}")

    async def _started(self, name: str) -> None:
        """Return when an actor serves. ClusterError when its first start failed; it is tried again all the same."""
        records = self._control.records
        await self._until(
            lambda: records.has_started(name) or name in records.failures or self._phase(name) is None,
            f"{name} has not started yet",
        )
        if not records.has_started(name):
            raise ClusterError(records.reasons.get(name) or f"{name} was removed")

    async def _until(self, done: Callable[[], bool], missing: str) -> None:
        patience = Patience(CHANGE_WAIT_S, self._now())
        while not done():
            await self._control.turn()
            patience.passed(self._now(), self._slowdown())
            if patience.over:
                raise ClusterError(f"{missing}; the supervisor goes on with it")


class DiscoveryService:
    """Handler of `rayplane.v1.Discovery`: where the wanted API servers and members are, whether they answer or not."""

    def __init__(self, topology: Callable[[], _Topology]) -> None:
        self._topology = topology

    async def Endpoints(self, request: objects_pb2.EndpointsRequest, context: Context) -> objects_pb2.EndpointsResponse:
        topology = self._topology()
        return objects_pb2.EndpointsResponse(
            grpc=topology.endpoints(Role.APISERVER, "grpc"),
            https=topology.endpoints(Role.APISERVER, "https"),
            etcd=topology.endpoints(Role.MEMBER, "client"),
            supervisors=topology.endpoints(Role.SUPERVISOR, "grpc"),
            machines=topology.addresses,
        )
