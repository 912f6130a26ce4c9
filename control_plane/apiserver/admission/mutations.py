"""Mutating admission policies: expressions that make patches of what is written. Pure.

Source: apiserver's plugin/policy/mutating (`compilation.go`, `patch/smd.go`, `patch/json_patch.go`) and cel/mutation.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from rayplane.control_plane.api.errors import ApiError, RequestEntityTooLarge
from rayplane.control_plane.api.machinery import budget, json_patch
from rayplane.control_plane.api.machinery.fieldsets import render
from rayplane.control_plane.api.machinery.patching import apply_patch
from rayplane.control_plane.api.machinery.schema import Definition, Type
from rayplane.control_plane.api.machinery.shapes import (
    UNDESCRIBED,
    NotTyped,
    Place,
    is_atomic,
    item,
    member,
    type_errors,
)
from rayplane.control_plane.api.machinery.typed import merge
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission.conditions import Conditions
from rayplane.control_plane.apiserver.admission.expressions import (
    JSON_PATCH,
    OBJECT,
    Expression,
    Failed,
    Limits,
    Run,
    declarations,
    variables_of,
)
from rayplane.control_plane.apiserver.admission.policies import AnyPolicy
from rayplane.control_plane.cel import Duration, Struct, list_of
from rayplane.control_plane.cel.values import format_timestamp

_EXPRESSIONS: Final = {"ApplyConfiguration": "applyConfiguration", "JSONPatch": "jsonPatch"}
_RESULTS: Final = {"ApplyConfiguration": OBJECT, "JSONPatch": list_of(JSON_PATCH)}


@dataclass(frozen=True, slots=True)
class Mutation:
    """One patch of a policy."""

    kind: str
    """`ApplyConfiguration` or `JSONPatch`."""
    path: str
    """The field of the policy where the expression stands."""
    expression: Expression


class MutatingPolicy(AnyPolicy):
    """A policy as it is stored."""

    @property
    def again(self) -> bool:
        """Whether it is asked once more when the object changed after it was asked."""
        return self.spec.get("reinvocationPolicy") == "IfNeeded"

    @cached_property
    def compiled(self) -> Compiled:
        return Compiled(self.spec)

    def meets(self, names: Mapping[str, Any], limits: Limits) -> bool:
        """Whether its conditions hold. Raises Undecided, TooDear."""
        conditions = self.compiled.conditions
        return not conditions.expressions or conditions.hold(names, limits)


class Compiled:
    """The expressions of a policy."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        params = bool(spec.get("paramKind"))
        self.conditions = Conditions.of(spec.get("matchConditions") or (), params=params)
        self.variables, types = variables_of(spec, params=params)
        names = declarations(params=params, variables=types if self.variables else None, patches=True)
        self.mutations = tuple(_compiled(spec.get("mutations") or (), names))

    def patched(self, mutation: Mutation, o: Object, definition: Definition | None) -> _Patch:
        """What makes of an object the one that a mutation wants."""
        return _Patch(self, mutation, o, definition)

    @cached_property
    def needs_namespace(self) -> bool:
        every = (*self.variables.values(), *(mutation.expression for mutation in self.mutations))
        return any(expression.uses("namespaceObject") for expression in every)


def _compiled(mutations: Any, names: Any) -> Iterator[Mutation]:
    for index, mutation in enumerate(mutations):
        kind = mutation.get("patchType") or ""
        if kind in _EXPRESSIONS:
            field = _EXPRESSIONS[kind]
            text = ((mutation.get(field) or {}).get("expression") or "").strip()
            made = Expression.of(text, names, _RESULTS[kind])
            yield Mutation(kind, f"spec.mutations[{index}].{field}.expression", made)


@dataclass(frozen=True, slots=True)
class _Patch:
    """A mutation of one object: to be called with what the names mean."""

    policy: Compiled
    mutation: Mutation
    o: Object
    definition: Definition | None

    def __call__(self, names: Mapping[str, Any], limits: Limits) -> Object:
        """The object after the mutation, which may share parts. Raises Failed, OutOfBudget, TooDear."""
        run = Run(names, limits, limits.policy, self.policy.variables)
        value = run.value(self.mutation.expression)
        if self.mutation.kind == "JSONPatch":
            return _json_patched(self.o, value, self.definition)
        return _applied(self.o, value, self.definition)


