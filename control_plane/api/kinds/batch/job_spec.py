"""The spec of jobs and of what cron jobs make: counts, indexes, what a failed pod means, when a job has succeeded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from rayplane.control_plane.api.errors import (
    duplicate,
    invalid,
    invalid_without_value,
    not_supported,
    quote,
    required,
    too_long,
    too_many,
)
from rayplane.control_plane.api.kinds.batch.job_indexes import IndexesError, count_indexes
from rayplane.control_plane.api.kinds.metadata import Errors, checked, not_negative, one_of
from rayplane.control_plane.api.kinds.pod_template.validation import validate_template
from rayplane.control_plane.api.kinds.references import domain_prefixed_path
from rayplane.control_plane.api.machinery import names

_RESTART: Final = ("OnFailure", "Never")
_COUNTS: Final = (
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
)
_MANAGER_MAX = 63
# Of indexed jobs: how many pods at once and failed indexes, and how many where there are very many indexes.
_INDEXED_MAX, _MANY_INDEXES, _FEW = 100_000, 100_000, 10_000
_RULES_MAX, _EXIT_CODES_MAX, _PATTERNS_MAX = 20, 255, 20
_ACTIONS: Final = ("Count", "FailIndex", "FailJob", "Ignore")
_OPERATORS: Final = ("In", "NotIn")
_STATUSES: Final = ("False", "True", "Unknown")
_REPLACEMENTS: Final = ("Failed", "TerminatingOrFailed")
_INDEXES_BYTES_MAX = 64 * 1024


def validate_job_spec(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    """What holds for jobs and for the template of a cron job."""
    for field in _COUNTS:
        not_negative(spec.get(field), f"{path}.{field}", errs)
    if spec.get("maxFailedIndexes") is not None and spec.get("backoffLimitPerIndex") is None:
        errs.append(required(f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified"))
    manager = spec.get("managedBy")
    if manager is not None:
        domain_prefixed_path(manager, f"{path}.managedBy", errs)
        if len(manager.encode()) > _MANAGER_MAX:
            errs.append(too_long(f"{path}.managedBy", _MANAGER_MAX))
    _completion_mode(spec, path, errs)
    failure, success = spec.get("podFailurePolicy"), spec.get("successPolicy")
    if failure is not None:
        _failure_policy(spec, failure.get("rules") or (), f"{path}.podFailurePolicy.rules", errs)
    if success is not None:
        _success_policy(spec, success, f"{path}.successPolicy", errs)
    replacement = spec.get("podReplacementPolicy")
    if replacement is not None:
        allowed = _REPLACEMENTS if failure is None else ("Failed",)
        one_of(replacement, allowed, f"{path}.podReplacementPolicy", errs)
    validate_template(spec.get("template"), f"{path}.template", errs, restart=_RESTART)
    policy = ((spec.get("template") or {}).get("spec") or {}).get("restartPolicy")
    if failure is not None and policy == "OnFailure":
        text = 'only "Never" is supported when podFailurePolicy is specified'
        errs.append(invalid(f"{path}.template.spec.restartPolicy", policy, text))


def _completion_mode(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    mode = spec.get("completionMode")
    if mode == "Indexed":
        _indexed(spec, path, errs)
        return
    if mode not in (None, "NonIndexed"):
        errs.append(not_supported(f"{path}.completionMode", mode, ("NonIndexed", "Indexed")))
        return
    for field in ("backoffLimitPerIndex", "maxFailedIndexes"):
        if spec.get(field) is not None:
            errs.append(invalid(f"{path}.{field}", spec[field], "requires indexed completion mode"))


def _indexed(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    completions, failed = spec.get("completions"), spec.get("maxFailedIndexes")
    parallelism = spec.get("parallelism") or 0
    if completions is None:
        errs.append(required(f"{path}.completions", "when completion mode is Indexed"))
    if parallelism > _INDEXED_MAX:
        text = f"must be less than or equal to {_INDEXED_MAX} when completion mode is Indexed"
        errs.append(invalid(f"{path}.parallelism", parallelism, text))
    if completions is not None and (failed or 0) > completions:
        errs.append(invalid(f"{path}.maxFailedIndexes", failed, "must be less than or equal to completions"))
    if (failed or 0) > _INDEXED_MAX:
        errs.append(invalid(f"{path}.maxFailedIndexes", failed, f"must be less than or equal to {_INDEXED_MAX}"))
    if (completions or 0) <= _MANY_INDEXES or spec.get("backoffLimitPerIndex") is None:
        return
    if failed is None:
        text = f"must be specified when completions is above {_MANY_INDEXES}"
        errs.append(required(f"{path}.maxFailedIndexes", text))
    for field, value in (("parallelism", parallelism), ("maxFailedIndexes", failed or 0)):
        if value > _FEW:
            text = (
                f"must be less than or equal to {_FEW} when completions are above {_MANY_INDEXES} "
                "and used with backoff limit per index"
            )
            errs.append(invalid(f"{path}.{field}", value, text))


def _valid_values(values: Sequence[str]) -> str:
    return f"valid values: [{' '.join(map(quote, values))}]"


def _given(value: str, supported: Sequence[str], path: str, errs: Errors) -> None:
    if not value:
        errs.append(required(path, _valid_values(supported)))
    else:
        one_of(value, supported, path, errs)


# --- what a failed pod means --------------------------------------------------------------------


def _failure_policy(spec: Mapping[str, Any], rules: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    if len(rules) > _RULES_MAX:
        errs.append(too_many(path, len(rules), _RULES_MAX))
    pod = (spec.get("template") or {}).get("spec") or {}
    containers = {one.get("name") for field in ("containers", "initContainers") for one in pod.get(field) or ()}
    for index, rule in enumerate(rules):
        at, action = f"{path}[{index}]", rule.get("action") or ""
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions") or ()
        if action == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
            errs.append(invalid(f"{at}.action", action, "requires the backoffLimitPerIndex to be set"))
        elif action != "FailIndex":
            _given(action, _ACTIONS, f"{at}.action", errs)
        if codes is not None:
            _exit_codes(codes, containers, f"{at}.onExitCodes", errs)
        if conditions:
            _patterns(conditions, f"{at}.onPodConditions", errs)
        if codes is not None and conditions:
            text = "specifying both OnExitCodes and OnPodConditions is not supported"
            errs.append(invalid_without_value(at, text))
        if codes is None and not conditions:
            errs.append(invalid_without_value(at, "specifying one of OnExitCodes and OnPodConditions is required"))


def _patterns(patterns: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    if len(patterns) > _PATTERNS_MAX:
        errs.append(too_many(path, len(patterns), _PATTERNS_MAX))
    for index, pattern in enumerate(patterns):
        at, kind = f"{path}[{index}]", pattern.get("type") or ""
        checked(names.qualified_name_errors(kind), kind, f"{at}.type", errs)
        _given(pattern.get("status") or "", _STATUSES, f"{at}.status", errs)


def _exit_codes(codes: Mapping[str, Any], containers: set[Any], path: str, errs: Errors) -> None:
    operator, container, values = codes.get("operator") or "", codes.get("containerName"), codes.get("values") or []
    _given(operator, _OPERATORS, f"{path}.operator", errs)
    if container is not None and container not in containers:
        text = "must be one of the container or initContainer names in the pod template"
        errs.append(invalid(f"{path}.containerName", container, text))
    at = f"{path}.values"
    if not values:
        errs.append(invalid(at, values, "at least one value is required"))
    elif len(values) > _EXIT_CODES_MAX:
        errs.append(too_many(at, len(values), _EXIT_CODES_MAX))
    seen: set[int] = set()
    for index, value in enumerate(values):
        if operator == "In" and value == 0:
            errs.append(invalid(f"{at}[{index}]", value, "must not be 0 for the In operator"))
        if value in seen:
            errs.append(duplicate(f"{at}[{index}]", value))
        seen.add(value)
    if any(one > other for one, other in pairwise(values)):
        errs.append(invalid(at, values, "must be ordered"))


# --- when a job has succeeded -------------------------------------------------------------------


def _success_policy(spec: Mapping[str, Any], policy: Mapping[str, Any], path: str, errs: Errors) -> None:
    if spec.get("completionMode") != "Indexed":
        errs.append(invalid(path, policy, "requires indexed completion mode"))
        return
    rules, at = policy.get("rules") or (), f"{path}.rules"
    if not rules:
        text = "at least one rules must be specified when the successPolicy is specified"
        errs.append(required(at, text))
    if len(rules) > _RULES_MAX:
        errs.append(too_many(at, len(rules), _RULES_MAX))
    completions = spec.get("completions") or 0
    for index, rule in enumerate(rules):
        _success_rule(rule, completions, f"{at}[{index}]", errs)


def _success_rule(rule: Mapping[str, Any], completions: int, path: str, errs: Errors) -> None:
    indexes, count = rule.get("succeededIndexes"), rule.get("succeededCount")
    if indexes is None and count is None:
        text = "at least one of succeededCount or succeededIndexes must be specified"
        errs.append(required(path, text))
    total = 0
    if indexes is not None:
        at = f"{path}.succeededIndexes"
        if len(indexes.encode()) > _INDEXES_BYTES_MAX:
            errs.append(too_long(at, _INDEXES_BYTES_MAX))
        try:
            total = count_indexes(indexes, completions)
        except IndexesError as error:
            errs.append(invalid(at, indexes, f"error parsing succeededIndexes: {error}"))
    if count is None:
        return
    at = f"{path}.succeededCount"
    not_negative(count, at, errs)
    if count > completions:
        text = f"must be less than or equal to {completions} (the number of specified completions)"
        errs.append(invalid(at, count, text))
    if indexes is not None and count > total:
        text = f"must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        errs.append(invalid(at, count, text))
