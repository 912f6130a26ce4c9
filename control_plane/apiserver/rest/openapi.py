"""Answers to GETs of OpenAPI documents: `/openapi/v2`, `/openapi/v3` and what that names, in JSON and protobuf.

A document is made when it is first asked for, and again after custom resources or aggregated APIs came or went; beside
the event loop, of a copy of what is served, since all together take a tenth of a second. Requests that come meanwhile
wait in a row.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Final

from aiohttp import web

from rayplane.control_plane.api.aggregation.catalog import Remote
from rayplane.control_plane.api.aggregation.openapi import version_2_parts, with_remotes
from rayplane.control_plane.api.machinery import openapi_protobuf, openapi_v2
from rayplane.control_plane.api.machinery.discovery import LEGACY, Document
from rayplane.control_plane.api.machinery.openapi import OpenAPI
from rayplane.control_plane.api.machinery.openapi_protobuf import V2_TYPE, V3_TYPE
from rayplane.control_plane.apiserver.aggregator.aggregator import Aggregator
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.outgoing.sessions import FAILURES
from rayplane.storage.env import Clock

GIT_VERSION: Final = "v1.37.0+rayplane"
_V2, _V3 = "/openapi/v2", "/openapi/v3"
_KEPT: Final = timedelta(days=365)
_BYTES_MAX: Final = 4 * 1024 * 1024


class OpenApiDocuments:
    """The OpenAPI documents of a server: `answer` is the response, or None for a path that it does not know."""

    def __init__(self, kinds: Kinds, clock: Clock, aggregator: Aggregator) -> None:
        self._kinds = kinds
        self._clock = clock
        self._aggregator = aggregator
        self._generation = -1
        self._made: _Forms
        self._making = asyncio.Lock()

    async def answer(self, request: web.BaseRequest, path: str) -> web.Response | None:
        """`path` begins with `/openapi/` and ends without a slash. Raises NotFound."""
        key = path.removeprefix(_V3).removeprefix("/")
        if path not in (_V2, _V3) and not path.startswith(_V3 + "/"):
            return None
        form: str | None = LEGACY
        if path != _V3:
            form = openapi_protobuf.negotiate(request.headers.get("Accept", ""), V2_TYPE if path == _V2 else V3_TYPE)
        if form is None:
            return web.Response(status=406)
        async with self._making:
            made = self._current()
            if path == _V3:
                return answered(request, await asyncio.to_thread(made.root))
            if path == _V2:
                theirs = await self._bodies(made.remotes) if made.lacks_version_2 else {}
                return answered(request, await asyncio.to_thread(made.version_2, form, theirs))
            document = await asyncio.to_thread(made.version_3, key, form)
        asked = request.query.get("hash")
        if asked and asked != document.hash:
            return web.Response(status=301, headers={"Location": made.openapi.url(key), "Vary": "Accept"})
        return answered(request, document, self._clock.now() + _KEPT if asked else None)

    def _current(self) -> "_Forms":
        catalog = self._aggregator.catalog
        if self._generation != catalog.generation:
            registry, remotes = self._kinds.registry.copy(), catalog.remotes()
            for remote in remotes:
                for info in registry.in_version(remote.backend.group, remote.backend.version):
                    registry.remove(info.group, info.version, info.plural)
            schemas = dict(self._kinds.custom_schemas)
            self._made = _Forms(OpenAPI(registry, version=GIT_VERSION, custom_schemas=schemas), remotes)
            self._generation = catalog.generation
        return self._made

    async def _bodies(self, remotes: list[Remote]) -> dict[str, bytes]:
        """The OpenAPI v3 documents of other servers, by their paths; without those that do not come."""
        found: dict[str, bytes] = {}

        async def fetch(remote: Remote) -> None:
            with contextlib.suppress(*FAILURES):
                body = await self._aggregator.client.get(remote.backend, remote.openapi, bytes_max=_BYTES_MAX)
                found[remote.backend.path] = body

        await asyncio.gather(*(fetch(one) for one in remotes if one.openapi and not one.stale))
        return found


class _Forms:
    """The documents of what is served at one time, in the forms that were asked for."""

    def __init__(self, openapi: OpenAPI, remotes: list[Remote]) -> None:
        self.openapi = openapi
        self.remotes = remotes
        self._kept: dict[tuple[str, str], Document] = {}

    def root(self) -> Document:
        return with_remotes(self.openapi.root(), self.remotes)

    def version_3(self, key: str, form: str) -> Document:
        document = self.openapi.group_version(key)
        return document if form == LEGACY else self._encoded(key, document, form)

    @property
    def lacks_version_2(self) -> bool:
        return ("", LEGACY) not in self._kept

    def version_2(self, form: str, theirs: Mapping[str, bytes]) -> Document:
        """`theirs` are the documents of other servers, where ours is to be made."""
        document = self._kept.get(("", LEGACY))
        if document is None:
            bodies = [one.body for one in self.openapi.group_versions()]
            added = [version_2_parts(body, one) for one in self.remotes if (body := theirs.get(one.backend.path))]
            others = [parts for parts in added if parts is not None]
            document = self._kept["", LEGACY] = openapi_v2.document(bodies, version=GIT_VERSION, others=others)
        return document if form == LEGACY else self._encoded("", document, form)

    def _encoded(self, key: str, document: Document, form: str) -> Document:
        found = self._kept.get((key, form))
        if found is None:
            found = self._kept[key, form] = openapi_protobuf.encoded(document, form)
        return found


def answered(request: web.BaseRequest, document: Document, kept_until: datetime | None = None) -> web.Response:
    """A document, or 304 to who has it; `kept_until` where the URL names its content and so may be kept."""
    headers = {"ETag": document.etag, "Vary": "Accept"}
    if kept_until is not None:
        headers["Cache-Control"] = "public, immutable"
        headers["Expires"] = format_datetime(kept_until, usegmt=True)
    given = [t.strip() for t in request.headers.get("If-None-Match", "").split(",")]
    if document.etag in given:
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = document.content_type
    return web.Response(body=document.body, headers=headers)
