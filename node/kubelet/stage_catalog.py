"""Stages of the cluster, as the API has them now, ready to be played on the pods and nodes of a host."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, Informer
from rayplane.control_plane.stages.definitions import resource
from rayplane.control_plane.stages.stage import NODE, POD, STAGE, Stage, read_stage

log = logging.getLogger(__name__)

STAGES_MAX = 256
SYNC_S = 2.0
"""How long pods wait at the start of a host until the stages are known."""


class StageCatalog:
    """The stages by kind. `watchers` are called when they changed."""

    def __init__(self, client: ApiClient) -> None:
        self.pods: tuple[Stage, ...] = ()
        self.nodes: tuple[Stage, ...] = ()
        self.watchers: list[Callable[[], None]] = []
        self._informer = Informer(client, resource(STAGE))
        self._read: dict[str, Stage] = {}

    async def start(self) -> None:
        """Follow the stages; return when they are known, or the API has not told them for a while."""
        self._informer.add_handler(self._changed)
        self._informer.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SYNC_S):
                await self._informer.synced()

    async def stop(self) -> None:
        await self._informer.stop()

    def _changed(self, kind: str, old: Object | None, o: Object) -> None:
        # Whoever writes a stage's status does not make it another.
        if old is not None and kind != "DELETED" and old.get("spec") == o.get("spec"):
            return
        self._read.pop(meta.name(o), None)
        if kind != "DELETED":
            self._take(o)
        stages = [self._read[name] for name in sorted(self._read)]
        self.pods = tuple(one for one in stages if one.kind == POD)
        self.nodes = tuple(one for one in stages if one.kind == NODE)
        for watcher in self.watchers:
            watcher()

    def _take(self, o: Object) -> None:
        name = meta.name(o)
        if len(self._read) >= STAGES_MAX:
            log.warning("stage %s is left out: there are %d already", name, STAGES_MAX)
            return
        try:
            stage, errors = read_stage(o)
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            # Of a shape that another definition lets in.
            log.warning("stage %s is left out: %s", name, e)
            return
        if errors:
            log.warning("stage %s is left out: %s", name, "; ".join(map(str, errors)))
            return
        self._read[name] = stage
