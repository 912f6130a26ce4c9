"""Writes that a server makes of itself, in nobody's name: what it found out, not what it was asked for."""

import contextlib

from rayplane.control_plane.api import legacy_tokens, meta
from rayplane.control_plane.api.aggregation.backends import APISERVICES, AVAILABLE, Finding
from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.apiextensions.definitions import without_finalizer
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.registry.writing import Writer
from rayplane.control_plane.apiserver.requests import SYSTEM, Target, WriteOptions
from rayplane.storage.env import Env


class OwnWrites:
    """Such writes. What is gone meanwhile is nobody's concern any more. ApiError."""

    def __init__(self, kinds: Kinds, writer: Writer, env: Env) -> None:
        self._kinds, self._writer, self._env = kinds, writer, env

    async def tell_available(self, name: str, finding: Finding) -> None:
        """Store how the API of an APIService fares."""
        available, reason, message = finding
        told = {"status": str(available), "reason": reason, "message": message}

        async def make(current: Object) -> Object:
            conditions = [dict(one) for one in meta.status(current).get("conditions") or ()]
            meta.set_condition(conditions, {"type": AVAILABLE, **told}, self._env.timestamp())
            return {**current, "status": {"conditions": conditions}}

        with contextlib.suppress(NotFound):
            await self._writer.change(SYSTEM, self._target(APISERVICES, name, "status"), make, WriteOptions())

    async def release(self, definition: str) -> None:
        """Let go of a definition whose objects are gone."""

        async def make(current: Object) -> Object:
            return without_finalizer(current)

        # Another server may have been faster.
        with contextlib.suppress(NotFound):
            await self._writer.change(SYSTEM, self._target(CRDS, definition), make, WriteOptions())

    async def mark_used(self, secret: Object, day: str) -> None:
        """Note on which day the token in a Secret was used."""
        uid, target = meta.uid(secret), Target(self._kinds.named("secrets"), meta.namespace(secret), meta.name(secret))

        async def make(current: Object) -> Object:
            if meta.uid(current) != uid:
                raise NotFound.of("secrets", meta.name(current))
            labels = {**meta.labels(current), legacy_tokens.LAST_USED: day}
            return {**current, "metadata": {**current["metadata"], "labels": labels}}

        with contextlib.suppress(NotFound):
            await self._writer.change(SYSTEM, target, make, WriteOptions())

    def _target(self, resource: str, name: str, subresource: str = "") -> Target:
        return Target(self._kinds.named(resource), "", name, subresource)
