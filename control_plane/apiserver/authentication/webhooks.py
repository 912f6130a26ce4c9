"""A webhook that tells whose a token is, where nobody here knows: it is sent a TokenReview.

Source: Kubernetes reference "Authenticating", webhook token authentication.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from rayplane.control_plane.api.errors import Unauthorized
from rayplane.control_plane.apiserver.requests import AUTHENTICATED, User
from rayplane.control_plane.component_base.expiring import Expiring

log = logging.getLogger(__name__)

REMEMBERED_S = 120.0
"""So long an answer counts, as with Kubernetes' --authentication-token-webhook-cache-ttl."""

Post = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Posts a review; its answer. Raises ReviewFailed."""


class ReviewFailed(Exception):
    """A review that no webhook has answered; it says why."""


class TokenWebhook:
    """A client of the webhook. Answers are remembered, failures are not."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._known: Expiring[tuple[bytes, tuple[str, ...]], tuple[User, tuple[str, ...]]] = Expiring()

    async def owner(self, token: str, audiences: Sequence[str]) -> tuple[User, Sequence[str]]:
        """The owner of a token, and whom of those asked for it is for. Unauthorized."""
        key = (hashlib.sha256(token.encode()).digest(), tuple(audiences))
        now = asyncio.get_running_loop().time()
        # Who is refused is asked about again: what is kept of strangers would push out what is known of users.
        found = self._known.get(key, now)
        if found is None:
            found = await self._ask(token, audiences)
            self._known.put(key, found, now + REMEMBERED_S)
        return found

    async def _ask(self, token: str, audiences: Sequence[str]) -> tuple[User, tuple[str, ...]]:
        head = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}}
        try:
            answer = await self._post({**head, "spec": {"token": token, "audiences": [*audiences]}})
        except ReviewFailed as e:
            log.warning("the authentication webhook is of no use: %s", e)
            raise Unauthorized() from e
        status = answer.get("status")
        user = _user(status) if isinstance(status, dict) and status.get("authenticated") is True else None
        if user is None or not isinstance(status, dict):
            raise Unauthorized()
        # One that knows of no audiences answers for the API alone, as Kubernetes reads it.
        accepted = status.get("audiences")
        return user, tuple(a for a in accepted if a in audiences) if isinstance(accepted, list) else tuple(audiences)


def _user(status: Mapping[str, Any]) -> User | None:
    """None for what is no user."""
    info = status.get("user")
    if not isinstance(info, dict):
        return None
    name, uid, groups, extra = (info.get(part) for part in ("username", "uid", "groups", "extra"))
    if not isinstance(name, str) or not name:
        return None
    known = tuple(g for g in groups if isinstance(g, str)) if isinstance(groups, list) else ()
    if AUTHENTICATED not in known:
        known = (*known, AUTHENTICATED)
    values = {
        str(key): tuple(v for v in value if isinstance(v, str))
        for key, value in (extra if isinstance(extra, dict) else {}).items()
        if isinstance(value, list)
    }
    return User(name, known, uid=uid if isinstance(uid, str) else "", extra=values)
