"""The JSON schema of scenario files, for editors: what a live cluster and the simulation both read. Pure.

The faults in it are made from the tables that read them; a test holds the rest to the readers.
"""

from dataclasses import MISSING, fields
from typing import Any

from rayplane.control_plane.faults.form import VERBS, word_of
from rayplane.control_plane.faults.steps import ACTORS, CLAIMS, CLUSTER, MEASURES, RECOVERED, SERVED, WORKLOADS
from rayplane.control_plane.faults.vocabulary import TARGETS

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SPAN: Schema = {
    "anyOf": [{"type": "string", "pattern": "^[0-9.]+(ns|us|ms|s|m|h|[0-9.]|$)"}, {"type": "number", "minimum": 0}]
}
_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NAME: Schema = {"type": ["string", "number"]}
_PERCENT: Schema = {"type": "string", "pattern": "^[0-9.]+%$"}
_SHARE: Schema = {"anyOf": [_COUNT, _PERCENT]}
_PART: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_HOSTS: Schema = {"type": "array", "items": _TEXT, "minItems": 1}
_WORDS: dict[str, Schema] = {
    "target": _TEXT,
    "for": _SPAN,
    "back": _SPAN | {"description": "or `never`"},
    "delay": _SPAN,
    "in": _SPAN,
    "hosts": {"type": "array", "items": _HOSTS, "minItems": 1},
    "from": _HOSTS,
    "to": _HOSTS,
    "point": _TEXT,
    "action": _TEXT,
    "hit": {"type": "integer", "minimum": 1},
    "twice": _PART,
    "late": _PART,
    "share": _PART,
    "by": {"type": ["string", "number"]},
    "rate": {"type": "integer", "minimum": 1},
}
_MANIFEST: Schema = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata"],
    "properties": {"metadata": {"type": "object", "required": ["name"]}},
}


def _object(known: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": known, "required": list(required), "additionalProperties": False}


def _fault(verb: str) -> Schema:
    own = {word_of(f.name): f for f in fields(VERBS[verb])}
    needed = [word for word, f in own.items() if f.default is MISSING]
    known = {word: _WORDS[word] for word in own}
    if "target" not in own:
        return _object(known, *needed)
    rest = [word for word in needed if word != "target"]
    by_role = [_object({k: v for k, v in known.items() if k != "target"} | {role: {}}, role, *rest) for role in TARGETS]
    long = [_object(known, *needed), *by_role]
    return {"anyOf": [*([] if rest else [_TEXT]), *long]}


def _condition(**more: Schema) -> Schema:
    space = {"namespace": _TEXT}
    workloads = [
        _object({kind: _NAME, measure: _COUNT if measure == MEASURES[0] else _SHARE} | space | more, kind, measure)
        for kind in WORKLOADS
        for measure in MEASURES
    ]
    ready = [
        _object({"ready": {"const": CLUSTER}} | more, "ready"),
        _object({"ready": {"const": ACTORS}, "members": _COUNT} | more, "ready"),
    ]
    return {"anyOf": [*workloads, _object({CLAIMS: _COUNT} | space | more, CLAIMS), *ready]}


def _steps() -> list[Schema]:
    several: Schema = {"type": "array", "items": {"$ref": "#/$defs/step"}, "minItems": 1}
    named = {"anyOf": [_object({kind: _NAME, "namespace": _TEXT}, kind) for kind in WORKLOADS]}
    sized = {
        "anyOf": [
            _object({kind: _NAME, "replicas": _COUNT, "namespace": _TEXT}, kind, "replicas") for kind in WORKLOADS
        ]
    }
    manifests = {"anyOf": [_MANIFEST, {"type": "array", "items": _MANIFEST}]}
    return [
        *(_object({verb: {"$ref": f"#/$defs/{verb}"}}, verb) for verb in VERBS),
        _object({"await": _condition(within=_SPAN)}, "await"),
        _object({"apply": manifests}, "apply"),
        _object({"scale": sized}, "scale"),
        _object({"roll": named}, "roll"),
        _object({"delete": named}, "delete"),
        _object({"sleep": _SPAN}, "sleep"),
        _object({"wait": _SPAN}, "wait"),
        _object({"wait": {"const": "healthy"}, "timeout": _SPAN}, "wait"),
        _object({"signal": {"type": "string", "pattern": "^(KILL|STOP|CONT) "}, "for": _SPAN}, "signal"),
        _object({"repeat": {"type": "integer", "minimum": 1}, "steps": several}, "repeat", "steps"),
        _object({"choose": several}, "choose"),
    ]


def _timed() -> list[Schema]:
    moments = {"at": _SPAN, "every": _SPAN, "when": _condition()}
    return [
        _object({verb: {"$ref": f"#/$defs/{verb}"}, moment: schema}, verb, moment)
        for verb in VERBS
        for moment, schema in moments.items()
    ]


def schema() -> Schema:
    """The schema of a whole file."""
    served = _object({"available": _PERCENT, "gap": _SPAN})
    expected = [
        _condition(),
        _object({RECOVERED: _SPAN}, RECOVERED),
        *(_object({what: served}, what) for what in SERVED),
    ]
    manifests = {"anyOf": [_MANIFEST, {"type": "array", "items": _MANIFEST}]}
    whole = _object(
        {
            "name": _TEXT,
            "description": _TEXT,
            "seed": {"type": "integer"},
            "duration": _SPAN,
            "cluster": {"type": "object"},
            "network": {"type": "object"},
            "client": {"type": "object"},
            "workload": manifests,
            "steps": {"type": "array", "items": {"$ref": "#/$defs/step"}},
            "faults": {"type": "array", "items": {"anyOf": _timed()}},
            "expect": {"type": "array", "items": {"anyOf": expected}},
        }
    )
    defs = {verb: _fault(verb) for verb in VERBS} | {"step": {"anyOf": _steps()}}
    return {"$schema": DIALECT, "title": "A scenario of rayplane", **whole, "$defs": defs}
