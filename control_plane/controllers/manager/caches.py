"""The informers all controllers of a manager share, and the view of them that reconcile functions get."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, Informer
from rayplane.control_plane.controllers.indexes import indexes_of
from rayplane.control_plane.controllers.manager.expectations import Shown
from rayplane.control_plane.tasks import Turn

log = logging.getLogger(__name__)
Listed = Callable[[str, float], None]


class CacheView:
    """A read-only view of the caches; resources that nobody watches look empty."""

    def __init__(self, informers: dict[str, Informer]) -> None:
        self._informers = informers

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        informer = self._informers.get(resource)
        return informer.get(namespace, name) if informer else None

    def list(self, resource: str) -> Sequence[Object]:
        informer = self._informers.get(resource)
        return informer.list() if informer else ()

    def indexed(self, resource: str, index: str, value: str) -> Sequence[Object]:
        informer = self._informers.get(resource)
        return informer.by_index(index, value) if informer else ()

    def values(self, resource: str, index: str) -> Collection[str]:
        informer = self._informers.get(resource)
        return informer.index_values(index) if informer else ()


class Caches:
    """One informer for each watched resource; `add` may come before or after `start`."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self.turn = Turn()
        """That of all who work on what is cached."""
        self._informers: dict[str, Informer] = {}
        self._started = False
        self._list_handlers: list[Listed] = []
        self.shown = Shown()
        self.view = CacheView(self._informers)

    def informer(self, resource: str) -> Informer:
        """The informer of a resource, made (and started, if the others are) when it is new."""
        found = self._informers.get(resource)
        if found is None:
            found = Informer(self._client, resource, indexers=indexes_of(resource))
            found.add_handler(lambda kind, old, obj: self.shown.note(resource, obj))
            found.add_list_handler(partial(self._listed, resource))
            self._informers[resource] = found
            if self._started:
                found.start()
        return found

    def add_list_handler(self, handler: Listed) -> None:
        """Call `handler` with a resource, and since when its list was asked for, whenever one is in."""
        self._list_handlers.append(handler)

    def _listed(self, resource: str, began: float) -> None:
        for handler in self._list_handlers:
            handler(resource, began)

    def refresh(self, resource: str) -> bool:
        """Have a resource listed anew, whose watch is too far behind; whether anybody follows it."""
        informer = self._informers.get(resource)
        if informer is None:
            return False
        log.warning("%s: what was written is not told by the watch: all are listed again", resource)
        informer.refresh()
        return True

    async def drop(self, resource: str) -> None:
        """Stop following a resource that is no longer served."""
        informer = self._informers.pop(resource, None)
        if informer is not None:
            await informer.stop()

    def watches(self, resource: str) -> bool:
        return resource in self._informers

    async def start(self, resources: Iterable[str] = ()) -> None:
        """Start all and wait until each has its first list."""
        for resource in resources:
            self.informer(resource)
        self._started = True
        informers = list(self._informers.values())
        for informer in informers:
            informer.start()
        await asyncio.gather(*(informer.synced() for informer in informers))

    async def stop(self) -> None:
        await asyncio.gather(*(informer.stop() for informer in self._informers.values()))
