"""A cluster in a test: what is told of its namespace."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rayplane import errors
from rayplane.control_plane.testing import failing
from rayplane.control_plane.testing.shared import ClusterInTest, LeftBehind, leak_checked, own_namespace
from rayplane.control_plane.testing.until import NotInTime


async def test_a_story_is_told_where_a_loop_runs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def told(*_: object) -> list[tuple[str, str]]:
        return [("rayplane events", "it came"), ("rayplane history", "")]

    monkeypatch.setattr(failing, "told", told)
    api: Any = SimpleNamespace(get=lambda *_: {"metadata": {"resourceVersion": "1"}})
    cluster: Any = SimpleNamespace(directory=None)
    assert ClusterInTest(cluster, "a", Path(), api).story() == [("rayplane events", "it came")]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"status": {"phase": "Pending"}}, "its status: {'phase': 'Pending'}"),
        (errors.NotFound.of("pods", "a"), 'pods "a" not found'),
        (errors.NotFound("the server could not find it", details={}), "no resource is served as 'pods'"),
    ],
)
def test_who_waits_in_vain_is_told_what_there_was(found: Any, told: str) -> None:
    def get(resource: str, *_: str) -> Any:
        if resource == "pods" and isinstance(found, Exception):
            raise found
        return {"metadata": {"resourceVersion": "1"}} | (found if resource == "pods" else {})

    api: Any = SimpleNamespace(get=get)
    with pytest.raises(NotInTime) as raised:
        ClusterInTest(cast("Any", None), "n", Path(), api).wait_for("pods", "a", "Ready", timeout=0)
    assert told in str(raised.value) and "None" not in str(raised.value), "it was seen, or was not there"


@pytest.mark.parametrize(("shared", "deleted"), [(True, ["namespaces"]), (False, [])])
def test_a_cluster_of_one_test_may_be_broken_by_it(
    shared: bool, deleted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    answers = {"create": lambda *_: {}, "list": lambda *_: ["default"], "delete": lambda kind, _: done.append(kind)}
    api = SimpleNamespace(get=lambda *_: {"metadata": {"resourceVersion": "1"}}, **answers)
    (tmp_path / "kubeconfig").write_text("contexts: []")
    cluster: Any = SimpleNamespace(client=lambda: nullcontext(api), kubeconfig=tmp_path / "kubeconfig")
    monkeypatch.setattr("rayplane.control_plane.testing.shared.clusters.left", lambda: [cluster])
    with own_namespace(cluster, "test_it", shared=shared):
        assert done == []
    assert done == deleted


def test_nobody_waits_for_what_no_test_has_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace that was forgotten, and one that goes a moment later."""
    known: dict[str, list[Any]] = {"namespaces": []}
    looks = []

    def listed(kind: str) -> list[Any]:
        if kind == "namespaces" and known[kind]:
            looks.append(kind)
            if len(looks) == 2:
                known[kind] = [one for one in known[kind] if "deletionTimestamp" not in one["metadata"]]
        return known.get(kind, [])

    api = nullcontext(SimpleNamespace(list=listed))
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(LeftBehind, match="left behind: namespaces forgotten;"):  # noqa: SIM117
        with leak_checked(cast("Any", FakeCluster(api))):
            known["namespaces"] = [
                {"metadata": {"name": "forgotten"}},
                {"metadata": {"name": "going", "deletionTimestamp": "2026-01-02T12:00:00Z"}},
            ]
    assert len(looks) == 3


class FakeCluster(nullcontext[None]):
    def __init__(self, api: Any) -> None:
        super().__init__()
        self._api = api

    def client(self) -> Any:
        return self._api
