"""The story of controllers' work: what it keeps, what it forgets, and what a replica tells of an object."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api import errors, meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import (
    Create,
    Delete,
    Patch,
    Write,
)
from rayplane.control_plane.controllers.config import ControllersConfig, Timing
from rayplane.control_plane.controllers.core import Moment, Result, View
from rayplane.control_plane.controllers.manager.manager import Term
from rayplane.control_plane.controllers.manager.stories import Stories
from rayplane.control_plane.controllers.replicaset import ReplicaSetController
from rayplane.control_plane.controllers.story import (
    CHANGES_MAX,
    LOOKS_OF_KEY_MAX,
    WRITES_MAX,
    Look,
    Story,
    Teller,
    Written,
)
from rayplane.control_plane.rpc import Context, Identity
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import controllers_pb2 as pb
from rayplane.storage.env import Env, SystemClock
from tests.fakes import FakeClient, Store

START = datetime(2026, 1, 1, tzinfo=UTC)
WROTE = (Written("create", "pods", "default/p", version="7"),)


def pod(name: str, version: int = 1) -> Object:
    return {"metadata": {"name": name, "namespace": "default", "resourceVersion": str(version)}}


def look(key: str, at: int, **fields: Any) -> Look:
    return Look("c", key, START + timedelta(seconds=at), **fields)


# --- what is kept -------------------------------------------------------------------------------


def test_looks_of_no_effect_in_a_row_are_one() -> None:
    story = Story()
    for n in range(5):
        story.add(look("k", n))
    story.add(look("k", 5, writes=WROTE))
    story.add(look("k", 6, writes=WROTE))
    for n in (7, 8):
        story.add(look("k", n, error="no quota", writes=(Written("create", "pods", "default/", error="no quota"),)))
    story.add(look("k", 9, error="another"))
    found = [(one.times, one.at.second, one.error) for one in story.of_key("c", "k")]
    assert found == [(5, 4, ""), (1, 5, ""), (1, 6, ""), (2, 8, "no quota"), (1, 9, "another")]


def test_of_each_key_the_last_looks_are_kept() -> None:
    story = Story()
    for n in range(LOOKS_OF_KEY_MAX + 3):
        story.add(look("k", n, writes=WROTE))
    assert [one.at.second for one in story.of_key("c", "k")] == list(range(3, LOOKS_OF_KEY_MAX + 3))
    assert not story.forgotten


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3)), max_size=60))
def test_the_story_stays_within_its_bounds_and_forgets_who_was_quiet_for_longest(adds: list[tuple[str, int]]) -> None:
    story, lost = Story(looks_max=8, bytes_max=9000), False
    for n, (key, writes) in enumerate(adds):
        story.add(look(key, n, writes=WROTE * writes, error="x" * 400 if writes == 3 else ""))
        kept = {k: story.of_key("c", k) for k in "abcdef"}
        assert len(story) == sum(map(len, kept.values()))
        if sum(map(bool, kept.values())) > 1:
            assert len(story) <= 8
            assert sum(one.size for looks in kept.values() for one in looks) <= 9000
        recent = list(dict.fromkeys(k for k, _ in reversed(adds[: n + 1])))
        assert [k for k in recent if kept[k]] == recent[: sum(map(bool, kept.values()))]
        lost |= len(recent) > sum(map(bool, kept.values()))
        assert story.forgotten == lost


def test_a_look_is_told_with_the_changes_before_it_and_the_answers_to_its_writes() -> None:
    story = Story()
    teller = Teller(story, "c")
    for n in range(CHANGES_MAX + 2):
        teller.changed("k", "pods", "ADDED", pod(f"p{n}", n + 1))
    one = teller.look("k", START)
    answers: list[tuple[Write, Object | errors.ApiError]] = [
        (Create("pods", {"metadata": {"namespace": "default", "generateName": "web-"}}), errors.Forbidden("no quota")),
        (Create("pods", {"metadata": {"namespace": "default", "generateName": "web-"}}), pod("web-1", 9)),
        (Delete("pods", pod("old")), {}),
        (Patch("nodes", "", "n1", {}), {"metadata": {"name": "n1", "resourceVersion": "10"}}),
        *[(Delete("pods", pod("old")), {})] * WRITES_MAX,
    ]
    teller.ended(one, 0.5, answers=answers, error="no quota" * 1000)
    (kept,) = story.of_key("c", "k")
    assert [(c.resource, c.object, c.kind, c.version) for c in kept.changes[:1]] == [
        ("pods", "default/p0", "ADDED", "1")
    ]
    assert (len(kept.changes), kept.changes_left_out) == (CHANGES_MAX, 2)
    assert tuple(kept.writes[:4]) == (
        Written("create", "pods", "default/web-", error="no quota"),
        Written("create", "pods", "default/web-1", version="9"),
        Written("delete", "pods", "default/old"),
        Written("patch", "nodes", "n1", version="10"),
    )
    assert (len(kept.writes), kept.writes_left_out, len(kept.error)) == (WRITES_MAX, 4, 500)
    assert not teller.look("k", START).changes  # they were told


# --- what a replica tells -----------------------------------------------------------------------

RS: dict[str, Any] = {
    "replicas": 2,
    "selector": {"matchLabels": {"app": "web"}},
    "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
}
SETS = "replicasets.apps"


class NoNetwork:
    def channel(self, address: str) -> Any:
        raise AssertionError(f"nothing should be called, but {address} was")


class Replica:
    def __init__(self, client: FakeClient) -> None:
        self.story, self.leads = Story(), True
        env = Env(SystemClock(), random.Random(1), None)  # type: ignore[arg-type]
        config = ControllersConfig(identity="test", timing=Timing(coalesce_s=0.01))
        self.term = Term(config, env, NoNetwork(), client=client, story=self.story)  # type: ignore[arg-type]
        self.stories = Stories("r", self.story, is_leader=lambda: self.leads)

    async def why(self, resource: str, name: str) -> pb.WhyResponse:
        return await self.stories.Why(pb.WhyRequest(resource=resource, namespace="default", name=name), Context())

    async def until(self, resource: str, name: str, true: Callable[[pb.WhyResponse], object]) -> pb.WhyResponse:
        async with asyncio.timeout(60):
            while not true(found := await self.why(resource, name)):
                await asyncio.sleep(0.01)
        return found


@asynccontextmanager
async def replica(client: FakeClient) -> AsyncIterator[Replica]:
    one = Replica(client)
    one.stories.begin(one.term.view, one.term.runners, START)
    task = asyncio.create_task(one.term.run())
    try:
        await client.until(lambda: client.watched.get(SETS))
        yield one
    finally:
        await cancel_and_wait(task)
        await one.term.stop()


def add_set(store: Store) -> None:
    own = {"name": "web", "namespace": "default"}
    store.create(SETS, {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": own, "spec": RS})


def standing(response: pb.WhyResponse, controller: str) -> pb.Standing:
    return next(one for one in response.standings if one.controller == controller)


async def test_who_acted_on_an_object_from_which_change() -> None:
    client = FakeClient()
    async with replica(client) as one:
        add_set(client.store)
        found = await one.until(SETS, "web", lambda r: any(w.verb == "updatestatus" for x in r.looks for w in x.writes))
        first = next(x for x in found.looks if x.controller == "replicaset")
        assert [(c.resource, c.object, c.kind) for c in first.changes] == [(SETS, "default/web", "ADDED")]
        made = [w.object for w in first.writes]
        assert made == [meta.key(p) for p in client.store.list("pods")]
        assert (found.leads, found.cached != "", "replicaset" in found.watchers) == (True, True, True)
        assert standing(found, "replicaset").looked
        of_pod = await one.why("pods", made[0].partition("/")[2])
        assert ("replicaset", "create") in {(x.controller, w.verb) for x in of_pod.looks for w in x.writes}


async def test_why_nothing_happens_when_the_server_refuses() -> None:
    client = FakeClient()
    client.refuse = lambda verb, of: errors.Forbidden("exceeded quota") if (verb, of) == ("create", "pods") else None
    async with replica(client) as one:
        add_set(client.store)
        found = await one.until(SETS, "web", lambda r: any(x.times >= 2 for x in r.looks))
        last = next(x for x in found.looks if x.controller == "replicaset")
        assert (last.error, {w.error for w in last.writes if w.verb == "create"}) == (
            "exceeded quota",
            {"exceeded quota"},
        )
        now = standing(
            await one.until(SETS, "web", lambda r: standing(r, "replicaset").HasField("due_in_s")), "replicaset"
        )
        assert now.failures >= 2


async def test_why_nothing_happens_when_a_reconcile_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ReplicaSetController, key: str, view: View, now: Moment) -> Result:
        raise KeyError("odd object")

    monkeypatch.setattr(ReplicaSetController, "reconcile", broken)
    client = FakeClient()
    async with replica(client) as one:
        add_set(client.store)
        found = await one.until(SETS, "web", lambda r: any(x.error for x in r.looks))
        assert next(x.error for x in found.looks if x.controller == "replicaset") == "KeyError: 'odd object'"


async def test_an_object_that_nobody_knows_and_a_replica_that_does_not_lead() -> None:
    client = FakeClient()
    async with replica(client) as one:
        found = await one.why(SETS, "nothing")
        assert (list(found.looks), found.HasField("cached"), standing(found, "replicaset").looked) == ([], False, False)
        assert await one.why("widgets.example.com", "x") == pb.WhyResponse(
            replica="r", leads=True, since="2026-01-01T00:00:00.000000Z"
        )
        add_set(client.store)
        await one.until(SETS, "web", lambda r: r.looks)
    one.leads = False
    one.stories.end()
    left = await one.why(SETS, "web")
    assert (left.leads, left.since, list(left.standings)) == (False, "", [])
    assert left.looks  # what it did while it led


def test_only_administrators_may_ask() -> None:
    service = Stories("r", Story(), is_leader=lambda: True).service()
    (callers,) = service.callers.values()
    assert callers.refusal(Identity("system:kube-scheduler", ()), "/") is not None
    assert callers.refusal(Identity("admin", ("system:masters",)), "/") is None
