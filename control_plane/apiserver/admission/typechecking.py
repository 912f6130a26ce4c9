"""Type checking of validating admission policies: warnings in their status, which change nothing else. Pure.

Expressions are compiled once more for each kind of object that the rules name without wildcards, with the types that
its schema says. Source: apiserver's plugin/policy/validating (`typechecking.go`), the controller
validatingadmissionpolicy-status.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from rayplane.control_plane.api.admission.matching import GROUP
from rayplane.control_plane.api.machinery import schema
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.machinery.schema import Definition
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission.expressions import Expression, declarations
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.cel import (
    BOOL,
    BYTES,
    DOUBLE,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    Declarations,
    Type,
    list_of,
    map_of,
)

POLICIES: Final = f"validatingadmissionpolicies.{GROUP}"
KINDS_MAX: Final = 10
"""Of one rule, as in Kubernetes."""
COMPILED_MAX: Final = 2000
"""Expressions that are compiled for one policy, each for each kind: what comes after them is not checked."""
_SCALARS: Final[Mapping[str, Type]] = {
    schema.STRING: STRING,
    schema.INT32: INT,
    schema.INT64: INT,
    schema.BOOL: BOOL,
    schema.DOUBLE: DOUBLE,
    schema.BYTES: BYTES,
    schema.TIME: TIMESTAMP,
    schema.MICRO_TIME: TIMESTAMP,
}


def complete(policy: Object, kinds: Kinds) -> None:
    """Bring the status of a policy in step with its spec, in place."""
    status = policy.get("status") or {}
    generation = policy["metadata"].get("generation") or 0
    if generation <= (status.get("observedGeneration") or 0):
        return
    warnings = [{"fieldRef": where, "warning": text} for where, text in _warnings(policy.get("spec") or {}, kinds)]
    checked: Object = {"expressionWarnings": warnings} if warnings else {}
    policy["status"] = {**status, "observedGeneration": generation, "typeChecking": checked}


def _warnings(spec: Mapping[str, Any], kinds: Kinds) -> Iterator[tuple[str, str]]:
    names = {_kind_of(info): _names(spec, info, kinds) for info in _kinds_of(spec, kinds)}
    left = COMPILED_MAX
    for index, validation in enumerate(spec.get("validations") or ()):
        for field in ("expression", "messageExpression"):
            text = (validation.get(field) or "").strip()
            if not text or left < len(names):
                continue
            left -= len(names)
            found = [f"{kind}: {problem}\n" for kind, known in names.items() if (problem := _problem(text, known))]
            if found:
                yield f"spec.validations[{index}].{field}", "\n".join(found)


def _problem(text: str, names: Declarations) -> str:
    return Expression.of(text, names).problem.removeprefix("compilation failed: ")


def _kinds_of(spec: Mapping[str, Any], kinds: Kinds) -> list[ResourceInfo]:
    """What the rules name, in the order of groups, versions and kinds."""
    found: dict[ResourceInfo, None] = {}
    for rule in (spec.get("matchConstraints") or {}).get("resourceRules") or ():
        groups, versions = sorted(rule.get("apiGroups") or ()), sorted(rule.get("apiVersions") or ())
        if any("*" in one for one in (*groups, *versions)):
            continue
        plurals = sorted(one for one in rule.get("resources") or () if not {"*", "/"} & set(one))
        named = (kinds.registry.lookup(g, v, plural) for g in groups for v in versions for plural in plurals)
        for count, info in enumerate(info for info in named if info is not None):
            if count < KINDS_MAX:
                found[info] = None
    return sorted(found, key=lambda info: (info.group, info.version, info.kind))[:KINDS_MAX]


def _kind_of(info: ResourceInfo) -> str:
    return f"{info.group}/{info.version}, Kind={info.kind}"


def _names(spec: Mapping[str, Any], info: ResourceInfo, kinds: Kinds) -> Declarations:
    """What the names in expressions are where objects are of one kind."""
    given = spec.get("paramKind")
    params = kinds.registry.by_kind(given.get("apiVersion") or "", given.get("kind") or "") if given else None
    param = _object_type(params, kinds) if params is not None else None
    own, types = _object_type(info, kinds), dict[str, Type]()
    for variable in spec.get("variables") or ():
        known = declarations(own=own, param=param, variables=types)
        program = Expression.of(variable.get("expression") or "", known).program
        # One that cannot be compiled is warned of where it is looked at, if that does not fit either.
        types[variable.get("name") or ""] = program.type if program is not None else DYN
    return declarations(own=own, param=param, variables=types if types else None)


# --- types of schemas -----------------------------------------------------------------------------


def _object_type(info: ResourceInfo, kinds: Kinds) -> Type:
    definition = kinds.definition(info)
    return type_of_definition(definition) if definition is not None else DYN


def type_of_definition(definition: Definition) -> Type:
    """The type of a struct; its fields are made when they are looked at, since structs may have parts of their kind."""
    if definition.preserve_unknown and not definition.fields:
        return DYN
    return Type("object", (), definition.name, fields=_Fields(definition))


class _Fields(dict[str, Type]):
    """The fields of a struct, under the names that expressions have for them."""

    def __init__(self, definition: Definition) -> None:
        super().__init__()
        self._definition = definition

    def get(self, name: object, default: Any = None) -> Any:
        own = str(name)
        # Words of the language may be written both ways.
        field = self._definition.fields.get(own) or self._definition.fields.get(_unescaped(own))
        return _type_of(field.type) if field is not None else default


def _unescaped(name: str) -> str:
    return name[2:-2] if name.startswith("__") and name.endswith("__") else name


def _type_of(t: schema.Type) -> Type:
    if t.kind == schema.STRUCT:
        return type_of_definition(t.definition)
    if t.kind == schema.LIST:
        return list_of(_type_of(t.element))
    if t.kind == schema.MAP:
        return map_of(STRING, _type_of(t.element))
    return replace(_SCALARS.get(t.kind, DYN))
