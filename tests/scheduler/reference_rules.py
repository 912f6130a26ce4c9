"""Nodes of the reference, and what selectors, terms, tolerations and shapes in objects mean."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from rayplane.control_plane.api.machinery import quantity

Obj = dict[str, Any]


@dataclass
class Place:
    """A node and the pods on it."""

    node: Obj
    pods: list[Obj] = field(default_factory=list)
    drivers: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.node["metadata"]["name"]

    @property
    def labels(self) -> dict[str, str]:
        return self.node["metadata"]["labels"]

    def has(self, resource: str) -> int:
        return amount(resource, self.node["status"]["allocatable"].get(resource, "0"))


@functools.cache
def amount(resource: str, text: str) -> int:
    parsed = quantity.parse(text)
    return parsed.milli if resource == "cpu" else parsed.value


def selects(selector: Obj | None, labels: dict[str, str]) -> bool:
    if selector is None:
        return False
    if any(labels.get(k) != v for k, v in selector.get("matchLabels", {}).items()):
        return False
    return all(meets(rule, labels) for rule in selector.get("matchExpressions", []))


def meets(rule: Obj, labels: dict[str, str]) -> bool:
    value, values = labels.get(rule["key"]), rule.get("values", [])
    match rule["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and value.lstrip("-").isdigit() and int(value) > int(values[0])
        case _:
            return value is not None and value.lstrip("-").isdigit() and int(value) < int(values[0])


def tolerates(pod: Obj, taint: Obj, *effects: str) -> bool:
    for t in pod["spec"].get("tolerations", []):
        if effects and t.get("effect", "") not in effects:
            continue
        if t.get("effect") and t["effect"] != taint["effect"]:
            continue
        if t.get("key") and t["key"] != taint["key"]:
            continue
        operator, value = t.get("operator", "Equal"), taint.get("value", "")
        numbers = value.isdigit() and t.get("value", "").isdigit()
        if (
            operator == "Exists"
            or (operator == "Equal" and t.get("value", "") == value)
            or (operator == "Gt" and numbers and int(value) > int(t["value"]))
            or (operator == "Lt" and numbers and int(value) < int(t["value"]))
        ):
            return True
    return False


def is_term(term: Obj, at: Place) -> bool:
    expressions, fields = term.get("matchExpressions", []), term.get("matchFields", [])
    if not expressions and not fields:
        return False
    named = {"metadata.name": at.name}
    return all(meets(e, at.labels) for e in expressions) and all(meets(f, named) for f in fields)


def with_keys(rule: Obj, pod: Obj) -> Obj | None:
    """The rule's selector and what matchLabelKeys and mismatchLabelKeys add to it."""
    selector = rule.get("labelSelector")
    if selector is None:
        return None
    labels, more = pod["metadata"]["labels"], []
    for keys, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")):
        more += [{"key": k, "operator": operator, "values": [labels[k]]} for k in rule.get(keys, []) if k in labels]
    return {**selector, "matchExpressions": [*selector.get("matchExpressions", []), *more]}


def along(shape: tuple[tuple[int, int], ...], percent: int) -> int:
    """The broken line through (percent, score of 10), cut towards zero."""
    for at, (x, y) in enumerate(shape):
        if percent <= x:
            if at == 0:
                return 10 * y
            x0, y0 = shape[at - 1]
            return 10 * y0 + math.trunc(Fraction((10 * y - 10 * y0) * (percent - x0), x - x0))
    return 10 * shape[-1][1]
