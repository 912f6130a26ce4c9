"""ConfigMaps, Secrets and Services that pods of a host refer to, as the API has them.

A node may read single ConfigMaps and Secrets only, and only those of its pods: each is asked for when it is needed,
and watched by itself while a pod shows it as files. Services are watched all together.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound, ServiceUnavailable
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, Informer
from rayplane.control_plane.client.singleflight import SingleFlight
from rayplane.node.environment import Reference
from rayplane.node.errors import SourceUnavailable

Watcher = Callable[[], None]
SEEN_MAX = 1024
_Key = tuple[str, str, str]
"""(resource, namespace, name)."""


@dataclass(slots=True)
class _Followed:
    """One object that pods show, and who is told of its changes."""

    informer: Informer
    watchers: dict[Watcher, None] = field(default_factory=dict)


class ReferencedObjects:
    """Look-ups for all pods of a host. `watch` calls back when one of the objects changes."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._informers: dict[str, Informer] = {}
        self._followed: dict[_Key, _Followed] = {}
        self._asked: SingleFlight[Object] = SingleFlight(lambda: ServiceUnavailable("this node host is shutting down"))
        self._seen: dict[_Key, str] = {}  # versions of what was found last
        self._ending: dict[asyncio.Task[None], None] = {}
        self._of_all: dict[str, dict[Watcher, None]] = {}  # who is told of any object, by resource

    async def stop(self) -> None:
        followed, self._followed = self._followed, {}
        for informer in (*self._informers.values(), *(one.informer for one in followed.values())):
            await informer.stop()
        await self._asked.stop()
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def find(self, namespace: str, references: Iterable[Reference]) -> dict[tuple[str, str], Object | None]:
        """(resource, name) to the object, None where there is none. Raises SourceUnavailable.

        A reference without a name is to all objects of a resource without namespaces: found is a list.
        """
        found: dict[tuple[str, str], Object | None] = {}
        for ref in references:
            if not ref.name:
                found[ref.resource, ""] = {"items": (await self.informer(ref.resource)).list()}
                continue
            found[ref.resource, ref.name] = await self._get((ref.resource, namespace, ref.name))
        return found

    async def services(self, namespace: str) -> list[Object]:
        """The services whose variables a pod in `namespace` gets, by name."""
        informer = await self.informer("services")
        own = sorted((s for s in informer.list() if meta.namespace(s) == namespace), key=meta.name)
        kubernetes = informer.get("default", "kubernetes")
        if kubernetes is not None and namespace != "default":
            own.insert(0, kubernetes)
        return own

    async def informer(self, resource: str) -> Informer:
        """The shared informer of all objects of a resource, started and synced."""
        informer = self._informers.get(resource)
        if informer is None:
            informer = self._informers[resource] = Informer(self._client, resource)
            informer.start()
        await informer.synced()
        return informer

    # --- single objects ---------------------------------------------------------------------------

    def watch(self, namespace: str, references: Iterable[Reference], watcher: Watcher) -> None:
        """Call `watcher` for every change since `find` has found the objects."""
        for ref in references:
            if not ref.name:
                self._watch_all(ref.resource, watcher)
                continue
            key = (ref.resource, namespace, ref.name)
            followed = self._followed.get(key)
            if followed is None:
                followed = self._followed[key] = _Followed(self._follow(key))
            followed.watchers[watcher] = None

    def _watch_all(self, resource: str, watcher: Watcher) -> None:
        if resource not in self._of_all:
            told = self._of_all[resource] = {}

            def changed(_kind: str, old: Object | None, new: Object) -> None:
                for one in [*told]:
                    one()

            # Who is told first of what is there already asks once too often.
            self._informers[resource].add_handler(changed)
        self._of_all[resource][watcher] = None

    def unwatch(self, namespace: str, references: Iterable[Reference], watcher: Watcher) -> None:
        for ref in references:
            self._of_all.get(ref.resource, {}).pop(watcher, None)
            key = (ref.resource, namespace, ref.name)
            followed = self._followed.get(key)
            if followed is None:
                continue
            followed.watchers.pop(watcher, None)
            if not followed.watchers:
                del self._followed[key]
                task = asyncio.get_running_loop().create_task(followed.informer.stop())
                self._ending[task] = None
                task.add_done_callback(lambda done: self._ending.pop(done, None))

    def _follow(self, key: _Key) -> Informer:
        resource, namespace, name = key
        informer = Informer(self._client, resource, namespace=namespace, field_selector=f"metadata.name={name}")

        def changed(_kind: str, old: Object | None, new: Object) -> None:
            if old is None and self._seen.get(key) == meta.resource_version(new):
                return  # the pod that began to watch has just been given it
            followed = self._followed.get(key)
            for watcher in [*followed.watchers] if followed is not None else ():
                watcher()

        informer.add_handler(changed)
        informer.start()
        return informer

    async def _get(self, key: _Key) -> Object | None:
        resource, namespace, name = key
        followed = self._followed.get(key)
        found = followed.informer.get(namespace, name) if followed is not None else None
        if found is not None:
            return found
        try:
            obj = await self._ask(key)
            self._seen[key] = meta.resource_version(obj)
            if len(self._seen) > SEEN_MAX:
                del self._seen[next(iter(self._seen))]
            return obj
        except NotFound:
            return None
        except ApiError as e:
            raise SourceUnavailable(f"cannot read {resource} {namespace}/{name}: {e.message}") from e

    async def _ask(self, key: _Key) -> Object:
        """Once for many pods that start together. Raises ApiError."""
        resource, namespace, name = key

        async def get() -> Object:
            return await self._client.get(resource, name, namespace)

        flight = "/".join(key)
        joins = self._asked.under_way(flight)
        try:
            return await self._asked.run(flight, get)
        except ApiError:
            if not joins:
                raise
            # A bad answer to somebody else may be older than the pod that asks now.
            return await get()
