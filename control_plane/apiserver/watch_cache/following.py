"""An index kept in step with some caches: it begins anew whenever one of them does."""

from collections.abc import Callable, Sequence

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.watch_cache.cache import ResourceCache
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.apiserver.watch_cache.watchers import DELETED, Event

Change = Callable[[str, Object], None]
"""`change(resource, object)`."""


class Follower:
    """A receiver of changes: `clear`, then `put` for all there is; afterwards `put` and `remove` for each change, in
    order.
    """

    def __init__(
        self,
        kinds: Kinds,
        hub: WatchHub,
        resources: Sequence[str],
        *,
        clear: Callable[[], None],
        put: Change,
        remove: Change,
    ) -> None:
        self._kinds = kinds
        self._hub = hub
        self._resources = tuple(resources)
        self._clear, self._put, self._remove = clear, put, remove
        self._caches: list[ResourceCache] = []
        self._installs: list[int] = []
        self._listening: dict[ResourceCache, None] = {}
        self._at = -1  # the hub's beginnings when it was in step

    @property
    def in_step(self) -> bool:
        """Whether the index shows what the caches do."""
        beginnings = self._hub.beginnings
        if self._at == beginnings:
            return True
        followed = zip(self._caches, self._installs, strict=True)
        found = bool(self._caches) and all(c.ready and c.installs == n for c, n in followed)
        if found:
            self._at = beginnings
        return found

    async def load(self) -> None:
        """Bring the index in step with the caches. Cheap when it is."""
        if self.in_step:
            return
        caches = [await self._hub.cache(self._kinds.named(r)) for r in self._resources]
        self._clear()
        for resource, cache in zip(self._resources, caches, strict=True):
            self._listen(resource, cache)
            for entry in cache.readable():
                self._put(resource, entry.object)
        self._caches, self._installs = caches, [c.installs for c in caches]

    def _listen(self, resource: str, cache: ResourceCache) -> None:
        if cache in self._listening:
            return
        self._listening[cache] = None

        def on_event(event: Event) -> None:
            if event.type == DELETED:
                self._remove(resource, event.entry.object)
            else:
                self._put(resource, event.entry.object)

        cache.listeners.append(on_event)
