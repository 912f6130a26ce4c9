"""Validation of `status.conditions` of the kind that all newer APIs share (meta/v1 Condition)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import duplicate, invalid, required, too_long
from rayplane.control_plane.api.kinds.metadata import Errors, checked, one_of
from rayplane.control_plane.api.machinery import names

_STATUSES: Final = ("False", "True", "Unknown")
_REASON_MAX_BYTES, _MESSAGE_MAX_BYTES = 1024, 32 * 1024
_REASON_TEXT: Final = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"
_REASON: Final = re.compile(_REASON_TEXT)
_REASON_ERROR: Final = names.regex_error(
    "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric "
    "characters or '_,:', and must end with an alphanumeric character or '_'",
    _REASON_TEXT,
    "my_name",
    "MY_NAME",
    "MyName",
    "ReasonA,ReasonB",
    "ReasonA:ReasonB",
)


def validate_conditions(conditions: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    """Each type once, and each condition whole."""
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        kind, at = condition.get("type") or "", f"{path}[{index}]"
        if kind in seen:
            errs.append(duplicate(f"{at}.type", kind))
        seen.add(kind)
        _condition(condition, kind, at, errs)


def _condition(condition: Mapping[str, Any], kind: str, path: str, errs: Errors) -> None:
    checked(names.qualified_name_errors(kind), kind, f"{path}.type", errs)
    one_of(condition.get("status"), _STATUSES, f"{path}.status", errs)
    generation = condition.get("observedGeneration") or 0
    if generation < 0:
        errs.append(invalid(f"{path}.observedGeneration", generation, "must be greater than or equal to zero"))
    if not condition.get("lastTransitionTime"):
        errs.append(required(f"{path}.lastTransitionTime"))
    reason = condition.get("reason") or ""
    if not reason:
        errs.append(required(f"{path}.reason"))
    elif not _REASON.fullmatch(reason):
        errs.append(invalid(f"{path}.reason", reason, _REASON_ERROR))
    if len(reason.encode()) > _REASON_MAX_BYTES:
        errs.append(too_long(f"{path}.reason", _REASON_MAX_BYTES))
    if len((condition.get("message") or "").encode()) > _MESSAGE_MAX_BYTES:
        errs.append(too_long(f"{path}.message", _MESSAGE_MAX_BYTES))
