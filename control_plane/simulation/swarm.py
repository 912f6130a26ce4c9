"""Swarm testing: each seed draws which kinds of faults there are at all, then faults of those alone. Pure.

With all kinds at once each run is much like the next, and what one kind does is hidden by another (Groce and others,
"Swarm Testing").
"""

import random
from collections.abc import Sequence

from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.faults.form import VERBS
from rayplane.control_plane.faults.vocabulary import (
    LEADER,
    ClockJump,
    Continue,
    CorruptDisk,
    Cut,
    ExpireCertificate,
    Failpoint,
    Fault,
    Flood,
    FullDisk,
    Heal,
    Jumble,
    Kill,
    LoseMachine,
    Partition,
    PowerLoss,
    Reset,
    SlowCpu,
    SlowDisk,
    SlowNetwork,
    StalledDisk,
    Stop,
    Target,
)
from rayplane.control_plane.simulation.scenario import Change
from rayplane.storage.env import failpoints

Kind = type[Fault] | type[Change]
#: Not drawn: a machine is lost when a change replaces its actor, and what is drawn ends by itself. An expired
#: certificate is, to all others, a cut.
_OTHERS = (LoseMachine, Continue, Heal, ExpireCertificate)
KINDS: tuple[Kind, ...] = (*(kind for kind in VERBS.values() if kind not in _OTHERS), Change)
#: Of a kind that lasts, at most.
SPAN_MIN_S, SPAN_MAX_S = 0.2, 6.0
JUMP_MAX_S = 120.0
#: Requests a second, at most.
FLOOD_MAX = 50
_OF_MEMBERS = (Jumble, FullDisk, StalledDisk, SlowDisk, CorruptDisk, Failpoint)


def draw_kinds(rng: random.Random) -> tuple[Kind, ...]:
    """About half of all kinds, at least one."""
    return tuple(kind for kind in KINDS if rng.random() < 0.5) or (rng.choice(KINDS),)


def draw(rng: random.Random, kind: Kind, names: Sequence[tuple[Role, str]]) -> Fault:
    """A fault of a kind, to one of those who are there. Not for changes."""
    everybody = [name for _, name in names]
    members = [name for role, name in names if role is Role.MEMBER]
    for_s = round(rng.uniform(SPAN_MIN_S, SPAN_MAX_S), 3)
    if kind is Partition:
        return Partition(((rng.choice(everybody),),), for_s)
    if kind is Cut:
        source = rng.choice(everybody)
        return Cut((source,), tuple(name for name in everybody if name != source), for_s)
    if kind is Flood:
        return Flood(rng.randint(1, FLOOD_MAX), for_s)
    if kind in _OF_MEMBERS:
        leader = rng.random() < 0.5 and kind is not CorruptDisk
        return _of_member(rng, kind, Target(LEADER) if leader else Target(name=rng.choice(members)), for_s)
    return _of_anybody(rng, kind, Target(name=rng.choice(everybody)), for_s)


def _of_member(rng: random.Random, kind: Kind, whom: Target, for_s: float) -> Fault:
    if kind is Jumble:
        return Jumble(whom, round(rng.uniform(0, 0.3), 2), round(rng.uniform(0, 0.3), 2), for_s)
    if kind is SlowDisk:
        return SlowDisk(whom, round(rng.uniform(0, 0.1), 3), for_s)
    if kind is Failpoint:
        return Failpoint(whom, rng.choice(list(failpoints.POINTS)), "kill", rng.randint(1, 20))
    lasting: dict[Kind, type[FullDisk | StalledDisk | CorruptDisk]] = {
        FullDisk: FullDisk,
        StalledDisk: StalledDisk,
        CorruptDisk: CorruptDisk,
    }
    return lasting[kind](whom, for_s)


def _of_anybody(rng: random.Random, kind: Kind, whom: Target, for_s: float) -> Fault:
    if kind is SlowNetwork:
        return SlowNetwork(round(rng.uniform(0, 0.2), 3), for_s)
    if kind is SlowCpu:
        return SlowCpu(whom, round(rng.uniform(0.1, 0.6), 2), for_s)
    if kind is ClockJump:
        return ClockJump(whom, round(rng.uniform(-JUMP_MAX_S, JUMP_MAX_S), 1), for_s)
    if kind is Stop:
        return Stop(whom, for_s)
    at_once: dict[Kind, type[Kill | PowerLoss | Reset]] = {Kill: Kill, PowerLoss: PowerLoss, Reset: Reset}
    return at_once[kind](whom)
