"""Impersonation: what the Impersonate-* headers of a request ask for, and which rights that takes.

There are several ways to become somebody else. That of old takes the verb `impersonate`, and all of that user's rights
come with it. The constrained ones are for one sort of users each, and take a right to be that user and one to do so for
what is asked, `impersonate-on:MODE:VERB`.
Source: Kubernetes reference "User Impersonation"; KEP-5284 "Constrained Impersonation".
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from urllib.parse import unquote

from rayplane.control_plane.api.authorization.node_identity import NODE_PREFIX
from rayplane.control_plane.api.authorization.rbac import Attributes
from rayplane.control_plane.api.errors import BadRequest, FieldError, quote
from rayplane.control_plane.api.kinds.references import domain_prefixed_path
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.apiserver.requests import ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User
from rayplane.control_plane.identities import MASTERS, NODE_OF_TOKEN, NODES, SERVICE_ACCOUNT_PREFIX

_USER, _GROUP, _UID, _EXTRA = "impersonate-user", "impersonate-group", "impersonate-uid", "impersonate-extra-"
_AUTHENTICATION = "authentication.k8s.io"
PREFIX = "impersonate-"
"""Of the headers, in lower case."""
LEGACY = "impersonate"
_NO_GROUPS = {
    "": "impersonating the empty string group is not allowed",
    MASTERS: f"impersonating the {MASTERS} group is not allowed",
}
_ASSOCIATED = "authentication.kubernetes.io/associated-node-keys"
_REMEMBERED = 128


@dataclass(frozen=True, slots=True)
class Right:
    """A right that somebody needs; with a reason why nobody has it, whatever rules say."""

    asked: Attributes
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to become somebody else: all of its rights are needed."""

    verb: str
    user: User
    rights: tuple[Right, ...]

    @property
    def constraint(self) -> str:
        """What an audit event tells of it."""
        return self.verb if self.verb != LEGACY else ""


@dataclass(frozen=True, slots=True)
class Impersonation:
    """The user who is asked for."""

    user: User
    groups: tuple[str, ...]
    """Those that were named; the user has some more by what it is."""
    account: tuple[str, str] | None
    """(namespace, name) where a service account is asked for."""

    def ways(self, caller: User, request: Attributes | None) -> Iterator[Way]:
        """The ways that there are for `caller`, in the order in which Kubernetes tries them.

        `request`: what is asked; None where only the way of old is open.
        """
        if request is not None:
            yield from self._constrained(caller, request)
        yield Way(LEGACY, self.user, tuple(self._parts(caller, LEGACY)))

    def _constrained(self, caller: User, request: Attributes) -> Iterator[Way]:
        only_name = not (self.groups or self.user.uid or self.user.extra)
        node = _node(self.user.name)
        if node and only_name:
            user = User(self.user.name, (NODES, AUTHENTICATED))
            if _account(caller.name) is not None and caller.extra.get(NODE_OF_TOKEN) == (node,):
                yield self._associated(user, caller, request)
            yield _constrained("arbitrary-node", user, request, [_named(caller, "arbitrary-node", "nodes", node)])
        elif self.account is not None and only_name:
            parts = self._parts(caller, "impersonate:serviceaccount", _AUTHENTICATION)
            yield _constrained("serviceaccount", self.user, request, parts)
        elif not self.user.name.startswith(NODE_PREFIX) and self.account is None:
            parts = self._parts(caller, "impersonate:user-info", _AUTHENTICATION)
            yield _constrained("user-info", self.user, request, parts)

    def _associated(self, user: User, caller: User, request: Attributes) -> Way:
        # It is for any node, since an account runs on many; of where it runs only the names of the fields are told.
        keys = (_ASSOCIATED, tuple(sorted(caller.extra)))
        named = _named(caller, "associated-node", "nodes", "*")
        parts = [Right(replace(named.asked, extra=(keys,)))]
        return _constrained("associated-node", user, replace(request, extra=(keys,)), parts)

    def _parts(self, caller: User, verb: str, group: str = "") -> Iterator[Right]:
        """The parts of an identity. `group`: of users and their groups; empty for those of old."""

        def right(resource: str, name: str, why_not: str = "", *, of: str = group, **more: str) -> Right:
            return Right(caller.asks(verb, group=of, resource=resource, name=name, **more), why_not)

        strict = bool(group)
        if self.account is not None:
            yield right("serviceaccounts", self.account[1], namespace=self.account[0])
        else:
            yield right("users", self.user.name)
        if self.user.uid:
            yield right("uids", self.user.uid, of=_AUTHENTICATION)
        for one in self.groups:
            yield right("groups", one, _NO_GROUPS.get(one, "") if strict else "")
        for key, values in self.user.extra.items():
            for value in values:
                why_not = _extra_trouble(key, value) if strict else ""
                yield right("userextras", value, why_not, of=_AUTHENTICATION, subresource=key)