# --- apply configurations -------------------------------------------------------------------------


def _applied(o: Object, value: Any, definition: Definition | None) -> Object:
    """Raises Failed."""
    config = {**plain(value, budget.CopyMeter()), "apiVersion": o["apiVersion"], "kind": o["kind"]}
    root: Place = (Type.struct(definition), None) if definition is not None else UNDESCRIBED
    wrong = type_errors(config, root)
    if wrong:
        shown = wrong[0] if len(wrong) == 1 else "\n  ".join(["errors:", *wrong])
        raise Failed(f"error applying patch: failed to convert patch object to typed object: {shown}")
    atomic = [render(path) for path in _atomics(config, root, ())]
    if atomic:
        where = ", ".join(atomic)
        text = f"invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {where}"
        raise Failed(f"error applying patch: {text}")
    try:
        return merge(o, config, root)
    except NotTyped as e:
        raise Failed(f"error applying patch: failed to convert original object to typed object: {e}") from e


def _atomics(value: Any, place: Place, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The places in a configuration that are owned as one: who names a part of it would take away the rest."""
    if type(value) is dict or type(value) is list:
        if is_atomic(place):
            yield path
        if type(value) is dict:
            for name, one in value.items():
                yield from _atomics(one, member(place, name), (*path, f"f:{name}"))
        else:
            for index, one in enumerate(value):
                yield from _atomics(one, item(place), (*path, f"i:{index}"))


# --- JSON patches ---------------------------------------------------------------------------------


def _json_patched(o: Object, operations: Any, definition: Definition | None) -> Object:
    """Raises Failed. An operation `test` that fails leaves the object as it is."""
    made, copies = [], budget.CopyMeter()
    for operation in operations:
        one = {k: operation[k] for k in ("op", "path", "from") if operation.get(k)}
        if "value" in operation:
            one["value"] = plain(operation["value"], copies)
        made.append({"path": "", **one})
    try:
        return apply_patch("json", o, made, definition)
    except ApiError as e:
        if isinstance(e.__cause__, json_patch.TestFailed):
            return o
        causes = (e.details or {}).get("causes") or ({"message": e.message},)
        raise Failed(f"JSONPath: {causes[0]['message']}") from e


# --- values as JSON -------------------------------------------------------------------------------


def plain(value: Any, copies: budget.CopyMeter) -> Any:
    """What an expression made, as JSON that shares nothing with anything. Raises Failed.

    `copies` counts its texts: the same one in many places costs an expression nothing, and whoever writes it out much.
    """
    try:
        return _plain(value, getattr(value, "name", ""), budget.Meter(), budget.LIMITS.depth, copies)
    except RequestEntityTooLarge as e:
        raise Failed(e.message) from e
    except budget.CopiesTooMuch as e:
        raise Failed(str(e)) from e


def _plain(value: Any, path: str, meter: budget.Meter, depth: int, copies: budget.CopyMeter) -> Any:
    meter.spend()
    if depth == 0:
        raise Failed("exceeded max depth")
    if isinstance(value, Struct) and value.name != path:
        expected = f'expected "{path}", which matches field name path from root Object type'
        raise Failed(f'type mismatch: unexpected type name "{value.name}", {expected}')
    if isinstance(value, dict):
        made = {}
        for name, one in value.items():
            if type(name) is not str:
                raise Failed(f'map key "{name}" is of type {type(name).__name__}, not string')
            below = f"{path}.{name}" if isinstance(value, Struct) else path
            copies.copy(len(name))
            made[name] = _plain(one, below, meter, depth - 1, copies)
        return made
    if isinstance(value, list | tuple):
        return [_plain(one, path, meter, depth - 1, copies) for one in value]
    if isinstance(value, str | bytes):
        copies.copy(len(value))
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if value is None or isinstance(value, str | bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return format_timestamp(value)
    if isinstance(value, Duration):
        return str(value)
    raise Failed("the expression evaluated to a type that could not marshal to JSON")
