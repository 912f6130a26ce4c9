"""Extension points, and which plug-ins a profile asks at each: Kubernetes' defaults, and what a file says. Pure.

Source: "Scheduler Configuration" (extension points, scheduling plugins, multipoint), KEP-2891.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import FieldError, duplicate, forbidden, invalid, not_supported, required
from rayplane.control_plane.scheduler.configuration.schema import POINTS
from rayplane.control_plane.scheduler.groups import GANGS

Weighted = tuple[str, int]
"""A plug-in's name and its weight; 0 where none is given."""
Points = Mapping[str, frozenset[str]]
"""The extension points of each plug-in that there is."""

_ALL: Final = "*"
_TO_FILTER: Final = ("preFilter", "filter")
_TO_SCORE: Final = ("preScore", "score")
IN_TREE: Final[Points] = {
    "SchedulingGates": frozenset(("preEnqueue",)),
    "PrioritySort": frozenset(("queueSort",)),
    "NodeUnschedulable": frozenset(("filter",)),
    "NodeName": frozenset(("filter",)),
    "TaintToleration": frozenset(("filter", *_TO_SCORE)),
    "NodeAffinity": frozenset((*_TO_FILTER, *_TO_SCORE)),
    "NodePorts": frozenset(_TO_FILTER),
    "NodeResourcesFit": frozenset((*_TO_FILTER, *_TO_SCORE)),
    "VolumeRestrictions": frozenset(_TO_FILTER),
    "NodeVolumeLimits": frozenset(_TO_FILTER),
    "VolumeBinding": frozenset((*_TO_FILTER, *_TO_SCORE, "reserve", "preBind")),
    "VolumeZone": frozenset(_TO_FILTER),
    "PodTopologySpread": frozenset((*_TO_FILTER, *_TO_SCORE)),
    "InterPodAffinity": frozenset((*_TO_FILTER, *_TO_SCORE)),
    "DynamicResources": frozenset(("preEnqueue", *_TO_FILTER, "postFilter", *_TO_SCORE, "reserve", "preBind")),
    "DefaultPreemption": frozenset(("preEnqueue", "postFilter")),
    "NodeResourcesBalancedAllocation": frozenset(_TO_SCORE),
    "ImageLocality": frozenset(_TO_SCORE),
    GANGS: frozenset(("preEnqueue",)),
    "NodeDeclaredFeatures": frozenset(_TO_FILTER),
    "DefaultBinder": frozenset(("bind",)),
}
"""Kubernetes' own, in the order of its default profile."""
_WEIGHTS: Final = {
    "TaintToleration": 3,
    "NodeAffinity": 2,
    "NodeResourcesFit": 1,
    "PodTopologySpread": 2,
    "InterPodAffinity": 2,
    "DynamicResources": 2,
    "NodeResourcesBalancedAllocation": 1,
    "ImageLocality": 1,
}
IDLE: Final = (
    ("DynamicResources", "filter", ("preEnqueue", "postFilter")),
    ("DefaultPreemption", "postFilter", ("preEnqueue",)),
)
"""Plug-ins of Kubernetes' own: where each is switched on and off here, and the points where nothing else does that."""
DEFAULT: Final[tuple[Weighted, ...]] = tuple((name, _WEIGHTS.get(name, 0)) for name in IN_TREE)
_REMOVED: Final = ("AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits")
_WEIGHT_MAX: Final = (1 << 31) - 1
#: What a plug-in of Kubernetes' own does at the first of these it does here together with the second.
_TOGETHER: Final = (("preFilter", "filter"), ("reserve", "filter"), ("preBind", "filter"), ("preScore", "score"))