def _constrained(mode: str, user: User, request: Attributes, parts: Iterable[Right]) -> Way:
    on = Right(replace(request, verb=f"impersonate-on:{mode}:{request.verb}"))
    return Way(f"impersonate:{mode}", user, (on, *parts))


def _named(caller: User, mode: str, resource: str, name: str) -> Right:
    return Right(caller.asks(f"impersonate:{mode}", group=_AUTHENTICATION, resource=resource, name=name))


def _node(user: str) -> str:
    """The node that a user is by its name; empty for none."""
    name = user.removeprefix(NODE_PREFIX)
    return name if name != user and not names.subdomain_errors(name) else ""


def _extra_trouble(key: str, value: str) -> str:
    if not key:
        return "impersonating the empty string key in extra is not allowed"
    errs: list[FieldError] = []
    domain_prefixed_path(key, "extra.key", errs)
    if errs:
        return f"impersonating an invalid key in extra is not allowed: {errs[0]}"
    if key != key.lower():
        return f"impersonating a non-lowercase key in extra is not allowed: {quote(key)}"
    return "" if value else "impersonating the empty string value in extra is not allowed"


def asked_for(headers: Iterable[tuple[str, str]]) -> Impersonation | None:
    """What a request's headers ask for; None when nothing. BadRequest when it makes no sense."""
    found = tuple((key, value) for header, value in headers if (key := header.lower()).startswith(PREFIX))
    return _asked_for(found) if found else None


# The controller manager asks for the same few in all its calls.
@lru_cache(maxsize=_REMEMBERED)
def _asked_for(headers: tuple[tuple[str, str], ...]) -> Impersonation | None:
    user = uid = ""
    groups: list[str] = []
    extra: dict[str, tuple[str, ...]] = {}
    for key, value in headers:
        if key == _USER:
            user = user or value
        elif key == _GROUP:
            groups.append(value)
        elif key == _UID:
            uid = uid or value
        elif key.startswith(_EXTRA):
            name = unquote(key.removeprefix(_EXTRA))
            extra[name] = (*extra.get(name, ()), value)
    if not user:
        if groups or uid or extra:
            raise BadRequest("requested groups, uid or extra without impersonating a user")
        return None
    account = _account(user)
    kept = list(groups)
    if account is not None and not kept:
        kept = ["system:serviceaccounts", f"system:serviceaccounts:{account[0]}"]
    if not {AUTHENTICATED, UNAUTHENTICATED}.intersection(kept):
        kept.append(UNAUTHENTICATED if user == ANONYMOUS else AUTHENTICATED)
    return Impersonation(User(user, tuple(kept), uid=uid, extra=extra), tuple(groups), account)


def _account(user: str) -> tuple[str, str] | None:
    if not user.startswith(SERVICE_ACCOUNT_PREFIX):
        return None
    namespace, _, name = user.removeprefix(SERVICE_ACCOUNT_PREFIX).partition(":")
    if names.label_errors(namespace) or names.subdomain_errors(name):
        # It only looks like one: a user of that name, as Kubernetes has it.
        return None
    return namespace, name
