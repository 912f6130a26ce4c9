"""Selectors of requests as access reviews have them: what a list, watch or deletecollection is limited to.

Source: authorization.k8s.io/v1 FieldSelectorAttributes and LabelSelectorAttributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery import selectors
from rayplane.control_plane.api.machinery.field_selectors import (
    ALL_FIELDS,
    FieldSelector,
    FieldSet,
    FieldTerm,
    parse_fields,
)
from rayplane.control_plane.api.machinery.selectors import (
    DOES_NOT_EXIST,
    EQUALS,
    EVERYTHING,
    EXISTS,
    IN,
    NOT_EQUALS,
    NOT_IN,
    LabelSelector,
)

_OPERATORS: Final = {
    IN: "In",
    EQUALS: "In",
    NOT_IN: "NotIn",
    NOT_EQUALS: "NotIn",
    EXISTS: "Exists",
    DOES_NOT_EXIST: "DoesNotExist",
}
_Requirement = dict[str, Any]


def of_fields(selector: FieldSelector) -> list[_Requirement]:
    """The requirements of a field selector."""
    found = [{"key": t.path, "operator": "In" if t.equal else "NotIn", "values": [t.value]} for t in selector.terms]
    return [*found, *({"key": s.path, "operator": "In", "values": sorted(s.values)} for s in selector.sets)]


def of_labels(selector: LabelSelector) -> list[_Requirement]:
    """The requirements of a label selector; those that a review cannot say are left out."""
    return [
        {"key": one.key, "operator": _OPERATORS[one.operator], **({"values": [*one.values]} if one.values else {})}
        for one in selector.requirements
        if one.operator in _OPERATORS
    ]


def read_fields(attributes: Mapping[str, Any], problems: list[str]) -> FieldSelector:
    """What `fieldSelector` of a review says. What makes no sense limits nothing, and is a problem."""
    given = attributes.get("fieldSelector") or {}
    try:
        if given.get("rawSelector"):
            return parse_fields(given["rawSelector"], None)
        parts = [*_field_parts(given.get("requirements") or ())]
    except (ApiError, ValueError) as e:
        problems.append(f"fieldSelector: {e}")
        return ALL_FIELDS
    terms, sets = ([p for p in parts if isinstance(p, kind)] for kind in (FieldTerm, FieldSet))
    return FieldSelector(terms, sets) if parts else ALL_FIELDS  # type: ignore[arg-type]


def _field_parts(requirements: Any) -> Iterator[FieldTerm | FieldSet]:
    for one in requirements:
        key, operator, values = one.get("key") or "", one.get("operator") or "", one.get("values") or ()
        if operator not in ("In", "NotIn") or not values or not key:
            raise ValueError(f"{operator} of {key!r} is not a valid field selector requirement")
        if operator == "In" and len(values) > 1:
            yield FieldSet(key, frozenset(values))
        else:
            yield from (FieldTerm(key, operator == "In", value) for value in values)


def read_labels(attributes: Mapping[str, Any], problems: list[str]) -> LabelSelector:
    """What `labelSelector` of a review says; as `read_fields`."""
    given = attributes.get("labelSelector") or {}
    try:
        if given.get("rawSelector"):
            return selectors.parse_labels(given["rawSelector"])
        return selectors.from_label_selector({"matchExpressions": given.get("requirements") or ()})
    except ApiError as e:
        problems.append(f"labelSelector: {e}")
        return EVERYTHING
