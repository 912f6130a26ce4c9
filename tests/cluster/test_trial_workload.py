"""Workload of trials: what they made is deleted in the end, by a later one where need be, and nothing else is."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Forbidden, Timeout
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.hands import ApiHands
from rayplane.control_plane.cluster.state import MADE, StateDir
from rayplane.control_plane.cluster.trial.workload import MARK, Caller, Made, TooMuchLeft, Workload, read_row, rows_of
from rayplane.control_plane.invariants import History
from tests.fakes.client import FakeClient

CLAIM: Object = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}


def obj(kind: str, name: str, **more: Any) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, **more}


class Api(FakeClient):
    """An API whose objects have no dependents to be waited for."""

    async def delete(self, *args: Any, propagation: str = "", **options: Any) -> Object:
        return await super().delete(*args, **options)


class Seen(History):
    """A view of all that there is."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        self._api = api

    def get(self, resource: str, key: str) -> Any:
        return self._api.objects.get(resource, {}).get(key)


def hands(api: Api, workload: Workload) -> ApiHands:
    any_api: Any = api
    return ApiHands(any_api, Seen(api), workload)


async def gone_on(workload: Workload, api: Any) -> None:
    """What was left is deleted; after that nothing is."""
    refused: set[Made] = set()
    await workload.go_on(api, refused)
    assert await workload.go_on(api, refused) == ([], []) and workload.read() == []


async def test_what_a_trial_made_is_deleted_and_what_it_found_stays(tmp_path: Path) -> None:
    api, workload = Api(), Workload(StateDir(tmp_path))
    user = hands(api, workload)
    await api.create("configmaps", obj("ConfigMap", "found"))
    for name in ("made", "found"):
        await user.apply(obj("ConfigMap", name, data={"a": "b"}))
    assert api.objects["configmaps"]["default/found"]["data"] == {"a": "b"}
    # Whoever made them is gone: all that comes after it has is its file.
    await gone_on(Workload(StateDir(tmp_path)), api)
    assert [*api.objects["configmaps"]] == ["default/found"]
    assert workload.read() == []


async def test_what_is_applied_again_is_not_told_again(tmp_path: Path) -> None:
    told: list[list[str]] = []

    async def tell(rows: Any) -> None:
        told.append([one.name for row in rows for one in read_row(row)])

    api, workload = Api(), Workload(StateDir(tmp_path), tell=tell)
    await api.create("configmaps", obj("ConfigMap", "found"))
    for _ in range(5):
        await hands(api, workload).apply(obj("ConfigMap", "found"))
    assert told == [["found"]]
    await hands(api, workload).apply(obj("ConfigMap", "made"))
    assert await workload.delete(api) == [] and told == [["found"], ["found", "made"], []]  # type: ignore[arg-type]


def test_a_trials_caller_is_said_once_and_what_earlier_builds_wrote_is_read(tmp_path: Path) -> None:
    jane = Caller("jane", tuple(f"group-{number}" for number in range(50)), "7", (("scopes", ("a", "b")),))
    made = [Made("configmaps", "default", f"c-{n}", f"mark-{n}", caller=jane, trial="one") for n in range(200)]
    made += [Made("deployments", "default", "web", "mark", "uid-1", trial="two")]
    rows = rows_of(made)
    text = json.dumps(rows)
    assert text.count("group-7") == 1 and text.count("jane") == 1
    assert [one for row in json.loads(text) for one in read_row(row)] == made
    earlier = [asdict(one) for one in made]
    (tmp_path / MADE).write_text(json.dumps(earlier))
    workload = Workload(StateDir(tmp_path))
    assert workload.read() == made
    workload.adopt([*json.loads(text), {"trial": "three"}, "no row"])
    assert workload.read() == made, "what is there already and what nobody can read is not added"


async def test_a_namesake_that_somebody_made_since_stays(tmp_path: Path) -> None:
    api, workload = Api(), Workload(StateDir(tmp_path))
    await hands(api, workload).apply(obj("ConfigMap", "a"))
    await api.delete("configmaps", "a", "default")
    await api.create("configmaps", obj("ConfigMap", "a"))
    assert await workload.delete(api) == []  # type: ignore[arg-type]
    assert [*api.objects["configmaps"]] == ["default/a"]


async def test_what_only_bears_a_mark_stays(tmp_path: Path) -> None:
    api, workload = Api(), Workload(StateDir(tmp_path))
    user = hands(api, workload)
    await user.apply(obj("ConfigMap", "a"))
    await user.apply(obj("ConfigMap", "b"))
    marks = [meta.annotations(one)[MARK] for one in api.objects["configmaps"].values()]
    assert len({*marks}) == 2
    for name, mark in zip("ab", marks, strict=True):
        await api.delete("configmaps", name, "default")
        since = obj("ConfigMap", name)
        since["metadata"]["annotations"] = {MARK: mark}
        await api.create("configmaps", since)
    assert await workload.delete(api) == []  # type: ignore[arg-type]
    assert len(api.objects["configmaps"]) == 2


async def test_what_was_made_without_an_answer_is_deleted(tmp_path: Path) -> None:
    class Lossy(Api):
        async def create(self, *args: Any, **options: Any) -> Object:
            await super().create(*args, **options)
            raise Timeout("no answer")

    api, workload = Lossy(), Workload(StateDir(tmp_path))
    with pytest.raises(Timeout):
        await api.create("configmaps", workload.marked("configmaps", obj("ConfigMap", "a")))
    assert await workload.delete(api) == [] and not api.objects["configmaps"]  # type: ignore[arg-type]


