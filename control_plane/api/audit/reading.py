"""The reader of audit policy files. Everything in them is checked: a rule that is misread records nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources as package_files
from typing import Any

from rayplane.control_plane.api.audit.policy import Level, Policy, Resources, Rule, Stage
from rayplane.control_plane.api.errors import ApiError, FieldError, forbidden, invalid, not_supported, required
from rayplane.control_plane.api.machinery import decoding, names

_LEVELS = {level.text: level for level in Level}
_STAGES = [str(stage) for stage in Stage]
_POLICY = {
    "apiVersion": str,
    "kind": str,
    "metadata": dict,
    "omitManagedFields": bool,
    "omitStages": list,
    "rules": list,
}
_RULE = {
    "level": str,
    "namespaces": list,
    "nonResourceURLs": list,
    "omitManagedFields": bool,
    "omitStages": list,
    "resources": list,
    "userGroups": list,
    "users": list,
    "verbs": list,
}
_RESOURCES = {"group": str, "resourceNames": list, "resources": list}
_BYTES_MAX = 1 << 20


class PolicyError(ValueError):
    """The policy is not one; the message names every field that is wrong."""


def default_policy() -> str:
    """A policy that records who changed what, and leaves out heartbeats, secrets' contents and what is only noise."""
    return package_files.files("rayplane.control_plane.api").joinpath("data/audit-policy.yaml").read_text()


def read_policy(text: str) -> Policy:
    """A Policy of `audit.k8s.io/v1` in YAML or JSON. PolicyError."""
    if len(text) > _BYTES_MAX:
        raise PolicyError(f"it has more than {_BYTES_MAX} characters")
    try:
        document = decoding.decode(text.encode(), decoding.YAML, kind="Policy")
    except ApiError as e:
        raise PolicyError(e.message) from e
    errors: list[FieldError] = []
    if document.get("apiVersion") != "audit.k8s.io/v1":
        errors.append(not_supported("apiVersion", document.get("apiVersion") or "", ["audit.k8s.io/v1"]))
    if document.get("kind") != "Policy":
        errors.append(not_supported("kind", document.get("kind") or "", ["Policy"]))
    given = _fields(document, _POLICY, "", errors)
    rules = [_rule(one, f"rules[{at}]", errors) for at, one in enumerate(given.get("rules") or ())]
    if not rules:
        errors.append(required("rules", "a policy without rules records nothing"))
    stages = _stages(given, "", errors)
    if errors:
        raise PolicyError("; ".join(str(e) for e in errors))
    return Policy(tuple(rules), stages, given.get("omitManagedFields") or False)


def _fields(value: Any, known: Mapping[str, type], path: str, errors: list[FieldError]) -> dict[str, Any]:
    """The fields that are what they should be."""
    if not isinstance(value, dict):
        errors.append(invalid(path, value, "must be an object"))
        return {}
    dot, found = f"{path}." if path else "", {}
    for field, one in value.items():
        kind = known.get(field)
        if kind is None:
            errors.append(forbidden(f"{dot}{field}", "unknown field"))
        elif one is None:
            continue
        elif not isinstance(one, kind):
            errors.append(invalid(f"{dot}{field}", one, f"must be of type {kind.__name__}"))
        else:
            found[field] = one
    return found


def _texts(given: Mapping[str, Any], field: str, path: str, errors: list[FieldError]) -> tuple[str, ...]:
    values: Sequence[Any] = given.get(field) or ()
    for index, value in enumerate(values):
        if not isinstance(value, str):
            errors.append(invalid(f"{path}.{field}[{index}]", value, "must be a string"))
    return tuple(value for value in values if isinstance(value, str))


def _stages(given: Mapping[str, Any], path: str, errors: list[FieldError]) -> frozenset[Stage]:
    found = _texts(given, "omitStages", path, errors)
    for index, stage in enumerate(found):
        if stage not in _STAGES:
            errors.append(not_supported(f"{path}.omitStages[{index}]".lstrip("."), stage, _STAGES))
    return frozenset(Stage(stage) for stage in found if stage in _STAGES)


def _rule(value: Any, path: str, errors: list[FieldError]) -> Rule:
    given = _fields(value, _RULE, path, errors)
    level = given.get("level") or ""
    if not level:
        errors.append(required(f"{path}.level"))
    elif level not in _LEVELS:
        errors.append(not_supported(f"{path}.level", level, list(_LEVELS)))
    paths = _texts(given, "nonResourceURLs", path, errors)
    for index, one in enumerate(paths):
        if one != "*" and (not one.startswith("/") or "*" in one[:-1]):
            text = "must begin with a '/', and have a '*' only at its end"
            errors.append(invalid(f"{path}.nonResourceURLs[{index}]", one, text))
    resources = tuple(
        _resources(one, f"{path}.resources[{index}]", errors) for index, one in enumerate(given.get("resources") or ())
    )
    namespaces = _texts(given, "namespaces", path, errors)
    if paths and (resources or namespaces):
        text = "rules cannot apply to both regular resources and non-resource URLs"
        errors.append(invalid(f"{path}.nonResourceURLs", list(paths), text))
    return Rule(
        level=_LEVELS.get(level, Level.NONE),
        users=frozenset(_texts(given, "users", path, errors)),
        groups=frozenset(_texts(given, "userGroups", path, errors)),
        verbs=frozenset(_texts(given, "verbs", path, errors)),
        resources=resources,
        namespaces=frozenset(namespaces),
        paths=paths,
        omit_stages=_stages(given, path, errors),
        omit_managed_fields=given.get("omitManagedFields"),
    )


def _resources(value: Any, path: str, errors: list[FieldError]) -> Resources:
    given = _fields(value, _RESOURCES, path, errors)
    group = given.get("group") or ""
    if group and names.subdomain_errors(group):
        errors.append(invalid(f"{path}.group", group, names.subdomain_errors(group)[0]))
    resources = _texts(given, "resources", path, errors)
    only = _texts(given, "resourceNames", path, errors)
    if only and not resources:
        errors.append(
            invalid(f"{path}.resourceNames", list(only), "using resourceNames requires at least one resource")
        )
    return Resources(group=group, resources=resources, names=frozenset(only))
