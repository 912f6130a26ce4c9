"""What is stored here and owned by objects of aggregated APIs goes with these, and never because nobody knows."""

from __future__ import annotations

from typing import Any, cast

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound, ServiceUnavailable
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, EventRecorder
from rayplane.control_plane.controllers.actions import Delete, IfAbsent
from rayplane.control_plane.controllers.core import result
from rayplane.control_plane.controllers.elsewhere import SERVICES, resource_of
from rayplane.control_plane.controllers.garbagecollector import UNKNOWN_KIND_RETRY_S, GarbageCollector
from rayplane.control_plane.controllers.manager.executor import Executor
from tests.controllers.cluster import Cluster

FLEET = {"apiVersion": "ext.example.com/v1", "kind": "Fleet", "name": "f", "uid": "u-f"}
ELSEWHERE = resource_of(FLEET["apiVersion"], FLEET["kind"])


class Served(Cluster):
    """A cluster with an aggregated API that keeps fleets."""

    def __init__(self) -> None:
        super().__init__(GarbageCollector(["configmaps"]))
        self.fleets = {"f": "u-f"}
        self.asked: list[tuple[str, ...]] = []
        self.add(SERVICES, "v1.ext.example.com", spec={"group": "ext.example.com", "service": {"name": "s"}})

    def act(self, action: Any) -> bool:
        """As the executor does: an owner that lives elsewhere is no failure."""
        if isinstance(action, IfAbsent):
            theirs = [one for one in action.absent if one[0] == ELSEWHERE]
            self.asked += theirs
            if any(self.fleets.get(name) == uid for _, _, name, uid in theirs):
                return True
            action = IfAbsent(tuple(one for one in action.absent if one not in theirs), action.writes)
        return super().act(action)

    def owned(self, name: str, *refs: Object) -> Object:
        return self.add("configmaps", name, metadata={"ownerReferences": [dict(ref) for ref in refs]})

    def names(self) -> list[str]:
        return sorted(meta.name(one) for one in self.list("configmaps"))


def test_objects_go_when_who_keeps_their_owner_says_that_it_is_gone() -> None:
    cluster = Served()
    cluster.owned("a", FLEET)
    cluster.owned("b", {**FLEET, "apiVersion": "nobody.example.com/v1"})
    cluster.settle()
    assert cluster.asked == [(ELSEWHERE, "default", "f", "u-f")] and cluster.names() == ["a", "b"]
    cluster.fleets["f"] = "u-another"
    cluster.advance(UNKNOWN_KIND_RETRY_S)
    assert cluster.names() == ["b"], "of a kind that nobody serves nothing is known"


def test_the_last_of_several_owners_counts() -> None:
    cluster = Served()
    alive, dying = cluster.owned("alive"), cluster.owned("dying")
    refs = [meta.owner_reference(one, controller=False) for one in (alive, dying)]
    cluster.owned("both", FLEET, refs[0])
    cluster.owned("either", FLEET, refs[1])
    cluster.fleets.clear()
    cluster.settle()
    assert cluster.names() == ["alive", "both", "dying", "either"] and not cluster.asked, "others live"
    cluster.fleets["f"] = "u-f"
    cluster.delete_object("configmaps", dying)
    cluster.settle()
    assert cluster.names() == ["alive", "both", "either"]
    cluster.fleets.clear()
    cluster.advance(UNKNOWN_KIND_RETRY_S)
    assert cluster.names() == ["alive", "both"]


ANSWERS: list[tuple[Any, bool]] = [
    (NotFound.of("fleets.ext.example.com", "f"), True),
    ({"metadata": {"name": "f", "uid": "u-another"}}, True),
    ({"metadata": {"name": "f", "uid": "u-f"}}, False),
    (ServiceUnavailable("no answer"), False),
    (None, False),
    ({"metadata": {"name": "f"}}, False),
    ({"metadata": {"uid": 7}}, False),
    ("text", False),
]


@pytest.mark.parametrize(("answer", "goes"), ANSWERS)
async def test_nothing_but_a_plain_no_deletes(answer: Any, goes: bool) -> None:
    deleted: list[Any] = []

    class Client:
        async def read_aggregated(self, *_: Any, **__: Any) -> Any:
            if isinstance(answer, ApiError):
                raise answer
            return answer

        async def batch(self, operations: list[Any], **_: Any) -> list[Object]:
            deleted.extend(operations)
            return [{} for _ in operations]

    client = cast(ApiClient, Client())
    executor = Executor(client, cast(EventRecorder, None), cast(Any, None), batch_size=8)
    held = {"metadata": {"name": "a", "namespace": "default", "uid": "u-a"}}
    action = IfAbsent(((ELSEWHERE, "default", "f", "u-f"),), (Delete("configmaps", held),))
    outcome = await executor.run(result([action]))
    assert bool(deleted) == goes and not outcome.failed
