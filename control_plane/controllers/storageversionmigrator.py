"""Storage version migrations: one at a time of a resource is marked as running, and its definition with it.

What runs is carried out outside (`Migrate`), which says how it ended. Then the definition of a custom resource lists
the versions no longer that nothing is stored in, unless it has changed meanwhile.
Source: kube-controller-manager's storageversionmigrator.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS, form_as_stored
from rayplane.control_plane.api.kinds.storagemigration.storage_version_migration import FAILED, RUNNING, SUCCEEDED
from rayplane.control_plane.api.machinery.resources import UnknownResource, builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Migrate, UpdateStatus
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)

MIGRATIONS: Final = "storageversionmigrations.storagemigration.k8s.io"
#: So long after its migration was asked for a definition may come.
UNSEEN_S: Final = 60.0
_MIGRATING = "StorageMigrating"


def resource_of(migration: Object) -> str:
    """`things.example.com`, `secrets`."""
    resource = meta.spec(migration).get("resource") or {}
    return ".".join(part for part in (resource.get("resource"), resource.get("group")) if part)


def _of_definition(crd: Object, view: View) -> Iterable[str]:
    return [meta.name(one) for one in view.list(MIGRATIONS) if resource_of(one) == meta.name(crd)]


def _of_same_resource(migration: Object, view: View) -> Iterable[str]:
    """Who waits for a migration of the same resource comes next."""
    own = resource_of(migration)
    return [meta.name(migration), *(meta.name(one) for one in view.list(MIGRATIONS) if resource_of(one) == own)]


class StorageVersionMigrator(BaseController):
    name = "storageversionmigrator"
    component = "storage-version-migrator-controller"
    watches = (Watch(MIGRATIONS, _of_same_resource), Watch(CRDS, _of_definition))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        migration = view.get(MIGRATIONS, "", key)
        if migration is None or meta.is_deleting(migration):
            return NOTHING
        crd = view.get(CRDS, "", resource_of(migration))
        if _is_over(migration):
            return _finished(migration, crd, now) if meta.get_condition(migration, RUNNING) else NOTHING
        if meta.condition_is(migration, RUNNING):
            form = form_as_stored(crd) if crd is not None else resource_of(migration)
            return result([Migrate(migration, form, now.stamp)])
        if _next_of(resource_of(migration), view) != key:
            return NOTHING
        if crd is None and (wait_s := _unseen_s(migration, now)) > 0:
            return result(requeue_after=wait_s)
        running = _with(migration, RUNNING, "True", "MigrationRunning", "The migration is running", now.stamp)
        marked = []
        if crd is not None:
            text = f"Migration {key} is running"
            marked = [UpdateStatus(CRDS, _with(crd, _MIGRATING, "True", "MigrationRunning", text, now.stamp))]
        return result(marked, [UpdateStatus(MIGRATIONS, running)])


def ended(migration: Object, kind: str, message: str, stamp: str, *, version: str = "") -> Object:
    """A migration that has succeeded or failed; `version`: of the list that it went by."""
    stopped = _with(migration, RUNNING, "False", f"StorageVersionMigration{kind}", message, stamp)
    made = _with(stopped, kind, "True", f"StorageVersionMigration{kind}", message, stamp)
    if version and not meta.status(made).get("resourceVersion"):
        made["status"]["resourceVersion"] = version
    return made


def _unseen_s(migration: Object, now: Moment) -> float:
    """For how long a definition may be still to be seen, which would not be told what is stored."""
    try:
        builtin_registry().by_name(resource_of(migration))
    except UnknownResource:
        return UNSEEN_S - now.seconds_since(meta.metadata(migration).get("creationTimestamp"))
    return 0.0


def _is_over(migration: Object) -> bool:
    return meta.condition_is(migration, SUCCEEDED) or meta.condition_is(migration, FAILED)


def _next_of(resource: str, view: View) -> str:
    """The migration of a resource that may run now; empty while one does."""
    waiting = [one for one in view.list(MIGRATIONS) if resource_of(one) == resource and not _is_over(one)]
    if any(meta.condition_is(one, RUNNING) for one in waiting):
        return ""
    waiting.sort(key=lambda one: (meta.metadata(one).get("creationTimestamp") or "", meta.name(one)))
    return meta.name(waiting[0]) if waiting else ""


def _finished(migration: Object, crd: Object | None, now: Moment) -> Result:
    done = meta.copy_for_write(migration)
    conditions = [one for one in meta.status(done).get("conditions") or () if one.get("type") != RUNNING]
    done["status"] = {**meta.status(done), "conditions": conditions}
    released = []
    if crd is not None and meta.condition_is(crd, _MIGRATING):
        released = [UpdateStatus(CRDS, _released(crd, meta.condition_is(migration, SUCCEEDED), now.stamp))]
    return result(released, [UpdateStatus(MIGRATIONS, done)])


def _released(crd: Object, succeeded: bool, stamp: str) -> Object:
    """A definition that is not being migrated any more."""
    condition = meta.get_condition(crd, _MIGRATING) or {}
    current = condition.get("observedGeneration") == meta.metadata(crd).get("generation")
    if not succeeded:
        return _with(crd, _MIGRATING, "False", "MigrationFailed", "The migration has failed", stamp)
    told = "and the stored versions have been updated"
    if not current:
        told = "but the stored versions have not been updated due to a generation mismatch"
    made = _with(crd, _MIGRATING, "False", "MigrationSucceeded", f"The migration has succeeded {told}", stamp)
    if current:
        made["status"]["storedVersions"] = [v["name"] for v in meta.spec(crd)["versions"] if v.get("storage")]
    return made


def _with(o: Object, kind: str, status: str, reason: str, message: str, stamp: str) -> Object:
    """A copy with a condition."""
    made = meta.copy_for_write(o)
    conditions = [dict(one) for one in meta.status(made).get("conditions") or ()]
    condition: dict[str, Any] = {"type": kind, "status": status, "reason": reason, "message": message}
    generation = meta.metadata(o).get("generation")
    if generation:
        condition["observedGeneration"] = generation
    meta.set_condition(conditions, condition, stamp)
    made["status"] = {**meta.status(made), "conditions": conditions}
    return made
