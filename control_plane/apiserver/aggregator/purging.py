"""Deleting what a namespace holds in aggregated APIs: one look, which finds nothing when all is gone."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson

from rayplane.control_plane.api.aggregation.backends import Backend
from rayplane.control_plane.api.errors import BadRequest, quote
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.apiserver.aggregator.aggregator import Aggregator
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.apiserver.outgoing.sessions import FAILURES, reason
from rayplane.control_plane.apiserver.requests import User

LIST_BYTES_MAX = 8 * 1024 * 1024
_PAGE = 500


@dataclass(slots=True)
class Contents:
    """The findings of a look."""

    stale: list[str] = field(default_factory=list)
    """Groups and versions whose servers do not answer."""
    objects: Counter[str] = field(default_factory=Counter)
    deleting: Counter[str] = field(default_factory=Counter)
    finalizers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Purging:
    """A look by a user, with whose rights things are deleted."""

    def __init__(self, aggregator: Aggregator, authorizer: Authorizer, user: User) -> None:
        self._aggregator = aggregator
        self._authorizer = authorizer
        self._user = user

    async def purge(self, namespace: str) -> Contents:
        """Delete what is there. Raises BadRequest for what can be no namespace, Forbidden for who may not end it."""
        if problems := names.label_errors(namespace):
            raise BadRequest(f"Namespace parameter invalid: {quote(namespace)}: {', '.join(problems)}")
        where = {"group": "", "resource": "namespaces", "subresource": "finalize", "namespace": namespace}
        await self._authorizer.check_written(self._user, "update", name=namespace, **where)
        found = Contents()
        for remote in self._aggregator.catalog.remotes():
            if remote.stale or not remote.backend.available:
                found.stale.append(f"{remote.backend.group}/{remote.backend.version}")
                continue
            for info in remote.resources:
                if not info.namespaced or not {"list", "delete"} <= {*info.verbs}:
                    continue
                try:
                    await self._of(remote.backend, info, namespace, found)
                except FAILURES as e:
                    found.failures.append(reason(e))
                    break  # the others of this server would take as long
        return found

    async def _of(self, backend: Backend, info: ResourceInfo, namespace: str, found: Contents) -> None:
        for verb in ("list", "deletecollection"):
            where = {"group": info.group, "resource": info.plural, "subresource": "", "namespace": namespace}
            await self._authorizer.check_written(self._user, verb, name="", **where)
        path = f"{backend.path}/namespaces/{namespace}/{info.plural}"
        items = metadata_of(orjson.loads(await self._call(backend, "GET", f"{path}?limit={_PAGE}")))
        if not items:
            return
        found.objects[info.name] += len(items)
        doomed = []
        for meta in items:
            if meta.get("deletionTimestamp"):
                found.deleting[info.name] += 1
                found.finalizers.update(str(one) for one in meta.get("finalizers") or ())
            else:
                doomed.append(meta)
        if doomed and "deletecollection" in info.verbs:
            await self._call(backend, "DELETE", path)
            return
        for meta in doomed:
            await self._call(backend, "DELETE", f"{path}/{meta['name']}")

    async def _call(self, backend: Backend, method: str, path: str) -> bytes:
        return await self._aggregator.client.call(backend, method, path, user=self._user, bytes_max=LIST_BYTES_MAX)


def metadata_of(document: Any) -> list[dict[str, Any]]:
    """The metadata of a list's objects. Raises ValueError for what is no list of objects."""
    items = document.get("items") if isinstance(document, dict) else None
    metas = [item.get("metadata") if isinstance(item, dict) else None for item in items or ()]
    for meta in metas:
        name = meta.get("name") if isinstance(meta, dict) else None
        if (
            not isinstance(name, str)
            or not name
            or not name.isascii()
            or not name.isprintable()
            or {*name} & {*"/?#% "}
        ):
            raise ValueError("the answer is no list of objects")
        if not isinstance(meta.get("finalizers") or [], list):  # type: ignore[union-attr]
            raise ValueError("the finalizers of an object are no list")
    return metas  # type: ignore[return-value]
