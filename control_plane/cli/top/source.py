"""The source of what views show, as the cluster tells it: rows that follow its watches, texts, logs, and deeds."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.kinds.registry import rules_for
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.machinery.selectors import label_selector_text
from rayplane.control_plane.api.machinery.tables import to_table
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cli import containers
from rayplane.control_plane.cli.containers import LogOptions
from rayplane.control_plane.cli.describe import described
from rayplane.control_plane.cli.following import Part, follow
from rayplane.control_plane.cli.kinds import Kinds, resource_of
from rayplane.control_plane.cli.printing import cell_text, formatted, looks_bad
from rayplane.control_plane.cli.reading import events_of
from rayplane.control_plane.cli.session import Session
from rayplane.control_plane.cli.top import owners
from rayplane.control_plane.cli.top.forwards import Forwards
from rayplane.control_plane.cli.top.owners import Standing
from rayplane.control_plane.cli.top.rows import AGE, Column, Key, Row
from rayplane.control_plane.client.pods import PodClient
from rayplane.control_plane.cluster.access import Access, access
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.manifests import FIELD_MANAGER
from rayplane.control_plane.cluster.status import glances
from rayplane.proto.rayplane.v1 import chaos_pb2

LOOK_S, FAULT_S = 1.0, 60.0
TAIL = 1000
"""Lines of a log that are shown before those that come."""
NUMBERED_MAX = 9
"""Namespaces that have a number, and so a key."""
OWNERS_MAX = 10
DEFAULT, EVENTS = "default", "events"
_OWNED = (
    "deployments",
    "replicasets",
    "statefulsets",
    "daemonsets",
    "jobs",
    "cronjobs",
    "pods",
    "persistentvolumeclaims",
)
"""What is looked for below an object."""
_TOLD = ("Ready", "Status", "Phase", "Desired", "Completions", "Schedule", "Type")
"""Columns that tell how an object is."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Objects of a kind: in one namespace or in all, all of them or those selected."""

    info: ResourceInfo
    namespace: str = ""
    labels: str = ""
    fields: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """Rows that are new or otherwise, and keys of those that are gone; `anew`: nothing of before counts."""

    columns: Sequence[Column]
    put: Sequence[Row] = ()
    drop: Sequence[Key] = ()
    anew: bool = False


class Source(Protocol):
    """A cluster as views ask it. All but `now` raise ApiError, RpcError, ClusterError or OSError."""

    @property
    def name(self) -> str: ...

    def now(self) -> datetime: ...

    async def kind(self, word: str) -> ResourceInfo: ...

    def rows(self, selection: Selection) -> AsyncGenerator[Change, None]: ...

    def standings(self) -> AsyncGenerator[dict[str, Any], None]: ...

    async def get(self, info: ResourceInfo, key: Key) -> Object: ...

    async def describe(self, info: ResourceInfo, key: Key) -> str: ...

    def logs(self, key: Key, *, previous: bool) -> AsyncGenerator[bytes, None]: ...

    async def owners(self, info: ResourceInfo, key: Key) -> str: ...

    async def namespaces(self) -> list[str]: ...

    async def delete(self, info: ResourceInfo, key: Key, *, at_once: bool) -> None: ...

    async def patch(
        self, info: ResourceInfo, key: Key, patch: Object, *, subresource: str = "", dry_run: bool = False
    ) -> Object: ...

    @property
    def forwards(self) -> Forwards: ...

    async def strike(self, fault: str) -> str: ...


