"""An informer: a local copy of one resource, kept current by list and watch.

One task lists, then watches from the list's version, and starts again where it must. Readers get the shared
objects themselves: copy before changing one. Handlers run on the event loop, in order, and must not block.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, Gone
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.backoff import Backoff, Pauses
from rayplane.control_plane.client.api import ApiClient, WatchEvent
from rayplane.control_plane.tasks import cancel_and_wait

log = logging.getLogger(__name__)

Handler = Callable[[str, Object | None, Object], None]
Listed = Callable[[float], None]
Indexer = Callable[[Object], Iterable[str]]
# The class below has a method `list`, which hides the type inside it.
_Objects = list[Object]
_Values = list[str]

RETRIES = Backoff(0.1, 5.0)


class Informer:
    """A cache that a watch keeps current.

    `handler(type, old, new)`: type is ADDED, MODIFIED or DELETED; `old` is None for ADDED.
    """

    def __init__(
        self,
        client: ApiClient,
        resource: str,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        indexers: Mapping[str, Indexer] | None = None,
    ) -> None:
        self.resource = resource
        self._client = client
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._indexers = dict(indexers or {})
        self._objects: dict[str, Object] = {}
        # Insertion-ordered sets of keys (dicts), so that no order depends on the hash seed.
        self._indexes: dict[str, dict[str, dict[str, None]]] = {name: {} for name in self._indexers}
        self._handlers: list[Handler] = []
        self._list_handlers: list[Listed] = []
        self._synced = asyncio.Event()
        self._version = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"informer {self.resource}")

    def refresh(self) -> None:
        """List all anew, as the watch has not told all that happened. Nothing is done where a list is due already."""
        if self._task is None or not self._version:
            return
        self._version = ""
        self._task = asyncio.get_running_loop().create_task(self._run(self._task), name=f"informer {self.resource}")

    async def stop(self) -> None:
        if self._task is not None:
            await cancel_and_wait(self._task)
            self._task = None

    async def synced(self) -> None:
        """Return when the first list is in."""
        await self._synced.wait()

    @property
    def has_synced(self) -> bool:
        return self._synced.is_set()

    def get(self, namespace: str, name: str) -> Object | None:
        return self._objects.get(f"{namespace}/{name}" if namespace else name)

    def get_key(self, key: str) -> Object | None:
        return self._objects.get(key)

    def list(self) -> _Objects:
        return [*self._objects.values()]

    def by_index(self, index: str, value: str) -> _Objects:
        objects = self._objects
        return [objects[key] for key in self._indexes[index].get(value, ())]

    def index_values(self, index: str) -> Collection[str]:
        """All values that objects are found by; changes with the copy."""
        return self._indexes[index].keys()

    def add_handler(self, handler: Handler) -> None:
        """Call `handler` for every change from now on, and at once for what is here already."""
        self._handlers.append(handler)
        for key, obj in self._objects.items():
            self._tell(handler, "ADDED", None, obj, key=key)

    def add_list_handler(self, handler: Listed) -> None:
        """Call `handler` whenever a list is in and its changes were told, with the loop's time when it was asked for.

        All that was written before is in it.
        """
        self._list_handlers.append(handler)

    async def _run(self, before: asyncio.Task[None] | None = None) -> None:
        if before is not None:
            await cancel_and_wait(before)
            self._version = ""
        pauses = Pauses(RETRIES)
        while True:
            try:
                if not self._version:
                    await self._relist()
                await self._watch()
                pauses.reset()
            except Gone:
                self._version = ""
            except ApiError as e:
                pause_s = pauses.next_s()
                log.debug("%s: %s; trying again in %.1f s", self.resource, e.message, pause_s)
                await asyncio.sleep(pause_s)
            except Exception:
                # Nobody else would ever fill this copy: whatever it is, begin anew.
                pause_s = pauses.next_s()
                log.exception("%s: listing and watching failed; trying again in %.1f s", self.resource, pause_s)
                self._version = ""
                await asyncio.sleep(pause_s)

    async def _relist(self) -> None:
        began = asyncio.get_running_loop().time()
        answer = await self._client.list(
            self.resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        fresh = {meta.key(obj): obj for obj in answer.items}
        for key in [key for key in self._objects if key not in fresh]:
            self._apply("DELETED", self._objects[key])
        for obj in fresh.values():
            self._apply("MODIFIED", obj)
        self._version = answer.resource_version
        self._synced.set()
        for handler in self._list_handlers:
            handler(began)

    async def _watch(self) -> None:
        async for events in self._client.watch(
            self.resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            resource_version=self._version,
        ):
            for event in events:
                self._receive(event)

    def _receive(self, event: WatchEvent) -> None:
        if event.type != "BOOKMARK":
            self._apply(event.type, event.object)
        self._version = meta.resource_version(event.object) or self._version

    def _apply(self, kind: str, obj: Object) -> None:
        key = meta.key(obj)
        old = self._objects.get(key)
        if kind == "DELETED":
            if old is None:
                return
            del self._objects[key]
        else:
            # After a re-list or a resumed watch an object may come again unchanged.
            if old is not None and meta.resource_version(old) == meta.resource_version(obj):
                return
            kind = "ADDED" if old is None else "MODIFIED"
            self._objects[key] = obj
        self._reindex(key, old, None if kind == "DELETED" else obj)
        for handler in self._handlers:
            self._tell(handler, kind, old, obj, key=key)

    def _tell(self, handler: Handler, kind: str, old: Object | None, obj: Object, *, key: str) -> None:
        try:
            handler(kind, old, obj)
        except Exception:
            # One object that a handler cannot take must not end the copy for all the others.
            log.exception("%s: a handler failed on %s %s", self.resource, kind, key)

    def _reindex(self, key: str, old: Object | None, new: Object | None) -> None:
        for name, indexer in self._indexers.items():
            index = self._indexes[name]
            before, after = self._values(indexer, old), self._values(indexer, new)
            if before == after:
                continue
            for value in before:
                keys = index.get(value, {})
                keys.pop(key, None)
                if not keys:
                    index.pop(value, None)
            for value in after:
                index.setdefault(value, {})[key] = None

    def _values(self, indexer: Indexer, obj: Object | None) -> _Values:
        """What an object is found by; nothing where it has not the shape of its kind."""
        try:
            return [*indexer(obj)] if obj is not None else []
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            log.warning("%s: an object is not indexed: %s", self.resource, e)
            return []
