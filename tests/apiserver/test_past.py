"""The past as an API server tells it: objects of an instant, and what is said where there is none."""

from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.apiserver.storage.compaction import Compactor, kept_span
from rayplane.control_plane.client import api as client_api
from rayplane.control_plane.client.history import History
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.history import (
    RESTLESS,
    HistoryForgotten,
    Instant,
    Resource,
    instant,
    objects_at,
    parse_instant,
    resources,
    unread_kinds,
)
from rayplane.control_plane.cluster.rewind import plan
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.apiserver.conftest import Stack
from tests.apiserver.fake_etcd import FakeEtcd

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
MAPS = [Resource("configmaps", True)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("17", 17),
        ("-10m", NOW - timedelta(minutes=10)),
        ("-5", NOW - timedelta(seconds=5)),
        ("2026-01-02T11:00:00Z", NOW - timedelta(hours=1)),
        ("2026-01-02T12:00:00+01:00", NOW - timedelta(hours=1)),
    ],
)
def test_instants_that_people_name(text: str, found: int | datetime) -> None:
    assert parse_instant(text, NOW) == found


@pytest.mark.parametrize("text", ["", "0", "-", "-x", "yesterday", "10m", "-99999999999h", "²"])
def test_what_names_no_instant_is_told_how_to(text: str) -> None:
    with pytest.raises(UsageError, match="use a revision, a time such as 2026-01-02T12:00:00Z, or a span back"):
        parse_instant(text, NOW)


async def test_objects_are_listed_as_they_were_over_many_pages(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_api, "LIST_PAGE", 2)
    api = stack.client()
    for i in range(5):
        await api.create("configmaps", {"metadata": {"name": f"c{i}", "namespace": "default"}})
    then = stack.etcd.revision
    await api.delete("configmaps", "c1", "default")
    await api.patch("configmaps", "c2", "default", {"data": {"a": "1"}})
    [(_, objs)] = await objects_at(api, MAPS, then, "default")
    assert [(meta.name(o), o.get("data")) for o in objs] == [(f"c{i}", None) for i in range(5)]
    assert await objects_at(api, [Resource("nodes", False)], then, "default") == [], "they are in no namespace"
    await stack.etcd.compact(stack.etcd.revision)
    with pytest.raises(HistoryForgotten):
        await objects_at(api, MAPS, then)


async def test_all_stored_kinds_are_known_but_those_that_never_rest(stack: Stack) -> None:
    found = {one.name for one in await resources(stack.client())}
    assert {"pods.v1", "deployments.v1.apps", "customresourcedefinitions.v1.apiextensions.k8s.io"} <= found
    assert not {one for one in found if one.split(".")[0] in {name.split(".")[0] for name in RESTLESS}}
    everything = await objects_at(stack.client(), await resources(stack.client()), stack.etcd.revision)
    assert {o["kind"] for _, objs in everything for o in objs} >= {"Namespace", "ClusterRole", "ServiceAccount"}


async def test_kinds_whose_definition_is_gone_are_told(stack: Stack) -> None:
    api, then = stack.client(), Instant(stack.etcd.revision, None)
    assert await unread_kinds(api, then) == []
    known = await api.list(CRDS)
    gone = meta.name(known.items[0])
    await api.delete(CRDS, gone)
    async with aclosing(api.watch(CRDS, resource_version=known.resource_version)) as watch:
        async for events in watch:
            if any(one.type == "DELETED" for one in events):
                break
    assert await unread_kinds(api, then, Instant(stack.etcd.revision, None)) == [gone]


async def test_what_a_cluster_begins_with_is_not_deleted(stack: Stack) -> None:
    wanted = [one for one in await resources(stack.client()) if one.name != "nodes.v1"]
    now = await objects_at(stack.client(), wanted, stack.etcd.revision)
    for system in (False, True):
        assert plan([], now, system=system).steps == []


