"""Deleting what aggregated APIs hold for owners that are gone: one look over all of them.

Owners are looked for among the objects that are stored here, after their dependents were listed; owners that are in
aggregated APIs themselves, or of a kind that nobody serves, count as living. What another owner holds stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from rayplane.control_plane.api.aggregation.backends import Backend
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import group_of
from rayplane.control_plane.apiserver.aggregator.aggregator import Aggregator
from rayplane.control_plane.apiserver.aggregator.purging import LIST_BYTES_MAX, metadata_of
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.outgoing.sessions import FAILURES, reason
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

_PAGE = 500
_PAGES_MAX = 40
_BEYOND = frozenset("?#&% \\")


@dataclass(slots=True)
class Collected:
    """The outcome of a look."""

    deleted: int = 0
    failures: list[str] = field(default_factory=list)


class Collecting:
    """A look by a user, with whose rights things are deleted."""

    def __init__(
        self, aggregator: Aggregator, authorizer: Authorizer, user: User, *, kinds: Kinds, lookup: Lookup
    ) -> None:
        self._aggregator, self._authorizer, self._user = aggregator, authorizer, user
        self._kinds, self._lookup = kinds, lookup

    async def collect(self) -> Collected:
        """Delete what nobody owns any more. Raises Forbidden for who may not list or delete it."""
        found = Collected()
        for remote in self._aggregator.catalog.remotes():
            if remote.stale or not remote.backend.available:
                continue
            for info in remote.resources:
                if not {"list", "delete"} <= {*info.verbs}:
                    continue
                for verb in ("list", "delete"):
                    where = {"group": info.group, "resource": info.plural, "subresource": "", "namespace": ""}
                    await self._authorizer.check_written(self._user, verb, name="", **where)
                try:
                    await self._of(remote.backend, info, found)
                except FAILURES as e:
                    found.failures.append(reason(e))
                    break  # the others of this server would take as long
        return found

    async def _of(self, backend: Backend, info: ResourceInfo, found: Collected) -> None:
        token = ""
        for _ in range(_PAGES_MAX):
            query = f"?limit={_PAGE}" + (f"&continue={quote(token, safe='')}" if token else "")
            body = await self._aggregator.client.call(
                backend, "GET", f"{backend.path}/{info.plural}{query}", user=self._user, bytes_max=LIST_BYTES_MAX
            )
            document = orjson.loads(body)
            for one in metadata_of(document):
                if await self._is_orphaned(one, info):
                    await self._delete(backend, info, one)
                    found.deleted += 1
            token = str((document.get("metadata") or {}).get("continue") or "")
            if not token:
                return
        text = f"of {info.name} only {_PAGES_MAX * _PAGE} objects are looked at: those of owners that are gone stay"
        found.failures.append(text)

    async def _is_orphaned(self, one: Mapping[str, Any], info: ResourceInfo) -> bool:
        refs = one.get("ownerReferences")
        if not refs or not isinstance(refs, list) or one.get("deletionTimestamp") or not one.get("uid"):
            return False
        return not any([await self._lives(ref, one, info) for ref in refs])

    async def _lives(self, ref: Any, one: Mapping[str, Any], info: ResourceInfo) -> bool:
        texts = (
            [str(ref.get(part) or "") for part in ("apiVersion", "kind", "name", "uid")]
            if isinstance(ref, dict)
            else []
        )
        if not texts or not all(texts):
            return True
        version, kind, name, uid = texts
        owners = self._kinds.registry.by_kind(version, kind)
        namespace = str(one.get("namespace") or "")
        if owners is None or self._aggregator.backend(group_of(ref), owners.version) is not None:
            return True
        if owners.namespaced and not (info.namespaced and namespace):
            return True
        owner = await self._lookup.get(self._kinds.stored(owners).name, name, namespace if owners.namespaced else "")
        return owner is not None and owner["metadata"].get("uid") == uid

    async def _delete(self, backend: Backend, info: ResourceInfo, one: Mapping[str, Any]) -> None:
        within = f"namespaces/{_part(one.get('namespace'))}/" if info.namespaced else ""
        # Whoever gives it another owner meanwhile keeps it.
        guard = {part: one[part] for part in ("uid", "resourceVersion") if one.get(part)}
        options = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "preconditions": guard,
            "propagationPolicy": "Background",
        }
        path = f"{backend.path}/{within}{info.plural}/{one['name']}"
        await self._aggregator.client.call(
            backend, "DELETE", path, user=self._user, bytes_max=LIST_BYTES_MAX, body=orjson.dumps(options)
        )


def _part(text: Any) -> str:
    """Raises ValueError for what cannot stand in a URL."""
    if not isinstance(text, str) or not text or not text.isascii() or not text.isprintable() or {*text} & _BEYOND:
        raise ValueError("the answer is no list of objects")
    return text
