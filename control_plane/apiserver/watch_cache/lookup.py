"""Other objects, as admission and authentication look them up: from the caches, and never too stale to miss."""

from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.apiserver.watch_cache.watchers import Selection


class Lookup:
    """Objects by resource name (`pods`, `storageclasses.storage.k8s.io`), in stored form. Never change them."""

    def __init__(self, kinds: Kinds, hub: WatchHub) -> None:
        self._kinds = kinds
        self._hub = hub

    def resource(self, resource: str) -> ResourceInfo:
        """A resource in its stored form."""
        return self._kinds.named(resource)

    async def get(self, resource: str, name: str, namespace: str = "") -> Object | None:
        """The object. What is not there is looked for once more after the cache has caught up with etcd."""
        cache = await self._hub.cache(self._kinds.named(resource))
        entry = cache.get(namespace, name)
        if entry is None:
            await self._hub.fresh()
            cache = await self._hub.cache(self._kinds.named(resource))
            entry = cache.get(namespace, name)
        return entry.object if entry is not None else None

    async def as_of(self, resource: str) -> int:
        """The revision up to which the cache of a resource, and whoever listens to it, knows all changes just now."""
        info = self._kinds.named(resource)
        while self._hub.peek(info) is None:
            await self._hub.cache(info)
        return self._hub.revision

    async def list(self, resource: str, namespace: str = "") -> list[Object]:
        """All objects as the cache has them, in the order of their keys."""
        cache = await self._hub.cache(self._kinds.named(resource))
        if not len(cache):
            return []
        return [e.object for e in cache.select(Selection(namespace=namespace))]
