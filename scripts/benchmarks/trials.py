"""Trials of clusters of their own, on one machine or on machines out of network namespaces, some of which are lost.

    python -m scripts.benchmarks.trials RAY_ADDRESS JOB

on one of the machines brings the cluster up and puts it to a trial. It speaks in lines of JSON: what it says, which
machine is to be lost or to come back (each order is answered by a line), and in the end the verdict.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rayplane.control_plane.cluster import processes
from rayplane.control_plane.cluster.access import Access, current_topology
from rayplane.control_plane.cluster.chaos import LiveInjector
from rayplane.control_plane.cluster.config import RAY, SPREAD
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.scenario import parse, unhealthy
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.cluster.trial.trial import Load, Trial
from rayplane.control_plane.faults.vocabulary import Fault, LoseMachine
from rayplane.control_plane.testing.machines.machines import Machine, Machines
from rayplane.control_plane.testing.machines.rays import RayNodes
from scripts.benchmarks.clusters import cluster, say

MACHINES = 3
SETTINGS: dict[str, Any] = {
    "members": 3,
    "apiservers": 3,
    "schedulers": 2,
    "controllers": 2,
    "nodes": 6,
    "scheduling": SPREAD,
}
BACK_S = 30.0
"""A machine that is lost stays so at least."""
SPREAD_S = 240.0
"""Until all is as before the last loss."""

Verdict = dict[str, Any]
"""As a trial tells it in JSON."""


@dataclass(frozen=True, slots=True)
class Job:
    """A trial: the text of its scenario, its seed and its clients."""

    scenario: str
    seed: int
    load: Load

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def of(text: str) -> "Job":
        found = json.loads(text)
        return Job(found["scenario"], found["seed"], Load(**found["load"]))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cluster runs: its processes, and the directory of logs as those see it."""

    pids: Sequence[int]
    logs: Path


Watch = Callable[[Place], None]
"""Called whenever a trial says anything."""


def _nothing(place: Place) -> None: ...


async def on_host(host: str, job: Job, watch: Watch = _nothing) -> Verdict:
    """The verdict on a cluster of this machine."""
    async with cluster(host, **SETTINGS) as running:

        def tell(text: str) -> None:
            say.print(text, markup=False)
            pids = [pid for session in running.sessions for pid in processes.of_session(session)]
            watch(Place(pids, running.directory.logs))

        return await _tried(running.admin, job, tell, LiveInjector)


async def _tried(
    admin: Access, job: Job, tell: Callable[[str], None], breaks: Callable[[Access, random.Random], LiveInjector]
) -> Verdict:
    scenario = parse(job.scenario.encode(), "the benchmark's scenario")
    trial = Trial(admin, scenario, job.seed, tell, load=job.load, breaks=breaks)
    return (await trial.run()).to_json()


# --- on machines: from outside ------------------------------------------------------------------


@contextmanager
def spread(count: int) -> Iterator[tuple[Machines, RayNodes]]:
    """Machines with a Ray node on each, the first with Ray's head."""
    with Machines(count) as machines:
        head, *others = machines.all
        rays = RayNodes(head.address)
        with say.status(f"starting Ray on {count} machines"):
            rays.start_head(head)
            rays.join(*others)
        yield machines, rays


def on_machines(job: Job, watch: Watch = _nothing) -> Verdict:
    """The verdict on a cluster over machines; the first, where the trial runs, is never lost."""
    with spread(MACHINES) as (machines, rays):
        first = machines.all[0]
        command = first.command(sys.executable, "-m", __spec__.name, rays.address, job.to_json())
        environment = first.environment | rays.environment
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as inside:
            try:
                return _attend(inside, machines, rays, watch)
            finally:
                inside.terminate()


