"""Other objects, as admission and authentication look them up: from the caches, and never too stale to miss."""

from collections.abc import Sequence

from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.storage.entries import Entry
from rayplane.control_plane.apiserver.watch_cache.cache import ResourceCache
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.apiserver.watch_cache.watchers import Selection

# Short lists (of classes, limits, quotas) are asked for by many writes, and remembered until their resource changes.
_SHORT = 64
_REMEMBERED_MAX = 1024


class Lookup:
    """Objects by resource name (`pods`, `storageclasses.storage.k8s.io`), in stored form. Never change them."""

    def __init__(self, kinds: Kinds, hub: WatchHub) -> None:
        self._kinds = kinds
        self._hub = hub
        self._caches: dict[str, ResourceCache] = {}
        self._at = -1  # the hub's beginnings when these were found
        self._lists: dict[tuple[str, str], tuple[ResourceCache, int, list[Object]]] = {}

    def resource(self, resource: str) -> ResourceInfo:
        """A resource in its stored form."""
        return self._kinds.named(resource)

    async def _cache(self, resource: str) -> ResourceCache:
        return await self._hub.cache(self._kinds.named(resource))

    def _known(self, resource: str) -> ResourceCache | None:
        """The cache of a resource, where it is loaded."""
        beginnings = self._hub.beginnings
        if self._at != beginnings:
            self._at = beginnings
            self._caches.clear()
        found = self._caches.get(resource)
        if found is None:
            found = self._hub.peek(self._kinds.named(resource))
            if found is not None:
                self._caches[resource] = found
        return found

    async def get(self, resource: str, name: str, namespace: str = "") -> Object | None:
        """The object. What is not there is looked for once more after the cache has caught up with etcd."""
        cache = await self._cache(resource) if (known := self._known(resource)) is None else known
        entry = cache.get(namespace, name)
        if entry is None:
            await self._hub.fresh()
            cache = await self._hub.cache(self._kinds.named(resource))
            entry = cache.get(namespace, name)
        return entry.object if entry is not None else None

    async def select(self, resource: str, selection: Selection) -> Sequence[Entry]:
        """Entries as the cache has them, which know some things of their objects without parsing them."""
        return (await self._cache(resource)).select(selection)

    async def as_of(self, resource: str) -> int:
        """The revision up to which the cache of a resource, and whoever listens to it, knows all changes just now."""
        info = self._kinds.named(resource)
        while self._hub.peek(info) is None:
            await self._hub.cache(info)
        return self._hub.revision

    def changes(self, resource: str) -> int | None:
        """A number that grows with each change of a resource; None where its cache is not loaded."""
        known = self._known(resource)
        return known.changes if known is not None else None

    async def list(self, resource: str, namespace: str = "") -> list[Object]:
        """All objects as the cache has them, in the order of their keys."""
        cache = await self._cache(resource) if (known := self._known(resource)) is None else known
        if not len(cache):
            return []
        kept = self._lists.get((resource, namespace))
        if kept is not None and kept[0] is cache and kept[1] == cache.changes:
            return [*kept[2]]
        found = [e.object for e in cache.select(Selection(namespace=namespace))]
        if len(found) <= _SHORT:
            if len(self._lists) >= _REMEMBERED_MAX:
                self._lists.clear()
            self._lists[resource, namespace] = cache, cache.changes, found
        return [*found]
