"""Rules of custom resources in CEL (`x-kubernetes-validations`): compiled with their definition, evaluated on writes.

A rule costs no more than PER_RULE, all rules of one object no more than PER_OBJECT; a definition whose rules could cost
more than ESTIMATED by what its schema says of sizes is refused. Pure.
Source: apiextensions-apiserver `pkg/apiserver/schema/cel`, Kubernetes reference "Validation rules".
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rayplane.control_plane.api.errors import FieldError, forbidden, invalid, not_supported, required
from rayplane.control_plane.apiserver.apiextensions.defaulting import default
from rayplane.control_plane.apiserver.apiextensions.structural import (
    EMBEDDED,
    LIST_KEYS,
    LIST_TYPE,
    MAP_TYPE,
    PathError,
    schema_at,
)
from rayplane.control_plane.cel import (
    BOOL,
    NONE,
    STRING,
    BudgetExceeded,
    CompileError,
    Declarations,
    OptionalValue,
    Outcome,
    Program,
    Type,
    compile,
    evaluate,
    optional_of,
    type_of_schema,
    value_of,
)
from rayplane.control_plane.cel.schemas import REQUEST_BYTES_MAX

Schema = Mapping[str, Any]
PER_RULE: Final = 1_000_000
PER_OBJECT: Final = 10_000_000
ESTIMATED: Final = 10_000_000
ESTIMATED_OF_ALL: Final = 100_000_000
RULES: Final = "x-kubernetes-validations"
_REASONS: Final = ("FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired")
_MESSAGE_BYTES_MAX: Final = 5 * 1024
_UNBOUNDED: Final = (1 << 64) - 1
_OUT_OF_BUDGET: Final = "validation failed due to running out of cost budget, no further validation rules will be run"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, compiled."""

    text: str
    program: Program
    message: str = ""
    message_program: Program | None = None
    reason: str = ""
    field_path: str = ""
    optional_old: bool = False

    @property
    def uses_old(self) -> bool:
        return "oldSelf" in self.program.names

    @property
    def shown(self) -> str:
        """How errors call it."""
        return self.message.strip() or self.text.strip()


@dataclass(frozen=True, slots=True)
class Node:
    """The rules of a schema and of those inside it."""

    schema: Schema
    type: Type | None
    rules: tuple[Rule, ...] = ()
    properties: Mapping[str, Node] = field(default_factory=dict)
    items: Node | None = None
    others: Node | None = None


# --- compiling --------------------------------------------------------------------------------------


def compiled(schema: Schema, *, root: bool = True) -> Node | None:
    """The rules of a schema that was found right; None where there are none. Rules that do not compile are left out."""
    own = type_of_schema(schema, root=root) if schema.get(RULES) else None
    rules = []
    for one in schema.get(RULES) or ():
        try:
            if own is not None:
                rules.append(_compiled(one, own))
        except CompileError:
            continue  # written around validation
    properties = {}
    for name, sub in (schema.get("properties") or {}).items():
        if (node := compiled(sub, root=bool(sub.get(EMBEDDED)))) is not None:
            properties[name] = node
    inside = [schema.get("items"), schema.get("additionalProperties")]
    items, others = (compiled(s, root=bool(s.get(EMBEDDED))) if isinstance(s, Mapping) else None for s in inside)
    if not (rules or properties or items or others):
        return None
    return Node(schema, own, tuple(rules), properties, items, others)


def _declarations(own: Type, rule: Mapping[str, Any]) -> Declarations:
    old = optional_of(own) if rule.get("optionalOldSelf") else own
    return Declarations({"self": own, "oldSelf": old})


def _compiled(rule: Mapping[str, Any], own: Type) -> Rule:
    """Raises CompileError."""
    declarations = _declarations(own, rule)
    text = rule.get("messageExpression") or ""
    message = compile(text, declarations, results=(STRING,)) if text.strip() else None
    return Rule(
        text=rule.get("rule") or "",
        program=compile(rule.get("rule") or "", declarations, results=(BOOL,)),
        message=rule.get("message") or "",
        message_program=message,
        reason=rule.get("reason") or "",
        field_path=rule.get("fieldPath") or "",
        optional_old=bool(rule.get("optionalOldSelf")),
    )


