"""Quotas say what is allowed and used, whatever comes and goes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rayplane.control_plane.api.device_claims import CLASSES
from rayplane.control_plane.api.device_quotas import names_of
from rayplane.control_plane.api.errors import MethodNotAllowed, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.quotas import DEVICES, used
from rayplane.control_plane.controllers.actions import Action, Recount, UpdateStatus
from rayplane.control_plane.controllers.manager.quotas import QuotaCounter
from rayplane.control_plane.controllers.resourcequota import ResourceQuotaController
from tests.controllers.cluster import Cluster
from tests.fakes import START

WIDGETS = "podtemplates"
WATCHED = ["pods", "configmaps", "nodes"]


class Counted(Cluster):
    """A cluster whose API server is asked by the counter itself."""

    def __init__(self, served: Iterable[str] = ("pods", "configmaps", WIDGETS)) -> None:
        self.controller = ResourceQuotaController(WATCHED)
        super().__init__(self.controller)
        self.served, self.recounts = set(served), 0
        self.on_special = self._recount

    def _recount(self, action: Action) -> bool:
        assert isinstance(action, Recount)
        self.recounts += 1
        quota = action.quota
        held = {r: [o for o in self.list(r) if o["metadata"]["namespace"] == "shop"] for r in action.resources}
        names = names_of(self.list(CLASSES))
        counts = used(quota, {r: o for r, o in held.items() if r in self.served}, self.now.wall, names)
        status = {"hard": quota["spec"]["hard"], "used": counts}
        return quota.get("status") == status or self.act(UpdateStatus("resourcequotas", {**quota, "status": status}))

    def quota(self, **hard: str) -> None:
        self.add("resourcequotas", "q", "shop", spec={"hard": hard})
        self.settle()

    @property
    def status(self) -> dict[str, Any]:
        found = self.get("resourcequotas", "shop", "q")
        assert found is not None
        return found["status"]


def test_a_new_quota_is_counted_at_once_and_what_goes_is_given_back() -> None:
    cluster = Counted()
    cluster.add("pods", "a", "shop", spec={"containers": []})
    cluster.add("pods", "b", "elsewhere", spec={"containers": []})
    cluster.quota(pods="5", configmaps="3")
    assert cluster.status == {"hard": {"pods": "5", "configmaps": "3"}, "used": {"pods": "1", "configmaps": "0"}}
    cluster.remove("pods", "shop/a")
    cluster.settle()
    assert cluster.status["used"] == {"pods": "0", "configmaps": "0"}


def test_a_pod_that_ends_is_given_back() -> None:
    cluster = Counted()
    cluster.add("pods", "a", "shop", spec={"containers": []})
    cluster.quota(pods="5")
    cluster.change("pods", "a", "shop", status={"phase": "Succeeded"})
    cluster.settle()
    assert cluster.status["used"] == {"pods": "0"}


def test_what_a_quota_is_not_about_asks_nobody() -> None:
    cluster = Counted()
    cluster.quota(pods="5")
    before = cluster.recounts
    cluster.add("configmaps", "c", "shop")
    cluster.add("pods", "a", "elsewhere", spec={"containers": []})
    cluster.settle()
    assert cluster.recounts == before


def test_a_changed_quota_is_counted_anew() -> None:
    cluster = Counted()
    cluster.quota(pods="5")
    cluster.change("resourcequotas", "q", "shop", spec={"hard": {"pods": None, "configmaps": "1"}})
    cluster.settle()
    assert cluster.status == {"hard": {"configmaps": "1"}, "used": {"configmaps": "0"}}


def test_custom_objects_are_counted_while_they_are_served() -> None:
    cluster = Counted()
    cluster.controller.follow([*WATCHED, WIDGETS])
    cluster.quota(**{f"count/{WIDGETS}": "2"})
    cluster.add(WIDGETS, "w", "shop")
    cluster.settle()
    assert cluster.status["used"] == {f"count/{WIDGETS}": "1"}
    cluster.controller.follow(WATCHED)
    assert WIDGETS not in [watch.resource for watch in cluster.controller.watches]


def test_another_name_of_a_class_of_devices_has_claims_count_otherwise() -> None:
    cluster = Counted(("pods", DEVICES))
    cluster.controller.follow(["pods", DEVICES])
    request = {"name": "r", "exactly": {"deviceClassName": "gpu", "count": 2}}
    cluster.add(DEVICES, "c", "shop", spec={"devices": {"requests": [request]}})
    cluster.quota(**{"requests.example.com/gpu": "5"})
    assert cluster.status["used"] == {"requests.example.com/gpu": "0"}
    cluster.add(CLASSES, "gpu", spec={"extendedResourceName": "example.com/gpu"})
    cluster.settle()
    assert cluster.status["used"] == {"requests.example.com/gpu": "2"}
    cluster.remove(DEVICES, "shop/c")
    cluster.settle()
    assert cluster.status["used"] == {"requests.example.com/gpu": "0"}


async def test_the_counter_asks_which_names_classes_of_devices_have() -> None:
    request = {"name": "r", "exactly": {"deviceClassName": "gpu", "count": 2}}
    held: dict[str, Any] = {
        DEVICES: [{"metadata": {"name": "c"}, "spec": {"devices": {"requests": [request]}}}],
        CLASSES: [{"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "example.com/gpu"}}],
    }
    counter = QuotaCounter(Lists(**held), lambda: START)  # type: ignore[arg-type]
    hard = {"requests.example.com/gpu": "3"}
    quota: Object = {"metadata": {"name": "q", "namespace": "shop"}, "spec": {"hard": hard}}
    [write] = await counter.recount(Recount(quota, ("pods", DEVICES)))
    assert isinstance(write, UpdateStatus) and write.obj["status"]["used"] == {"requests.example.com/gpu": "2"}


class Lists:
    """An API client that only lists."""

    def __init__(self, **held: list[Object]) -> None:
        self.held = held

    async def list(self, resource: str, namespace: str) -> Any:
        assert namespace == ("" if resource == CLASSES else "shop")
        if resource not in self.held:
            raise (MethodNotAllowed if resource == "reviews" else NotFound)("no such resource")
        return type("Answer", (), {"items": self.held[resource]})()


async def test_the_counter_writes_what_is_there_and_nothing_when_it_is_said_already() -> None:
    counter = QuotaCounter(Lists(configmaps=[{"metadata": {}}] * 2), lambda: START)  # type: ignore[arg-type]
    meta = {"name": "q", "namespace": "shop", "resourceVersion": "7"}
    hard = {"configmaps": "3", "count/gone.example.com": "1", "count/reviews": "1"}
    quota: Object = {"metadata": meta, "spec": {"hard": hard}}
    resources = ("configmaps", "gone.example.com", "reviews")
    [write] = await counter.recount(Recount(quota, resources))
    assert isinstance(write, UpdateStatus)
    assert write.obj["status"] == {"hard": hard, "used": {"configmaps": "2"}}
    assert write.obj["metadata"]["resourceVersion"] == "7"
    assert await counter.recount(Recount({**quota, "status": write.obj["status"]}, resources)) == []
