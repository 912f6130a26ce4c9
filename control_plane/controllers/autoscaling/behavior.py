"""The pace of an autoscaler: what it asked for lately, policies for changes of the number of replicas, and limits.

`Memory` is what it remembers of a target between two looks; it begins empty whenever another manager leads. Pure.
Source: Kubernetes tasks "Horizontal Pod Autoscaling" (configurable scaling behavior, stabilization window).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_FACTOR, _LEAST = 2.0, 4.0
"""Without policies the number at most doubles, or becomes four."""
Rules = Mapping[str, Any]


class At(NamedTuple):
    """A number of replicas at a moment of the loop's time."""

    mono: float
    replicas: int


@dataclass(slots=True)
class Memory:
    """The memory of one autoscaler: numbers it asked for, and changes that it made."""

    asked: list[At] = field(default_factory=list)
    ups: list[At] = field(default_factory=list)
    downs: list[At] = field(default_factory=list)

    def changed(self, before: int, after: int, now: float) -> None:
        """Note a change that the target has made its own."""
        (self.ups if after > before else self.downs).append(At(now, abs(after - before)))

    def forget(self, now: float, *, window_s: float, period_s: float) -> None:
        """Drop what is older than anybody asks for."""
        self.asked = [one for one in self.asked if one.mono > now - window_s]
        self.ups = [one for one in self.ups if one.mono > now - period_s]
        self.downs = [one for one in self.downs if one.mono > now - period_s]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The fewest and most replicas that an autoscaler allows, and how many there are."""

    least: int
    most: int
    current: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """The number to set, and what conditions say of it: a reason and a message each.

    `stabilized`: of AbleToScale; `limit`: of ScalingLimited, which is true when `limited`.
    """

    replicas: int
    stabilized: tuple[str, str]
    limit: tuple[str, str]
    limited: bool


READY = ("ReadyForNewScale", "recommended size matches current size")
_WITHIN = ("DesiredWithinRange", "the desired count is within the acceptable range")
_LOWER = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
)
_HIGHER = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
)
_TOO_FAST_UP = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
_TOO_FAST_DOWN = ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")
_TOO_MANY = ("TooManyReplicas", "the desired replica count is more than the maximum replica count")
_TOO_FEW = ("TooFewReplicas", "the desired replica count is less than the minimum replica count")


def choose(
    wanted: int, bounds: Bounds, memory: Memory, now: float, *, behavior: Rules | None, window_s: float
) -> Chosen:
    """The number of replicas that may be set now for one that is wanted; the memory keeps that it was wanted.

    `window_s`: for how long a higher number is remembered where the behavior does not say.
    """
    if behavior is None:
        memory.forget(now, window_s=window_s, period_s=0)
        steady = max([wanted, *(one.replicas for one in memory.asked)])
        found, limit = _within_limits(steady, bounds)
        why = _HIGHER
    else:
        up, down = behavior.get("scaleUp") or {}, behavior.get("scaleDown") or {}
        up_s, down_s = up.get("stabilizationWindowSeconds") or 0, down.get("stabilizationWindowSeconds")
        down_s = window_s if down_s is None else down_s
        memory.forget(now, window_s=max(up_s, down_s), period_s=max(_longest(up), _longest(down)))
        lowest = min([wanted, *(one.replicas for one in memory.asked if one.mono > now - up_s)])
        highest = max([wanted, *(one.replicas for one in memory.asked if one.mono > now - down_s)])
        steady = min(max(bounds.current, lowest), highest)
        why = _LOWER if wanted >= bounds.current else _HIGHER
        found, limit = _within_rates(steady, bounds, memory, now, up=up, down=down)
    memory.asked.append(At(now, wanted))
    return Chosen(found, READY if steady == wanted else why, limit, found != steady)


def _within_limits(wanted: int, bounds: Bounds) -> tuple[int, tuple[str, str]]:
    fastest = int(max(_FACTOR * bounds.current, _LEAST))
    if wanted < bounds.least:
        return bounds.least, _TOO_FEW
    if wanted > min(bounds.most, fastest):
        return min(bounds.most, fastest), _TOO_FAST_UP if bounds.most > fastest else _TOO_MANY
    return wanted, _WITHIN


def _within_rates(
    wanted: int, bounds: Bounds, memory: Memory, now: float, *, up: Rules, down: Rules
) -> tuple[int, tuple[str, str]]:
    current = bounds.current
    if wanted > current:
        fastest = max(current, _highest(up, current, memory, now))
        if wanted > min(bounds.most, fastest):
            return min(bounds.most, fastest), _TOO_FAST_UP if bounds.most > fastest else _TOO_MANY
    elif wanted < current:
        fastest = min(current, _lowest(down, current, memory, now))
        if wanted < max(bounds.least, fastest):
            return max(bounds.least, fastest), _TOO_FAST_DOWN if bounds.least < fastest else _TOO_FEW
    return wanted, _WITHIN


def _highest(rules: Rules, current: int, memory: Memory, now: float) -> int:
    """The most replicas that the policies for scaling up allow now."""
    found = []
    for policy in _policies(rules):
        start = _at_start(policy, current, memory, now)
        percents = policy.get("type") == "Percent"
        # Rounded up: otherwise a small target would never grow.
        found.append(math.ceil(start * (1 + policy["value"] / 100)) if percents else start + policy["value"])
    return _selected(rules, current, found, furthest=max, nearest=min)


def _lowest(rules: Rules, current: int, memory: Memory, now: float) -> int:
    """The fewest replicas that the policies for scaling down allow now."""
    found = []
    for policy in _policies(rules):
        start = _at_start(policy, current, memory, now)
        percents = policy.get("type") == "Percent"
        found.append(int(start * (1 - policy["value"] / 100)) if percents else start - policy["value"])
    return _selected(rules, current, found, furthest=min, nearest=max)


def _selected(rules: Rules, current: int, found: Sequence[int], *, furthest: Any, nearest: Any) -> int:
    if rules.get("selectPolicy") == "Disabled" or not found:
        return current
    return int(nearest(found) if rules.get("selectPolicy") == "Min" else furthest(found))


def _at_start(policy: Rules, current: int, memory: Memory, now: float) -> int:
    """How many replicas there were when the policy's period began."""
    begin = now - policy["periodSeconds"]
    added = sum(one.replicas for one in memory.ups if one.mono > begin)
    removed = sum(one.replicas for one in memory.downs if one.mono > begin)
    return current - added + removed


def _policies(rules: Rules) -> Sequence[Rules]:
    return rules.get("policies") or ()


def _longest(rules: Rules) -> float:
    return max((policy["periodSeconds"] for policy in _policies(rules)), default=0)
