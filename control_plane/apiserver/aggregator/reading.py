"""Reading from an aggregated API, and patching there, for a user of the gRPC face, who has no other way to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rayplane.control_plane.api.aggregation.backends import Backend
from rayplane.control_plane.api.errors import BadRequest, NotFound, ServiceUnavailable
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.apiserver.aggregator.aggregator import Aggregator
from rayplane.control_plane.apiserver.aggregator.client import BadStatus
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.apiserver.outgoing.sessions import FAILURES, reason
from rayplane.control_plane.apiserver.requests import User

VERSIONS_MAX = 8
_BYTES_MAX = 8 * 1024 * 1024
_PART_CHARS_MAX = 512
_BEYOND = frozenset("?#% \\")
_JSON_PATCH = "application/json-patch+json"


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a GET below a group's version: a list, or an object or a subresource of it where one is named.

    `kind` may stand in place of the resource.
    """

    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    query: str = ""
    kind: str = ""

    @property
    def path(self) -> str:
        """Raises BadRequest for what cannot be in a path."""
        within = ("namespaces", self.namespace) if self.namespace else ()
        parts = (*within, self.resource, *(part for part in (self.name, self.subresource) if part))
        for part in parts:
            wrong = not part or not part.isascii() or not part.isprintable() or {*part} & _BEYOND
            if wrong or len(part) > _PART_CHARS_MAX or names.path_segment_errors(part):
                raise BadRequest(f"{part[:256]!r} is no part of a path")
        if self.subresource and not self.name:
            raise BadRequest("a subresource is of a named object")
        if not self.query.isascii() or not self.query.isprintable() or {*self.query} & {"#", " "}:
            raise BadRequest("the query is not as in a URL")
        return "/".join(parts) + (f"?{self.query}" if self.query else "")


class Reading:
    """Reads by a user, with whose rights they are made."""

    def __init__(self, aggregator: Aggregator, authorizer: Authorizer, user: User) -> None:
        self._aggregator = aggregator
        self._authorizer = authorizer
        self._user = user

    async def read(self, group: str, versions: Sequence[str], place: Place) -> bytes | None:
        """The answer of the first of the versions that has a server; None when none has.

        Raises Forbidden, BadRequest for what is no place, ServiceUnavailable when the server does not answer well.
        """
        return await self._ask("GET", group, versions, place)

    async def patch(self, group: str, versions: Sequence[str], place: Place, steps: bytes) -> bytes | None:
        """As `read`, of a JSON patch of a named object, or of its subresource."""
        if not place.name:
            raise BadRequest("the name of what is to be patched is needed")
        return await self._ask("PATCH", group, versions, place, steps)

    async def _ask(
        self, method: str, group: str, versions: Sequence[str], place: Place, body: bytes = b""
    ) -> bytes | None:
        backend, place = self._found(group, versions, place)
        if backend is None and place.kind:
            return None
        path = place.path
        where = {"group": group, "resource": place.resource, "subresource": place.subresource}
        verb = "patch" if method == "PATCH" else "get" if place.name else "list"
        await self._authorizer.check_written(self._user, verb, name=place.name, namespace=place.namespace, **where)
        if backend is None:
            return None
        target, client = f"{backend.path}/{path}", self._aggregator.client
        try:
            return await client.call(
                backend, method, target, user=self._user, bytes_max=_BYTES_MAX, body=body, media_type=_JSON_PATCH
            )
        except FAILURES as e:
            if isinstance(e, BadStatus) and place.name and e.says_missing(place.name):
                raise NotFound.of(f"{place.resource}.{group}", place.name) from e
            raise ServiceUnavailable(reason(e)) from e

    def _found(self, group: str, versions: Sequence[str], place: Place) -> tuple[Backend | None, Place]:
        """Who serves it, and where; of a kind the versions that are named come first, then all others."""
        if not place.kind:
            return next((b for v in versions if (b := self._aggregator.backend(group, v)) is not None), None), place
        served = [
            (remote.backend, info)
            for remote in self._aggregator.catalog.remotes()
            for info in remote.resources
            if (info.group, info.kind) == (group, place.kind) and remote.backend.available
        ]
        served.sort(key=lambda one: one[1].version not in versions)
        for backend, info in served:
            if info.namespaced and place.name and not place.namespace:
                raise BadRequest(f"{info.name} are in namespaces")
            space = place.namespace if info.namespaced else ""
            return backend, replace(place, resource=info.plural, namespace=space)
        return None, place
