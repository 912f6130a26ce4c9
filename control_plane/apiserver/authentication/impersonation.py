"""Impersonation: what the Impersonate-* headers of a request ask for, and which rights that takes.

Source: Kubernetes reference "Authenticating", user impersonation.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from rayplane.control_plane.api.authorization.rbac import Attributes
from rayplane.control_plane.api.errors import BadRequest
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.apiserver.requests import ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User
from rayplane.control_plane.identities import SERVICE_ACCOUNT_PREFIX

_USER, _GROUP, _UID, _EXTRA = "impersonate-user", "impersonate-group", "impersonate-uid", "impersonate-extra-"
_AUTHENTICATION = "authentication.k8s.io"
PREFIX = "impersonate-"
"""Of the headers, in lower case."""
_REMEMBERED = 128


@dataclass(frozen=True, slots=True)
class Impersonation:
    """The user who is asked for."""

    user: User
    groups: tuple[str, ...]
    """Those that were named; the user has some more by what it is."""
    account: tuple[str, str] | None
    """(namespace, name) where a service account is asked for."""

    def rights(self, caller: User) -> list[Attributes]:
        """What `caller` must be allowed, in the order in which Kubernetes asks."""
        if self.account is not None:
            asked = [("", "serviceaccounts", "", self.account[1])]
        else:
            asked = [("", "users", "", self.user.name)]
        asked += [("", "groups", "", one) for one in self.groups]
        asked += [
            (_AUTHENTICATION, "userextras", key, value) for key, values in self.user.extra.items() for value in values
        ]
        if self.user.uid:
            asked.append((_AUTHENTICATION, "uids", "", self.user.uid))
        return [
            caller.asks(
                "impersonate",
                group=group,
                resource=resource,
                subresource=subresource,
                namespace=self.account[0] if self.account is not None and resource == "serviceaccounts" else "",
                name=name,
            )
            for group, resource, subresource, name in asked
        ]


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
