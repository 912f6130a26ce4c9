"""Custom resources that are being written: what their definition's schema and rules say of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api.errors import FieldError, invalid
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.apiextensions.rules import Node, broken_rules
from rayplane.control_plane.apiserver.apiextensions.schema import are_blocking, validate

_NOT_CHECKED = (
    "some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)


def errors_of(o: Object, schema: Mapping[str, Any], rules: Node | None, old: Object | None) -> list[FieldError]:
    """What is wrong with an object; rules are asked where it is what they speak of."""
    errors = list(validate(o, schema, old))
    if rules is None:
        return errors
    if are_blocking(errors):
        return [*errors, invalid("<nil>", None, _NOT_CHECKED)]
    return errors + broken_rules(rules, o, old)
