"""Expressions of webhooks and policies: what they may name, and what they may cost. Pure.

Source: apiserver's plugin/cel (`compile.go`, `condition.go`, `composition.go`) and `apis/cel/config.go`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rayplane.control_plane.api.admission.reviews import Question
from rayplane.control_plane.cel import (
    AUTHORIZER,
    BOOL,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    Authorizer,
    BudgetExceeded,
    Check,
    CompileError,
    Declarations,
    EvaluationError,
    Frame,
    Program,
    Type,
    compile,
    evaluate,
    list_of,
    loose_object,
    map_of,
    value_of,
)

_VARIABLES: Final = "variables"


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that expressions may cost, for one request."""

    call: int = 1_000_000
    """One expression, or one variable."""
    policy: int = 10_000_000
    """All validations of a policy, and once more all its annotations."""
    conditions: int = 2_500_000
    """All match conditions of a webhook or a policy."""
    inline: int | None = None
    """What may be spent where everybody waits: with more of it, TooDear is raised."""


KUBERNETES: Final = Limits()
INLINE: Final = Limits(inline=10_000)


def _object(kind: str, /, **fields: Type) -> Type:
    return Type("object", (), f"kubernetes.{kind}", fields=fields)


_TEXTS: Final = list_of(STRING)
_KIND: Final = _object("GroupVersionKind", group=STRING, version=STRING, kind=STRING)
_RESOURCE: Final = _object("GroupVersionResource", group=STRING, version=STRING, resource=STRING)
_REQUEST: Final = _object(
    "AdmissionRequest",
    kind=_KIND,
    resource=_RESOURCE,
    subResource=STRING,
    requestKind=_KIND,
    requestResource=_RESOURCE,
    requestSubResource=STRING,
    name=STRING,
    namespace=STRING,
    operation=STRING,
    userInfo=_object("UserInfo", username=STRING, uid=STRING, groups=_TEXTS, extra=map_of(STRING, _TEXTS)),
    dryRun=BOOL,
    options=DYN,
)
_CONDITION: Final = _object(
    "NamespaceCondition", status=STRING, type=STRING, lastTransitionTime=TIMESTAMP, message=STRING, reason=STRING
)
_METADATA: Final = _object(
    "NamespaceMetadata",
    name=STRING,
    generateName=STRING,
    namespace=STRING,
    labels=map_of(STRING, STRING),
    annotations=map_of(STRING, STRING),
    UID=STRING,
    creationTimestamp=TIMESTAMP,
    deletionGracePeriodSeconds=INT,
    deletionTimestamp=TIMESTAMP,
    generation=INT,
    resourceVersion=STRING,
    finalizers=_TEXTS,
)
_NAMESPACE: Final = _object(
    "Namespace",
    metadata=_METADATA,
    spec=_object("NamespaceSpec", finalizers=_TEXTS),
    status=_object("NamespaceStatus", conditions=list_of(_CONDITION), phase=STRING),
)
_ALWAYS: Final = {"object": DYN, "oldObject": DYN, "request": _REQUEST, "namespaceObject": _NAMESPACE}
OBJECT: Final = loose_object("Object")
JSON_PATCH: Final = Type("object", (), "JSONPatch", fields=dict(op=STRING, path=STRING, value=DYN) | {"from": STRING})


class _Patches(dict[str, Type]):
    """The objects that make patches: `JSONPatch{}`, and `Object.spec.template{}` for the field of that path."""

    def get(self, name: object, default: Any = None) -> Any:
        if name == JSON_PATCH.name:
            return JSON_PATCH
        own = str(name)
        return loose_object(own) if own == OBJECT.name or own.startswith(f"{OBJECT.name}.") else default


def declarations(
    *,
    params: bool = False,
    variables: Mapping[str, Type] | None = None,
    authorizer: bool = True,
    patches: bool = False,
    own: Type = DYN,
    param: Type | None = None,
) -> Declarations:
    """The names that an expression may use.

    `variables`: those of a policy that it may look at; `own`, `param`: the types of objects and of parameters, where
    these are known.
    """
    names = {**_ALWAYS, "object": own, "oldObject": own}
    if params or param is not None:
        names["params"] = param or DYN
    if variables is not None:
        names[_VARIABLES] = _object("variables", **variables)
    if authorizer:
        names["authorizer"] = AUTHORIZER
    return Declarations(names, _Patches() if patches else {})


