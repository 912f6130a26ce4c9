"""Reading from an aggregated API for a user of the gRPC face, who has no other way to it."""

from collections.abc import Sequence
from dataclasses import dataclass

from rayplane.control_plane.api.errors import BadRequest, ServiceUnavailable
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.apiserver.aggregator.aggregator import Aggregator
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.apiserver.outgoing.sessions import FAILURES, reason
from rayplane.control_plane.apiserver.requests import User

VERSIONS_MAX = 8
_BYTES_MAX = 8 * 1024 * 1024
_PART_CHARS_MAX = 512
_BEYOND = frozenset("?#% \\")


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a GET below a group's version: a list, or an object or a subresource of it where one is named."""

    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    query: str = ""

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
        path = place.path
        where = {"group": group, "resource": place.resource, "subresource": place.subresource}
        verb = "get" if place.name else "list"
        await self._authorizer.check_written(self._user, verb, name=place.name, namespace=place.namespace, **where)
        backend = next((b for v in versions if (b := self._aggregator.backend(group, v)) is not None), None)
        if backend is None:
            return None
        target = f"{backend.path}/{path}"
        try:
            return await self._aggregator.client.call(backend, "GET", target, user=self._user, bytes_max=_BYTES_MAX)
        except FAILURES as e:
            raise ServiceUnavailable(reason(e)) from e
