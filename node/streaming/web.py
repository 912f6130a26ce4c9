"""The kubelet's port over HTTP: pages of a host's nodes, for whom the API lets read them.

Whoever comes shows a certificate, or a bearer token of which a TokenReview says whose it is; administrators and API
servers may read all by their certificates, others what a SubjectAccessReview says of `nodes/stats`, `nodes/metrics` and
so on. A path that no rule names is `nodes/proxy`. Paths of the host itself,
its own metrics and log, stay the administrators'.

    GET /stats/summary?node=NAME      of this node; without one of the host's first

Whose a token is, is remembered for `KEPT_S`, as kubelets do. The others are asked about, `REVIEWS_MAX` at once and
`REVIEWS_OF_PEER_MAX` for each address: what comes beyond that is told to come again (429).

Source: kubelet's pkg/kubelet/server/auth.go; KEP-2862 (fine-grained authorization).
"""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.component_base.debugging import METRICS
from rayplane.control_plane.component_base.expiring import Expiring
from rayplane.control_plane.component_base.log_pages import text
from rayplane.control_plane.rpc import Callers, Identity, identity_of_transport
from rayplane.node.errors import NotHere, TooManyTokens
from rayplane.node.streaming.service import Page

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger(__name__)

_SUBRESOURCES = {
    "stats": ("stats",),
    "metrics": ("metrics",),
    "logs": ("log",),
    "pods": ("pods", "proxy"),
    "runningpods": ("pods", "proxy"),
    "healthz": ("healthz", "proxy"),
    "configz": ("configz", "proxy"),
    "flagz": ("configz",),
    "statusz": ("statusz",),
}
#: Tokens of strangers that the API is asked about at the same time.
REVIEWS_MAX = 32
REVIEWS_OF_PEER_MAX = 4
#: For so long a token is worth what the API said of it.
KEPT_S = 120.0
_TOKENS_KEPT = 256
_RETRY_S = 1
_BEARER = "bearer"
_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def subresources(path: str) -> tuple[str, ...]:
    """Parts of a node of which one must be allowed to whoever asks for a path."""
    return _SUBRESOURCES.get(path.strip("/").partition("/")[0], ("proxy",))


def reviewer(client: ApiClient) -> Callable[[Identity, str, str, str], Awaitable[bool]]:
    """Asks the API whether somebody may do a verb with a part of a node; nobody may while it does not answer."""

    async def review(identity: Identity, verb: str, part: str, node: str) -> bool:
        attributes = {"verb": verb, "version": "v1", "resource": "nodes", "subresource": part, "name": node}
        spec = {"user": identity.user, "groups": [*identity.groups], "resourceAttributes": attributes}
        kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
        try:
            answer = await client.create("subjectaccessreviews.authorization.k8s.io", {**kind, "spec": spec})
        except ApiError as e:
            log.info("what %s may read of node %s is not known: %s", identity.user, node, e.message)
            return False
        return bool(meta.status(answer).get("allowed"))

    return review


def token_owner(client: ApiClient) -> Callable[[str], Awaitable[Identity | None]]:
    """Asks the API whose a bearer token is; nobody's while it does not answer."""

    async def owner(token: str) -> Identity | None:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        try:
            status = meta.status(await client.create("tokenreviews.authentication.k8s.io", review))
        except ApiError as e:
            log.info("whose a token is, is not known: %s", e.message)
            return None
        user = status.get("user") or {}
        known = status.get("authenticated") and user.get("username")
        return Identity(user["username"], tuple(user.get("groups") or ())) if known else None

    return owner


class Owners:
    """Owners of bearer tokens: those who were found lately, and places to ask about others by `ask`."""

    def __init__(self, ask: Callable[[str], Awaitable[Identity | None]]) -> None:
        self._ask = ask
        self._known: Expiring[bytes, Identity] = Expiring(_TOKENS_KEPT)
        self._asking: Counter[str] = Counter()

    async def owner(self, token: str, peer: str) -> Identity | None:
        """Whose a token is that came from the address `peer`. Raises TooManyTokens."""
        clock = asyncio.get_running_loop().time
        key = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        if (known := self._known.get(key, clock())) is not None:
            return known
        if self._asking[peer] >= REVIEWS_OF_PEER_MAX or self._asking.total() >= REVIEWS_MAX:
            raise TooManyTokens("Too many tokens at once, please try again later")
        self._asking[peer] += 1
        try:
            found = await self._ask(token)
        finally:
            self._asking[peer] -= 1
            self._asking += Counter()  # without those who ask for nothing any more
        if found is not None:
            self._known.put(key, found, clock() + KEPT_S)
        return found


class KubeletWeb:
    """A web handler, as `Network.serve` takes it.

    `own`: answers for paths of the host itself; `page`: what a node has at a path with a query, NotHere for one that is
    not here; `review`: whether an identity may do a verb with a part of a node; `owner`: whose a bearer token is.
    """

    def __init__(
        self,
        own: "Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]",
        page: Callable[[str, str, str, str], Awaitable[Page]],
        review: Callable[[Identity, str, str, str], Awaitable[bool]],
        owner: Callable[[str], Awaitable[Identity | None]],
        *,
        trusted: Callers,
        node: str,
    ) -> None:
        self._own, self._page, self._review, self._owners = own, page, review, Owners(owner)
        self._trusted, self._node = trusted, node

    async def __call__(self, request: "web.BaseRequest") -> "web.StreamResponse":
        identity = identity_of_transport(request.transport)
        trusted = self._trusted.refusal(identity, request.path) is None
        if request.path.startswith("/debug/") or (request.path == METRICS and trusted):
            return await self._own(request)
        from aiohttp import web

        if identity is None:
            try:
                identity = await self._shown_by_token(request)
            except TooManyTokens as e:
                return text(429, str(e), **{"Retry-After": str(_RETRY_S)})
        if identity is None:
            return text(401, "Unauthorized")
        node = request.query.get("node") or self._node
        if not (trusted or await self._allowed(identity, request.method, request.path, node)):
            verb = _VERBS.get(request.method, "")
            return text(403, f"Forbidden (user={identity.user}, verb={verb}, path={request.path})")
        try:
            query, accept = request.rel_url.raw_query_string, request.headers.get("Accept", "")
            body, kind, status = await self._page(node, request.path, query, accept)
        except NotHere as e:
            return text(404, str(e))
        return web.Response(body=body, status=status, headers={"Content-Type": kind})

    async def _shown_by_token(self, request: "web.BaseRequest") -> Identity | None:
        """Raises TooManyTokens."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != _BEARER or not token.strip():
            return None
        return await self._owners.owner(token.strip(), request.remote or "")

    async def _allowed(self, identity: Identity, method: str, path: str, node: str) -> bool:
        verb = _VERBS.get(method)
        if not identity.user or verb is None:
            return False
        for part in subresources(path):
            if await self._review(identity, verb, part, node):
                return True
        return False
