"""Rules of resources, selectors and conditions: the requests that a policy or a webhook is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.api.errors import duplicate, forbidden, invalid, not_supported, required, too_many
from rayplane.control_plane.api.kinds.metadata import Errors, checked, one_of, validate_selector
from rayplane.control_plane.api.machinery import names

_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_MUTABLE_OPERATIONS = ("*", "CONNECT", "CREATE", "UPDATE")
_SCOPES = ("*", "Cluster", "Namespaced")
_SELECTORS = ("namespaceSelector", "objectSelector")
_CONDITIONS_MAX = 64


def default_match(match: dict[str, Any]) -> None:
    """Defaults of matchConstraints, matchResources, and a webhook, which has the same fields itself."""
    if not match.get("matchPolicy"):
        match["matchPolicy"] = "Equivalent"
    for field in _SELECTORS:
        if match.get(field) is None:
            match[field] = {}
    for field in ("rules", "resourceRules", "excludeResourceRules"):
        for rule in match.get(field) or ():
            if not rule.get("scope"):
                rule["scope"] = "*"


def validate_match(match: Mapping[str, Any], path: str, errs: Errors) -> None:
    """matchConstraints of a policy, matchResources of a binding."""
    validate_policy(match, path, errs)
    validate_selectors(match, path, errs)
    for field in ("resourceRules", "excludeResourceRules"):
        for index, rule in enumerate(match.get(field) or ()):
            at = f"{path}.{field}[{index}]"
            _resource_names(rule.get("resourceNames") or (), f"{at}.resourceNames", errs)
            validate_rule(rule, at, errs)


def validate_policy(match: Mapping[str, Any], path: str, errs: Errors) -> None:
    one_of(match.get("matchPolicy"), ("Equivalent", "Exact"), f"{path}.matchPolicy", errs)


def validate_selectors(match: Mapping[str, Any], path: str, errs: Errors) -> None:
    for field in _SELECTORS:
        validate_selector(match.get(field), f"{path}.{field}", errs)


def validate_mutable(match: Mapping[str, Any], path: str, errs: Errors) -> None:
    """What is deleted cannot be changed any more."""
    for rule in match.get("resourceRules") or ():
        for operation in rule.get("operations") or ():
            one_of(operation, _MUTABLE_OPERATIONS, f"{path}.resourceRules.operations", errs)


def _resource_names(own: Sequence[str], path: str, errs: Errors) -> None:
    seen: set[str] = set()
    for index, name in enumerate(own):
        checked(names.path_segment_errors(name), name, f"{path}[{index}]", errs)
        if name in seen:
            errs.append(duplicate(f"{path}[{index}]", name))
        seen.add(name)


def validate_rule(rule: Mapping[str, Any], path: str, errs: Errors) -> None:
    operations = rule.get("operations") or []
    _some(operations, "operations", f"{path}.operations", errs)
    for index, operation in enumerate(operations):
        one_of(operation, _OPERATIONS, f"{path}.operations[{index}]", errs)
    _some(rule.get("apiGroups") or [], "API groups", f"{path}.apiGroups", errs)
    versions = rule.get("apiVersions") or []
    _some(versions, "API versions", f"{path}.apiVersions", errs)
    errs += [required(f"{path}.apiVersions[{i}]") for i, version in enumerate(versions) if not version]
    _resources(rule.get("resources") or [], f"{path}.resources", errs)
    one_of(rule.get("scope"), _SCOPES, f"{path}.scope", errs)


def _some(values: Sequence[str], what: str, path: str, errs: Errors) -> None:
    """At least one, and nothing beside what means all."""
    if not values:
        errs.append(required(path))
    elif len(values) > 1 and "*" in values:
        errs.append(invalid(path, values, f"if '*' is present, must not specify other {what}"))


def _resources(resources: Sequence[str], path: str, errs: Errors) -> None:
    if not resources:
        errs.append(required(path))
    every_part: set[str] = set()
    in_every: set[str] = set()
    last_is_whole = False
    for index, resource in enumerate(resources):
        if not resource:
            errs.append(required(f"{path}[{index}]"))
            continue
        own, slash, part = resource.partition("/")
        if not slash:
            last_is_whole = resource != "*"
            continue
        if own in every_part:
            errs.append(_beside(f"{own}/*", resource, f"{path}[{index}]"))
        if part in in_every:
            errs.append(_beside(f"*/{part}", resource, f"{path}[{index}]"))
        if part == "*":
            every_part.add(own)
        if own == "*":
            in_every.add(part)
    if len(resources) > 1 and "*/*" in resources:
        errs.append(invalid(path, resources, "if '*/*' is present, must not specify other resources"))
    if last_is_whole and "*" in resources:
        text = "if '*' is present, must not specify other resources without subresources"
        errs.append(invalid(path, resources, text))


def _beside(all_of: str, resource: str, path: str) -> Any:
    return invalid(path, resource, f"if '{all_of}' is present, must not specify {resource}")


def validate_conditions(conditions: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    if len(conditions) > _CONDITIONS_MAX:
        errs.append(too_many(path, len(conditions), _CONDITIONS_MAX))
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        at, own = f"{path}[{index}]", condition.get("name") or ""
        if not (condition.get("expression") or "").strip():
            errs.append(required(f"{at}.expression"))
        if not own:
            errs.append(required(f"{at}.name"))
            continue
        checked(names.qualified_name_errors(own), own, f"{at}.name", errs)
        if own in seen:
            errs.append(duplicate(f"{at}.name", own))
        seen.add(own)


def validate_parameters_kind(kind: Mapping[str, Any], path: str, errs: Errors) -> None:
    version, own = kind.get("apiVersion") or "", kind.get("kind") or ""
    if not version:
        errs.append(required(f"{path}.apiVersion"))
    elif version.count("/") > 1:
        errs.append(invalid(f"{path}.apiVersion", version, f"unexpected GroupVersion string: {version}"))
    else:
        group, _, number = version.rpartition("/")
        if group:
            _joined(names.subdomain_errors(group), group, f"{path}.apiVersion", errs)
        if not number:
            errs.append(invalid(f"{path}.apiVersion", version, "version must be specified"))
        else:
            _joined(names.dns1035_errors(number), number, f"{path}.apiVersion", errs)
    if not own:
        errs.append(required(f"{path}.kind"))
    elif problems := names.dns1035_errors(own.lower()):
        text = "may have mixed case, but should otherwise match: "
        errs.append(invalid(f"{path}.kind", own, text + ",".join(problems)))


def _joined(problems: Sequence[str], value: str, path: str, errs: Errors) -> None:
    if problems:
        errs.append(invalid(path, value, ",".join(problems)))


def validate_parameters(ref: Mapping[str, Any], path: str, errs: Errors) -> None:
    """Which objects a binding takes its policy's parameters from."""
    own, selector, action = ref.get("name") or "", ref.get("selector"), ref.get("parameterNotFoundAction")
    if own:
        checked(names.path_segment_errors(own), own, f"{path}.name", errs)
    both = [f"{path}.name", f"{path}.selector"] if own and selector is not None else []
    _exclusive(both[:1], errs)
    validate_selector(selector, f"{path}.selector", errs)
    _exclusive(both[1:], errs)
    if not own and selector is None:
        errs.append(required(path, "one of name or selector must be specified"))
    if not action:
        errs.append(required(f"{path}.parameterNotFoundAction"))
    elif action not in ("Deny", "Allow"):
        errs.append(not_supported(f"{path}.parameterNotFoundAction", action, ("Deny", "Allow")))


def _exclusive(paths: Sequence[str], errs: Errors) -> None:
    errs += [forbidden(path, "name and selector are mutually exclusive") for path in paths]
