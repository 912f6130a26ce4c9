"""OpenAPI documents of aggregated APIs among our own."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from rayplane.control_plane.api.aggregation.catalog import Remote
from rayplane.control_plane.api.machinery import openapi_protobuf, openapi_v2
from rayplane.control_plane.api.machinery.discovery import Document

# What a document that is none makes of its reader.
_ODD = (ArithmeticError, AttributeError, LookupError, RecursionError, StopIteration, TypeError, ValueError)


def with_remotes(root: Document, remotes: Iterable[Remote]) -> Document:
    """The root of OpenAPI v3, with the documents of other servers too."""
    theirs = {
        remote.backend.path.removeprefix("/"): {"serverRelativeURL": remote.openapi}
        for remote in remotes
        if remote.openapi
    }
    if not theirs:
        return root
    paths = orjson.loads(root.body)["paths"] | theirs
    return Document.of(orjson.dumps({"paths": dict(sorted(paths.items()))}), root.content_type)


def version_2_parts(body: bytes, remote: Remote) -> openapi_v2.Parts | None:
    """What another server's OpenAPI v3 document adds to v2; None when that can be no part of it."""
    try:
        paths, definitions = openapi_v2.parts(body)
        own = {path: item for path, item in paths.items() if path.startswith(f"{remote.backend.path}/")}
        # In one document with ours it must not spoil ours: it is tried alone, in both forms.
        alone = openapi_v2.document((), version="", others=[(own, definitions)])
        openapi_protobuf.encoded(alone, openapi_protobuf.V2_TYPE)
    except _ODD:
        return None
    return own, definitions
