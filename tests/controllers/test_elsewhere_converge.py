"""Whatever befalls the controllers whose work is done elsewhere: snapshots are taken once and leave no bytes, all is
stored in the version of today, and no garbage stays in aggregated APIs."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.kinds.storagemigration.storage_version_migration import SUCCEEDED
from rayplane.control_plane.controllers.actions import (
    Action,
    CollectAggregated,
    DeleteSnapshot,
    Migrate,
    TakeSnapshot,
    UpdateStatus,
    Write,
)
from rayplane.control_plane.controllers.aggregatedgarbage import SERVICES, AggregatedGarbageCollector
from rayplane.control_plane.controllers.claims import ClaimController
from rayplane.control_plane.controllers.core import Controller
from rayplane.control_plane.controllers.manager.executor import ActionFailed
from rayplane.control_plane.controllers.manager.snapshotter import Snapshotter
from rayplane.control_plane.controllers.persistentvolumes import VolumeController
from rayplane.control_plane.controllers.snapshot_sources import CLASSES, CONTENTS, SNAPSHOTS
from rayplane.control_plane.controllers.snapshots import CLAIM_FINALIZER, SnapshotController
from rayplane.control_plane.controllers.storageversionmigrator import MIGRATIONS, StorageVersionMigrator, ended
from rayplane.control_plane.controllers.volumeprotection import ProtectionController
from rayplane.control_plane.rpc import RpcError
from tests.controllers.disturbed import CLAIMS, FAULTS, VOLUMES, Died, Disturbed, Outcome, Slot
from tests.controllers.snapping import Hosts, custom
from tests.controllers.test_convergence import begin
from tests.controllers.test_storageversionmigrator import THINGS
from tests.tiers import examples

RETRY_S, LOOK_S = 5.0, 15.0
Things = dict[str, str]


class Outside(Disturbed):
    """A cluster beside which hosts keep snapshots, things are stored in some version, and others serve an API."""

    def __init__(self, rng: random.Random, faults: set[str]) -> None:
        self.hosts = Hosts()
        self.things: Things = {}
        """With the version in which each is stored."""
        self.foreign: dict[str, str] = {}
        """Objects of an aggregated API, with the ConfigMap that owns each."""
        super().__init__(rng, faults)

    def start(self) -> None:
        snapshots, claims = SnapshotController(), ClaimController()
        for resource in (SNAPSHOTS, CONTENTS, CLASSES):
            snapshots.follow(resource, served=True)
            claims.follow(resource, served=True)
        protection = [ProtectionController(resource=resource) for resource in (CLAIMS, VOLUMES)]
        every: list[Controller] = [snapshots, claims, VolumeController(), *protection]
        every += [StorageVersionMigrator(), AggregatedGarbageCollector(LOOK_S)]
        self.slots = []
        self.slots = [Slot(one, self) for one in every]

    def _prepare(self, action: Action, outcome: Outcome) -> list[Write]:
        if isinstance(action, (TakeSnapshot, DeleteSnapshot)):
            return self._ask_hosts(action, outcome)
        if isinstance(action, Migrate):
            return self._migrate(action, outcome)
        if isinstance(action, CollectAggregated):
            there = {meta.name(one) for one in self.list("configmaps")}
            self.foreign = {name: owner for name, owner in self.foreign.items() if owner in there}
            return []
        return super()._prepare(action, outcome)

    def _ask_hosts(self, action: TakeSnapshot | DeleteSnapshot, outcome: Outcome) -> list[Write]:
        away = RpcError(grpc.StatusCode.UNAVAILABLE, "away")
        self.hosts.broken = away if self._hits("conflict", 0.2) else None
        snapshotter = Snapshotter(self.hosts)  # type: ignore[arg-type]
        do = snapshotter.take if isinstance(action, TakeSnapshot) else snapshotter.delete
        try:
            written = asyncio.run(do(action))
        except ActionFailed:
            outcome.failed, outcome.retry_s = True, RETRY_S
            return []
        if self._hits("restart", 0.2):
            raise Died  # done, and nothing is written of it
        return written

    def _migrate(self, action: Migrate, outcome: Outcome) -> list[Write]:
        for name in self.things:
            if self._hits("restart", 0.1):
                raise Died
            if self._hits("unknown", 0.1):
                outcome.failed, outcome.retry_s = True, RETRY_S
                return []
            self.things[name] = action.form.split(".")[1]
        return [UpdateStatus(MIGRATIONS, ended(action.migration, SUCCEEDED, "", action.stamp, version="7"))]

    def check_stored(self, resource: str, _kind: str, _old: Any, new: Any) -> None:
        """No definition says that nothing is stored in a version in which something is."""
        if resource == CRDS:
            assert set(self.things.values()) <= set(new["status"]["storedVersions"])


def claims(c: Disturbed) -> None:
    for name in ("data", "gone"):
        c.add(
            CLAIMS,
            name,
            metadata={"annotations": {"volume.kubernetes.io/selected-node": "n2"}},
            spec={
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "fast",
                "resources": {"requests": {"storage": "1Gi"}},
            },
            status={"phase": "Pending"},
        )
    custom(c, CLASSES, "snap", "", driver="rayplane.io/local", deletionPolicy="Delete")
    custom(c, CLASSES, "keeps", "", driver="rayplane.io/local", deletionPolicy="Retain")


def snapshot(name: str, claim: str, kind: str = "snap") -> Any:
    def act(c: Disturbed) -> None:
        source = {"persistentVolumeClaimName": claim}
        custom(c, SNAPSHOTS, name, spec={"source": source, "volumeSnapshotClassName": kind})

    return act


def migrations(c: Disturbed) -> None:
    assert isinstance(c, Outside)
    c.things = {"a": "v1", "b": "v1", "c": "v2"}
    versions = [{"name": "v1", "served": True, "storage": False}, {"name": "v2", "served": True, "storage": True}]
    c.add(
        CRDS,
        "things.example.com",
        metadata={"generation": 1},
        spec={"group": "example.com", "names": {"plural": "things"}, "versions": versions},
        status={"storedVersions": ["v1", "v2"]},
    )
    c.listeners.append(c.check_stored)
    for name in ("first", "second"):
        c.add(MIGRATIONS, name, spec={"resource": THINGS})


def others(c: Disturbed) -> None:
    assert isinstance(c, Outside)
    spec = {"group": "x.io", "version": "v1", "service": {"name": "s", "namespace": "default"}}
    c.add(SERVICES, "v1.x.io", spec=spec)
    for name in ("stays", "goes"):
        c.add("configmaps", name, data={})
        c.foreign[f"of-{name}"] = name


def deletions(c: Disturbed) -> None:
    c.until(lambda: "boundVolumeSnapshotContentName" in meta.status(c.require(SNAPSHOTS, "default", "t")))
    c.delete("configmaps", "goes", "default")
    for name in ("t", "kept"):
        c.delete(SNAPSHOTS, name, "default")
    c.delete(CLAIMS, "gone", "default")


SCENARIO = (
    begin,
    claims,
    snapshot("s", "data"),
    snapshot("t", "gone"),
    snapshot("kept", "data", "keeps"),
    migrations,
    others,
    deletions,
)


def facts(c: Outside) -> dict[str, Any]:
    definition = meta.status(c.require(CRDS, "", "things.example.com"))
    contents = [meta.status(one)["snapshotHandle"] for one in c.list(CONTENTS)]
    protected = [meta.name(one) for one in c.list(CLAIMS) if CLAIM_FINALIZER in meta.finalizers(one)]
    return {
        "snapshots": {meta.name(one): meta.status(one).get("readyToUse") for one in c.list(SNAPSHOTS)},
        "bytes without a content": c.hosts.kept.keys() - contents,
        "contents without bytes": set(contents) - c.hosts.kept.keys(),
        "claims": [meta.name(one) for one in c.list(CLAIMS)],
        "protected": protected,
        "stored": (set(c.things.values()), definition["storedVersions"]),
        "migrating": [(one["type"], one["status"]) for one in definition["conditions"]],
        "migrations": [[one["type"] for one in meta.status(m)["conditions"]] for m in c.list(MIGRATIONS)],
        "foreign": [*c.foreign],
    }


@given(st.integers(0, 2**32 - 1), st.sets(st.sampled_from(FAULTS)))
@settings(max_examples=examples(30), deadline=None)
def test_what_is_done_elsewhere_is_done_whatever_befalls(seed: int, faults: set[str]) -> None:
    c = Outside(random.Random(seed), faults)
    c.run(SCENARIO)
    assert facts(c) == {
        "snapshots": {"s": True},
        "bytes without a content": set(),
        "contents without bytes": set(),
        "claims": ["data"],
        "protected": [],
        "stored": ({"v2"}, ["v2"]),
        "migrating": [("StorageMigrating", "False")],
        "migrations": [["Succeeded"], ["Succeeded"]],
        "foreign": ["of-stays"],
    }
