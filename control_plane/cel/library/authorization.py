"""Questions to the authorizer: `authorizer.group("").resource("pods").namespace("a").check("create").allowed()`.

Evaluation asks nobody: it looks into the answers that came with the authorizer, and ends with the question that is not
among them (`Unanswered`). Who evaluates finds the answer and evaluates again.

Source: Kubernetes' `library/authz.go`, `library/cost.go`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from rayplane.control_plane.api.machinery.names import label_errors, subdomain_errors
from rayplane.control_plane.cel.errors import EvaluationError
from rayplane.control_plane.cel.functions import Fixed, Overload
from rayplane.control_plane.cel.types import BOOL, STRING, Type, opaque
from rayplane.control_plane.cel.values import Opaque

_PACKAGE: Final = "kubernetes.authorization"
PATH_CHECK: Final = opaque(f"{_PACKAGE}.PathCheck")
GROUP_CHECK: Final = opaque(f"{_PACKAGE}.GroupCheck")
RESOURCE_CHECK: Final = opaque(f"{_PACKAGE}.ResourceCheck")
DECISION: Final = opaque(f"{_PACKAGE}.Decision")
AUTHORIZER: Final = Type("object", (), f"{_PACKAGE}.Authorizer", fields={"requestResource": RESOURCE_CHECK})
#: What one question costs: two of them are all that an expression may ask.
_CHECK: Final = Fixed(350_000)


@dataclass(frozen=True, slots=True)
class Check:
    """A question: whether somebody may. `path` is set, and the rest empty, for what is no resource."""

    verb: str = ""
    path: str = ""
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    fields: str = ""
    """A field selector, as it was written."""
    labels: str = ""
    account: tuple[str, str] | None = None
    """Namespace and name of a service account; None is who sent the request."""


@dataclass(frozen=True, slots=True)
class Decision(Opaque):
    """An answer; with an `error` nobody could decide."""

    allowed: bool
    reason: str = ""
    error: str = ""
    TYPE = DECISION


class Unanswered(Exception):
    """The end of an evaluation that needs an answer."""

    def __init__(self, check: Check) -> None:
        super().__init__(str(check))
        self.check = check


class Authorizer(dict[str, Any]):
    """The value of `authorizer`; `answers` may grow between evaluations."""

    def __init__(
        self, request: Check, answers: Mapping[Check, Decision], account: tuple[str, str] | None = None
    ) -> None:
        """`request`: the resource that is asked for."""
        super().__init__(requestResource=_ResourceCheck(replace(request, account=account), answers))
        self.answers = answers
        self._account = account
        self._request = request

    def with_answers(self, answers: Mapping[Check, Decision]) -> Authorizer:
        """The same, which knows these answers."""
        return Authorizer(self._request, answers, self._account)

    def of(self, account: tuple[str, str]) -> Authorizer:
        """The same for a service account."""
        return Authorizer(self._request, self.answers, account)

    def check(self, **parts: str) -> Check:
        return Check(account=self._account, **parts)


@dataclass(frozen=True, slots=True)
class _Asking(Opaque):
    """A question that is being put together."""

    check: Check
    answers: Mapping[Check, Decision]


class _PathCheck(_Asking):
    TYPE = PATH_CHECK


class _GroupCheck(_Asking):
    TYPE = GROUP_CHECK


class _ResourceCheck(_Asking):
    TYPE = RESOURCE_CHECK


def _path(authorizer: Authorizer, path: str) -> _PathCheck:
    if not path.strip():
        raise EvaluationError("path must not be empty")
    return _PathCheck(authorizer.check(path=path), authorizer.answers)


def _group(authorizer: Authorizer, group: str) -> _GroupCheck:
    return _GroupCheck(authorizer.check(group=group), authorizer.answers)


def _account(authorizer: Authorizer, namespace: str, name: str) -> Authorizer:
    if subdomain_errors(name):
        raise EvaluationError("Invalid service account name")
    if label_errors(namespace):
        raise EvaluationError("Invalid service account namespace")
    return authorizer.of((namespace, name))


def _resource(group: _GroupCheck, resource: str) -> _ResourceCheck:
    if not resource.strip():
        raise EvaluationError("resource must not be empty")
    return _ResourceCheck(replace(group.check, resource=resource), group.answers)


def _with(part: str) -> Callable[[_ResourceCheck, str], _ResourceCheck]:
    def asked(asking: _ResourceCheck, value: str) -> _ResourceCheck:
        parts: dict[str, Any] = {part: value}
        return _ResourceCheck(replace(asking.check, **parts), asking.answers)

    return asked


def _decided(asking: _Asking, verb: str) -> Decision:
    check = replace(asking.check, verb=verb)
    found = asking.answers.get(check)
    if found is None:
        raise Unanswered(check)
    return found


def _method(function: str, args: tuple[Type, ...], result: Type, call: Callable[..., Any]) -> Overload:
    return Overload(function, args, result, True, call)


_PARTS: Final = {
    "subresource": "subresource",
    "namespace": "namespace",
    "name": "name",
    "fieldSelector": "fields",
    "labelSelector": "labels",
}
OVERLOADS: Final = (
    _method("path", (AUTHORIZER, STRING), PATH_CHECK, _path),
    _method("group", (AUTHORIZER, STRING), GROUP_CHECK, _group),
    _method("serviceAccount", (AUTHORIZER, STRING, STRING), AUTHORIZER, _account),
    _method("resource", (GROUP_CHECK, STRING), RESOURCE_CHECK, _resource),
    *(_method(word, (RESOURCE_CHECK, STRING), RESOURCE_CHECK, _with(part)) for word, part in _PARTS.items()),
    *(Overload("check", (asked, STRING), DECISION, True, _decided, _CHECK) for asked in (PATH_CHECK, RESOURCE_CHECK)),
    _method("allowed", (DECISION,), BOOL, lambda one: one.allowed),
    _method("errored", (DECISION,), BOOL, lambda one: bool(one.error)),
    _method("error", (DECISION,), STRING, lambda one: one.error),
    _method("reason", (DECISION,), STRING, lambda one: one.reason),
)
