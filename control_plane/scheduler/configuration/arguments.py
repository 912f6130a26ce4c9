"""Arguments of plug-ins as a file gives them, checked as kube-scheduler does, for the plug-ins of this scheduler. Pure.

Source: kubescheduler.config.k8s.io/v1 (`...Args`) and kube-scheduler's validation of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from rayplane.control_plane.api.errors import FieldError, duplicate, forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.pod_template.affinity import validate_affinity
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.durations import DurationError, parse_duration
from rayplane.control_plane.scheduler.plugins import args as plugin_args

_Errors = list[FieldError]
_Given = Mapping[str, Any]
_Notes = list[str]
_STRATEGIES: Final = tuple(sorted(strategy.value for strategy in plugin_args.Strategy))
_WHENS: Final = ("DoNotSchedule", "ScheduleAnyway")


def in_range(value: int, low: int, high: int, path: str, errors: _Errors) -> int:
    if not low <= value <= high:
        errors.append(invalid(path, value, f"not in valid range [{low}, {high}]"))
    return value


def span(given: _Given, field: str, path: str, errors: _Errors, *, default: float) -> float:
    """Seconds of a duration written as in Go."""
    if given.get(field) is None:
        return default
    try:
        return parse_duration(given[field])
    except DurationError as e:
        errors.append(invalid(f"{path}.{field}", given[field], str(e)))
        return default


def _resources(given: Sequence[_Given] | None, path: str, errors: _Errors) -> tuple[tuple[str, int], ...]:
    found = []
    for at, one in enumerate(given or ()):
        weight = one.get("weight") or 1
        if not 0 < weight <= 100:
            text = f"resource weight of {one.get('name') or ''} not in valid range (0, 100]"
            errors.append(invalid(f"{path}[{at}].weight", weight, text))
        found.append((one.get("name") or "", weight))
    return tuple(found) or plugin_args.CPU_AND_MEMORY


def _shape(given: Sequence[_Given] | None, path: str, errors: _Errors) -> tuple[tuple[int, int], ...]:
    points = tuple((one.get("utilization") or 0, one.get("score") or 0) for one in given or ())
    if not points:
        errors.append(required(path, "at least one point must be specified"))
    for at, (utilization, score) in enumerate(points):
        if at and points[at - 1][0] >= utilization:
            text = "values must be sorted in increasing order"
            errors.append(invalid(f"{path}[{at}].utilization", utilization, text))
        in_range(utilization, 0, 100, f"{path}[{at}].utilization", errors)
        in_range(score, 0, 10, f"{path}[{at}].score", errors)
    return points


def _fit(given: _Given, path: str, errors: _Errors, _notes: _Notes) -> plugin_args.FitArgs:
    for field in ("ignoredResources", "ignoredResourceGroups"):
        for number, name in enumerate(given.get(field) or ()):
            where = f"{path}.{field}[{number}]"
            if field == "ignoredResourceGroups" and "/" in name:
                errors.append(invalid(where, name, "resource group name can't contain '/'"))
            errors += [invalid(where, name, text) for text in names.qualified_name_errors(name)]
    strategy, at = given.get("scoringStrategy") or {}, f"{path}.scoringStrategy"
    kind = strategy.get("type") or plugin_args.Strategy.LEAST_ALLOCATED.value
    if kind not in _STRATEGIES:
        errors.append(not_supported(f"{at}.type", kind, _STRATEGIES))
        return plugin_args.FitArgs()
    ratio = strategy.get("requestedToCapacityRatio")
    points: tuple[tuple[int, int], ...] = ()
    by_ratio = plugin_args.Strategy(kind) is plugin_args.Strategy.REQUESTED_TO_CAPACITY_RATIO
    if by_ratio and ratio is None:
        text = "must be specified when type is RequestedToCapacityRatio"
        errors.append(required(f"{at}.requestedToCapacityRatio", text))
    elif by_ratio:
        points = _shape((ratio or {}).get("shape"), f"{at}.requestedToCapacityRatio.shape", errors)
    elif ratio is not None:
        text = "must be nil when type is not RequestedToCapacityRatio"
        errors.append(forbidden(f"{at}.requestedToCapacityRatio", text))
    return plugin_args.FitArgs(
        strategy=plugin_args.Strategy(kind),
        resources=_resources(strategy.get("resources"), f"{at}.resources", errors),
        shape=points,
        ignored_resources=frozenset(given.get("ignoredResources") or ()),
        ignored_resource_groups=frozenset(given.get("ignoredResourceGroups") or ()),
    )


def _balanced(given: _Given, path: str, errors: _Errors, _notes: _Notes) -> plugin_args.BalancedArgs:
    found = _resources(given.get("resources"), f"{path}.resources", errors)
    for at, (name, weight) in enumerate(found):
        if weight != 1:
            errors.append(invalid(f"{path}.resources[{at}].weight", weight, "must be 1"))
        if name in [other for other, _ in found[:at]]:
            errors.append(duplicate(f"{path}.resources[{at}].name", name))
    return plugin_args.BalancedArgs(resources=found)


def _interpod(given: _Given, path: str, errors: _Errors, _notes: _Notes) -> plugin_args.InterPodAffinityArgs:
    weight = given.get("hardPodAffinityWeight")
    return plugin_args.InterPodAffinityArgs(
        hard_pod_affinity_weight=in_range(
            1 if weight is None else weight, 0, 100, f"{path}.hardPodAffinityWeight", errors
        ),
        ignore_preferred_terms_of_existing_pods=bool(given.get("ignorePreferredTermsOfExistingPods")),
    )


def _spread(given: _Given, path: str, errors: _Errors, _notes: _Notes) -> plugin_args.SpreadArgs:
    kind = given.get("defaultingType") or "System"
    constraints: Sequence[_Given] = given.get("defaultConstraints") or ()
    if kind not in ("List", "System"):
        errors.append(not_supported(f"{path}.defaultingType", kind, ["List", "System"]))
    if kind == "System" and constraints:
        errors.append(invalid(f"{path}.defaultingType", kind, "when .defaultConstraints are not empty"))
    seen = set()
    for at, one in enumerate(constraints):
        where = f"{path}.defaultConstraints[{at}]"
        _constraint(one, where, errors)
        same = (one.get("topologyKey"), one.get("whenUnsatisfiable"))
        if same in seen:
            errors.append(duplicate(where, f"{{{same[0]}, {same[1]}}}"))
        seen.add(same)
    return plugin_args.SpreadArgs(default_constraints=None if kind == "System" else tuple(constraints))


def _constraint(one: _Given, path: str, errors: _Errors) -> None:
    skew, key, when = one.get("maxSkew") or 0, one.get("topologyKey") or "", one.get("whenUnsatisfiable") or ""
    if skew <= 0:
        errors.append(invalid(f"{path}.maxSkew", skew, "not in valid range (0, inf)"))
    if not key:
        errors.append(required(f"{path}.topologyKey", "can not be empty"))
    else:
        errors += [invalid(f"{path}.topologyKey", key, text) for text in names.qualified_name_errors(key)]
    if not when:
        errors.append(required(f"{path}.whenUnsatisfiable", "can not be empty"))
    elif when not in _WHENS:
        errors.append(not_supported(f"{path}.whenUnsatisfiable", when, _WHENS))
    if one.get("labelSelector") is not None:
        text = "constraint must not define a selector, as they deduced for each pod"
        errors.append(forbidden(f"{path}.labelSelector", text))


def _affinity(given: _Given, path: str, errors: _Errors, _notes: _Notes) -> plugin_args.NodeAffinityArgs:
    added = given.get("addedAffinity")
    if added is not None:
        found: _Errors = []
        validate_affinity({"nodeAffinity": added}, path, found)
        own = f"{path}.nodeAffinity"
        errors += [replace(one, field=f"{path}.addedAffinity{one.field.removeprefix(own)}") for one in found]
    return plugin_args.NodeAffinityArgs(added_affinity=added)


def _volumes(given: _Given, path: str, errors: _Errors, _notes: _Notes) -> plugin_args.VolumeBindingArgs:
    timeout = given.get("bindTimeoutSeconds")
    if timeout is not None and timeout < 0:
        text = "invalid BindTimeoutSeconds, should not be a negative value"
        errors.append(invalid(f"{path}.bindTimeoutSeconds", timeout, text))
    found = plugin_args.VolumeBindingArgs()
    if given.get("shape"):
        found = replace(found, shape=_shape(given["shape"], f"{path}.shape", errors))
    return found if timeout is None else replace(found, bind_timeout_s=float(timeout))


def _preemption(given: _Given, path: str, errors: _Errors, _notes: _Notes) -> plugin_args.PreemptionArgs:
    percentage, absolute = given.get("minCandidateNodesPercentage"), given.get("minCandidateNodesAbsolute")
    found = plugin_args.PreemptionArgs(
        min_candidate_nodes_percentage=10 if percentage is None else percentage,
        min_candidate_nodes_absolute=100 if absolute is None else absolute,
    )
    in_range(found.min_candidate_nodes_percentage, 0, 100, f"{path}.minCandidateNodesPercentage", errors)
    if found.min_candidate_nodes_absolute < 0:
        text = "not in valid range [0, inf)"
        errors.append(invalid(f"{path}.minCandidateNodesAbsolute", found.min_candidate_nodes_absolute, text))
    if percentage == absolute == 0:
        for one, other in (("Percentage", "Absolute"), ("Absolute", "Percentage")):
            text = f"cannot be zero at the same time as minCandidateNodes{other}"
            errors.append(invalid(f"{path}.minCandidateNodes{one}", 0, text))
    return found


def _dynamic(given: _Given, path: str, errors: _Errors, notes: _Notes) -> plugin_args.DynamicResourcesArgs:
    if span(given, "filterTimeout", path, errors, default=0.0) < 0:
        errors.append(invalid(f"{path}.filterTimeout", given["filterTimeout"], "must be zero or positive"))
    if given.get("filterTimeout") is not None:
        notes.append(
            f"{path}.filterTimeout changes nothing: the search for devices is bounded by its steps, not by time"
        )
    found = plugin_args.DynamicResourcesArgs()
    timeout_s = span(given, "bindingTimeout", path, errors, default=found.binding_timeout_s)
    if timeout_s < 1:
        errors.append(invalid(f"{path}.bindingTimeout", given["bindingTimeout"], "must be at least 1 second"))
    return replace(found, binding_timeout_s=timeout_s)


_READ: Final[Mapping[str, Callable[[_Given, str, _Errors, _Notes], Any]]] = {
    "NodeResourcesFit": _fit,
    "NodeResourcesBalancedAllocation": _balanced,
    "InterPodAffinity": _interpod,
    "PodTopologySpread": _spread,
    "NodeAffinity": _affinity,
    "VolumeBinding": _volumes,
    "DefaultPreemption": _preemption,
    "DynamicResources": _dynamic,
}


def read_arguments(plugin: str, given: _Given, path: str, errors: _Errors, notes: _Notes) -> Any:
    """What a plug-in of Kubernetes' own is made with; None where it needs nothing. `notes`: what has no effect here."""
    return _READ[plugin](given, path, errors, notes)
