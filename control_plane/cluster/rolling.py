"""The order of a rolling upgrade. Pure: what each part of a cluster runs in, and what is to be done next.

    whatever is away            it cannot get worse, and nothing else is taken away before it is back
    members                     followers first; the leader hands over to one of them, then follows
    API servers                 one at a time: the load balancer and clients go to the others
    schedulers, controllers     those that wait first; the Lease of who leads passes on
    node hosts                  one at a time; containers start again with theirs, where they are
    load balancer
    the host                    where all share a process: that one, with its supervisor

A step is taken when all is well. The plan is made of what is found, so it goes on wherever the last one stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rayplane.control_plane.cluster.topology import Role

ORDER = (
    Role.MEMBER,
    Role.APISERVER,
    Role.SCHEDULER,
    Role.CONTROLLERS,
    Role.NODE_HOST,
    Role.LOAD_BALANCER,
)


@dataclass(frozen=True, slots=True)
class Part:
    """An actor, and the environment that it runs in."""

    name: str
    role: Role
    python: str
    """Path of the environment's Python; empty where that is not known."""
    version: str = ""
    """What it runs, which an environment that was changed in place does not have any more."""
    leads: bool = False
    away: bool = False
    """Whether it does not run."""


@dataclass(frozen=True, slots=True)
class Move:
    """A start of an actor anew, in the wanted environment."""

    name: str

    def __str__(self) -> str:
        return f"{self.name} starts anew"


@dataclass(frozen=True, slots=True)
class HandOver:
    """A change of the member that leads."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source} hands the lead over to {self.target}"


@dataclass(frozen=True, slots=True)
class ReplaceHost:
    """A new process for the supervisor, beside the actors that have one of their own."""

    def __str__(self) -> str:
        return "the supervisor's process starts anew"


Step = Move | HandOver | ReplaceHost


def plan(parts: Sequence[Part], python: str, version: str, *, host: Part | None) -> list[Step]:
    """All steps from what is found to where every part runs that version in that environment, in their order.

    `host`: the supervisor, for the process that it is in; None where that cannot be replaced by itself.
    """

    def is_old(part: Part) -> bool:
        return (part.python, part.version) != (python, version)

    steps: list[Step] = [Move(part.name) for part in parts if part.away]
    for role in ORDER:
        of_role = [part for part in parts if part.role is role]
        old = [part for part in of_role if is_old(part) and not part.away]
        followers, leaders = [p for p in old if not p.leads], [p for p in old if p.leads]
        steps += [Move(part.name) for part in followers]
        for leader in leaders:
            heirs = [part.name for part in of_role if part is not leader]
            if role is Role.MEMBER and heirs:
                steps.append(HandOver(leader.name, heirs[0]))
            steps.append(Move(leader.name))
    if host is not None and is_old(host):
        steps.append(ReplaceHost())
    return steps
