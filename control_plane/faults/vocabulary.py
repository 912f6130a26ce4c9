"""Faults as values: what is broken, of whom, and for how long. Pure.

Spans are seconds of the place's own time, virtual in the simulation. A fault with `for_s` ends by itself after that
span; 0 says that it lasts until something else ends it.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

LEADER = "leader"
"""Of the etcd members, the one that leads."""
FOLLOWER = "follower"
"""Of the etcd members, one that does not lead."""
ROLES = (LEADER, FOLLOWER, "member", "apiserver", "lb", "scheduler", "controllers", "node")
POD = "pod"
"""No actor: a pod of the namespace `default`, by name or drawn from those that run."""
REPLICA_IN_USE = "replica-in-use"
"""No actor: what a replicated volume has stored on the node that writes it; by its claim in `default`, or drawn."""
REPLICA = "replica"
"""The same on one of the other nodes that the volume is stored on."""
REPLICAS = (REPLICA_IN_USE, REPLICA)
OBJECTS = (POD, *REPLICAS)
TARGETS = (*ROLES, *OBJECTS)
ANY = "random"
SUPERVISOR = "supervisor"
RAY = ("gcs", "raylet")
"""No actors: processes of Ray itself, on the machine where its head runs."""
NEVER_S = float("inf")
PARTITION_S = 10.0
CORRUPT_S = 5.0
FLOOD_S = 10.0
CERTIFICATE_S = 30.0
LOST_MAX_S = 3600.0
"""A real machine that is lost on purpose comes back after so long at the latest."""

NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
# Of a claim, on a node.
_REPLICA = re.compile(rf"{NAME.pattern}(@{NAME.pattern})?")
# A word alone is a name only when it looks like one, so that a role with a typing error is not taken for one.
_NAME_ALONE = re.compile(r"[a-z][a-z0-9.-]*[0-9]")


class BadTarget(ValueError):
    """The text names nobody."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a fault hits: the actor `name`; `count` of a role, drawn; or the one of a role that is in charge."""

    role: str = ""
    name: str = ""
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> "Target":
        """ROLE, ROLE NAME, ROLE random [COUNT] or NAME. Raises BadTarget."""
        match text.split():
            case [role] if role in ROLES:
                return cls(role)
            case [name] if name in (SUPERVISOR, *RAY) or _NAME_ALONE.fullmatch(name):
                return cls(name=name)
            case [role, word] if role in TARGETS and word == ANY:
                return cls(role, count=1)
            case [role, name] if role in TARGETS and (_REPLICA if role in REPLICAS else NAME).fullmatch(name):
                return cls(role, name)
            case [role, word, count] if role in TARGETS and word == ANY and re.fullmatch("[1-9][0-9]{0,3}", count):
                return cls(role, count=int(count))
        forms = f"TARGET, TARGET NAME, TARGET {ANY} [COUNT] or an actor's name"
        raise BadTarget(f"{text.strip()!r:.80}: write {forms}; targets are {', '.join(TARGETS)}")

    def __str__(self) -> str:
        drawn = [ANY, *([str(self.count)] if self.count > 1 else [])] if self.count else []
        return " ".join(filter(None, [self.role, self.name, *drawn]))

    def choose(self, names: Sequence[str], rng: "random.Random") -> tuple[str, ...]:
        """So many of `names`, or all where there are fewer; the only one of a name stands for itself, undrawn."""
        if self.name:
            return (self.name,)
        if self.count > 1:
            return tuple(rng.sample(names, min(self.count, len(names))))
        return (rng.choice(names),) if names else ()


@dataclass(frozen=True, slots=True)
class Kill:
    """The end of a process at once (SIGKILL).

    `back_s`: it comes back then; None in its keeper's own time, NEVER_S never.
    """

    target: Target
    back_s: float | None = None


@dataclass(frozen=True, slots=True)
class PowerLoss:
    """A machine stops and starts again: its process is gone, what was not synced may be lost or torn."""

    target: Target


@dataclass(frozen=True, slots=True)
class LoseMachine:
    """The machine of an actor is gone, with all that runs there; the actors' keeper may put them on another.

    Where it is virtual its disk is gone too.
    """

    target: Target
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Stop:
    """A process that stands still (SIGSTOP): its connections stay open and silent."""

    target: Target
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Continue:
    """The going on of a process that stands still (SIGCONT)."""

    target: Target


