"""Reads of what the API server has now, before something is done that no cache may be trusted with."""

from __future__ import annotations

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.controllers.actions import (
    Action,
    CollectAggregated,
    IfUnclaimed,
    IfUnused,
    Write,
)
from rayplane.control_plane.controllers.attachdetach import in_use
from rayplane.control_plane.controllers.manager.executor import ActionFailed
from rayplane.control_plane.controllers.manager.expectations import version_of
from rayplane.control_plane.controllers.volumeprotection import Uses


class LiveReads:
    """Such reads. A list of pods serves all claims of a namespace whose deletion it comes after."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._listed: tuple[str, int, Uses] = ("", 0, Uses(()))
        """The last list: its namespace, its version, and what it says."""

    async def unclaimed(self, action: Action) -> list[Write]:
        """The writes for a claim that no pod uses. Raises ActionFailed, ApiError."""
        assert isinstance(action, IfUnclaimed)
        claim = action.claim
        namespace, version, uses = self._listed
        # Pods that come after a claim's deletion do not start: a newer list lacks none of those that do. What it has
        # may have gone since.
        if namespace != meta.namespace(claim) or version < version_of(claim) or uses.has(claim):
            page = await self._client.list("pods", meta.namespace(claim))
            uses = Uses(page.items)
            self._listed = meta.namespace(claim), int(page.resource_version or 0), uses
        if uses.has(claim):
            raise ActionFailed(f"claim {meta.key(claim)} is used by a pod", retry_s=1.0)
        return list(action.writes)

    async def collect(self, action: Action) -> list[Write]:
        """Nothing to write: the API server deletes. Raises ActionFailed where some server did not answer, ApiError."""
        assert isinstance(action, CollectAggregated)
        found = await self._client.collect_aggregated()
        if found.failures:
            raise ActionFailed("; ".join(found.failures))
        return []

    async def unused(self, action: Action) -> list[Write]:
        """The writes for a volume that a node does not use. Raises ActionFailed, ApiError."""
        assert isinstance(action, IfUnused)
        try:
            node = await self._client.get("nodes", action.node)
        except NotFound:
            node = None
        if action.volume in in_use(node):
            raise ActionFailed(f"volume {action.volume} is still mounted on node {action.node}")
        return list(action.writes)
