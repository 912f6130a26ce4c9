"""The outside part of storage version migrations: every object of a resource is written again, as it is.

The API server stores what it is given in the version of today, so a patch of nothing is all that it takes; what is
stored as it should be already is not written. Objects are listed page by page, in the form in which most are stored.
"""

from __future__ import annotations

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, Conflict, NotFound
from rayplane.control_plane.api.kinds.storagemigration.storage_version_migration import FAILED, SUCCEEDED
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, ops
from rayplane.control_plane.controllers.actions import (
    Action,
    Migrate,
    UpdateStatus,
    Write,
)
from rayplane.control_plane.controllers.manager.executor import ActionFailed
from rayplane.control_plane.controllers.storageversionmigrator import MIGRATIONS, ended

PAGE = 200
RETRY_S = 5.0
_SUCCESS = "Migration has succeeded"


class Migrator:
    """Migrations, which begin anew where they were interrupted: what was written once costs little to look at again."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def migrate(self, action: Action) -> list[Write]:
        """The write of how it ended. Raises ActionFailed where it may end better later."""
        assert isinstance(action, Migrate)
        version = token = ""
        try:
            while True:
                page = await self._client.list(action.form, limit=PAGE, continue_token=token)
                version = version or page.resource_version
                await self._write(action.form, page.items)
                token = page.continue_token
                if not token:
                    break
        except ApiError as e:
            if e.code == NotFound.default_code or not _may_pass(e):
                return [UpdateStatus(MIGRATIONS, ended(action.migration, FAILED, e.message, action.stamp))]
            raise ActionFailed(f"{meta.name(action.migration)}: {e.message}", retry_s=RETRY_S) from e
        return [UpdateStatus(MIGRATIONS, ended(action.migration, SUCCEEDED, _SUCCESS, action.stamp, version=version))]

    async def _write(self, form: str, objects: list[Object]) -> None:
        """Raises the first error of an object that still is what it was."""
        answers = await self._client.batch(
            [
                ops.patch(
                    form,
                    meta.name(o),
                    meta.namespace(o),
                    {"metadata": {"uid": meta.uid(o), "resourceVersion": meta.resource_version(o)}},
                    kind="merge",
                )
                for o in objects
            ]
        )
        for answer in answers:
            # What others have written or deleted meanwhile is as it should be.
            if isinstance(answer, ApiError) and not isinstance(answer, Conflict | NotFound):
                raise answer


def _may_pass(error: ApiError) -> bool:
    """Whether the same may go well later: the server's own faults, and those of webhooks."""
    return error.code >= 500 or error.code in (410, 429)
