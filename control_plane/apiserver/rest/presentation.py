"""Presentation of objects: as they are, as tables or as metadata only; chosen by the Accept header."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import orjson
import yaml

from rayplane.control_plane.api.errors import BadRequest, NotAcceptable, invalid
from rayplane.control_plane.api.kinds.autoscaling import scale
from rayplane.control_plane.api.kinds.registry import rules_for
from rayplane.control_plane.api.machinery import protobuf_encoding, tables
from rayplane.control_plane.api.machinery.columns import Printer
from rayplane.control_plane.api.machinery.protobuf import ProtobufError
from rayplane.control_plane.api.machinery.remembering import remembered
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.registry import metrics_kinds
from rayplane.control_plane.apiserver.registry.reading import Listing
from rayplane.control_plane.apiserver.rest.answers import Joined
from rayplane.control_plane.apiserver.storage.entries import ITEM

Form = Literal["object", "table", "metadata"]
JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
NO_CACHE = {"Cache-Control": "no-cache, private"}
BY_HAND = ("curl", "Wget", "Mozilla/5.0")
"""Programs with which people look at JSON: they get it indented."""
_CACHE = 256
_META_GROUP = "meta.k8s.io"
_META_VERSIONS = ("v1", "v1beta1")
_INCLUDED = ("", "Metadata", "Object", "None")
_PARTIAL = ("PartialObjectMetadata", "PartialObjectMetadataList")
_ACCEPTED = f"only the following media types are accepted: {JSON}, {YAML}"
_ACCEPTED_OF_KUBERNETES = f"{_ACCEPTED}, {PROTOBUF}"


@dataclass(frozen=True, slots=True)
class View:
    """One form of an answer."""

    form: Form = "object"
    version: str = "v1"
    media: str = JSON

    @property
    def content_type(self) -> str:
        """Plain, as the recorded servers name it."""
        return self.media

    @property
    def stream_type(self) -> str:
        """That of a watch."""
        return f"{PROTOBUF};stream=watch" if self.media == PROTOBUF else JSON


@remembered(_CACHE)
def negotiate(accept: str, *, tables: bool = True, protobuf: bool = False) -> View:
    """The first form in an Accept header that can be served. NotAcceptable.

    Protobuf is for those who take nothing else, since it costs the most here: of objects where their resource has it,
    of metadata always.
    """
    if not accept:
        return View()
    in_protobuf: View | None = None
    for clause in accept.split(","):
        media, *parameters = (part.strip() for part in clause.split(";"))
        if media in ("*/*", "application/*"):
            return View()
        view = _view_of(media, dict(p.partition("=")[::2] for p in parameters))
        if view is None or (view.form == "table" and not tables):
            continue
        if media != PROTOBUF:
            return view
        if in_protobuf is None and (protobuf or view.form == "metadata"):
            in_protobuf = view
    if in_protobuf is not None:
        return in_protobuf
    raise NotAcceptable(_ACCEPTED_OF_KUBERNETES if protobuf else _ACCEPTED)


def _view_of(media: str, values: Mapping[str, str]) -> View | None:
    """The form that one clause of an Accept header names; None for one that there is not."""
    kind, version = values.get("as"), values.get("v", "v1")
    if media not in (JSON, YAML, PROTOBUF):
        return None
    if kind is None:
        return View(media=media)
    if values.get("g") != _META_GROUP or version not in _META_VERSIONS:
        return None
    if kind in _PARTIAL and (media != PROTOBUF or version == "v1"):
        return View("metadata", version, media)
    return View("table", version, media) if kind == "Table" and media != PROTOBUF else None


class Presenter:
    """A presenter that puts objects and lists into bytes. `now` is the wall clock's, for the ages in tables."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds

    def object(
        self, view: View, info: ResourceInfo, json: bytes, now: datetime, *, include: str = "", subresource: str = ""
    ) -> bytes:
        """One object. `json`: in the form of `info` (or another kind, for subresources)."""
        if view.form == "table":
            objects = [orjson.loads(json)]
            printer = scale.PRINTER if subresource == "scale" else None
            return self._dump(view, self.table(view, info, objects, now, include=include, printer=printer))
        if view.form == "metadata":
            return self._dump(view, _partial(view, orjson.loads(json)))
        return json if view.media == JSON else self._dump(view, orjson.loads(json))

    def list(self, view: View, listing: Listing, now: datetime, *, include: str = "") -> Sequence[bytes]:
        """A list, with its version and continue token, in pieces."""
        info = listing.info
        meta: dict[str, Any] = {"resourceVersion": str(listing.revision)}
        if listing.continue_token:
            meta["continue"] = listing.continue_token
            if listing.remaining is not None:
                meta["remainingItemCount"] = listing.remaining
        if view.form == "object" and view.media == JSON:
            head = b'{"kind":"%s","apiVersion":"%s","metadata":%s,"items":[' % (
                info.list_kind.encode(),
                info.api_version.encode(),
                orjson.dumps(meta),
            )
            return self._document(head, listing)
        objects = [self._kinds.from_stored(info, e.object) for e in listing.entries]
        if view.form == "table":
            table = self.table(view, info, objects, now, include=include, metadata=meta)
            return (self._dump(view, table),)
        if view.form == "metadata":
            kind, version = "PartialObjectMetadataList", f"{_META_GROUP}/{view.version}"
            objects = [_partial(view, o) for o in objects]
        else:
            kind, version = info.list_kind, info.api_version
        body = {"kind": kind, "apiVersion": version, "metadata": meta, "items": objects}
        return (self._dump(view, body),)

    def _document(self, head: bytes, listing: Listing) -> Sequence[bytes]:
        """A list's JSON: items are joined from the bytes that they are kept in."""
        info, entries = listing.info, listing.entries
        if not info.is_storage_version or info.custom:
            glue, items = b"", [self._kinds.json(info, e) for e in entries]
        else:
            glue, items = ITEM, [e.tail for e in entries]
        return Joined(head + glue if items else head, items, b"]}", glue=b"," + glue)

    def table(
        self,
        view: View,
        info: ResourceInfo,
        objects: Sequence[Object],
        now: datetime,
        *,
        include: str = "",
        metadata: dict[str, Any] | None = None,
        header: bool = True,
        printer: Printer | None = None,
    ) -> Object:
        """A meta.k8s.io Table; `include`: None, Metadata (as usual) or Object; `printer`: not the resource's."""
        if include not in _INCLUDED:
            shown = invalid("includeObject", include, "must be 'Metadata', 'Object', 'None', or empty")
            raise BadRequest(f"Unable to convert to Table as requested: {shown}")
        custom = self._kinds.custom(info) if printer is None else None
        table = tables.to_table(
            printer or _printer(info),
            objects,
            now=now,
            include_object=include or "Metadata",
            metadata=metadata,
            columns=custom.columns if custom is not None else None,
            header=header,
        )
        table["apiVersion"] = f"{_META_GROUP}/{view.version}"
        return table

    def event(
        self,
        view: View,
        info: ResourceInfo,
        json: bytes,
        now: datetime,
        *,
        include: str = "",
        first: bool = True,
    ) -> bytes:
        """The object of a watch event in this view; only the first table of a stream has its columns."""
        if view.form == "metadata":
            return self.metadata(view, json)
        objects = [orjson.loads(json)]
        return orjson.dumps(self.table(view, info, objects, now, include=include, header=first))

    @staticmethod
    def metadata(view: View, json: bytes) -> bytes:
        """An object's metadata alone, as JSON."""
        return orjson.dumps(_partial(view, orjson.loads(json)))

    def bookmark(self, view: View, json: bytes) -> bytes:
        """A bookmark in this view: tables and metadata have one without rows or labels."""
        if view.form == "metadata":
            return self.metadata(view, json)
        o = orjson.loads(json)
        version = f"{_META_GROUP}/{view.version}"
        table = {
            "kind": "Table",
            "apiVersion": version,
            "metadata": {"resourceVersion": o["metadata"]["resourceVersion"]},
            "columnDefinitions": None,
            "rows": [{"cells": [], "object": o}],
        }
        return orjson.dumps(table)

    @staticmethod
    def _dump(view: View, o: Object) -> bytes:
        if view.media == PROTOBUF:
            return _protobuf(o)
        return orjson.dumps(o) if view.media == JSON else _yaml(o)

    def protobuf_event(self, type_: str, json: bytes) -> bytes:
        """An event of a watch for who takes nothing but protobuf."""
        return protobuf_encoding.encode_event(type_, orjson.loads(json))


def _printer(info: ResourceInfo) -> Printer:
    return metrics_kinds.PRINTER if info.group == metrics_kinds.GROUP else rules_for(info).printer


def _partial(view: View, o: Object) -> Object:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"{_META_GROUP}/{view.version}",
        "metadata": o.get("metadata") or {},
    }


def _protobuf(o: Object) -> bytes:
    try:
        return protobuf_encoding.encode(o)
    except ProtobufError as e:
        raise NotAcceptable(f"{_ACCEPTED}: {e}") from e


def _yaml(o: Object) -> bytes:
    text: bytes = yaml.dump(o, Dumper=yaml.CSafeDumper, encoding="utf-8", allow_unicode=True)
    return text
