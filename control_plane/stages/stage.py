"""Stages (kwok.x-k8s.io/v1alpha1): what one is, read from its object and checked field by field. Pure.

Stages are played for pods and nodes. Patches of the status are the node's own; everything else is done in the name of
the pod's service account, so nothing may be done as somebody else (`impersonation` is refused).
Source: the documentation of KWOK, "Stages configuration".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import (
    FieldError,
    forbidden,
    invalid,
    invalid_without_value,
    not_supported,
    required,
    too_many,
)
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.stages.errors import Unreadable
from rayplane.control_plane.stages.expressions import DELAY_MAX_S, Errors, Source, Test, read_source, read_test
from rayplane.control_plane.stages.templates import Template

GROUP: Final = "kwok.x-k8s.io"
API_VERSION: Final = f"{GROUP}/v1alpha1"
STAGE: Final = "Stage"
POD, NODE = "Pod", "Node"
STEPS_MAX: Final = 32
TESTS_MAX: Final = 32
WEIGHT_MAX: Final = 1_000_000_000
_PATCHES: Final = ("json", "merge", "strategic")
_APPLIES: Final = ("apply", "merge", "strategic")
PatchType = Literal["json", "merge", "strategic", "apply"]


@dataclass(frozen=True, slots=True)
class Tell:
    """An Event to write on the object."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Finalizers:
    """A change of the object's finalizers."""

    add: tuple[str, ...]
    remove: tuple[str, ...]
    empty: bool


@dataclass(frozen=True, slots=True)
class Delete:
    """The object's deletion."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A change of the object, by what a template makes of it; `root`: the field which that is about."""

    template: Template
    root: str
    subresource: str
    type: PatchType


@dataclass(frozen=True, slots=True)
class Apply:
    """Another object that is made or changed, by what a template makes of this one."""

    template: Template
    subresource: str
    type: PatchType