# --- definitions ------------------------------------------------------------------------------------


def rule_errors(schema: Schema, path: str) -> list[FieldError]:
    """What is wrong with the rules of a definition's schema, whose structure is right."""
    judge = _Judge()
    found = list(judge.visit(schema, _Scope(path, root=True)))
    if judge.total > ESTIMATED_OF_ALL:
        text = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
        dearest = sorted(judge.dear, key=lambda one: -one[1])[:4]
        found += [forbidden(where, text) for where, _ in dearest]
        name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema"
        found.append(forbidden(path, _too_dear(name, judge.total, ESTIMATED_OF_ALL)))
    return found


def _too_dear(name: str, cost: int, limit: int) -> str:
    factor = cost / limit
    shown = "more than 100x" if factor > 100 else f"{factor:f}x" if factor < 1.5 else f"{factor:.1f}x"
    advice = "adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared"
    return f"{name} exceeds budget by factor of {shown} (try simplifying the rule, or {advice})"


@dataclass(frozen=True, slots=True)
class _Scope:
    """The place of a schema: how often it can be there, and from where on old values have no new ones."""

    path: str
    root: bool = False
    times: int | None = 1
    uncorrelated: str = ""

    def inside(self, schema: Schema, where: str, sub: Schema) -> _Scope:
        most: int | None = 1
        if schema.get("type") == "array":
            most = schema.get("maxItems")
        elif schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), Mapping):
            most = schema.get("maxProperties")
        times = None if most is None or self.times is None else self.times * max(0, most)
        loses = schema.get(LIST_TYPE) != "map" if where == "items" else schema.get(MAP_TYPE) == "atomic"
        lost = self.uncorrelated or (self.path if loses else "")
        return _Scope(f"{self.path}.{where}", bool(sub.get(EMBEDDED)), times, lost)


class _Judge:
    """One look at all rules of a schema, which adds up what they could cost."""

    def __init__(self) -> None:
        self.total = 0
        self.dear: list[tuple[str, int]] = []

    def visit(self, schema: Schema, scope: _Scope) -> Iterator[FieldError]:
        for name, sub in (schema.get("properties") or {}).items():
            yield from self.visit(sub, scope.inside(schema, f"properties[{name}]", sub))
        for word in ("items", "additionalProperties"):
            if isinstance(schema.get(word), Mapping):
                yield from self.visit(schema[word], scope.inside(schema, word, schema[word]))
        for index, rule in enumerate(schema.get(RULES) or ()):
            at = f"{scope.path}.{RULES}[{index}]"
            written = list(_words(rule, schema, at))
            yield from written
            if not written:
                yield from self._rule(rule, schema, scope, at)

    def _rule(self, rule: Mapping[str, Any], schema: Schema, scope: _Scope, at: str) -> Iterator[FieldError]:
        own = type_of_schema(schema, root=scope.root)
        if own is None:
            kind, keeps = schema.get("type") or "", bool(schema.get("x-kubernetes-preserve-unknown-fields"))
            text = f"rule declared on schema that does not support validation rules type: '{kind}'"
            yield invalid(f"{at}.rule", rule, f"{text} x-kubernetes-preserve-unknown-fields: '{str(keeps).lower()}'")
            return
        declarations = _declarations(own, rule)
        try:
            program = compile(rule["rule"], declarations)
        except CompileError as error:
            yield invalid(f"{at}.rule", rule, f"compilation failed: {error}")
            return
        if program.type.kind not in ("bool", "dyn"):
            yield invalid(f"{at}.rule", rule, "cel expression must evaluate to a bool")
        times = scope.times if scope.times is not None else REQUEST_BYTES_MAX // (own.size_min_json + 1)
        yield from self._cost(program.cost.high * times, f"{at}.rule", "estimated rule cost")
        if "oldSelf" in program.names:
            if scope.uncorrelated:
                text = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {scope.uncorrelated}"
                yield invalid(f"{at}.rule", rule["rule"], text)
        elif rule.get("optionalOldSelf") is not None:
            text = "may not be set if oldSelf is not used in rule"
            yield invalid(f"{at}.optionalOldSelf", rule["optionalOldSelf"], text)
        yield from self._message(rule, declarations, f"{at}.messageExpression")

    def _message(self, rule: Mapping[str, Any], declarations: Declarations, at: str) -> Iterator[FieldError]:
        text = rule.get("messageExpression") or ""
        if not text:
            return
        try:
            program = compile(text, declarations)
        except CompileError as error:
            yield invalid(at, rule, f"messageExpression compilation failed: {error}")
            return
        if program.type.kind not in ("string", "dyn"):
            yield invalid(at, rule, "messageExpression must evaluate to a string")
            return
        yield from self._cost(program.cost.high, at, "estimated messageExpression cost")

    def _cost(self, cost: int, at: str, name: str) -> Iterator[FieldError]:
        cost = min(cost, _UNBOUNDED)
        self.total = min(self.total + cost, _UNBOUNDED)
        if cost >= ESTIMATED_OF_ALL // 100:
            self.dear.append((at, cost))
        if cost > ESTIMATED:
            yield forbidden(at, _too_dear(name, cost, ESTIMATED))