def expand(plugins: Mapping[str, Any], path: str, known: Points, errors: list[FieldError]) -> dict[str, list[Weighted]]:
    """For each extension point the plug-ins that are asked, in their order; with weights where they score."""
    sets = {point: plugins.get(point) or {} for point in ("multiPoint", *POINTS)}
    named = {point: _enabled(sets[point], f"{path}.{point}", point, known, errors) for point in sets}
    many = _merged(named["multiPoint"], _disabled(sets["multiPoint"]))
    found = {}
    for point in POINTS:
        found[point] = _at_point(point, named[point], _disabled(sets[point]), many, known)
    found["score"] = _weighted(found["score"], named["score"], many)
    _check(found, path, known, errors)
    return found


def _enabled(
    given: Mapping[str, Any], path: str, point: str, known: Points, errors: list[FieldError]
) -> list[Weighted]:
    found: dict[str, int] = {}
    for at, plugin in enumerate(given.get("enabled") or ()):
        name, weight, where = plugin.get("name") or "", plugin.get("weight") or 0, f"{path}.enabled[{at}]"
        if not name:
            errors.append(required(f"{where}.name"))
        elif name in _REMOVED:
            errors.append(invalid(where, name, "no longer exists: NodeVolumeLimits counts volumes of all CSI drivers"))
        elif name not in known:
            errors.append(not_supported(f"{where}.name", name, sorted(known)))
        elif point != "multiPoint" and point not in known[name]:
            errors.append(invalid(f"{where}.name", name, f"the plug-in has nothing to do at {point}"))
        elif name in found:
            errors.append(duplicate(f"{where}.name", name))
        if not 0 <= weight <= _WEIGHT_MAX:
            errors.append(invalid(f"{where}.weight", weight, f"not in valid range [0, {_WEIGHT_MAX}]"))
        found[name] = weight
    return [(name, weight) for name, weight in found.items() if name in known]


def _disabled(given: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(plugin.get("name") or "" for plugin in given.get("disabled") or ())


def _merged(custom: Sequence[Weighted], disabled: frozenset[str]) -> list[Weighted]:
    """The default plug-ins that are left, each in its place, then the ones that are new."""
    wanted = dict(custom)
    kept = [] if _ALL in disabled else [one for one in DEFAULT if one[0] not in disabled]
    found = [(name, wanted.pop(name, weight)) for name, weight in kept]
    return found + [one for one in custom if one[0] in wanted]


def _at_point(
    point: str, named: Sequence[Weighted], disabled: frozenset[str], many: Sequence[Weighted], known: Points
) -> list[Weighted]:
    """Those named for this very point that stand in multiPoint too come first, then multiPoint's, then the rest."""
    if _ALL in disabled:
        return list(named)
    of_many = [one for one in many if point in known[one[0]] and one[0] not in disabled]
    inherited = {name for name, _ in of_many}
    here = {name for name, _ in named}
    first = [one for one in named if one[0] in inherited]
    return first + [one for one in of_many if one[0] not in here] + [one for one in named if one[0] not in inherited]


def _weighted(asked: Sequence[Weighted], named: Sequence[Weighted], many: Sequence[Weighted]) -> list[Weighted]:
    """A weight that is not given is 1."""
    weights = {**dict(many), **dict(named)}
    return [(name, weights[name] or 1) for name, _ in asked]


def _check(found: Mapping[str, Sequence[Weighted]], path: str, known: Points, errors: list[FieldError]) -> None:
    if len(found["queueSort"]) != 1:
        names = [name for name, _ in found["queueSort"]]
        errors.append(invalid(f"{path}.queueSort.enabled", names, "exactly one queue sort plugin must be enabled"))
    if not found["bind"]:
        errors.append(required(f"{path}.bind.enabled", "at least one bind plugin is needed"))
    asked = {point: {name for name, _ in plugins} for point, plugins in found.items()}
    for early, late in _TOGETHER:
        for name in sorted(asked[late] - asked[early]):
            if name in IN_TREE and early in known[name]:
                text = f"{name} works at {late} together with {early} only: disable it at both, or at none"
                errors.append(forbidden(f"{path}.{early}", text))
