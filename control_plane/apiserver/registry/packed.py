"""The packing of nodes, summed up from the watch caches while somebody looks, once for all who do."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from rayplane.control_plane.api.packing import Packing
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.registry.reading import Reader
from rayplane.control_plane.apiserver.requests import ListOptions, Target
from rayplane.control_plane.apiserver.watch_cache.watchers import BOOKMARK, ERROR
from rayplane.control_plane.shared import Shared
from rayplane.control_plane.tasks import Turn, cancel_and_wait

PAUSE_S = 0.3
"""Between two pieces of news to one who looks."""
_FROM_NOW = ListOptions(resource_version_match="NotOlderThan", send_initial_events=True, allow_bookmarks=True)


class Packed:
    """The packing of one cluster: objects are looked at and not kept. Raises ApiError; rights are the caller's."""

    def __init__(self, kinds: Kinds, reader: Reader) -> None:
        self._kinds = kinds
        self._reader = reader
        self._packing = Packing()
        self._shared = Shared(self._keep)

    @property
    def rests(self) -> bool:
        """Whether nobody looks, so that it takes nothing."""
        return self._shared.rests

    async def stop(self) -> None:
        """End what somebody may still look at."""
        await self._shared.stop()

    async def news(self) -> AsyncGenerator[dict[str, Any], None]:
        """All of it, and then what changes; until its watches end."""
        serial = 0
        async with aclosing(self._shared.turns(PAUSE_S)) as turns:
            async for _ in turns:
                found = self._packing.since(serial)
                serial = found["serial"]
                yield found

    async def then(self, revision: str) -> dict[str, Any]:
        """As it was at a revision that is still kept."""
        packing, turn = Packing(), Turn()
        options = ListOptions(resource_version=revision, resource_version_match="Exact")
        for resource, put in (("nodes", packing.node_event), ("pods", packing.pod_event)):
            for entry in (await self._reader.list(Target(self._kinds.named(resource)), options)).entries:
                put("ADDED", None, entry.fresh_object())
                await turn.give()
        return packing.since(0)

    async def _keep(self, tell: Callable[[], None]) -> None:
        self._packing = packing = Packing()
        lacking = {"nodes", "pods"}

        async def follow(resource: str, put: Callable[[str, None, Any], None]) -> None:
            turn = Turn()
            async with aclosing(self._reader.watch(Target(self._kinds.named(resource)), _FROM_NOW)) as groups:
                async for items in groups:
                    for item in items:
                        if item.type == ERROR:
                            return
                        if item.type == BOOKMARK:
                            lacking.discard(resource)
                        elif item.entry is not None:
                            put(item.type, None, item.entry.fresh_object())
                        await turn.give()
                    if not lacking:
                        tell()

        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(follow("nodes", packing.node_event), name="packing of nodes"),
            loop.create_task(follow("pods", packing.pod_event), name="packing of pods"),
        ]
        try:
            # Either may end, as watches do: who looks begins anew, since what happened meanwhile is not known.
            for one in (await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))[0]:
                one.result()
        finally:
            await cancel_and_wait(*tasks)
