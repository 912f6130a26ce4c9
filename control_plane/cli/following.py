"""Objects of one kind as they are, and as they change."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Expired, ServiceUnavailable
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.client.api import WatchEvent

# A watch asks for another server this often before it gives up.
WATCH_TRIES = 30
WATCH_PAUSE_S = 1.0
PAGE = 500


@dataclass(frozen=True, slots=True)
class Part:
    """Some changes. `anew`: what was told before no longer counts, all there is follows."""

    events: Sequence[WatchEvent]
    anew: bool = False


async def follow(
    api: ApiClient, resource: str, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
) -> AsyncGenerator[Part, None]:
    """What is there, page by page, then each change, without an end. Raises ApiError."""
    version, tries = "", 0
    while True:
        try:
            if not version:
                async with aclosing(_listed(api, resource, namespace, label_selector, field_selector)) as pages:
                    async for part, listed in pages:
                        yield part
                        version = listed
            stream = api.watch(
                resource,
                namespace,
                label_selector=label_selector,
                field_selector=field_selector,
                resource_version=version,
            )
            async with aclosing(stream) as groups:
                async for events in groups:
                    tries = 0
                    version = meta.resource_version(events[-1].object)
                    yield Part([e for e in events if e.type != "BOOKMARK"])
        except Expired:
            version = ""
        except ServiceUnavailable:
            tries += 1
            if tries == WATCH_TRIES:
                raise
            await asyncio.sleep(WATCH_PAUSE_S)


async def _listed(
    api: ApiClient, resource: str, namespace: str, labels: str, fields: str
) -> AsyncGenerator[tuple[Part, str], None]:
    """The pages of a list, and the version that they are of; that is empty before the last."""
    anew, token = True, ""
    while anew or token:
        page = await api.list(
            resource, namespace, label_selector=labels, field_selector=fields, limit=PAGE, continue_token=token
        )
        token = page.continue_token
        events = [WatchEvent("ADDED", obj) for obj in page.items]
        yield Part(events, anew), "" if token else page.resource_version
        anew = False
