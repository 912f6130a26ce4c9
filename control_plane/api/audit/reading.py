"""The reader of audit policy files. Everything in them is checked: a rule that is misread records nothing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources as package_files
from typing import Any

from rayplane.control_plane.api.audit.policy import Level, Policy, Resources, Rule, Stage
from rayplane.control_plane.api.config_files import ConfigFileError, read_document, read_fields, read_texts
from rayplane.control_plane.api.errors import FieldError, invalid, not_supported, required
from rayplane.control_plane.api.machinery import names

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


def default_policy() -> str:
    """A policy that records who changed what, and leaves out heartbeats, secrets' contents and what is only noise."""
    return package_files.files("rayplane.control_plane.api").joinpath("data/audit-policy.yaml").read_text()


def read_policy(text: str) -> Policy:
    """A Policy of `audit.k8s.io/v1` in YAML or JSON. ConfigFileError."""
    errors: list[FieldError] = []
    document = read_document(text, "Policy", ["audit.k8s.io/v1"], errors)
    given = read_fields(document, _POLICY, "", errors)
    rules = [_rule(one, f"rules[{at}]", errors) for at, one in enumerate(given.get("rules") or ())]
    if not rules:
        errors.append(required("rules", "a policy without rules records nothing"))
    stages = _stages(given, "", errors)
    if errors:
        raise ConfigFileError.of(errors)
    return Policy(tuple(rules), stages, given.get("omitManagedFields") or False)


def _stages(given: Mapping[str, Any], path: str, errors: list[FieldError]) -> frozenset[Stage]:
    found = read_texts(given, "omitStages", path, errors)
    for index, stage in enumerate(found):
        if stage not in _STAGES:
            errors.append(not_supported(f"{path}.omitStages[{index}]".lstrip("."), stage, _STAGES))
    return frozenset(Stage(stage) for stage in found if stage in _STAGES)


def _rule(value: Any, path: str, errors: list[FieldError]) -> Rule:
    given = read_fields(value, _RULE, path, errors)
    level = given.get("level") or ""
    if not level:
        errors.append(required(f"{path}.level"))
    elif level not in _LEVELS:
        errors.append(not_supported(f"{path}.level", level, list(_LEVELS)))
    paths = read_texts(given, "nonResourceURLs", path, errors)
    for index, one in enumerate(paths):
        if one != "*" and (not one.startswith("/") or "*" in one[:-1]):
            text = "must begin with a '/', and have a '*' only at its end"
            errors.append(invalid(f"{path}.nonResourceURLs[{index}]", one, text))
    resources = tuple(
        _resources(one, f"{path}.resources[{index}]", errors) for index, one in enumerate(given.get("resources") or ())
    )
    namespaces = read_texts(given, "namespaces", path, errors)
    if paths and (resources or namespaces):
        text = "rules cannot apply to both regular resources and non-resource URLs"
        errors.append(invalid(f"{path}.nonResourceURLs", list(paths), text))
    return Rule(
        level=_LEVELS.get(level, Level.NONE),
        users=frozenset(read_texts(given, "users", path, errors)),
        groups=frozenset(read_texts(given, "userGroups", path, errors)),
        verbs=frozenset(read_texts(given, "verbs", path, errors)),
        resources=resources,
        namespaces=frozenset(namespaces),
        paths=paths,
        omit_stages=_stages(given, path, errors),
        omit_managed_fields=given.get("omitManagedFields"),
    )


def _resources(value: Any, path: str, errors: list[FieldError]) -> Resources:
    given = read_fields(value, _RESOURCES, path, errors)
    group = given.get("group") or ""
    if group and names.subdomain_errors(group):
        errors.append(invalid(f"{path}.group", group, names.subdomain_errors(group)[0]))
    resources = read_texts(given, "resources", path, errors)
    only = read_texts(given, "resourceNames", path, errors)
    if only and not resources:
        errors.append(
            invalid(f"{path}.resourceNames", list(only), "using resourceNames requires at least one resource")
        )
    return Resources(group=group, resources=resources, names=frozenset(only))
