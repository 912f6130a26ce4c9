"""The source of what views show, as the cluster tells it: rows that follow its watches, texts, logs, and deeds."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.registry import rules_for
from rayplane.control_plane.api.machinery.resources import ResourceInfo
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
from rayplane.control_plane.cli.top.rows import Column, Key, Row
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.status import glances
from rayplane.proto.rayplane.v1 import chaos_pb2

LOOK_S, FAULT_S = 1.0, 60.0
TAIL = 1000
"""Lines of a log that are shown before those that come."""


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

    async def delete(self, info: ResourceInfo, key: Key, *, at_once: bool) -> None: ...

    async def strike(self, fault: str) -> str: ...


class ClusterSource:
    """A running cluster, with the administrator's certificate."""

    def __init__(self, admin: Access, session: Session) -> None:
        self.name = admin.state.config.name
        self._admin = admin
        self._session = session
        self._kinds: Kinds = session.kinds

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
        return glances(self._admin.directory, LOOK_S)

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


def key_of(obj: Object) -> Key:
    return meta.namespace(obj), meta.name(obj)


def yaml_of(obj: Object) -> str:
    return formatted(obj, "yaml")


def _row(columns: Sequence[Column], row: dict[str, Any], *, spaced: bool) -> Row:
    obj, cells = row["object"], tuple(map(cell_text, row["cells"]))
    namespace = (meta.namespace(obj),) if spaced else ()
    since = str(meta.metadata(obj).get("creationTimestamp") or "")
    return Row(
        key_of(obj), namespace + cells, since, looks_bad(dict(zip((c.name for c in columns), cells, strict=True)))
    )