class ClusterSource:
    """A running cluster, with the administrator's certificate."""

    def __init__(self, admin: Access, session: Session) -> None:
        self.name = admin.state.config.name
        self._admin = admin
        self._session = session
        self._kinds: Kinds = session.kinds
        self.forwards = Forwards(PodClient(session.api))

    def now(self) -> datetime:
        return self._session.clock.now()

    async def kind(self, word: str) -> ResourceInfo:
        return (await self._kinds.resolve(word))[0]

    async def rows(self, selection: Selection) -> AsyncGenerator[Change, None]:
        parts = follow(
            self._session.api,
            resource_of(selection.info),
            selection.namespace,
            label_selector=selection.labels,
            field_selector=selection.fields,
        )
        async with aclosing(parts):
            async for part in parts:
                yield self._change(selection, part)

    def standings(self) -> AsyncGenerator[dict[str, Any], None]:
        return glances(lambda: access(self._admin.directory), LOOK_S)

    async def get(self, info: ResourceInfo, key: Key) -> Object:
        return await self._session.api.get(resource_of(info), key[-1], key[0] if info.namespaced else "")

    async def describe(self, info: ResourceInfo, key: Key) -> str:
        obj = await self.get(info, key)
        return "\n".join(described(obj, await events_of(self._session, info, obj), self.now()))

    def logs(self, key: Key, *, previous: bool) -> AsyncGenerator[bytes, None]:
        options = LogOptions(follow=not previous, previous=previous, tail=TAIL)
        return containers.written(self._session.within(key[0]), key[1], options)

    async def delete(self, info: ResourceInfo, key: Key, *, at_once: bool) -> None:
        namespace, grace_s = key[0] if info.namespaced else "", 0 if at_once else None
        await self._session.api.delete(resource_of(info), key[-1], namespace, grace_period_s=grace_s)

    async def patch(
        self, info: ResourceInfo, key: Key, patch: Object, *, subresource: str = "", dry_run: bool = False
    ) -> Object:
        return await self._session.api.patch(
            resource_of(info),
            key[-1],
            key[0] if info.namespaced else "",
            patch,
            subresource=subresource,
            dry_run=dry_run,
            field_manager=FIELD_MANAGER,
            field_validation="Strict",
        )

    async def namespaces(self) -> list[str]:
        """Some of them, `default` first."""
        page = await self._session.api.list("namespaces", limit=NUMBERED_MAX)
        names = (meta.name(obj) for obj in page.items)
        return [DEFAULT, *(name for name in names if name != DEFAULT)][:NUMBERED_MAX]

    async def owners(self, info: ResourceInfo, key: Key) -> str:
        asked = await self.get(info, key)
        return owners.tree(
            [standing async for standing in self._above(asked)][::-1],
            self._standing(info, asked),
            await self._owned(key[0]) if info.namespaced else (),
            await self._selected(info, asked),
        )

    async def _owned(self, namespace: str) -> list[Standing]:
        """What may stand below something of a namespace."""
        kinds = [await self.kind(word) for word in _OWNED]
        lists = await asyncio.gather(*(self._all(kind, namespace) for kind in kinds))
        return [one for listed in lists for one in listed]

    async def _above(self, obj: Object) -> AsyncGenerator[Standing, None]:
        """Its owner, that one's owner, and so on, as far as they are there."""
        seen = {meta.uid(obj)}
        while (owner := owner_of(obj)) is not None and owner.get("uid") not in seen and len(seen) < OWNERS_MAX:
            seen.add(owner["uid"])
            try:
                info = await self._kinds.of(owner)
                obj = await self.get(info, (meta.namespace(obj), owner["name"]))
            except (NotFound, ClusterError):
                return
            yield self._standing(info, obj)

    async def _selected(self, info: ResourceInfo, obj: Object) -> list[Standing]:
        selector = meta.spec(obj).get("selector") if info.name == "services" else None
        pods = await self.kind("pods")
        return (
            await self._all(pods, meta.namespace(obj), label_selector_text({"matchLabels": selector}))
            if selector
            else []
        )

    async def _all(self, info: ResourceInfo, namespace: str, labels: str = "") -> list[Standing]:
        found = await self._session.api.list(resource_of(info), namespace, label_selector=labels)
        return [self._standing(info, obj) for obj in found.items]

    def _standing(self, info: ResourceInfo, obj: Object) -> Standing:
        """An object with those columns of its table that tell how it is."""
        table = to_table(
            rules_for(info).printer, [obj], now=self.now(), include_object="None", columns=self._kinds.columns(info)
        )
        cells = zip(table["columnDefinitions"], table["rows"][0]["cells"], strict=True)
        return Standing(
            info.kind, obj, ", ".join(f"{c['name']} {cell_text(cell)}" for c, cell in cells if c["name"] in _TOLD)
        )

    async def strike(self, fault: str) -> str:
        begun = await self._admin.faults.Begin(chaos_pb2.BeginRequest(fault=fault, by="top"), timeout=FAULT_S)
        return f"{begun.fault} -> {', '.join(begun.hit)}"

    def _change(self, selection: Selection, part: Part) -> Change:
        info, spaced = selection.info, selection.info.namespaced and not selection.namespace
        objs = [e.object for e in part.events if e.type != "DELETED"]
        table = to_table(
            rules_for(info).printer,
            objs,
            now=self.now(),
            include_object="Object",
            columns=self._kinds.columns(info),
        )
        columns = [Column(c["name"], wide=bool(c.get("priority"))) for c in table["columnDefinitions"]]
        return Change(
            [*([Column("Namespace")] if spaced else []), *columns],
            [_row(columns, row, spaced=spaced) for row in table["rows"]],
            [key_of(e.object) for e in part.events if e.type == "DELETED"],
            part.anew,
        )


def owner_of(obj: Object) -> dict[str, Any] | None:
    """The controller that it has, else the first of its owners."""
    all_ = meta.metadata(obj).get("ownerReferences") or [None]
    return meta.controller_of(obj) or all_[0]


def key_of(obj: Object) -> Key:
    return meta.namespace(obj), meta.name(obj)


def yaml_of(obj: Object) -> str:
    return formatted(obj, "yaml")


def _row(columns: Sequence[Column], row: dict[str, Any], *, spaced: bool) -> Row:
    obj, cells = row["object"], tuple(map(cell_text, row["cells"]))
    namespace = (meta.namespace(obj),) if spaced else ()
    since = str(meta.metadata(obj).get("creationTimestamp") or "")
    # As old as it is when it is looked at: a filter does not find it by the age that it had when it was told.
    timeless = tuple("" if since and c.name == AGE else cell for c, cell in zip(columns, cells, strict=True))
    return Row(
        key_of(obj), namespace + timeless, since, looks_bad(dict(zip((c.name for c in columns), cells, strict=True)))
    )
