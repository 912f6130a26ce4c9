"""Gets of one object that need nothing but its cache, from the bytes of a request to those of its answer.

They are most of what busy servers are asked, and a request object, its task and negotiation cost more than all the
rest of them. So a request that is plain in every respect waits for fresh caches and is answered, without a task.
Whatever is not plain, or does not come out well (not found, not allowed, etcd silent), goes the common way, which says
what there is to say: here nothing is refused.
"""

import asyncio
import functools
import re
from collections.abc import Callable
from datetime import datetime

from rayplane.control_plane.api.errors import ApiError, NotAcceptable
from rayplane.control_plane.api.kinds.registry import rules_for
from rayplane.control_plane.api.machinery.remembering import remembered
from rayplane.control_plane.apiserver.flowcontrol.fairness import Flow
from rayplane.control_plane.apiserver.flowcontrol.queues import Ticket
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry
from rayplane.control_plane.apiserver.requests import Target, User
from rayplane.control_plane.apiserver.rest import paths
from rayplane.control_plane.apiserver.rest.compression import BYTES_MIN
from rayplane.control_plane.apiserver.rest.presentation import BY_HAND, JSON, NO_CACHE, View, negotiate
from rayplane.control_plane.rpc import Identity
from rayplane.control_plane.rpc.http1 import Answer, GiveUp, date

# Paths whose names stand for themselves, and headers of printable ASCII, one a line.
_GET = re.compile(rb"GET (/apis?/[A-Za-z0-9._:/-]+) HTTP/1\.1\r\n((?:[A-Za-z-]+:[\x20-\x7e]*\r\n)+)\r\n")
_HEADS = 256
# Longer ones are looked at by who counts headers.
_BYTES_MAX = 4096
# Headers that change nothing here, whatever they say.
_MEANINGLESS = frozenset({"host", "accept-encoding", "accept-language", "kubectl-command", "kubectl-session"})


class QuickGets:
    """A `http1.Quick` for gets. `identify` tells who shows a certificate, None where that is not certain."""

    def __init__(
        self, registry: ObjectRegistry, *, identify: Callable[[Identity], User | None], now: Callable[[], datetime]
    ) -> None:
        self._registry = registry
        self._identify = identify
        self._now = now

    def __call__(self, identity: Identity | None, data: bytes, answer: Answer) -> GiveUp | None:
        """See `http1.Quick`."""
        asked = _GET.fullmatch(data) if len(data) <= _BYTES_MAX else None
        if asked is None or identity is None or self._registry.recent.followed or not _is_plain(asked[2].decode()):
            return None
        target = self._target(asked[1].decode())
        if target is None:
            return None
        try:
            user = self._identify(identity)
            if user is None or not self._registry.allows(user, "get", target):
                return None
            return self._begin(user, target, answer)
        except ApiError:
            return None

    def _target(self, path: str) -> Target | None:
        """The object that is asked for, if it is kept as it is shown."""
        found = paths.parse(path)
        if found is None or not found.name or found.subresource or found.watch or "/." in path:
            return None
        info = self._registry.kinds.registry.lookup(found.group, found.version, found.plural)
        if info is None or bool(found.namespace) is not info.namespaced:
            return None
        if info.custom or not info.is_storage_version or rules_for(info).deprecated:
            return None
        if self._registry.aggregator.backend(found.group, found.version) is not None:
            return None
        return Target(info, found.scope, found.name)

    def _begin(self, user: User, target: Target, answer: Answer) -> GiveUp | None:
        registry = self._registry
        fairness, flow, ticket = registry.fairness, registry.flow(user, "get", target), Ticket(target.name)
        if not fairness.at_once(flow, ticket):
            return None
        loop = asyncio.get_running_loop()
        began = loop.time()

        def done(fresh: asyncio.Future[None]) -> None:
            fairness.leave(ticket)
            body = None if fresh.cancelled() or fresh.exception() is not None else self._body(target, flow)
            if body is not None:
                registry.requests.add("get", target.info, 200, loop.time() - began)
            answer(body)

        try:
            fresh = registry.hub.freshness()
        except BaseException:
            fairness.leave(ticket)
            raise
        fresh.add_done_callback(done)
        return fresh.cancel

    def _body(self, target: Target, flow: Flow) -> bytes | None:
        info = target.info
        cache = self._registry.hub.peek(info)
        entry = cache.get(target.namespace if info.namespaced else "", target.name) if cache is not None else None
        if entry is None or not entry.readable:
            return None
        json = entry.json
        if len(json) >= BYTES_MIN:
            return None
        return b"%s%sContent-Length: %d\r\n\r\n%s" % (_head(date(self._now())), flow.head, len(json), json)


@remembered(_HEADS)
def _is_plain(headers: str) -> bool:
    """Whether headers ask for JSON as it is stored, and for nothing else."""
    for line in headers.splitlines():
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        if name == "accept":
            try:
                plain = negotiate(value) == View()
            except NotAcceptable:
                plain = False
        elif name == "user-agent":
            plain = not value.startswith(BY_HAND)
        elif name == "connection":
            plain = value.lower() == "keep-alive"
        else:
            plain = name in _MEANINGLESS
        if not plain:
            return False
    return True


@functools.lru_cache(1)
def _head(now: str) -> bytes:
    """The answer's head, as far as it is every object's."""
    headers = {"Content-Type": JSON, **NO_CACHE, "Date": now}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 200 OK\r\n{lines}".encode()