async def test_an_instant_that_is_not_kept_is_told_with_the_oldest_that_is() -> None:
    etcd = FakeEtcd()
    history = History(etcd)  # type: ignore[arg-type]
    for second in range(4):
        await etcd.put(b"/registry/x", b"y")
        await history.tick(NOW + timedelta(seconds=second), 1.0)
    later = NOW + timedelta(seconds=4)
    assert await instant(etcd, "-2s", later) == Instant(7, NOW + timedelta(seconds=2))  # type: ignore[arg-type]
    await etcd.put(b"/registry/x", b"y")
    assert (await instant(etcd, "-0.5s", later)).revision == 10, "it has no time yet"  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="still to come: it is 2026-01-02T12:00:04Z"):
        await instant(etcd, "2026-01-02T12:00:05Z", later)  # type: ignore[arg-type]
    await etcd.compact(7)
    for text in ("2", "-3s"):
        with pytest.raises(HistoryForgotten, match=r"the oldest instant is revision 7 \(2026-01-02T12:00:02Z\)"):
            await instant(etcd, text, later)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="still to come: the newest is 10"):
        await instant(etcd, "11", later)  # type: ignore[arg-type]


class FullEtcd(FakeEtcd):
    """An etcd that says how full it is."""

    share = 0.0

    async def status(self, address: str) -> pb.StatusResponse:
        return pb.StatusResponse(dbSizeInUse=int(1000 * self.share), dbSizeQuota=1000)


class At:
    """A clock."""

    def __init__(self) -> None:
        self.moment = NOW

    def now(self) -> datetime:
        return self.moment


async def test_history_is_kept_as_long_as_asked_for_unless_the_store_fills_up() -> None:
    etcd, clock = FullEtcd(), At()
    compactor = Compactor(etcd, clock, 300.0, history_s=3600.0, clock_s=1.0)  # type: ignore[arg-type]
    history = History(etcd)  # type: ignore[arg-type]
    revisions = {}
    for minute in range(0, 120, 5):
        clock.moment = NOW + timedelta(minutes=minute)
        await etcd.put(b"/registry/x", b"y")
        await history.tick(clock.moment, 1.0)
        revisions[minute] = etcd.revision
    for moment in (clock.moment, NOW + timedelta(days=1)):
        clock.moment = moment
        assert await compactor.due(0, 0.0) == 0, "nobody has seen how old it is, and the clock may be ahead"
    clock.moment = NOW + timedelta(minutes=115)
    etcd.share = 0.6
    assert [await compactor.due(0, 0.0) for _ in range(2)] == [revisions[85], revisions[100]]
    etcd.share = 0.1
    assert [await compactor.due(0, 0.0) for _ in range(3)] == [0, 0, 0]
    etcd.share = 0.6
    assert await compactor.due(0, 0.0) == revisions[85], "there was room again"


@pytest.mark.parametrize("early", [timedelta(), timedelta(hours=5), timedelta(hours=-5)])
async def test_compaction_goes_by_no_machines_clock_once_a_server_has_seen_enough(early: timedelta) -> None:
    etcd, clock = FullEtcd(), At()
    compactor = Compactor(etcd, clock, 300.0, history_s=3600.0, clock_s=1.0)  # type: ignore[arg-type]
    history = History(etcd)  # type: ignore[arg-type]
    await history.tick(NOW + timedelta(days=1), 1.0)
    seen = {0: 0}
    for minute in range(5, 125, 5):
        clock.moment = NOW + timedelta(minutes=minute) + (early if minute > 65 else timedelta())
        due = await compactor.due(seen[minute - 5], 60.0 * minute)
        assert due == (seen[minute - 65] if minute > 65 else 0), "what was there an interval before is that old"
        await etcd.put(b"/registry/x", b"y")
        seen[minute] = etcd.revision


def test_history_is_never_shorter_than_an_interval() -> None:
    assert kept_span(400.0, 0.9, least_s=300.0, most_s=3600.0) == 300.0
    assert kept_span(400.0, 0.4, least_s=300.0, most_s=3600.0) == 400.0