def _attend(inside: "subprocess.Popen[str]", machines: Machines, rays: RayNodes, watch: Watch) -> Verdict:
    assert inside.stdin is not None and inside.stdout is not None
    by_address = {machine.address: machine for machine in machines.all}
    logs = ""
    for line in inside.stdout:
        match json.loads(line):
            case ["verdict", verdict]:
                found: Verdict = verdict
                return found
            case ["logs", path]:
                logs = path
            case ["say", text]:
                say.print(text, markup=False)
            case [order, address]:
                _obey(order, by_address[address], rays)
                inside.stdin.write("\n")
                inside.stdin.flush()
        if logs:
            watch(Place([pid for machine in machines.living() for pid in machine.processes()], Path(logs)))
    raise ClusterError("the trial on the machines ended without a verdict; what it said stands above")


def _obey(order: str, machine: Machine, rays: RayNodes) -> None:
    if order == "lose":
        machine.lose()
        return
    machine.boot()
    rays.join(machine)


# --- on machines: inside ------------------------------------------------------------------------


class MachineBreaker(LiveInjector):
    """An injector that also loses machines, but not the supervisor's: whoever made them does it, told by `order`."""

    def __init__(self, admin: Access, rng: random.Random, order: Callable[[str, str], None]) -> None:
        super().__init__(admin, rng)
        self._admin_of_all, self._chance, self._order = admin, rng, order
        self._lost: dict[str, float] = {}

    def refusal(self, fault: Fault) -> str:
        return "" if isinstance(fault, LoseMachine) else super().refusal(fault)

    async def chosen(self, fault: Fault) -> tuple[str, ...]:
        """Machines that were lost long enough come back first, and before another is lost all is spread again."""
        losing = isinstance(fault, LoseMachine)
        await self._bring_back(now=losing)
        if not losing:
            return await super().chosen(fault)
        await self._all_spread()
        topology = await current_topology(self._admin_of_all)
        safe = topology.of(Role.SUPERVISOR)[0].machine.address
        address = self._chance.choice(sorted({i.machine.address for i in topology.instances} - {safe}))
        return tuple(i.name for i in topology.instances if i.machine.address == address)

    async def inflict(self, fault: Fault, names: Sequence[str]) -> list[tuple[str, int]]:
        if not isinstance(fault, LoseMachine):
            return await super().inflict(fault, names)
        address = (await current_topology(self._admin_of_all)).get(names[0]).machine.address
        await asyncio.to_thread(self._order, "lose", address)
        self._lost[address] = time.monotonic()
        return [(name, 0) for name in names]

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        """The last that is lost ends with its owner."""
        if not isinstance(fault, LoseMachine):
            await super().end(fault, hit)

    async def _bring_back(self, *, now: bool) -> None:
        for address, since in [*self._lost.items()]:
            if now or time.monotonic() - since > BACK_S:
                await asyncio.to_thread(self._order, "boot", address)
                del self._lost[address]

    async def _all_spread(self) -> None:
        deadline = time.monotonic() + SPREAD_S
        while True:
            members = (await current_topology(self._admin_of_all)).of(Role.MEMBER)
            places = {member.machine.address for member in members}
            if len(members) == len(places) == MACHINES and not (why := await unhealthy(self._admin_of_all)):
                return
            if time.monotonic() > deadline:
                raise ClusterError(f"members are at {', '.join(sorted(places))} only after {SPREAD_S:.0f} s; {why}")
            await asyncio.sleep(1.0)


async def _inside(address: str, job: Job) -> None:
    def order(what: str, where: str) -> None:
        _tell(what, where)
        if not sys.stdin.readline():
            raise ClusterError("whoever made the machines has ended")

    def breaks(admin: Access, rng: random.Random) -> LiveInjector:
        return MachineBreaker(admin, rng, order)

    async with cluster(RAY, address=address, **SETTINGS) as running:
        _tell("logs", str(running.directory.logs))
        _tell("verdict", await _tried(running.admin, job, lambda text: _tell("say", text), breaks))


def _tell(*words: Any) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    asyncio.run(_inside(sys.argv[1], Job.of(sys.argv[2])))