Step = Tell | Finalizers | Delete | Patch | Apply


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage, ready to be played. `kind`: of the objects it is for; milliseconds are None where they are not said."""

    name: str
    kind: str
    tests: tuple[Test, ...]
    weight: int
    weight_from: Source | None
    delay_ms: int
    delay_from: Source | None
    jitter_ms: int | None
    jitter_from: Source | None
    steps: tuple[Step, ...]
    immediate: bool

    def matches(self, o: Object) -> bool:
        return all(test(o) for test in self.tests)


def read_stage(o: Object) -> tuple[Stage, Errors]:
    """A stage, and what is wrong with it: with errors it must not be played."""
    errors: Errors = []
    spec = _object(o, "spec", "", errors)
    kind = (spec.get("resourceRef") or {}).get("kind") or ""
    group = (spec.get("resourceRef") or {}).get("apiGroup") or "v1"
    if kind not in (POD, NODE) or group != "v1":
        errors.append(not_supported("spec.resourceRef.kind", f"{kind}.{group}", [POD, NODE]))
    delay = _object(spec, "delay", "spec", errors)
    steps = [*_next(_object(spec, "next", "spec", errors), kind, errors), *_steps(spec, kind, errors)]
    if len(steps) > STEPS_MAX:
        errors.append(too_many("spec.steps", len(steps), STEPS_MAX))
    stage = Stage(
        name=meta.name(o),
        kind=kind,
        tests=_tests(spec, errors),
        weight=_number(spec, "weight", "spec", WEIGHT_MAX, errors) or 0,
        weight_from=_source(spec, "weightFrom", "spec", errors),
        delay_ms=_number(delay, "durationMilliseconds", "spec.delay", _DELAY_MAX_MS, errors) or 0,
        delay_from=_source(delay, "durationFrom", "spec.delay", errors),
        jitter_ms=_number(delay, "jitterDurationMilliseconds", "spec.delay", _DELAY_MAX_MS, errors),
        jitter_from=_source(delay, "jitterDurationFrom", "spec.delay", errors),
        steps=tuple(steps),
        immediate=bool(spec.get("immediateNextStage")),
    )
    return stage, errors


_DELAY_MAX_MS: Final = int(DELAY_MAX_S * 1000)


# --- selectors ------------------------------------------------------------------------------------


def _tests(spec: Mapping[str, Any], errors: Errors) -> tuple[Test, ...]:
    if spec.get("selector") is None:
        return (_never,)
    selector = _object(spec, "selector", "spec", errors)
    found: list[Test] = []
    for field, part in (("matchLabels", "labels"), ("matchAnnotations", "annotations")):
        wanted = _object(selector, field, "spec.selector", errors)
        if wanted:
            found.append(_has(part, {key: str(value) for key, value in wanted.items()}))
    expressions = _list(selector, "matchExpressions", "spec.selector", errors)
    if len(expressions) > TESTS_MAX:
        errors.append(too_many("spec.selector.matchExpressions", len(expressions), TESTS_MAX))
    for index, one in enumerate(expressions[:TESTS_MAX]):
        found.append(read_test(one, f"spec.selector.matchExpressions[{index}]", errors))
    return tuple(found)


def _never(o: Object) -> bool:
    """As in KWOK, a stage without a selector is for nobody."""
    return False


def _has(part: str, wanted: Mapping[str, str]) -> Test:
    return lambda o: (meta.metadata(o).get(part) or {}).items() >= wanted.items()


# --- steps ----------------------------------------------------------------------------------------


def _next(given: Mapping[str, Any], kind: str, errors: Errors) -> list[Step]:
    """The older form, of which the parts have an order of their own."""
    at = "spec.next"
    _as_somebody(given, "statusPatchAs", at, errors)
    found = _common(given, kind, at, errors)
    text = given.get("statusTemplate")
    if text:
        template = _template(text, f"{at}.statusTemplate", errors)
        if template is not None:
            found.append(Patch(template, "status", "status", "strategic"))
    for index, one in enumerate(_list(given, "patches", at, errors)):
        found += _patch(one, kind, f"{at}.patches[{index}]", errors)
    return found


def _steps(spec: Mapping[str, Any], kind: str, errors: Errors) -> list[Step]:
    found: list[Step] = []
    for index, one in enumerate(_list(spec, "steps", "spec", errors)):
        at = f"spec.steps[{index}]"
        found += _common(one, kind, at, errors)
        if one.get("patch"):
            found += _patch(_object(one, "patch", at, errors), kind, f"{at}.patch", errors)
        if one.get("apply"):
            found += _apply(_object(one, "apply", at, errors), kind, f"{at}.apply", errors)
    return found


def _common(given: Mapping[str, Any], kind: str, at: str, errors: Errors) -> list[Step]:
    found: list[Step] = []
    event = _object(given, "event", at, errors)
    if event:
        told = event.get("type") or "Normal"
        if told not in ("Normal", "Warning"):
            errors.append(not_supported(f"{at}.event.type", told, ["Normal", "Warning"]))
        found.append(Tell(told, str(event.get("reason") or "Stage"), str(event.get("message") or "")))
    finalizers = _object(given, "finalizers", at, errors)
    if finalizers:
        if kind == NODE:
            errors.append(forbidden(f"{at}.finalizers", "of a node only the status changes"))
        add, remove = (_values(finalizers, part, f"{at}.finalizers", errors) for part in ("add", "remove"))
        found.append(Finalizers(add, remove, bool(finalizers.get("empty"))))
    if given.get("delete"):
        if kind == NODE:
            errors.append(forbidden(f"{at}.delete", "of a node only the status changes"))
        found.append(Delete())
    return found


def _values(given: Mapping[str, Any], field: str, at: str, errors: Errors) -> tuple[str, ...]:
    return tuple(str(one.get("value") or "") for one in _list(given, field, at, errors))


def _patch(given: Mapping[str, Any], kind: str, at: str, errors: Errors) -> list[Step]:
    _as_somebody(given, "impersonation", at, errors)
    type_: Any = given.get("type") or "strategic"
    subresource, root = given.get("subresource") or "", given.get("root") or ""
    if type_ not in _PATCHES:
        errors.append(not_supported(f"{at}.type", type_, _PATCHES))
    if subresource not in ("", "status"):
        errors.append(not_supported(f"{at}.subresource", subresource, ["status"]))
    if kind == NODE and subresource != "status":
        errors.append(forbidden(at, "of a node only the status changes: set `subresource: status`"))
    template = _template(given.get("template") or "", f"{at}.template", errors)
    return [] if template is None else [Patch(template, str(root), str(subresource), type_)]


def _apply(given: Mapping[str, Any], kind: str, at: str, errors: Errors) -> list[Step]:
    _as_somebody(given, "impersonation", at, errors)
    type_: Any = given.get("type") or "apply"
    if type_ not in _APPLIES:
        errors.append(not_supported(f"{at}.type", type_, _APPLIES))
    if kind == NODE:
        errors.append(forbidden(at, "a node has no service account in whose name objects could be made"))
    template = _template(given.get("template") or "", f"{at}.template", errors)
    return [] if template is None else [Apply(template, str(given.get("subresource") or ""), type_)]


def _as_somebody(given: Mapping[str, Any], field: str, at: str, errors: Errors) -> None:
    if given.get(field):
        errors.append(forbidden(f"{at}.{field}", "a stage acts in the name of its pod's service account"))


def _template(text: Any, at: str, errors: Errors) -> Template | None:
    if not text:
        errors.append(required(at))
        return None
    try:
        return Template(str(text))
    except Unreadable as e:
        errors.append(invalid_without_value(at, str(e)))
        return None


# --- fields ---------------------------------------------------------------------------------------


def _object(given: Mapping[str, Any], field: str, at: str, errors: Errors) -> Mapping[str, Any]:
    value = given.get(field)
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    errors.append(_wrong(field, at, value, "an object"))
    return {}


def _list(given: Mapping[str, Any], field: str, at: str, errors: Errors) -> list[Any]:
    value = given.get(field)
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return value
    if value is not None:
        errors.append(_wrong(field, at, value, "a list of objects"))
    return []


def _number(given: Mapping[str, Any], field: str, at: str, most: int, errors: Errors) -> int | None:
    value = given.get(field)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
        return value
    errors.append(_wrong(field, at, value, f"a number from 0 to {most}"))
    return None


def _source(given: Mapping[str, Any], field: str, at: str, errors: Errors) -> Source | None:
    value = _object(given, field, at, errors)
    return read_source(value, f"{at}.{field}", errors) if value else None


def _wrong(field: str, at: str, value: Any, wanted: str) -> FieldError:
    return invalid(f"{at}.{field}".lstrip("."), value, f"must be {wanted}")
