"""Flow schemas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import invalid, not_supported, required
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
_SUBJECTS = {"Group": "group", "ServiceAccount": "serviceAccount", "User": "user"}


def _default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if not spec.get("matchingPrecedence"):
        spec["matchingPrecedence"] = _PRECEDENCE_DEFAULT


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    precedence = spec.get("matchingPrecedence") or 0
    if precedence <= 0:
        errs.append(invalid("spec.matchingPrecedence", precedence, "must be a positive value"))
    elif precedence > _PRECEDENCE_MAX:
        text = f"must not be greater than {_PRECEDENCE_MAX}"
        errs.append(invalid("spec.matchingPrecedence", precedence, text))
    elif precedence == 1 and name(obj) != "exempt":
        text = "only the schema named 'exempt' may have matchingPrecedence 1"
        errs.append(invalid("spec.matchingPrecedence", precedence, text))
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
    return errs


def _rule(rule: Mapping[str, Any], path: str, errs: Errors) -> None:
    if not rule.get("subjects"):
        errs.append(required(f"{path}.subjects", "subjects must contain at least one value"))
    for index, subject in enumerate(rule.get("subjects") or ()):
        kind, at = subject.get("kind") or "", f"{path}.subjects[{index}]"
        if kind not in _SUBJECTS:
            errs.append(not_supported(f"{at}.kind", kind, sorted(_SUBJECTS)))
        elif subject.get(_SUBJECTS[kind]) is None:
            errs.append(
                required(f"{at}.{_SUBJECTS[kind]}", f"{_SUBJECTS[kind]} is required when subject kind is '{kind}'")
            )
    if not rule.get("resourceRules") and not rule.get("nonResourceRules"):
        text = "at least one of resourceRules and nonResourceRules has to be non-empty"
        errs.append(required(path, text))


def _precedence(obj: Object) -> tuple[int, str]:
    """The order in which schemas are asked whether a request is theirs."""
    return (obj.get("spec") or {}).get("matchingPrecedence") or 0, name(obj)


RULES = {
    "FlowSchema": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=Status({}, metadata=frozenset()),
        generation=True,
        printer=Printer(_COLUMNS, _row, order=_precedence),
    ),
}
