"""ConfigMaps, Secrets and Services that pods of a host refer to.

An informer per resource starts when the first pod needs it. An object the informer does not have is asked for at the
API, since a pod may arrive before the event of a ConfigMap that was made before it.
"""

from collections.abc import Callable, Iterable

from control_plane.api import meta
from control_plane.api.errors import ApiError, NotFound
from control_plane.api.meta import Object
from control_plane.client import ApiClient, Informer
from node.environment import Reference

Watcher = Callable[[], None]


class SourceUnavailable(Exception):
    """The API did not answer; the object may well exist."""


class Sources:
    """Look-ups for all pods of a host. `watch` calls back when one of the objects changes."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._informers: dict[str, Informer] = {}
        self._watchers: dict[tuple[str, str, str], dict[Watcher, None]] = {}

    async def stop(self) -> None:
        for informer in self._informers.values():
            await informer.stop()

    async def find(self, namespace: str, references: Iterable[Reference]) -> dict[tuple[str, str], Object | None]:
        """(resource, name) to the object, None where there is none. Raises SourceUnavailable."""
        found: dict[tuple[str, str], Object | None] = {}
        for ref in references:
            found[ref.resource, ref.name] = await self._get(ref.resource, namespace, ref.name)
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
        """The shared informer of a resource, started and synced."""
        informer = self._informers.get(resource)
        if informer is None:
            informer = self._informers[resource] = Informer(self._client, resource)
            informer.add_handler(lambda kind, old, new: self._changed(resource, new))
            informer.start()
        await informer.synced()
        return informer

    def watch(self, namespace: str, references: Iterable[Reference], watcher: Watcher) -> None:
        for ref in references:
            self._watchers.setdefault((ref.resource, namespace, ref.name), {})[watcher] = None

    def unwatch(self, namespace: str, references: Iterable[Reference], watcher: Watcher) -> None:
        for ref in references:
            watchers = self._watchers.get((ref.resource, namespace, ref.name), {})
            watchers.pop(watcher, None)
            if not watchers:
                self._watchers.pop((ref.resource, namespace, ref.name), None)

    async def _get(self, resource: str, namespace: str, name: str) -> Object | None:
        informer = await self.informer(resource)
        obj = informer.get(namespace, name)
        if obj is not None:
            return obj
        try:
            return await self._client.get(resource, name, namespace)
        except NotFound:
            return None
        except ApiError as e:
            raise SourceUnavailable(f"cannot read {resource} {namespace}/{name}: {e.message}") from e

    def _changed(self, resource: str, obj: Object) -> None:
        key = (resource, meta.namespace(obj), meta.name(obj))
        for watcher in [*self._watchers.get(key, ())]:
            watcher()