def _words(rule: Mapping[str, Any], schema: Schema, at: str) -> Iterator[FieldError]:
    """What is wrong with a rule besides its expressions."""
    text, message = (rule.get("rule") or "").strip(), rule.get("message") or ""
    if not text:
        yield required(f"{at}.rule", "rule is not specified")
    elif message and not message.strip():
        yield invalid(f"{at}.message", message, "must be non-empty if specified")
    elif re.search(r"[\n\r]", message.strip()):
        yield invalid(f"{at}.message", message, "must not contain line breaks")
    elif re.search(r"[\n\r]", text) and not message.strip():
        yield required(f"{at}.message", "message must be specified if rule contains line breaks")
    expression = rule.get("messageExpression") or ""
    if expression and not expression.strip():
        yield required(f"{at}.messageExpression", "messageExpression must be non-empty if specified")
    if rule.get("reason") is not None and rule["reason"] not in _REASONS:
        yield not_supported(f"{at}.reason", rule["reason"], _REASONS)
    path = rule.get("fieldPath") or ""
    if path and not path.strip():
        yield invalid(f"{at}.fieldPath", path, "must be non-empty if specified")
    if re.search(r"[\n\r]", path):
        yield invalid(f"{at}.fieldPath", path, "must not contain line breaks")
    if path:
        try:
            schema_at(path, schema)
        except PathError:
            yield invalid(f"{at}.fieldPath", path, "must be a valid path")


# --- objects ----------------------------------------------------------------------------------------


def broken_rules(node: Node | None, value: Any, old: Any = None, *, budget: int = PER_OBJECT) -> list[FieldError]:
    """The rules that an object breaks; `old` is what it was before, None if it is new."""
    if node is None:
        return []
    run = _Run(budget)
    run.visit(node, value, old, "")
    return run.errors


def default_errors(schema: Schema, path: str) -> list[FieldError]:
    """The rules that a schema's own defaults break; all of them cost no more than one object may."""
    run = _Run(PER_OBJECT)
    top = compiled(schema)
    pending = [(path, top)] if top is not None else []
    while pending:
        at, node = pending.pop()
        given = node.schema.get("default")
        if given is not None:
            filled = copy.deepcopy(given)
            default(filled, node.schema)
            if not run.visit(node, filled, None, f"{at}.default"):
                break
        named = {f"properties[{name}]": sub for name, sub in node.properties.items()}
        inside = {**named, "items": node.items, "additionalProperties": node.others}
        pending += [(f"{at}.{where}", sub) for where, sub in reversed(inside.items()) if sub is not None]
    return run.errors


