"""The shell of the autoscaler: looks, has it decided, carries out, over and over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import yaml

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, EventRecorder
from rayplane.control_plane.cluster.autoscaling import report, rooms
from rayplane.control_plane.cluster.autoscaling.decision import Decision, Limits, Memory, Seen, Unit, decide, is_waiting
from rayplane.control_plane.cluster.autoscaling.emptying import Emptying, is_marked
from rayplane.control_plane.cluster.autoscaling.template import template
from rayplane.control_plane.cluster.config import ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.host import Elastic, Host
from rayplane.control_plane.cluster.supervisor.changes import added
from rayplane.control_plane.cluster.topology import Instance, Machine, Phase, Role, Topology
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.scheduler.config import SchedulerConfig
from rayplane.control_plane.scheduler.onlooker import Onlooker
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.env import Env

log = logging.getLogger(__name__)

# Calls of the host may hang.
LOOK_TIMEOUT_S = 15.0
# A Ray that began anew knows of no request, and who asked last takes the place of all others.
ASK_EVERY_S = 60.0

_ERRORS = (ApiError, RpcError, ClusterError, TimeoutError)
Edit = Callable[[Topology, frozenset[str]], Topology]


class Control(Protocol):
    """The autoscaler's needs of whoever reconciles."""

    loaded: asyncio.Event
    elastic: bool

    @property
    def topology(self) -> Topology: ...

    async def change(self, edit: Edit, why: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Place:
    """Machines for new nodes. `room`: for so many at once; None: for any number."""

    machines: Sequence[Machine]
    room: int | None

    @property
    def zone(self) -> str:
        """The zone of a new node; empty where that is not known."""
        return self.machines[0].address if self.machines else ""


class Autoscaler:
    """The autoscaler of one cluster, beside its supervisor."""

    def __init__(
        self,
        config: ClusterConfig,
        scheduler: SchedulerConfig,
        *,
        api: ApiClient,
        env: Env,
        host: Host,
        control: Control,
    ) -> None:
        self._config = config
        self._api = api
        self._env = env
        self._host = host
        self._control = control
        least, most = config.node_limits
        self._limits = Limits(
            nodes_min=least,
            nodes_max=most,
            unneeded_s=config.unneeded_s,
            delay_s=config.unneeded_s,
            provision_s=config.timings.scaling.provision_s,
        )
        self._onlooker = Onlooker(scheduler)
        self._recorder = EventRecorder(api, env, component="cluster-autoscaler")
        self._emptying = Emptying(api, self._recorder.event)
        self._memory = Memory()
        self._asked: list[dict[str, float]] | None = None
        self._asked_at = 0.0
        self._told: dict[str, str] = {}
        """What pods were told last, by uid."""
        self._adds = False
        self._status = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="autoscaler")

    async def stop(self) -> None:
        await cancel_and_wait(self._task)
        await self._onlooker.stop()
        await self._recorder.stop()

    async def _run(self) -> None:
        await self._control.loaded.wait()
        self._recorder.start()
        await self._onlooker.start(self._api)
        while True:
            try:
                await self._look()
            except _ERRORS as e:
                log.warning("nodes are not as many as they should be yet: %s", e)
            except Exception:
                log.exception("scaling failed")
            await asyncio.sleep(self._config.timings.scaling.look_s)

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            place = await self._place()
        nodes = self._onlooker.nodes()
        units = [_unit(instance, nodes) for instance in self._control.topology.of(Role.NODE_HOST)]
        seen = Seen(
            cycle=self._onlooker.cycle,
            pending=[pod for pod in self._onlooker.pending() if is_waiting(pod)],
            units=units,
            parse=self._onlooker.unbound,
            template=lambda name: template(self._config, name, place.zone or name, nodes),
        )
        decision = decide(seen, self._memory, self._limits, now)
        self._memory = decision.memory
        self._tell(decision, units)
        missing = await self._add(decision.add, place)
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            await self._ask(place, missing, now)
        await self._report(units, decision, missing)
        for unit in units:
            if unit.name in decision.lost:
                await self._leave(unit, f"{unit.name} does not come")
            elif unit.name in decision.remove:
                await self._emptying.begin(unit)
            elif any(i.name == unit.name and i.stays for i in self._control.topology.instances) and unit.leaving:
                await self._empty(unit, now)

    # -- what there is --------------------------------------------------------------------------------------

    async def _place(self) -> _Place:
        machines = await self._host.machines()
        found = await self._host.cpus() if isinstance(self._host, Elastic) else None
        self._control.elastic = found is not None
        if found is None:
            return _Place(machines, None)
        free = rooms.free(self._control.topology, machines, found, self._node_cpus)
        return _Place(free, len(free))

    @property
    def _node_cpus(self) -> float:
        return quantity.milli(self._config.node_cpu) / 1000

    # -- what is done ---------------------------------------------------------------------------------------

    async def _add(self, count: int, place: _Place) -> int:
        """Add as many as there is room for; how many are missing still."""
        here = count if place.room is None else min(count, place.room)
        if not here:
            return count
        made: list[Instance] = []

        def edit(topology: Topology, retired: frozenset[str]) -> Topology:
            # What was stored though nobody heard of it is there already.
            for number in range(here):
                if number == len(made):
                    machines = place.machines if place.room is None else place.machines[number : number + 1]
                    made.append(added(topology, "node", "", machines, retired))
                if not topology.has(made[number].name):
                    topology = topology.with_instance(made[number])
            return topology

        await self._control.change(edit, f"{here} nodes are added for pods that find none")
        return count - here

    async def _ask(self, place: _Place, missing: int, now: float) -> None:
        """Have machines brought for nodes that find none, and give back what is not needed."""
        if place.room is None or not isinstance(self._host, Elastic):
            return
        found = await self._host.cpus() or {}
        machines = await self._host.machines()
        wanted = rooms.asked(self._control.topology, machines, found, self._node_cpus, missing=missing)
        if wanted != self._asked:
            log.info("machines are asked for: %d nodes of %g CPUs", len(wanted), self._node_cpus)
        if wanted != self._asked or now >= self._asked_at + ASK_EVERY_S:
            await self._host.request(wanted)
            self._asked, self._asked_at = wanted, now

    async def _empty(self, unit: Unit, now: float) -> None:
        try:
            done = await self._emptying.step(unit, now)
        except TimeoutError:
            self._memory = replace(self._memory, wanted_at=now)
            return
        if done:
            await self._leave(unit, f"{unit.name} is needed no more")
            self._say(*self._emptying.ended(unit))

    async def _leave(self, unit: Unit, why: str) -> None:
        await self._control.change(
            lambda topology, _: topology.replaced(replace(topology.get(unit.name), phase=Phase.LEAVING)), why
        )

    # -- what is told ---------------------------------------------------------------------------------------

    def _tell(self, decision: Decision, units: Sequence[Unit]) -> None:
        """Tell pods what is done for them, once, and what that makes of the cluster."""
        before, group = sum(len(unit.nodes) for unit in units), self._config.name
        up = report.triggered(group, before, decision.add, self._limits)
        said = [(pod, report.TRIGGERED, up) for pod in decision.triggers]
        said += [(pod, report.NOT_TRIGGERED, report.not_triggered(why)) for pod, why in decision.refused]
        for pod, reason, message in said:
            if self._told.get(pod.uid) != reason:
                self._recorder.event(pod.obj, "Normal", reason, message)
        self._told = {pod.uid: reason for pod, reason, _ in said}
        if decision.add and not self._adds:
            self._say(report.SCALED_UP, report.scaled_up(group, before, decision.add, self._limits))
        self._adds = bool(decision.add)

    def _say(self, reason: str, message: str) -> None:
        """Say something of the cluster as a whole."""
        about = report.status_object("", "")
        self._recorder.event(about, "Normal", reason, message)

    async def _report(self, units: Sequence[Unit], decision: Decision, missing: int) -> None:
        """Write the status, where it has changed."""
        found = report.status(self._config.name, units, decision, self._limits, machines=missing)
        text = yaml.safe_dump(found, sort_keys=False)
        if text == self._status:
            return
        written = report.status_object(text, self._env.timestamp())
        try:
            await self._api.patch("configmaps", report.STATUS_NAME, report.STATUS_NAMESPACE, written)
        except NotFound:
            await self._api.create("configmaps", written)
        self._status = text


def _unit(instance: Instance, nodes: Mapping[str, Object]) -> Unit:
    found = [nodes.get(name) for name in instance.nodes]
    leaving = not instance.stays or any(node is not None and is_marked(node) for node in found)
    ready = all(node is not None and meta.condition_is(node, "Ready") for node in found)
    return Unit(instance.name, instance.nodes, ready, leaving)
