"""Users made of a token's claims: by the names of claims, or by expressions over all of them. Pure.

Source: apiserver.config.k8s.io JWTAuthenticator, apiserver's plugin/pkg/authenticator/token/oidc.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rayplane.control_plane.apiserver.requests import AUTHENTICATED, User
from rayplane.control_plane.cel import (
    BOOL,
    DYN,
    STRING,
    BudgetExceeded,
    CompileError,
    Declarations,
    Program,
    Type,
    compile,
    evaluate,
    list_of,
    map_of,
)
from rayplane.control_plane.cel.syntax import Call, Ident, Literal, Node, Select, walk

CALL_COST_MAX: Final = 1_000_000
"""The most that one expression may cost."""
INLINE_COST_MAX: Final = 10_000
"""As much may be spent where everybody waits."""

_CLAIMS: Final = Declarations({"claims": map_of(STRING, DYN)})
_TEXTS: Final = list_of(STRING)
_USER_FIELDS: Final = {"username": STRING, "uid": STRING, "groups": _TEXTS, "extra": map_of(STRING, _TEXTS)}
_USER: Final = Declarations({"user": Type("object", (), "kubernetes.UserInfo", fields=_USER_FIELDS)})


class Refused(ValueError):
    """Claims that make nobody of their owner; it says why."""


class TooDear(Exception):
    """The end of an evaluation where everybody waits: it is to be done again beside the loop."""


def compile_mapping(text: str) -> Program:
    """An expression over `claims`. Raises ValueError in Kubernetes' words."""
    return _compiled(text, _CLAIMS)


def compile_rule(text: str, *, of_user: bool = False) -> Program:
    """A condition on `claims`, or on `user`. Raises ValueError."""
    program = _compiled(text, _USER if of_user else _CLAIMS)
    if program.type != BOOL:
        raise ValueError("must evaluate to bool")
    return program


def _compiled(text: str, names: Declarations) -> Program:
    try:
        return compile(text, names)
    except CompileError as e:
        raise ValueError(f"compilation failed: {e}") from e


def looks_at(program: Program, claim: str) -> bool:
    """Whether an expression selects a claim by its name."""
    return any(_selects(node, claim) for node in walk(program.tree))


def _selects(node: Node, claim: str) -> bool:
    match node:
        case Select(operand=Ident(name="claims"), name=name):
            return name == claim
        case Call(args=[Ident(name="claims"), Literal(value=value), *_]):
            return bool(value == claim)
    return False


@dataclass(frozen=True, slots=True)
class Source:
    """A part of a user: a claim, with something put before it, or the value of an expression."""

    claim: str = ""
    prefix: str = ""
    program: Program | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition that must hold."""

    program: Program
    message: str = ""


@dataclass(frozen=True, slots=True)
class UserMapping:
    """A mapping of claims to a user."""

    username: Source
    groups: Source = Source()
    uid: Source = Source()
    extra: tuple[tuple[str, Program], ...] = ()
    required: Mapping[str, str] = field(default_factory=dict)
    claim_rules: tuple[Rule, ...] = ()
    user_rules: tuple[Rule, ...] = ()

    def user(self, claims: Mapping[str, Any], cost_max: int = CALL_COST_MAX) -> User:
        """The owner of a token with these claims. Raises Refused, or TooDear with less than CALL_COST_MAX."""
        run = _Run({"claims": claims}, cost_max)
        name = self._name(claims, run)
        groups = tuple(self._groups(claims, run))
        uid = self._uid(claims, run)
        extra = {key: values for key, program in self.extra if (values := tuple(_texts(run.value(program), key)))}
        for claim, value in self.required.items():
            if claims.get(claim) != value:
                raise Refused(f"required claim {claim} is missing or has another value")
        run.check(self.claim_rules)
        user = User(name, groups, uid=uid, extra=extra)
        of_user = {"username": name, "uid": uid, "groups": [*groups], "extra": {k: [*v] for k, v in extra.items()}}
        _Run({"user": of_user}, cost_max).check(self.user_rules)
        if AUTHENTICATED in groups:
            return user
        return User(name, (*groups, AUTHENTICATED), uid=uid, extra=extra)

    def _name(self, claims: Mapping[str, Any], run: _Run) -> str:
        source = self.username
        if source.program is not None:
            name = run.value(source.program)
        else:
            name = claims.get(source.claim)
            if source.claim == "email" and claims.get("email_verified", True) is not True:
                raise Refused("email not verified")
        if not isinstance(name, str) or not name:
            raise Refused("there is no user name")
        return source.prefix + name

    def _groups(self, claims: Mapping[str, Any], run: _Run) -> Iterator[str]:
        source = self.groups
        found = run.value(source.program) if source.program is not None else claims.get(source.claim)
        for group in _texts(found, "groups"):
            yield source.prefix + group

    def _uid(self, claims: Mapping[str, Any], run: _Run) -> str:
        source = self.uid
        if source.program is None and not source.claim:
            return ""
        found = run.value(source.program) if source.program is not None else claims.get(source.claim)
        if not isinstance(found, str):
            raise Refused("the uid is no string")
        return found


class _Run:
    """The evaluation of some expressions over the same values."""

    def __init__(self, names: Mapping[str, Any], cost_max: int) -> None:
        self._names = names
        self._cost_max = cost_max

    def value(self, program: Program) -> Any:
        outcome = evaluate(program, self._names, self._cost_max)
        if isinstance(outcome.error, BudgetExceeded) and self._cost_max < CALL_COST_MAX:
            raise TooDear
        if outcome.error is not None:
            raise Refused(f"expression '{program.expression}' resulted in error: {outcome.error}")
        return outcome.value

    def check(self, rules: tuple[Rule, ...]) -> None:
        for rule in rules:
            if self.value(rule.program) is not True:
                raise Refused(rule.message or f"validation expression '{rule.program.expression}' failed")


def _texts(found: Any, what: str) -> Iterator[str]:
    """The strings of a string, a list of them, or null."""
    for one in (
        () if found is None else [found] if isinstance(found, str) else found if isinstance(found, list) else [found]
    ):
        if not isinstance(one, str):
            raise Refused(f"{what} must be a string or a list of strings")
        if one:
            yield one
