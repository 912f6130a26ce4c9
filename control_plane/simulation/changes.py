"""Changes of a cluster while it runs: of its members and API servers, and storms of faults.

An `Operator` asks the supervisor for changes, as people do with `rayplane add` and `remove`, and takes machines away.
A `Striker` does what is to be done to the cluster and keeps it as a plan. A `Storm` draws faults and changes from the
seed; actors die of it, the supervisor too, while others are being replaced.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.topology import Machine, Phase, Role
from rayplane.control_plane.faults.vocabulary import ANY, ROLES, CorruptDisk, Fault, Kill, Partition, Target
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.simulation.cluster import SUPERVISOR, SimulatedCluster
from rayplane.control_plane.simulation.injector import CellInjector, NobodyThere
from rayplane.control_plane.simulation.loop import sleep_until
from rayplane.control_plane.simulation.plan import Strike, concrete, said
from rayplane.control_plane.simulation.scenario import CHANGEABLE, Change, Rage
from rayplane.control_plane.simulation.swarm import Kind, draw, draw_kinds
from rayplane.control_plane.simulation.trace import Trace
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

Ask = Callable[[Stub], Awaitable[Any]]

CHANGE_S = 60.0
# Longer than the supervisor waits for an actor to come or go.
ANSWER_S = 40.0
RETRY_S = 0.5
MEMBERS_MAX, APISERVERS_MAX = 5, 4
PARTITION_S = 8.0
#: How long a machine that was taken away is missed.
HEALED_S = 20.0


class ChangeFailed(Exception):
    """A change could not be done in its time."""


class Operator:
    """An operator that gives commands to the supervisor, from the client's cell: one change at a time."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._stub: Stub | None = None
        self._changing = asyncio.Lock()

    async def change(self, step: Change) -> None:
        """Carry out a step of a scenario. ChangeFailed."""
        match step.action:
            case "add":
                await self.add(Role(step.target))
            case "remove":
                await self.remove(step.target)
            case "replace":
                await self.replace(step.target)

    def can(self, step: Change) -> bool:
        """Whether the actor that it changes is there."""
        return step.action == "add" or self._cluster.topology.has(step.target)

    async def add(self, role: Role) -> None:
        """Add an actor and wait until it serves. ChangeFailed."""
        async with self._changing:
            name = self._cluster.topology.next_name(role, self._cluster.cells)
            request = pb.AddRequest(role=role.value, name=name)
            await self._until(
                lambda: self._phase(name) is None, lambda stub: stub.Add(request, timeout=ANSWER_S), self._present(name)
            )

    async def remove(self, name: str) -> None:
        """Remove an actor for good. ChangeFailed."""
        async with self._changing:
            role = self._cluster.topology.get(name).role
            request = pb.RemoveRequest(role=role.value, name=name)
            await self._until(
                lambda: self._phase(name) is Phase.ACTIVE,
                lambda stub: stub.Remove(request, timeout=ANSWER_S),
                lambda: self._phase(name) is None,
            )

    async def replace(self, name: str) -> None:
        """Lose an actor's machine, with its data, and wait until the supervisor has put another in its place."""
        async with self._changing:
            lost = self._cluster.topology.get(name).machine
            self._cluster.lose(name)
            await self._until(lambda: False, None, lambda: self._is_replaced(lost))

    def _phase(self, name: str) -> Phase | None:
        topology = self._cluster.topology
        return topology.get(name).phase if topology.has(name) else None

    def _present(self, name: str) -> Callable[[], bool]:
        return lambda: self._phase(name) is Phase.ACTIVE and self._cluster.cells[name].component is not None

    def _is_replaced(self, lost: Machine) -> bool:
        there = self._cluster.topology.instances
        return all(i.machine != lost and i.phase is Phase.ACTIVE for i in there)

    async def _until(self, may_ask: Callable[[], bool], ask: Ask | None, done: Callable[[], bool]) -> None:
        """Wait until it is done; the command is given while it may be. What was begun goes on by itself."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CHANGE_S
        why = "it goes on"
        while not done():
            if loop.time() > deadline:
                raise ChangeFailed(f"not within {CHANGE_S:.0f} s: {why}")
            if ask is not None and may_ask():
                why = await self._ask(ask) or why
            await asyncio.sleep(RETRY_S)

    async def _ask(self, ask: Ask) -> str:
        """What is wrong, if anything."""
        try:
            with self._cluster.client.inside() as network:
                if self._stub is None:
                    endpoint = self._cluster.topology.get(SUPERVISOR).endpoint("grpc")
                    self._stub = Stub(network.channel(endpoint), pb.DESCRIPTOR.services_by_name["Supervisor"])
                await ask(self._stub)
        except RpcError as e:
            return e.message
        return ""


class Striker:
    """A hand that does faults and changes to a cluster, and remembers each as it was done, whomever it hit."""

    def __init__(self, injector: CellInjector, operator: Operator, trace: Trace) -> None:
        self._injector = injector
        self._trace = trace
        self._operator = operator
        self._step, self._began = 0, 0.0
        self._changes: list[asyncio.Task[None]] = []
        self.done: list[Strike] = []
        self.times: list[float] = []
        """When each of these was done."""
        self.by_hand: list[Strike] = []
        """Of those, what a person let happen."""

    def begin(self, step: int) -> None:
        """The scenario has come to this step."""
        self._step, self._began = step, asyncio.get_running_loop().time()

    @property
    def changing(self) -> bool:
        """Whether a change is under way. Raises ChangeFailed of one that failed."""
        for task in [task for task in self._changes if task.done()]:
            self._changes.remove(task)
            task.result()
        return bool(self._changes)

    async def strike(self, what: Fault | Change, after_s: float = 0.0, step: int | None = None) -> None:
        """Let it happen, so long after the step began; a change goes on by itself. Raises NobodyThere."""
        step = self._step if step is None else step
        if isinstance(what, Change):
            self._changes.append(asyncio.get_running_loop().create_task(self._operator.change(what)))
            done = [Strike(step, after_s, what)]
        else:
            hit = await self._injector.strike(what)
            done = [Strike(step, after_s, each) for each in concrete(what, hit)]
        self.done += done
        self.times += [asyncio.get_running_loop().time()] * len(done)

    async def attempt(self, what: Fault | Change, after_s: float | None = None, step: int | None = None) -> None:
        """The same, without `after_s` as of now, but who is not there is not hit, and the story tells so."""
        after_s = asyncio.get_running_loop().time() - self._began if after_s is None else after_s
        try:
            await self.strike(what, after_s, step)
        except NobodyThere as e:
            self._trace.remark("in-vain", f"{said(what)}: {e}")

    def strike_now(self, what: Fault | Change) -> list[str]:
        """The same from outside of the loop's tasks, with when; whom it hit. Raises NobodyThere."""
        loop, before = asyncio.get_running_loop(), len(self.done)
        striking = self.strike(what, loop.time() - self._began)
        try:
            striking.send(None)
        except StopIteration:
            self.by_hand += self.done[before:]
            return [str(strike) for strike in self.done[before:]]
        striking.close()
        raise ClusterError("that cannot be done at once")

    def repeat(self, strikes: tuple[Strike, ...]) -> Coroutine[Any, Any, None]:
        """What a plan says of the present step; who is not there any more is not hit."""
        return self._repeat(strikes, self._step, self._began)

    async def _repeat(self, strikes: tuple[Strike, ...], step: int, began: float) -> None:
        for strike in strikes:
            if strike.after_s:
                await sleep_until(began + strike.after_s)
            if isinstance(strike.what, Change) and not self._operator.can(strike.what):
                continue
            await self.attempt(strike.what, strike.after_s, step)

    async def finish(self) -> None:
        """Wait until all changes are done. Raises ChangeFailed."""
        for task in self._changes:
            await task
        self._changes.clear()