def variables_of(spec: Mapping[str, Any], *, params: bool) -> tuple[dict[str, Expression], dict[str, Type]]:
    """The variables of a policy, compiled, and the types of those that could be."""
    found: dict[str, Expression] = {}
    types: dict[str, Type] = {}
    for variable in spec.get("variables") or ():
        # Each may look at those before it.
        made = Expression.of(variable.get("expression") or "", declarations(params=params, variables=types))
        name = variable.get("name") or ""  # validation refuses it without one, and asks here first
        found[name] = made
        if made.program is not None:
            types[name] = made.program.type
    return found, types


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression, compiled; without a program `problem` says, in Kubernetes' words, why there is none."""

    text: str
    program: Program | None = field(default=None, repr=False)
    problem: str = ""

    @staticmethod
    def of(text: str, names: Declarations, *results: Type) -> Expression:
        """`results`: the types of which it must give exactly one; none: any."""
        try:
            program = compile(text, names)
        except CompileError as e:
            return Expression(text, problem=f"compilation failed: {e}")
        if results and program.type not in results:
            shown = [_type_name(one) for one in results]
            wanted = shown[0] if len(shown) == 1 else f"one of [{' '.join(shown)}]"
            return Expression(text, problem=f"must evaluate to {wanted} but got {_type_name(program.type)}")
        return Expression(text, program)

    def uses(self, name: str) -> bool:
        return self.program is not None and name in self.program.names


def _type_name(t: Type) -> str:
    return "null_type" if t.kind == "null" else str(t)


class Failed(ValueError):
    """An expression without a value; it says why."""


class TooDear(Exception):
    """The end of an evaluation where everybody waits: it is to be done again beside the loop."""


class OutOfBudget(ValueError):
    """The end of all expressions of a policy, which have cost what they may."""

    def __init__(self) -> None:
        super().__init__("validation failed due to running out of cost budget, no further validation rules will be run")


def bindings(question: Question, params: Any = None, namespace: Any = None) -> dict[str, Any]:
    """What the names mean for one request."""
    request = question.review("v1")["request"]
    return {
        "object": request.pop("object"),
        "oldObject": request.pop("oldObject"),
        "request": request,
        "params": params,
        "namespaceObject": value_of(namespace, _NAMESPACE),
        "authorizer": Authorizer(_check_of(question), {}),
    }


def _check_of(question: Question) -> Check:
    """The resource of a request, as the authorizer is asked about it."""
    return Check(
        group=question.asked.group,
        resource=question.asked.plural,
        subresource=question.subresource,
        namespace=question.namespace,
        name=question.name,
    )


class Run:
    """One run of some expressions for one request: what they share of variables, and what is left for them to cost."""

    def __init__(
        self,
        names: Mapping[str, Any],
        limits: Limits,
        budget: int,
        variables: Mapping[str, Expression] | None = None,
    ) -> None:
        self.left = budget
        self._limits = limits
        self._inline = limits.inline
        self._names = dict(names)
        self._running: list[Frame] = []
        if variables is not None:
            self._names[_VARIABLES] = _Variables(variables, self._variable)

    def value(self, expression: Expression) -> Any:
        """Raises Failed, or OutOfBudget."""
        if expression.program is None:
            raise Failed(f"compilation error: {expression.problem}")
        value, error = self._evaluate(expression.program)
        if self.left < 0:
            raise OutOfBudget
        if error is not None:
            raise Failed(f"expression '{expression.text}' resulted in error: {error}")
        return value

    def _evaluate(self, program: Program) -> tuple[Any, Exception | None]:
        """The value or why there is none; nothing is left when the budget ended it. Raises TooDear."""
        under_way = sum(frame.cost for frame in self._running)
        left = max(0, min(self._limits.call, self.left - under_way))
        limit = left if self._inline is None else max(0, min(left, self._inline - under_way))
        outcome = evaluate(program, self._names, limit, running=self._running)
        self.left -= outcome.cost
        if self._inline is not None:
            self._inline -= outcome.cost
        if isinstance(outcome.error, BudgetExceeded):
            if limit < left:
                raise TooDear
            if left < self._limits.call:
                self.left = -1
        return outcome.value, outcome.error

    def _variable(self, name: str, expression: Expression) -> Any:
        if expression.program is None:
            raise EvaluationError(f'composited variable "{name}" fails to compile: {expression.problem}')
        value, error = self._evaluate(expression.program)
        if self.left < 0:
            raise BudgetExceeded
        if error is not None:
            raise EvaluationError(f'composited variable "{name}" fails to evaluate: {error}')
        return value


class _Variables(dict[str, Any]):
    """The variables of a policy, each evaluated when it is first looked at: what nobody looks at cannot fail."""

    def __init__(self, expressions: Mapping[str, Expression], evaluated: Callable[[str, Expression], Any]) -> None:
        super().__init__()
        self._expressions = expressions
        self._evaluated = evaluated
        self._errors: dict[str, EvaluationError] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._expressions

    def __missing__(self, key: str) -> Any:
        if key in self._errors:
            raise self._errors[key]
        try:
            value = self[key] = self._evaluated(key, self._expressions[key])
        except EvaluationError as e:
            self._errors[key] = e
            raise
        return value