class _Run:
    """One evaluation of all rules of an object, within one budget."""

    def __init__(self, budget: int) -> None:
        self.errors: list[FieldError] = []
        self._left = budget

    def visit(self, node: Node, value: Any, old: Any, path: str, *, same: bool = False) -> bool:
        """False when the budget is spent. `same`: the value is as before, so what it breaks it has broken before."""
        if value is None:
            return True
        same = same or (old is not None and value == old)
        if node.rules and not self._rules(node, value, old, path, same):
            return False
        if isinstance(value, dict):
            return self._members(node, value, old if isinstance(old, dict) else {}, path, same)
        if isinstance(value, list) and node.items is not None:
            before = _by_key(node.schema, old)
            for index, item in enumerate(value):
                earlier = before.get(_key(node.schema, item)) if before else None
                if not self.visit(node.items, item, earlier, f"{path}[{index}]", same=same):
                    return False
        return True

    def _members(self, node: Node, value: dict[str, Any], old: dict[str, Any], path: str, same: bool) -> bool:
        if node.schema.get(MAP_TYPE) == "atomic":
            old = {}
        for name, item in value.items():
            sub, where = node.properties.get(name), f"{path}.{name}" if path else name
            if sub is None and node.others is not None and name not in (node.schema.get("properties") or ()):
                sub, where = node.others, f"{path}[{name}]"
            if sub is not None and not self.visit(sub, item, old.get(name), where, same=same):
                return False
        return True

    def _rules(self, node: Node, value: Any, old: Any, path: str, same: bool) -> bool:
        assert node.type is not None
        shown = node.schema.get("type") or ""
        current = value_of(value, node.type)
        before = value_of(old, node.type) if old is not None else None
        for rule in node.rules:
            if rule.uses_old and old is None and not rule.optional_old:
                continue  # a transition needs something to come from
            bindings = {"self": current, "oldSelf": before}
            if rule.optional_old:
                bindings["oldSelf"] = OptionalValue((before,)) if old is not None else NONE
            if self._left <= 0:
                self.errors.append(invalid(path, shown, _OUT_OF_BUDGET))
                return False
            outcome = evaluate(rule.program, bindings, min(PER_RULE, self._left))
            self._left -= outcome.cost
            if outcome.value is True:
                continue
            if outcome.error is not None:
                if not self._failed(rule, outcome, path, shown):
                    return False
            elif rule.uses_old or not same:
                self.errors.append(self._broken(rule, bindings, path, shown))
        return True

    def _failed(self, rule: Rule, outcome: Outcome, path: str, shown: str) -> bool:
        error, text = outcome.error, str(outcome.error)
        if isinstance(error, BudgetExceeded):
            why = "no further validation rules will be run due to call cost exceeds limit for rule"
            said = _OUT_OF_BUDGET if self._left < 0 else f"'{text}': {why}: {rule.shown}"
            self.errors.append(invalid(path, shown, said))
            return False
        if text.startswith("no such overload"):
            why = "call arguments did not match a supported operator, function or macro signature for rule"
            self.errors.append(invalid(path, shown, f"'{text}': {why}: {rule.shown}"))
        else:
            self.errors.append(invalid(path, shown, f"{text} evaluating rule: {rule.shown}"))
        return True

    def _broken(self, rule: Rule, bindings: Mapping[str, Any], path: str, shown: str) -> FieldError:
        detail = self._message(rule, bindings) or rule.message.strip() or f"failed rule: {rule.shown}"
        at = (f"{path}{rule.field_path}" if path else rule.field_path.removeprefix(".")) if rule.field_path else path
        match rule.reason:
            case "FieldValueForbidden":
                return forbidden(at, detail)
            case "FieldValueRequired":
                return required(at, detail)
            case "FieldValueDuplicate":
                return FieldError("FieldValueDuplicate", at, shown)
        return invalid(at, shown, detail)

    def _message(self, rule: Rule, bindings: Mapping[str, Any]) -> str:
        if rule.message_program is None:
            return ""
        outcome = evaluate(rule.message_program, bindings, max(0, min(PER_RULE, self._left)))
        self._left -= outcome.cost
        text = outcome.value.strip() if isinstance(outcome.value, str) else ""
        return text if len(text.encode()) <= _MESSAGE_BYTES_MAX and "\n" not in text else ""


def _key(schema: Schema, item: Any) -> tuple[str, ...]:
    return tuple(repr(item.get(key)) for key in schema.get(LIST_KEYS) or ()) if isinstance(item, dict) else ()


def _by_key(schema: Schema, old: Any) -> dict[tuple[str, ...], Any]:
    """The items of a keyed list as it was; only those are known again."""
    if schema.get(LIST_TYPE) != "map" or not isinstance(old, list):
        return {}
    return {_key(schema, item): item for item in old}