class Storm:
    """Faults and changes, drawn until its time is over; then whatever was begun is finished."""

    def __init__(self, cluster: SimulatedCluster, striker: Striker, rng: random.Random) -> None:
        self._cluster = cluster
        self._striker = striker
        self._rng = rng
        self._whole_at = 0.0  # when a disk that was corrupted has been replaced

    async def rage(self, storm: Rage) -> None:
        """Raises ChangeFailed when a change could not be done although its faults are over."""
        began = asyncio.get_running_loop().time()
        kinds = draw_kinds(self._rng) if storm.swarm else ()
        if kinds:
            self._cluster.trace.remark("swarm", *(kind.__name__ for kind in kinds))
        at_s = 0.0
        # In whole milliseconds, so that a plan tells the moment exactly.
        while (at_s := round(at_s + storm.every_s * self._rng.uniform(0.5, 1.5), 3)) < storm.for_s:
            await sleep_until(began + at_s)
            drawn = self._drawn(storm, kinds)
            if isinstance(drawn, Change | CorruptDisk) and not self._may_lose(drawn):
                continue
            await self._striker.attempt(drawn, at_s)
        await sleep_until(began + storm.for_s)
        await self._striker.finish()

    def _drawn(self, storm: Rage, kinds: tuple[Kind, ...]) -> Fault | Change:
        if not kinds:
            return self._chosen(self._rng.choice(storm.of)) if storm.of else self._draw()
        kind = self._rng.choice(kinds)
        if kind is Change:
            return self._draw_change()
        there = [(i.role, i.name) for i in self._cluster.topology.instances]
        return draw(self._rng, kind, [*there, *((Role.SUPERVISOR, name) for name in self._cluster.guests)])

    def _may_lose(self, drawn: Fault | Change) -> bool:
        """Whether another machine may be taken: one at a time, or nobody could keep what was acknowledged."""
        now = asyncio.get_running_loop().time()
        if self._striker.changing or now < self._whole_at:
            return False
        if isinstance(drawn, CorruptDisk):
            if len(self._cluster.members()) < len(self._cluster.topology.of(Role.MEMBER)):
                return False
            self._whole_at = now + drawn.for_s + HEALED_S
        return True

    def _chosen(self, drawn: Fault | Change) -> Fault | Change:
        """Whom a change hits that only says of which kind."""
        if not isinstance(drawn, Change) or drawn.action == "add" or drawn.target not in (*CHANGEABLE, ANY):
            return drawn
        there = [i for i in self._cluster.topology.instances if i.role is not Role.SUPERVISOR]
        names = [i.name for i in there if drawn.target in (i.role.value, ANY)]
        return Change(drawn.action, self._rng.choice(names))

    def _draw(self) -> Fault | Change:
        if not self._striker.changing and self._rng.random() < 0.5:
            return self._draw_change()
        if self._rng.random() < 0.15:
            lonely = self._rng.choice([i.name for i in self._cluster.topology.instances])
            return Partition(((lonely,),), PARTITION_S * self._rng.random())
        named = (SUPERVISOR, *self._cluster.guests)
        struck = self._rng.choice((*ROLES, *named))
        return Kill(Target(name=struck) if struck in named else Target(struck))

    def _draw_change(self) -> Change:
        role, most = self._rng.choice([(Role.MEMBER, MEMBERS_MAX), (Role.APISERVER, APISERVERS_MAX)])
        there = [i.name for i in self._cluster.topology.of(role)]
        least = 3 if role is Role.MEMBER else 1
        possible = ["replace", *["add"] * (len(there) < most), *["remove"] * (len(there) > least)]
        action = self._rng.choice(possible)
        return Change(action, role.value if action == "add" else self._rng.choice(there))
