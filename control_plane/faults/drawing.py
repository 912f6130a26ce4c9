"""Faults by seed: pure functions of a random generator and of who is there.

The same generator state and roster give the same faults. At no moment does a schedule have more etcd members down than
their group can spare, unless that is asked for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from rayplane.control_plane.faults.vocabulary import FOLLOWER, LEADER, Fault, Partition, Target

if TYPE_CHECKING:
    import random

MEMBER = "member"
# Of these it is the one in charge that is worth hitting.
_LED = ("scheduler", "controllers")
# How long whoever was hit may take until it works again.
RECOVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Roster:
    """Actors that can be hit: names by role."""

    names: Mapping[str, tuple[str, ...]]

    @property
    def spare(self) -> int:
        """So many members can be away, and the others still are a majority."""
        return max(0, len(self.names.get(MEMBER, ())) - 1) // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """Odds of faults: how often each is drawn, relative to others, and for how long (seconds, one of several spans)."""

    weights: Mapping[type[Fault], int]
    spans_s: tuple[float, ...]
    pause_s: tuple[float, float]
    """Between one fault and the next: at least, at most."""
    outvoted: bool = False
    """Whether a majority of the members may be down at once."""


def draw_target(rng: "random.Random", roster: Roster) -> Target:
    """Someone of any role that is there: by name, or the one in charge."""
    roles = [role for role, names in roster.names.items() if names]
    role = rng.choice([LEADER, *roles] if MEMBER in roles else roles)
    return Target(role) if role in (LEADER, *_LED) else Target(role, rng.choice(roster.names[role]))


def draw(rng: "random.Random", roster: Roster, kind: type[Fault], spans_s: tuple[float, ...]) -> Fault:
    """A fault of a kind that hits somebody; a partition cuts off one host."""
    if kind is Partition:
        everybody = [name for names in roster.names.values() for name in names]
        return Partition(((rng.choice(everybody),),), rng.choice(spans_s))
    names = {field.name for field in fields(kind)}
    if "target" not in names:
        raise ValueError(f"{kind.__name__} hits nobody")
    values: dict[str, Any] = {"target": draw_target(rng, roster)} | (
        {"for_s": rng.choice(spans_s)} if "for_s" in names else {}
    )
    return kind(**values)


def schedule(rng: "random.Random", roster: Roster, odds: Odds, seconds: float) -> Iterator[tuple[float, Fault]]:
    """When each begins, in seconds, and the fault; in order, all within so many seconds."""
    kinds, weights = list(odds.weights), list(odds.weights.values())
    down: dict[str, float] = {}
    at = 0.0
    while (at := at + rng.uniform(*odds.pause_s)) < seconds:
        fault = draw(rng, roster, rng.choices(kinds, weights)[0], odds.spans_s)
        hit = members_hit(fault, roster)
        away = {name for name, until in down.items() if until > at}
        if odds.outvoted or not hit or len(away | hit) <= roster.spare:
            until = at + getattr(fault, "for_s", 0.0) + RECOVERY_S
            down |= {name: max(until, down.get(name, 0.0)) for name in hit}
            yield round(at, 2), fault


def members_hit(fault: Fault, roster: Roster) -> set[str]:
    """The members that a fault keeps from working. The leader, whose name is not known before, counts as one more."""
    members = set(roster.names.get(MEMBER, ()))
    if isinstance(fault, Partition):
        return members & {host for group in fault.groups for host in group}
    target: Target | None = getattr(fault, "target", None)
    if target is None:
        return set()
    if target.role in (LEADER, FOLLOWER) and not target.name:
        return {f"{target.role} {n}" for n in range(max(1, target.count))}
    if target.name:
        return members & {target.name}
    return {f"{MEMBER} {n}" for n in range(max(1, target.count))} if target.role == MEMBER else set()
