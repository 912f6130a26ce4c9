"""The outside part of counting for quotas: lists as they are now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import CLASSES
from rayplane.control_plane.api.device_quotas import is_of_resource, names_of
from rayplane.control_plane.api.errors import BadRequest, MethodNotAllowed, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.quotas import used
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.controllers.actions import (
    Action,
    Recount,
    UpdateStatus,
    Write,
)
from rayplane.control_plane.controllers.resourcequota import QUOTAS


class QuotaCounter:
    """Counts of what quotas are about. `now`: the wall clock."""

    def __init__(self, client: ApiClient, now: Callable[[], datetime]) -> None:
        self._client, self._now = client, now

    async def recount(self, action: Action) -> list[Write]:
        """The write of a quota's status, if it says something else. Raises ApiError.

        Its guard is the quota as it was before the lists: what is created while they are read changes it.
        """
        assert isinstance(action, Recount)
        quota = action.quota
        held = {r: await self._list(r, meta.namespace(quota)) for r in action.resources}
        hard = meta.spec(quota).get("hard") or {}
        classes = await self._list(CLASSES, "") if any(map(is_of_resource, hard)) else None
        there = {r: objects for r, objects in held.items() if objects is not None}
        counts = used(quota, there, self._now(), names_of(classes or ()))
        status = {"hard": hard, "used": counts}
        if meta.status(quota) == status:
            return []
        return [UpdateStatus(QUOTAS, {**meta.copy_for_write(quota), "status": status})]

    async def _list(self, resource: str, namespace: str) -> list[Object] | None:
        """None for what nobody serves, or nobody can list: it is not counted."""
        try:
            return list((await self._client.list(resource, namespace)).items)
        except (BadRequest, MethodNotAllowed, NotFound):
            return None
