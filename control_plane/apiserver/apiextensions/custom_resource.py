"""Custom resources that are being written: what their definition's schema and rules say of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rayplane.control_plane.api.errors import FieldError, invalid
from rayplane.control_plane.api.kinds.rules import ScalePaths
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.apiextensions.rules import Node, broken_rules
from rayplane.control_plane.apiserver.apiextensions.schema import UNKNOWN, are_blocking, validate, value_errors

_REPLICAS_MAX: Final = 2**31 - 1
_NOT_CHECKED: Final = (
    "some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)


def errors_of(
    o: Object,
    schema: Mapping[str, Any],
    rules: Node | None,
    old: Object | None,
    scale: ScalePaths | None = None,
    *,
    status: bool = False,
) -> list[FieldError]:
    """What is wrong with an object, or (`status`) with its status alone; rules are asked of what they speak of.

    `scale`: where its replicas are counted.
    """
    errors = list(_status_errors(o, schema, old) if status else validate(o, schema, old))
    if scale is not None:
        errors += [*(() if status else _count_errors(o, scale.spec)), *_count_errors(o, scale.status)]
    if rules is None:
        return errors
    if are_blocking(errors):
        return [*errors, invalid("<nil>", None, _NOT_CHECKED)]
    return errors + broken_rules(rules, o, old)


def _status_errors(o: Object, schema: Mapping[str, Any], old: Object | None) -> list[FieldError]:
    of_status = (schema.get("properties") or {}).get("status")
    if "status" not in o or not of_status:
        return []
    return value_errors(o["status"], of_status, "status", (old or {}).get("status", UNKNOWN))


def _count_errors(o: Object, path: str) -> Iterator[FieldError]:
    """What is wrong with a number of replicas, where there is one."""
    value: Any = o
    for name in path.removeprefix(".").split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, int) or isinstance(value, bool):
        return  # of another type it is its schema's affair
    if value < 0:
        yield invalid(path, value, "should be a non-negative integer")
    elif value > _REPLICAS_MAX:
        yield invalid(path, value, f"should be less than or equal to {_REPLICAS_MAX}")
