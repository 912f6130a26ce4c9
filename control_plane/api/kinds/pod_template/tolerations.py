"""Validation of tolerations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import invalid, not_supported
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.taints import NO_EXECUTE, NO_SCHEDULE, PREFER_NO_SCHEDULE

_EFFECTS: Final = (NO_SCHEDULE, PREFER_NO_SCHEDULE, NO_EXECUTE)
_OPERATORS: Final = ("Equal", "Exists")
_COMPARISONS: Final = ("Lt", "Gt")


def validate_tolerations(tolerations: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    for index, toleration in enumerate(tolerations):
        at = f"{path}[{index}]"
        key, operator, effect = (toleration.get(field) or "" for field in ("key", "operator", "effect"))
        if key:
            checked(names.qualified_name_errors(key), key, f"{at}.key", errs)
        elif operator != "Exists":
            text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            errs.append(invalid(f"{at}.operator", operator, text))
        if toleration.get("tolerationSeconds") is not None and effect != NO_EXECUTE:
            text = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            errs.append(invalid(f"{at}.effect", effect, text))
        _operator(operator, toleration.get("value") or "", f"{at}.operator", errs)
        if effect and effect not in _EFFECTS:
            errs.append(not_supported(f"{at}.effect", effect, _EFFECTS))


def _operator(operator: str, value: str, path: str, errs: Errors) -> None:
    if operator in ("Equal", ""):
        problems = names.label_value_errors(value)
        if problems:
            errs.append(invalid(path, value, ";".join(problems)))
    elif operator == "Exists":
        if value:
            errs.append(invalid(path, value, "value must be empty when `operator` is 'Exists'"))
    else:
        # Comparisons are known, and told of, but clusters do not take them as they come.
        more = _COMPARISONS if operator in _COMPARISONS else ()
        errs.append(not_supported(path, operator, (*_OPERATORS, *more)))
