"""Reports of tests that failed: events, how objects changed, what each controller did."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client.api import ApiClient, WatchEvent
from rayplane.control_plane.cluster.access import Access, access
from rayplane.control_plane.cluster.asking import story
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.stories import lines
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.rayplane.v1 import controllers_pb2

#: What controllers act on, and what they make of it.
RESOURCES = (
    "deployments.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "replicasets.apps",
    "cronjobs.batch",
    "jobs.batch",
    "pods",
    "services",
    "persistentvolumeclaims",
)
OBJECTS_MAX, CHANGES_MAX, EVENTS_MAX = 10, 200, 100
_FAILURES = (ApiError, ClusterError, RpcError, OSError)
#: How long is listened to what a watch has to say of what was before.
_HISTORY_S = 0.5


async def told(directory: StateDir, namespace: str, since: str) -> list[tuple[str, str]]:
    """Titles and texts of what happened in a namespace since a resource version; of what cannot be had, why."""
    try:
        async with access(directory) as admin:
            parts = {
                "rayplane events": _events(admin.api, namespace),
                "rayplane history": _history(admin.api, namespace, since),
                "rayplane controllers": _stories(admin, namespace),
            }
            texts = await asyncio.gather(*parts.values(), return_exceptions=True)
    except _FAILURES as e:
        return [("rayplane", f"the cluster does not answer: {e}")]
    return [(title, _text(found)) for title, found in zip(parts, texts, strict=True)]


def _text(found: Sequence[str] | BaseException) -> str:
    if isinstance(found, _FAILURES):
        return f"not to be had: {found}"
    if isinstance(found, BaseException):
        raise found
    return "\n".join(found)


async def _events(api: ApiClient, namespace: str) -> list[str]:
    found = (await api.list("events", namespace)).items
    found.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    return [_event(event) for event in found[-EVENTS_MAX:]]


def _event(event: Object) -> str:
    about, times = event.get("involvedObject") or {}, event.get("count") or 1
    at = event.get("lastTimestamp") or event.get("eventTime") or ""
    of = f"{about.get('kind', '')}/{about.get('name', '')}"
    again = f" ({times} times)" if times > 1 else ""
    return f"{at}  {event.get('type')}  {event.get('reason')}  {of}: {event.get('message')}{again}"


async def _history(api: ApiClient, namespace: str, since: str) -> list[str]:
    """Changes of objects in their order, from what API servers remember of them."""
    changes: list[tuple[int, str]] = []

    async def follow(resource: str) -> None:
        async for event in _changes(api, resource, namespace, since):
            changes.append((int(meta.resource_version(event.object)), _change(resource, event)))

    with suppress(TimeoutError):
        async with asyncio.timeout(_HISTORY_S):
            await asyncio.gather(*(follow(resource) for resource in RESOURCES))
    return [text for _, text in sorted(changes)[-CHANGES_MAX:]]


async def _changes(api: ApiClient, resource: str, namespace: str, since: str) -> AsyncIterator[WatchEvent]:
    with suppress(ApiError):  # what it began with is forgotten
        async with aclosing(api.watch(resource, namespace, resource_version=since)) as groups:
            async for events in groups:
                for event in events:
                    if event.type != "BOOKMARK":
                        yield event


def _change(resource: str, event: WatchEvent) -> str:
    obj, status = event.object, meta.status(event.object)
    last = (meta.metadata(obj).get("managedFields") or [{}])[-1]
    conditions = [f"{one['type']}={one['status']}" for one in status.get("conditions") or ()]
    words = [*(str(status[key]) for key in ("phase", "reason") if status.get(key)), *conditions]
    by = f" by {last['manager']}" if last.get("manager") else ""
    return f"@{meta.resource_version(obj)}  {event.type}  {resource} {meta.name(obj)}{by}  {' '.join(words)}".rstrip()


async def _stories(admin: Access, namespace: str) -> list[str]:
    """What `rayplane why` tells of the objects that were made by no other."""
    found = []
    for resource in RESOURCES:
        for obj in (await admin.api.list(resource, namespace)).items:
            if not meta.metadata(obj).get("ownerReferences"):
                found.append((resource, meta.name(obj)))
    text = []
    for resource, name in found[:OBJECTS_MAX]:
        asked = {"resource": resource, "namespace": namespace, "name": name}
        answer = await story(admin, controllers_pb2.WhyRequest(**asked))
        text += [f"{resource} {name}", *(f"  {line}" for line in lines(asked, answer.answers, answer.silent))]
    return text
