"""Trials on machines: who is lost and comes back when, and how the machines' owner is told."""

import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.topology import Instance, Machine, Role
from rayplane.control_plane.faults.vocabulary import LoseMachine, Target
from scripts.benchmarks import trials

LOSE = LoseMachine(Target("node", count=1))
PLACES = {"10.0.0.1": ("supervisor", "member-0"), "10.0.0.2": ("member-1",), "10.0.0.3": ("member-2", "node-host-2")}
ROLES = {"supervisor": Role.SUPERVISOR, "member": Role.MEMBER, "node": Role.NODE_HOST}


class Placed:
    """A topology of three machines."""

    instances = tuple(
        Instance(name, ROLES[name.partition("-")[0]], Machine(address))
        for address, names in PLACES.items()
        for name in names
    )

    def of(self, role: Role) -> list[Instance]:
        return [i for i in self.instances if i.role is role]

    def get(self, name: str) -> Instance:
        return next(i for i in self.instances if i.name == name)


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    async def placed(admin: Any) -> Any:
        return Placed()

    async def well(admin: Any) -> str:
        return ""

    monkeypatch.setattr(trials, "current_topology", placed)
    monkeypatch.setattr(trials, "unhealthy", well)
    return []


async def test_a_machine_comes_back_before_another_is_lost_and_the_supervisors_never_is(
    orders: list[tuple[str, str]],
) -> None:
    admin: Any = None
    breaks = trials.MachineBreaker(admin, random.Random(1), lambda what, where: orders.append((what, where)))
    assert breaks.refusal(LOSE) == ""
    for _ in range(6):
        hit = await breaks.chosen(LOSE)
        await breaks.inflict(LOSE, hit)
        assert hit in (PLACES["10.0.0.2"], PLACES["10.0.0.3"])
    assert [what for what, _ in orders] == ["lose", "boot"] * 5 + ["lose"]
    assert [where for _, where in orders[0:10:2]] == [where for _, where in orders[1:10:2]], "it comes back itself"


@dataclass
class Host:
    """A machine that notes what is done to it."""

    address: str
    done: list[str]

    def lose(self) -> None:
        self.done.append(f"lose {self.address}")

    def boot(self) -> None:
        self.done.append(f"boot {self.address}")

    def processes(self) -> list[int]:
        return [7]


class Hosts:
    """Machines, and Ray on them."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.all = [Host(address, self.done) for address in PLACES]

    def living(self) -> list[Host]:
        return self.all

    def join(self, host: Host) -> None:
        self.done.append(f"join {host.address}")


def attended(code: str, hosts: Any, seen: list[trials.Place]) -> trials.Verdict:
    command = [sys.executable, "-c", f"from json import dumps as d\nimport sys\n{code}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as inside:
        return trials._attend(inside, hosts, hosts, seen.append)


@pytest.mark.processes
def test_the_owner_of_machines_obeys_the_trial_until_its_verdict() -> None:
    hosts, seen = Hosts(), list[trials.Place]()
    code = (
        "print(d(['logs', '/place/logs']), flush=True)\n"
        "for order in ('lose', 'boot'):\n"
        "    print(d([order, '10.0.0.2']), flush=True)\n"
        "    assert sys.stdin.readline()\n"
        "print(d(['verdict', {'verdict': 'ok'}]), flush=True)"
    )
    assert attended(code, hosts, seen) == {"verdict": "ok"}
    assert hosts.done == ["lose 10.0.0.2", "boot 10.0.0.2", "join 10.0.0.2"]
    assert seen[0] == trials.Place([7, 7, 7], Path("/place/logs"))
    with pytest.raises(ClusterError, match="without a verdict"):
        attended("pass", hosts, seen)
