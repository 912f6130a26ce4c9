"""Secrets that hold a token of a service account go with the account.

The API server fills such Secrets as they are made. Source: Kubernetes concepts "Managing Service Accounts" (token
controller).
"""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.legacy_tokens import account_of, is_token
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Delete, IfAbsent
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    in_namespace,
    result,
)

ACCOUNTS, SECRETS = "serviceaccounts", "secrets"


def _token(secret: Object, _view: View) -> Iterable[str]:
    return (meta.key(secret),) if is_token(secret) else ()


def _tokens_of(account: Object, view: View) -> Iterable[str]:
    return [
        meta.key(secret)
        for secret in in_namespace(view, SECRETS, meta.namespace(account))
        if is_token(secret) and account_of(secret)[0] == meta.name(account)
    ]


class TokenSecretController(BaseController):
    name = "serviceaccount-token"
    component = "serviceaccount-token-controller"
    watches = (
        Watch(SECRETS, _token),
        Watch(ACCOUNTS, _tokens_of, changed=lambda old, new: meta.uid(old) != meta.uid(new)),
    )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        secret = view.get(SECRETS, *meta.split_key(key))
        if secret is None or meta.is_deleting(secret) or not is_token(secret):
            return NOTHING
        space, (name, uid) = meta.namespace(secret), account_of(secret)
        account = view.get(ACCOUNTS, space, name) if name else None
        if not name or (account is not None and uid in ("", meta.uid(account))):
            return NOTHING
        return result([IfAbsent(((ACCOUNTS, space, name, uid),), (Delete(SECRETS, secret),))])
