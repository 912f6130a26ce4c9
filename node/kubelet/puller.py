"""Pulls of images for pods: a few at a time, each image once for all who wait, with back-off after failures."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.client.singleflight import SingleFlight
from rayplane.control_plane.durations import format_duration
from rayplane.node.events import Events
from rayplane.node.images.catalog import PULLED, Stored
from rayplane.node.images.credentials import Auth, credentials_of
from rayplane.node.images.errors import ImageError, PullBackOff, RegistryFailed
from rayplane.node.images.references import Reference
from rayplane.node.images.registry import RegistryClient

AT_ONCE = 5
FAILURES_MAX = 4096
_Key = tuple[str, str]
"""The uid of a pod and its image in full."""


class Puller:
    """A puller for all pods of a host."""

    def __init__(self, client: RegistryClient, events: Events, backoff: Backoff) -> None:
        self._client, self._events, self._backoff = client, events, backoff
        self._places = asyncio.Semaphore(AT_ONCE)
        self._flights: SingleFlight[Stored] = SingleFlight(lambda: RegistryFailed("this node host is shutting down"))
        self._failed: OrderedDict[_Key, tuple[float, float, str]] = OrderedDict()  # pause, its end, why

    async def close(self) -> None:
        await self._flights.stop()
        await self._client.close()

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        for key in [key for key in self._failed if key[0] == uid]:
            del self._failed[key]

    async def pull(self, pod: Object, said: str, reference: Reference, auths: Sequence[Auth], part: str = "") -> Stored:
        """The image, fetched now. Raises ImageError, PullBackOff while it is too early after a failure.

        `part`: of the pod, as events say it.
        """
        loop, key = asyncio.get_running_loop(), (meta.uid(pod), str(reference))
        pause, until, why = self._failed.get(key, (0.0, 0.0, ""))
        if (wait_s := until - loop.time()) > 0:
            text = f'Back-off pulling image "{said}"'
            self._events.record(pod, "Normal", "BackOff", text, part=part)
            raise PullBackOff(f"{text}: ErrImagePull: {why}", wait_s)
        self._events.record(pod, "Normal", "Pulling", f'Pulling image "{said}"', part=part)
        began = loop.time()
        try:
            image = await self.fetched(reference, auths)
        except (ImageError, OSError) as e:
            pause = self._backoff.after_s(pause)
            self._failed[key] = (pause, loop.time() + pause, str(e))
            if len(self._failed) > FAILURES_MAX:
                self._failed.popitem(last=False)
            self._events.record(pod, "Warning", "Failed", f'Failed to pull image "{said}": {e}', part=part)
            raise e if isinstance(e, ImageError) else RegistryFailed(str(e)) from e
        self._failed.pop(key, None)
        took = format_duration(round(loop.time() - began, 3))
        text = (
            f'Successfully pulled image "{said}" in {took} ({took} including waiting). Image size: {image.size} bytes.'
        )
        self._events.record(pod, "Normal", "Pulled", text, part=part)
        return image

    async def fetched(self, reference: Reference, auths: Sequence[Auth]) -> Stored:
        """The image, fetched now, whoever else waits for it. Raises ImageError, OSError."""
        flight = f"{reference} {sorted(credentials_of(auths).hashes)}"
        return await self._flights.run(flight, lambda: self._pulled(reference, auths))

    async def _pulled(self, reference: Reference, auths: Sequence[Auth]) -> Stored:
        async with self._places:
            error: ImageError | None = None
            tried: Sequence[Auth | None] = auths or [None]
            for auth in tried:
                try:
                    return await self._fetched(reference, auth)
                except ImageError as e:
                    error = e
            assert error is not None
            raise error

    async def _fetched(self, reference: Reference, auth: Auth | None) -> Stored:
        return await self._client.image(
            reference, auth, source=PULLED, credentials=credentials_of([auth] if auth is not None else [])
        )
