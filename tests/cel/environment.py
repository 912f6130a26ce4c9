"""A schema with one of everything, an object of it, and expressions over both."""

from __future__ import annotations

from typing import Any

from rayplane.control_plane.cel import Declarations, Outcome, Type, compile, evaluate, type_of_schema, value_of

BUDGET = 1_000_000
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["metadata"],
    "properties": {
        "n": {"type": "integer"},
        "ratio": {"type": "number"},
        "on": {"type": "boolean"},
        "text": {"type": "string", "maxLength": 20},
        "free": {"type": "string"},
        "mode": {"type": "string", "enum": ["fast", "slow"]},
        "names": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10}},
        "unbounded": {"type": "array", "items": {"type": "string"}},
        "limits": {"type": "object", "maxProperties": 5, "additionalProperties": {"type": "integer"}},
        "at": {"type": "string", "format": "date-time"},
        "day": {"type": "string", "format": "date"},
        "span": {"type": "string", "format": "duration"},
        "raw": {"type": "string", "format": "byte"},
        "port": {"x-kubernetes-int-or-string": True},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "other": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "rows": {
            "type": "array",
            "maxItems": 4,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}},
        },
        "with-dash": {"type": "string"},
        "namespace": {"type": "string"},
        "absent": {"type": "string"},
        "nothing": {"x-kubernetes-preserve-unknown-fields": True},
        "template": {"type": "object", "x-kubernetes-embedded-resource": True},
    },
}
OBJECT: dict[str, Any] = {
    "apiVersion": "example.com/v1",
    "kind": "One",
    "metadata": {"name": "one"},
    "n": 3,
    "ratio": 2,
    "on": True,
    "text": "héllo",
    "free": "anything",
    "mode": "fast",
    "names": ["ada", "bob", "eve"],
    "unbounded": ["x", "yy"],
    "limits": {"cpu": 4, "gpu": 1},
    "at": "2024-02-20T10:00:00.5+02:00",
    "day": "2024-02-29",
    "span": "1h30m",
    "raw": "AAH/",
    "port": "http",
    "set": ["a", "b"],
    "other": ["b", "a"],
    "rows": [{"name": "a", "size": 1}, {"name": "b", "size": 2}],
    "with-dash": "dash",
    "namespace": "shop",
    "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}},
}


def typed(schema: dict[str, Any]) -> Type:
    made = type_of_schema(schema, root=True)
    assert made is not None
    return made


SELF = typed(SCHEMA)
DECLARATIONS = Declarations({"self": SELF, "any": typed({"type": "object"})})


def outcome(expression: str, *, budget: int = BUDGET, **variables: Any) -> Outcome:
    bindings = {"self": value_of(OBJECT, SELF), **variables}
    return evaluate(compile(expression, DECLARATIONS), bindings, budget)


def run(expression: str) -> Any:
    """The value; raises what the evaluation failed with."""
    found = outcome(expression)
    if found.error is not None:
        raise found.error
    return found.value
