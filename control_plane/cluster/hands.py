"""Hands of a user: commands on objects, given again while no server answers."""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, NotFound
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.invariants.conditions import View

AGAIN_S = 0.5
WITHIN_S = 60.0
LOOK_S = 0.02


class Keeper(Protocol):
    """Whoever keeps what hands make, to delete it one day."""

    def marked(self, resource: str, manifest: Object) -> Object:
        """What to make in place of a manifest."""

    async def noted(self) -> None:
        """Wait until nothing of that can be forgotten. Raises ClusterError."""

    def made(self, resource: str, obj: Object) -> None:
        """It was made, and not found there."""


class ApiHands:
    """A user's hands, through the API; `view` is what the user sees."""

    def __init__(self, api: ApiClient, view: View, keeper: Keeper | None = None) -> None:
        self.view = view
        self._api = api
        self._keeper = keeper

    async def apply(self, obj: Object) -> None:
        resource, manifest = placed(obj)
        name, namespace = meta.name(manifest), meta.namespace(manifest)
        wanted = manifest
        if self._keeper is not None:
            wanted = self._keeper.marked(resource, manifest)
            await self._keeper.noted()

        async def once() -> Object:
            try:
                found = await self._api.create(resource, copy.deepcopy(wanted))
            except AlreadyExists:
                return await self._api.patch(resource, name, namespace, manifest)
            if self._keeper is not None:
                self._keeper.made(resource, found)
            return found

        await self._seen(resource, await self._insist(once))

    async def patch(self, resource: str, name: str, namespace: str, body: Object) -> None:
        await self._seen(resource, await self._insist(lambda: self._api.patch(resource, name, namespace, body)))

    async def delete(self, resource: str, name: str, namespace: str) -> None:
        asked = 0

        async def once() -> None:
            nonlocal asked
            asked += 1
            try:
                await self._api.delete(resource, name, namespace)
            except NotFound:
                if asked == 1:
                    raise
                # The first one was done; its answer was lost.

        await self._insist(once)

    async def _seen(self, resource: str, written: Object) -> None:
        """Wait until the user sees what was done: what is awaited next must not be judged by what was before."""
        loop = asyncio.get_running_loop()
        deadline, key, version = loop.time() + WITHIN_S, meta.key(written), int(meta.resource_version(written))
        while loop.time() < deadline:
            found = self.view.get(resource, key)
            if found is not None and int(meta.resource_version(found)) >= version:
                return
            await asyncio.sleep(LOOK_S)
        raise ClusterError(f"{resource} {key} was written, and cannot be seen")

    async def _insist(self, attempt: Callable[[], Awaitable[Any]]) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WITHIN_S
        while True:
            try:
                return await attempt()
            except ApiError as e:
                if not e.retryable or loop.time() > deadline:
                    raise ClusterError(str(e)) from e
            await asyncio.sleep(AGAIN_S)


def placed(obj: Object) -> tuple[str, Object]:
    """The resource of a manifest, and a copy of it that names its namespace. Raises UsageError for an unknown kind."""
    info = builtin_registry().by_kind(obj["apiVersion"], obj["kind"])
    if info is None:
        raise UsageError(f"there is no kind {obj['kind']} in {obj['apiVersion']}")
    manifest = copy.deepcopy(obj)
    if info.namespaced:
        manifest["metadata"].setdefault("namespace", "default")
    return info.name, manifest
