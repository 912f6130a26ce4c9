"""Storage version migrations: which runs, how its definition is marked, and what is written in the end."""

from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Migrate
from rayplane.control_plane.controllers.storageversionmigrator import (
    MIGRATIONS,
    UNSEEN_S,
    StorageVersionMigrator,
    ended,
)
from tests.controllers.cluster import Cluster

THINGS = {"group": "example.com", "resource": "things"}


def put(made: Cluster, resource: str, name: str, **parts: Any) -> None:
    """Make or change an object, its status too."""
    old = made.get(resource, "", name) or {}
    metadata = {**(old.get("metadata") or {}), **parts.pop("metadata", {}), "name": name}
    made.put(resource, {**old, **parts, "metadata": metadata})


def cluster(*, served: bool = True) -> Cluster:
    made = Cluster(StorageVersionMigrator())
    versions = [{"name": "v1", "served": True, "storage": False}, {"name": "v2", "served": served, "storage": True}]
    put(
        made,
        CRDS,
        "things.example.com",
        metadata={"generation": 1},
        spec={"group": "example.com", "names": {"plural": "things"}, "versions": versions},
        status={"storedVersions": ["v1", "v2"]},
    )
    return made


def conditions(o: Object) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in meta.status(o).get("conditions") or ()}


def end(made: Cluster, kind: str, message: str = "so it is") -> None:
    """The migration that runs ends."""
    action = made.specials[-1]
    assert isinstance(action, Migrate)
    done = ended(action.migration, kind, message, action.stamp, version="77")
    put(made, MIGRATIONS, meta.name(action.migration), status=done["status"])
    made.settle()


def migrating(made: Cluster) -> list[str]:
    return [meta.name(a.migration) for a in made.specials if isinstance(a, Migrate)]


def asked(made: Cluster) -> Any:
    made.settle()
    return made.specials


def test_a_migration_runs_succeeds_and_leaves_the_versions_that_are_stored() -> None:
    made = cluster()
    put(made, MIGRATIONS, "m", spec={"resource": THINGS})
    [action] = asked(made)
    assert (action.form, meta.name(action.migration)) == ("things.v2.example.com", "m")
    crd = made.require(CRDS, "", "things.example.com")
    assert conditions(crd) == {"StorageMigrating": ("True", "MigrationRunning")}
    assert crd["status"]["conditions"][0]["message"] == "Migration m is running"
    assert conditions(made.require(MIGRATIONS, "", "m")) == {"Running": ("True", "MigrationRunning")}
    end(made, "Succeeded")
    migration, crd = made.require(MIGRATIONS, "", "m"), made.require(CRDS, "", "things.example.com")
    assert conditions(migration) == {"Succeeded": ("True", "StorageVersionMigrationSucceeded")}
    assert migration["status"]["resourceVersion"] == "77"
    assert conditions(crd) == {"StorageMigrating": ("False", "MigrationSucceeded")}
    assert crd["status"]["storedVersions"] == ["v2"]


def test_a_definition_that_changed_meanwhile_keeps_its_stored_versions() -> None:
    made = cluster()
    put(made, MIGRATIONS, "m", spec={"resource": THINGS})
    asked(made)
    put(made, CRDS, "things.example.com", metadata={"generation": 2})
    end(made, "Succeeded")
    crd = made.require(CRDS, "", "things.example.com")
    assert crd["status"]["storedVersions"] == ["v1", "v2"]
    assert crd["status"]["conditions"][0]["message"].endswith("not been updated due to a generation mismatch")


def test_a_migration_waits_a_while_for_its_definition() -> None:
    made = Cluster(StorageVersionMigrator())
    for name, of in (("m", THINGS), ("n", {"group": "example.com", "resource": "nothings"})):
        since = {"creationTimestamp": made.now.stamp}
        put(made, MIGRATIONS, name, metadata=since, spec={"resource": of})
    assert asked(made) == []
    made.put(CRDS, cluster().require(CRDS, "", "things.example.com"))
    assert [a.form for a in asked(made)] == ["things.v2.example.com"]
    end(made, "Succeeded")
    assert migrating(made) == ["m"]
    made.advance(UNSEEN_S)
    assert migrating(made) == ["m", "n"]


def test_one_migration_of_a_resource_runs_after_the_other() -> None:
    made = cluster(served=False)
    for number, name in enumerate(("b", "a", "c")):
        since = {"creationTimestamp": f"2026-01-01T00:00:0{number}Z"}
        put(made, MIGRATIONS, name, metadata=since, spec={"resource": THINGS})
    put(made, MIGRATIONS, "other", spec={"resource": {"resource": "secrets"}})
    asked(made)
    assert sorted(migrating(made)) == ["b", "other"]
    assert {a.form for a in made.specials if isinstance(a, Migrate)} == {"things.example.com", "secrets"}
    made.specials[:] = [a for a in made.specials if isinstance(a, Migrate) and meta.name(a.migration) == "b"]
    end(made, "Failed")
    assert conditions(made.require(CRDS, "", "things.example.com"))["StorageMigrating"] == ("True", "MigrationRunning")
    assert migrating(made)[-1] == "a"
    end(made, "Succeeded")
    assert migrating(made)[-1] == "c"
    put(made, MIGRATIONS, "c", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    count = len(made.specials)
    made.settle()
    assert len(made.specials) == count


def test_what_is_over_or_going_is_left_alone() -> None:
    made = cluster()
    over = [{"type": "Failed", "status": "True"}]
    put(made, MIGRATIONS, "m", spec={"resource": THINGS}, status={"conditions": over})
    put(made, MIGRATIONS, "n", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}, spec={"resource": THINGS})
    made.settle()
    assert made.specials == []
