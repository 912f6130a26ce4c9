"""Flow schemas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.bootstrap_flow import mandatory_schemas
from rayplane.control_plane.api.errors import duplicate, forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_UPDATE_RULES, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, get_condition, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    dangling = get_condition(obj, "Dangling") or {}
    return [
        name(obj),
        (spec.get("priorityLevelConfiguration") or {}).get("name") or "",
        spec.get("matchingPrecedence") or 0,
        (spec.get("distinguisherMethod") or {}).get("type") or NONE,
        age(obj, now),
        dangling.get("status") or "?",
    ]


_COLUMNS = (
    NAME, Column("PriorityLevel"), Column("MatchingPrecedence"),
    Column("DistinguisherMethod"), AGE, Column("MissingPL"),
)  # fmt: skip


_PRECEDENCE_DEFAULT, _PRECEDENCE_MAX = 1_000, 10_000
_DISTINGUISHERS = ("ByNamespace", "ByUser")
_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch")
_SUBJECT_ORDER = ("ServiceAccount", "User", "Group")
_SUBJECTS = {"Group": "group", "ServiceAccount": "serviceAccount", "User": "user"}


def _default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if not spec.get("matchingPrecedence"):
        spec["matchingPrecedence"] = _PRECEDENCE_DEFAULT


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    precedence, at = spec.get("matchingPrecedence") or 0, "spec.matchingPrecedence"
    if precedence <= 0:
        errs.append(invalid(at, precedence, "must be a positive value"))
    if precedence > _PRECEDENCE_MAX:
        errs.append(invalid(at, precedence, f"must not be greater than {_PRECEDENCE_MAX}"))
    if precedence == 1 and name(obj) != "exempt":
        errs.append(invalid(at, precedence, "only the schema named 'exempt' may have matchingPrecedence 1"))
    kind = (spec.get("distinguisherMethod") or {}).get("type")
    if spec.get("distinguisherMethod") is not None and kind not in _DISTINGUISHERS:
        errs.append(not_supported("spec.distinguisherMethod.type", kind or "", _DISTINGUISHERS))
    level = (spec.get("priorityLevelConfiguration") or {}).get("name") or ""
    if not level:
        errs.append(required("spec.priorityLevelConfiguration.name", "must reference a priority level"))
    else:
        checked(names.subdomain_errors(level), level, "spec.priorityLevelConfiguration.name", errs)
    for index, rule in enumerate(spec.get("rules") or ()):
        _rule(rule, f"spec.rules[{index}]", errs)
    if any(name(o) == name(obj) and o["spec"] != spec for o in mandatory_schemas()):
        errs.append(invalid("spec", spec, f"spec of '{name(obj)}' must equal the fixed value"))
    return errs


def _rule(rule: Mapping[str, Any], path: str, errs: Errors) -> None:
    if not rule.get("subjects"):
        errs.append(required(f"{path}.subjects", "subjects must contain at least one value"))
    for index, subject in enumerate(rule.get("subjects") or ()):
        _subject(subject, f"{path}.subjects[{index}]", errs)
    if not rule.get("resourceRules") and not rule.get("nonResourceRules"):
        text = "at least one of resourceRules and nonResourceRules has to be non-empty"
        errs.append(required(path, text))
    for index, one in enumerate(rule.get("resourceRules") or ()):
        _resources(one, f"{path}.resourceRules[{index}]", errs)
    for index, one in enumerate(rule.get("nonResourceRules") or ()):
        at, urls = f"{path}.nonResourceRules[{index}]", one.get("nonResourceURLs") or ()
        _verbs(one.get("verbs") or (), f"{at}.verbs", errs)
        if not urls:
            errs.append(required(f"{at}.nonResourceURLs", "nonResourceURLs must contain at least one value"))
        elif not _alone(urls, "non-resource URLs", f"{at}.nonResourceURLs", errs):
            for number, url in enumerate(urls):
                checked(_url_problems(url), url, f"{at}.nonResourceURLs[{number}]", errs)


def _subject(subject: Mapping[str, Any], path: str, errs: Errors) -> None:
    kind = subject.get("kind") or ""
    if kind not in _SUBJECTS:
        errs.append(not_supported(f"{path}.kind", kind, sorted(_SUBJECTS)))
        return
    own = _SUBJECTS[kind]
    who, at = subject.get(own), f"{path}.{own}"
    if who is None:
        errs.append(required(at, f"{own} is required when subject kind is '{kind}'"))
    else:
        name = who.get("name") or ""
        if not name:
            errs.append(required(f"{at}.name"))
        elif kind == "ServiceAccount" and name != "*":
            checked(names.subdomain_errors(name), name, f"{at}.name", errs)
        if kind == "ServiceAccount":
            space = who.get("namespace") or ""
            if not space:
                errs.append(required(f"{at}.namespace", "must specify namespace for service account"))
            else:
                checked(names.label_errors(space), space, f"{at}.namespace", errs)
    for other, field in sorted(_SUBJECTS.items(), key=lambda pair: _SUBJECT_ORDER.index(pair[0])):
        if field != own and subject.get(field) is not None:
            errs.append(forbidden(f"{path}.{field}", f"{field} is forbidden when subject kind is not '{other}'"))


def _alone(values: Sequence[str], what: str, path: str, errs: Errors) -> bool:
    """Whether a list says "all": then it says nothing else."""
    if "*" not in values:
        return False
    if len(values) > 1:
        errs.append(invalid(path, values, f"if '*' is present, must not specify other {what}"))
    return True


def _verbs(verbs: Sequence[str], path: str, errs: Errors) -> None:
    if not verbs:
        errs.append(required(path, "verbs must contain at least one value"))
    elif not _alone(verbs, "verbs", path, errs) and not set(verbs) <= set(_VERBS):
        errs.append(not_supported(path, verbs, _VERBS))


def _resources(rule: Mapping[str, Any], path: str, errs: Errors) -> None:
    _verbs(rule.get("verbs") or (), f"{path}.verbs", errs)
    for field, one, many in (("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")):
        values = rule.get(field) or ()
        if not values:
            errs.append(required(f"{path}.{field}", f"resource rules must supply at least one {one}"))
        else:
            _alone(values, many, f"{path}.{field}", errs)
    spaces, at = rule.get("namespaces") or (), f"{path}.namespaces"
    if not spaces and not rule.get("clusterScope"):
        text = "resource rules that are not cluster scoped must supply at least one namespace"
        errs.append(required(at, text))
    elif not _alone(spaces, "namespaces", at, errs):
        for index, space in enumerate(spaces):
            intro = "each member of this list must be '*' or a DNS-1123 label; "
            checked([intro + problem for problem in names.label_errors(space)], space, f"{at}[{index}]", errs)


def _url_problems(url: str) -> list[str]:
    """The first thing that is wrong with a path."""
    if url == "/":
        return []
    stars = url.count("*")
    for wrong, text in (
        (not url, "must not be empty"),
        (not url.startswith("/"), "must start with slash"),
        (" " in url, "must not contain white-space"),
        ("//" in url, "must not contain double slash"),
        (stars > 1 or (stars == 1 and not url.endswith("/*")), "wildcard can only do suffix matching"),
    ):
        if wrong:
            return [text]
    return []


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    validate_condition_types(new, errs)
    return errs


def validate_condition_types(obj: Object, errs: Errors) -> None:
    seen: set[str] = set()
    for index, condition in enumerate((obj.get("status") or {}).get("conditions") or ()):
        kind, at = condition.get("type") or "", f"status.conditions[{index}].type"
        if kind in seen:
            errs.append(duplicate(at, kind))
        seen.add(kind)
        if not kind:
            errs.append(required(at, "must not be empty"))


def _precedence(obj: Object) -> tuple[int, str]:
    """The order in which schemas are asked whether a request is theirs."""
    return (obj.get("spec") or {}).get("matchingPrecedence") or 0, name(obj)


RULES = {
    "FlowSchema": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        validate_status_update=_validate_status,
        status=Status({}, metadata=frozenset()),
        generation=True,
        printer=Printer(_COLUMNS, _row, order=_precedence),
    ),
}