async def test_whoever_heals_deletes_by_right_of_who_had_the_trial(tmp_path: Path) -> None:
    api = Api()
    acted: list[Any] = []

    class Asking:
        """Who looks, and lets others act."""

        get = api.get

        def acting(self, *user: Any, **more: Any) -> "Asking":
            acted.append((user, more))
            return self

        async def delete(self, *args: Any, **options: Any) -> Object:
            raise Forbidden("jane cannot delete", details={})

    asking: Any = Asking()
    jane = Caller("jane", ("devs",), "7", (("example.org/team", ("a", "b")),))
    await hands(api, Workload(StateDir(tmp_path), jane)).apply(obj("ConfigMap", "a"))
    refused: set[Made] = set()
    going, [failed] = await Workload(StateDir(tmp_path)).go_on(asking, refused)
    assert "jane cannot delete" in failed and not going and [*api.objects["configmaps"]] == ["default/a"]
    assert acted == [(("jane", ("devs",)), {"uid": "7", "extra": {"example.org/team": ("a", "b")}})]
    assert await Workload(StateDir(tmp_path)).go_on(asking, refused) == ([], []) and len(acted) == 1
    # What its caller has no right to delete an administrator does.
    await api.delete("configmaps", "a", "default")
    await gone_on(Workload(StateDir(tmp_path)), asking)


class Finalized(Api):
    """An API whose objects stay when they are deleted."""

    async def delete(self, *args: Any, propagation: str = "", **options: Any) -> Object:
        resource, name, namespace = args
        found: Object = self.objects[resource][f"{namespace}/{name}"]
        found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return found


async def test_a_trial_neither_deletes_nor_waits_for_what_earlier_ones_left(tmp_path: Path) -> None:
    api: Any = Finalized()
    jane, joe = Caller("jane"), Caller("joe")
    await hands(api, Workload(StateDir(tmp_path), jane)).apply(obj("ConfigMap", "a"))
    later = Workload(StateDir(tmp_path), joe)
    assert await later.left(api) == [] and await later.delete(api) == []
    assert not meta.is_deleting(api.objects["configmaps"]["default/a"])
    assert await Workload(StateDir(tmp_path), jane).left(api) == ["configmaps default/a"]
    # Nor does whoever looks after them wait for what goes.
    api.acting = lambda *_, **__: api
    going, failed = await Workload(StateDir(tmp_path)).go_on(api, set())
    assert going == ["configmaps default/a: not gone yet"] and not failed
    api.objects["configmaps"].clear()
    assert await later.left(api) == [] and later.read() == []


async def test_whoever_leaves_too_much_has_no_other_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayplane.control_plane.cluster.trial.workload.LEFT_MAX", 2)
    monkeypatch.setattr("rayplane.control_plane.cluster.trial.workload.ALL_LEFT_MAX", 3)
    api: Any = Api()
    jane, joe = Caller("jane"), Caller("joe")
    for name in "ab":
        await hands(api, Workload(StateDir(tmp_path), jane)).apply(obj("ConfigMap", name))
    with pytest.raises(TooMuchLeft, match="2 of them yours, such as configmaps default/a: delete"):
        await Workload(StateDir(tmp_path), jane).left(api)
    assert await Workload(StateDir(tmp_path), joe).left(api) == []
    await hands(api, Workload(StateDir(tmp_path), joe)).apply(obj("ConfigMap", "c"))
    with pytest.raises(TooMuchLeft, match="3 objects"):
        await Workload(StateDir(tmp_path)).left(api)
    await api.delete("configmaps", "a", "default")
    assert await Workload(StateDir(tmp_path), jane).left(api) == ["configmaps default/b"]


async def test_claims_of_a_stateful_set_go_with_it_but_not_those_that_were_there(tmp_path: Path) -> None:
    api, workload = Api(), Workload(StateDir(tmp_path))

    def claim(name: str, made: str) -> Object:
        found = obj("PersistentVolumeClaim", name)
        found["metadata"]["creationTimestamp"] = made
        return found

    stateful = obj("StatefulSet", "db", spec={"volumeClaimTemplates": [CLAIM]}) | {"apiVersion": "apps/v1"}
    await hands(api, workload).apply(stateful)
    made = api.objects["statefulsets.apps"]["default/db"]["metadata"].setdefault("creationTimestamp", "2026-01-01")
    for name, at in (("data-db-0", "2025-01-01"), ("data-db-1", made), ("data-dbx-1", made), ("log-db-1", made)):
        api.put("persistentvolumeclaims", claim(name, at))
    assert await workload.delete(api) == []  # type: ignore[arg-type]
    left = [key.partition("/")[2] for key in api.objects["persistentvolumeclaims"]]
    assert sorted(left) == ["data-db-0", "data-dbx-1", "log-db-1"]


async def test_what_cannot_be_deleted_stays_written_down(tmp_path: Path) -> None:
    api, workload = Api(), Workload(StateDir(tmp_path))
    await hands(api, workload).apply(obj("ConfigMap", "a"))
    api.down = True
    [left] = await workload.delete(api)  # type: ignore[arg-type]
    assert left.startswith("configmaps default/a: ") and len(workload.read()) == 1
    api.down = False
    assert await workload.delete(api) == [] and not api.objects["configmaps"]  # type: ignore[arg-type]


@pytest.mark.parametrize("content", ["{", "[1]", json.dumps([{"resource": "pods"}])])
def test_a_damaged_list_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "made.json").write_text(content)
    with pytest.raises(ClusterError, match="is damaged"):
        Workload(StateDir(tmp_path)).read()
