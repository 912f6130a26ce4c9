"""The past of a running cluster: what instants people name, and what there was then."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Expired, NotFound
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.machinery.changes import Change, changes
from rayplane.control_plane.api.machinery.resources import ResourceInfo, builtin_registry
from rayplane.control_plane.api.meta import Object, format_time
from rayplane.control_plane.client import ApiClient, EtcdClient
from rayplane.control_plane.client.deletions import deleters
from rayplane.control_plane.client.history import Forgotten, Future, History
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.durations import DurationError, parse_span
from rayplane.control_plane.tasks import each_of

LISTS_AT_ONCE = 8
JUST_NOW: Final = timedelta(seconds=2)
"""What has been written since may have no time yet."""
RESTLESS: Final = frozenset({"events", "leases.coordination.k8s.io"})
"""What changes all the time and tells of other changes, or of none."""


class HistoryForgotten(ClusterError):
    """The instant is before what the cluster still knows."""

    code = "OUT_OF_RANGE"


@dataclass(frozen=True, slots=True)
class Instant:
    """A revision, and when it was, where that is known."""

    revision: int
    time: datetime | None

    def to_json(self) -> dict[str, Any]:
        return {"revision": self.revision, "time": format_time(self.time) if self.time else ""}

    def __str__(self) -> str:
        return f"revision {self.revision}" + (f" ({format_time(self.time)})" if self.time else "")


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind as a client is told of it."""

    name: str
    namespaced: bool

    @staticmethod
    def of(info: ResourceInfo) -> "Resource":
        return Resource(f"{info.plural}.{info.version}.{info.group}".rstrip("."), info.namespaced)


def parse_instant(text: str, now: datetime) -> int | datetime:
    """A revision, or a time: `-10m`, RFC 3339, or the same without a zone for the local one. Raises UsageError."""
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    try:
        if text.startswith("-"):
            return now - timedelta(seconds=parse_span(text[1:]))
        return datetime.fromisoformat(text).astimezone(now.tzinfo)
    except (DurationError, ValueError, OverflowError):
        raise UsageError(
            f"{text!r} is no instant: use a revision, a time such as {format_time(now)}, or a span back such as -10m"
        ) from None


async def instant(etcd: EtcdClient, text: str, now: datetime) -> Instant:
    """The instant that a text names, where history has it. Raises UsageError, HistoryForgotten, RpcError."""
    asked, history = parse_instant(text, now), History(etcd)
    if isinstance(asked, datetime) and asked > now:
        raise UsageError(f"{text} is still to come: it is {format_time(now)}")
    if isinstance(asked, datetime) and asked > now - JUST_NOW:
        return await present(etcd)
    async with _told(history, text):
        revision = asked if isinstance(asked, int) else await history.at(asked)
        await history.check(revision)
        return Instant(revision, await history.time_of(revision))


async def oldest(etcd: EtcdClient) -> Instant:
    """The first instant that is kept."""
    history = History(etcd)
    revision = await history.oldest()
    return Instant(revision, await history.time_of(revision))


async def present(etcd: EtcdClient) -> Instant:
    """The instant of now."""
    history = History(etcd)
    revision = await history.newest()
    return Instant(revision, await history.time_of(revision))


@asynccontextmanager
async def _told(history: History, text: str) -> AsyncIterator[None]:
    try:
        yield
    except Future as e:
        raise UsageError(f"revision {text} is still to come: the newest is {e.newest}") from e
    except Forgotten as e:
        oldest = Instant(e.oldest, await history.time_of(e.oldest))
        raise HistoryForgotten(
            f"{text} is before what is kept: the oldest instant is {oldest}; "
            "`rayplane up --history SPAN` keeps more from then on"
        ) from e


async def resources(api: ApiClient) -> list[Resource]:
    """All kinds of which objects are stored, custom ones too, but for those that never rest."""
    found = [Resource.of(info) for info in builtin_registry().stored() if info.name not in RESTLESS]
    for definition in (await api.list(CRDS)).items:
        spec = meta.spec(definition)
        stored = next(v["name"] for v in spec["versions"] if v.get("storage"))
        found.append(Resource(f"{spec['names']['plural']}.{stored}.{spec['group']}", spec["scope"] == "Namespaced"))
    return found


async def objects_at(
    api: ApiClient, wanted: Iterable[Resource], revision: int, namespace: str = ""
) -> list[tuple[Resource, list[Object]]]:
    """The objects that there were at a revision, those of one namespace or all. Raises HistoryForgotten, ApiError."""

    async def listed(resource: Resource) -> tuple[Resource, list[Object]]:
        try:
            found = await api.list(resource.name, namespace, resource_version=str(revision))
        except NotFound:  # nobody serves it
            return resource, []
        return resource, found.items

    fitting = [one for one in wanted if one.namespaced or not namespace]
    try:
        return await each_of(fitting, listed, at_once=LISTS_AT_ONCE)
    except Expired as e:
        raise HistoryForgotten(f"revision {revision} is not kept any more; ask for a later one") from e


async def changes_between(
    api: ApiClient, etcd: EtcdClient, wanted: Sequence[Resource], old: Instant, new: Instant, namespace: str = ""
) -> list[Change]:
    """What became of objects from one instant to another. Raises HistoryForgotten, ApiError, RpcError."""
    before, after = [
        [o for _, objs in await objects_at(api, wanted, one.revision, namespace) for o in objs] for one in (old, new)
    ]
    # Of many objects it takes seconds, and a supervisor that is asked has others to hear.
    return await asyncio.to_thread(changes, before, after, await deleters(etcd, old.revision))


async def unread_kinds(api: ApiClient, *instants: Instant) -> list[str]:
    """Custom kinds, by their definitions, that were there at an instant and are not now: nobody can read their objects.

    Raises HistoryForgotten, ApiError.
    """
    served = {meta.name(one) for one in (await api.list(CRDS)).items}
    then = [await objects_at(api, [Resource(CRDS, namespaced=False)], one.revision) for one in instants]
    return sorted({meta.name(o) for found in then for _, objs in found for o in objs} - served)
