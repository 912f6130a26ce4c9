"""A watcher of APIServices: it keeps the catalog of what is served, and asks the servers of aggregated APIs.

Each is asked when its APIService, its Service or its endpoints change, and every few seconds anyway, in a task of its
own: one that hangs holds nobody else up. What was found is written as the condition `Available`; the answer itself is
what discovery tells of the group and version. All servers of a cluster do this, as in Kubernetes.

Source: kube-aggregator, pkg/controllers/status/remote and pkg/apiserver/handler_discovery.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from rayplane.control_plane.api.aggregation import backends
from rayplane.control_plane.api.aggregation.backends import APISERVICES, AVAILABLE, Backend, Finding
from rayplane.control_plane.api.aggregation.catalog import Catalog
from rayplane.control_plane.api.aggregation.reading import read_openapi_url, read_resources
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.meta import Object, get_condition, labels, name, namespace
from rayplane.control_plane.apiserver.aggregator.client import BackendClient
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.outgoing.sessions import FAILURES, reason
from rayplane.control_plane.apiserver.watch_cache.following import Follower
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.tasks import cancel_and_wait

log = logging.getLogger(__name__)

_SERVICES, _SLICES = "services", "endpointslices.discovery.k8s.io"
_SERVICE_NAME = "kubernetes.io/service-name"
_TICK_S = 1.0
_EVERY_S = 10.0
_AFTER_FAILURES = Backoff(1.0, 10.0)
# Of several endpoints one may be bad: it is available if any of so many questions is answered.
_ATTEMPTS = 3
_DOCUMENT_BYTES_MAX = 3 * 1024 * 1024

Tell = Callable[[str, Finding], Awaitable[None]]
"""Stores what was found as the condition of the APIService of this name."""


class Aggregator:
    """The aggregated APIs of one server."""

    def __init__(
        self,
        kinds: Kinds,
        hub: WatchHub,
        lookup: Lookup,
        *,
        client: BackendClient,
        tell: Tell,
        leisure: float = 1.0,
    ) -> None:
        """`leisure`: how many times longer than usual it rests where nothing is due."""
        self.catalog = Catalog(kinds.registry)
        self.client = client
        self._lookup = lookup
        self._tell = tell
        self._rest_s = _TICK_S * leisure
        watched = (APISERVICES, _SERVICES, _SLICES)
        self._follower = Follower(kinds, hub, watched, clear=self._clear, put=self._put, remove=self._remove)
        self._due: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Know what there is, then look after it. Raises ApiError."""
        await self._follower.load()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="aggregated APIs")

    async def stop(self) -> None:
        await cancel_and_wait(self._task, *self._looks.values())
        self._task = None
        await self.client.close()

    def backend(self, group: str, version: str) -> Backend | None:
        """Who answers for a group and version; None where that is this server, or nobody."""
        found = self.catalog.remote(group, version)
        return found.backend if found is not None else None

    # --- changes ------------------------------------------------------------------------------

    def _clear(self) -> None:
        self.catalog.clear()

    def _put(self, resource: str, o: Object) -> None:
        if resource != APISERVICES:
            self._behind_changed(o, name(o) if resource == _SERVICES else labels(o).get(_SERVICE_NAME, ""))
            return
        try:
            if self.catalog.put(o) or (Backend.of(o) is None and _told(o) != backends.LOCAL):
                self._look_at(name(o))
        except (AttributeError, KeyError, TypeError) as e:
            # No server has let it in: somebody wrote it into etcd.
            log.error("APIService %s cannot be read: %s: %s", name(o), type(e).__name__, e)

    def _remove(self, resource: str, o: Object) -> None:
        if resource == APISERVICES:
            self.catalog.remove(o)
        else:
            self._put(resource, o)

    def _behind_changed(self, o: Object, service: str) -> None:
        for remote in self.catalog.remotes():
            if (remote.backend.namespace, remote.backend.service) == (namespace(o), service):
                self._look_at(remote.backend.name)

    def _look_at(self, own: str) -> None:
        self._due[own] = 0.0
        self._wake.set()

    # --- looks --------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._follower.load()
            except ApiError as e:
                # While etcd is away what was known last is the best guess.
                log.info("APIServices are read later: %s", e.message)
            except Exception:
                log.exception("reading APIServices failed")
            now = loop.time()
            for own in [one for one, at in self._due.items() if at <= now and one not in self._looks]:
                del self._due[own]
                self._looks[own] = loop.create_task(self._look(own), name=f"look at APIService {own}")
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S if self._due or self._looks else self._rest_s):
                    await self._wake.wait()

    async def _look(self, own: str) -> None:
        again_s: float | None = _TICK_S
        try:
            again_s = await self._looked(own)
        except ApiError as e:
            log.info("APIService %s is looked at later: %s", own, e.message)
        except Exception:
            log.exception("looking at APIService %s failed", own)
        finally:
            del self._looks[own]
            self._wake.set()
        if again_s is None:
            self._failures.pop(own, None)
        else:
            self._due.setdefault(own, asyncio.get_running_loop().time() + again_s)

    async def _looked(self, own: str) -> float | None:
        """Find out how an API fares and tell it; when to look again, None: when it changes."""
        service = await self._lookup.get(APISERVICES, own)
        if service is None:
            return None
        backend = Backend.of(service)
        finding = await self._found(backend) if backend is not None else backends.LOCAL
        if finding != _told(service):
            await self._tell(own, finding)
        if backend is None:
            return None
        self._failures[own] = 0 if finding[0] else self._failures.get(own, 0) + 1
        return _AFTER_FAILURES.pause_s(self._failures[own]) or _EVERY_S

    async def _found(self, backend: Backend) -> Finding:
        service = await self._lookup.get(_SERVICES, backend.service, backend.namespace)
        slices = await self._lookup.list(_SLICES, backend.namespace)
        behind = [one for one in slices if labels(one).get(_SERVICE_NAME) == backend.service]
        finding = backends.trouble(backend, service, behind)
        if finding is None:
            body, why = await self._asked(backend)
            if body is not None:
                await self._learn(backend, body)
                return backends.PASSED
            finding = backends.unreached(backend.root + backend.path, why)
        self.catalog.found(backend, None)
        return finding

    async def _asked(self, backend: Backend) -> tuple[bytes | None, str]:
        """What it says it serves, or why it does not answer."""

        async def ask() -> tuple[bytes | None, str]:
            try:
                return await self.client.get(backend, backend.path, bytes_max=_DOCUMENT_BYTES_MAX), ""
            except FAILURES as e:
                return None, reason(e)

        attempts = [asyncio.ensure_future(ask()) for _ in range(_ATTEMPTS)]
        try:
            outcome: tuple[bytes | None, str] = (None, "")
            for attempt in asyncio.as_completed(attempts):
                outcome = await attempt
                if outcome[0] is not None:
                    break
            return outcome
        finally:
            await cancel_and_wait(*attempts)

    async def _learn(self, backend: Backend, body: bytes) -> None:
        try:
            resources = read_resources(body, backend.group, backend.version)
        except ValueError as e:
            log.info("%s does not say what it serves: %s", backend.root, e)
            self.catalog.found(backend, None)
            return
        openapi = ""
        with contextlib.suppress(*FAILURES):
            root = await self.client.get(backend, "/openapi/v3", bytes_max=_DOCUMENT_BYTES_MAX)
            openapi = read_openapi_url(root, backend.path.removeprefix("/"))
        self.catalog.found(backend, resources, openapi)


def _told(service: Object) -> Finding:
    """What its condition says."""
    found = get_condition(service, AVAILABLE) or {}
    return found.get("status") == "True", found.get("reason") or "", found.get("message") or ""