@dataclass(frozen=True, slots=True)
class Partition:
    """Hosts of different groups, and hosts of no group, no longer reach each other."""

    groups: tuple[tuple[str, ...], ...]
    for_s: float = PARTITION_S


@dataclass(frozen=True, slots=True)
class Cut:
    """Messages of the `sources` do not reach the `sinks`; the other way all is as it was."""

    sources: tuple[str, ...]
    sinks: tuple[str, ...]
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Heal:
    """All hosts reach each other again."""


@dataclass(frozen=True, slots=True)
class Reset:
    """All connections of a host break, in the midst of what is on its way, and may be made again at once."""

    target: Target


@dataclass(frozen=True, slots=True)
class SlowNetwork:
    """Every message takes up to so long."""

    delay_s: float
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Jumble:
    """Messages that a member sends to others arrive twice, or after later ones: so large a part of them."""

    target: Target
    twice: float = 0.0
    late: float = 0.0
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class FullDisk:
    """A process can write no file any more."""

    target: Target
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StalledDisk:
    """A sync that begins meanwhile ends only when this is over."""

    target: Target
    for_s: float


@dataclass(frozen=True, slots=True)
class SlowDisk:
    """Every sync takes so long at least."""

    target: Target
    delay_s: float
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CorruptDisk:
    """A machine stops and starts again with one bit on its disk inverted; `for_s` later it is taken away."""

    target: Target
    for_s: float = CORRUPT_S


@dataclass(frozen=True, slots=True)
class SlowCpu:
    """A process gets no more than this part of the time, in slices: it stands still in between."""

    target: Target
    share: float
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ClockJump:
    """A machine's clock goes forward by so many seconds at once, back where that is negative; and returns then."""

    target: Target
    by_s: float
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ExpireCertificate:
    """The certificate that a process shows is one that expires in so many seconds, and shows its own again then."""

    target: Target
    in_s: float = 0.0
    for_s: float = CERTIFICATE_S


@dataclass(frozen=True, slots=True)
class Flood:
    """Clients ask the API servers for all pods, `rate` times a second, whether they are answered or not."""

    rate: int
    for_s: float = FLOOD_S


@dataclass(frozen=True, slots=True)
class Failpoint:
    """A process comes to a named point on its way to the disk for the `hit`th time, and `action` is done to it.

    Points and actions are those of `storage.env.failpoints`.
    """

    target: Target
    point: str
    action: str = "kill"
    hit: int = 1

    @property
    def rule(self) -> str:
        """As the environment of a process takes it."""
        return f"{self.point}={self.action}" + (f"@{self.hit}" if self.hit > 1 else "")


Fault = (
    Kill
    | PowerLoss
    | LoseMachine
    | Stop
    | Continue
    | Partition
    | Cut
    | Heal
    | Reset
    | SlowNetwork
    | Jumble
    | FullDisk
    | StalledDisk
    | SlowDisk
    | CorruptDisk
    | SlowCpu
    | ClockJump
    | ExpireCertificate
    | Flood
    | Failpoint
)


def lasts(fault: Fault) -> bool:
    """Whether something stays broken until the fault is ended."""
    if isinstance(fault, SlowNetwork) and not fault.delay_s:
        return False
    return any(field.name == "for_s" for field in fields(fault))


def is_made_up_for(fault: Fault) -> bool:
    """Whether all may be well again while a fault lasts."""
    return isinstance(fault, LoseMachine)


def ends(fault: Fault, hit: Collection[str], other: Fault, other_hit: Collection[str]) -> bool:
    """Whether a fault is the end of another that lasts; each with whom it hit."""
    match fault:
        case Continue():
            return isinstance(other, Stop) and {*other_hit} <= {*hit}
        case Heal():
            return isinstance(other, Partition | Cut)
        case SlowNetwork(delay_s):
            return isinstance(other, SlowNetwork) and not delay_s
    return False


def is_of_replicas(fault: Fault) -> bool:
    """Whether a fault hits replicas of volumes."""
    target: Target = getattr(fault, "target", Target())
    return target.role in REPLICAS
