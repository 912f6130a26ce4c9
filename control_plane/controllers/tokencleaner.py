"""Bootstrap tokens that have expired are deleted.

Source: Kubernetes reference "Authenticating with Bootstrap Tokens".
"""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api import bootstrap_tokens, meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Delete
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)


def _token(secret: Object, _view: View) -> Iterable[str]:
    return (meta.name(secret),) if bootstrap_tokens.is_token(secret) else ()


class TokenCleaner(BaseController):
    name = "tokencleaner"
    component = "token-cleaner"
    watches = (Watch("secrets", _token),)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        secret = view.get("secrets", bootstrap_tokens.NAMESPACE, key)
        if secret is None or meta.is_deleting(secret) or not bootstrap_tokens.is_token(secret):
            return NOTHING
        expires = bootstrap_tokens.expiry(secret)
        if expires is None:
            return NOTHING
        if expires <= now.wall:
            return result([Delete("secrets", secret, guard_version=True)])
        return result(requeue_after=(expires - now.wall).total_seconds())
