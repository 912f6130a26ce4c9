"""The watch cache: what a watcher sees, and what happens when it, or etcd, falls behind."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import grpc
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api.errors import Expired, ServiceUnavailable, Timeout
from rayplane.control_plane.api.kinds.registry import rules_of
from rayplane.control_plane.api.machinery import selectors
from rayplane.control_plane.api.machinery.field_selectors import parse_fields
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.apiserver.config import Limits, Timing
from rayplane.control_plane.apiserver.registry.reading import INITIAL_EVENTS_END
from rayplane.control_plane.apiserver.requests import ListOptions, Target
from rayplane.control_plane.apiserver.storage.entries import Entry
from rayplane.control_plane.apiserver.watch_cache import watchers
from rayplane.control_plane.apiserver.watch_cache.cache import ResourceCache
from rayplane.control_plane.apiserver.watch_cache.watchers import DELETED, Seen, Selection, Watcher
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.rpc import RpcError
from tests.apiserver.conftest import Stack
from tests.apiserver.fake_etcd import FakeEtcd

PODS = builtin_registry().by_name("pods")


def pod_bytes(name: str, app: str, node: str) -> bytes:
    pod = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "d", "labels": {"app": app}},
        "spec": {"nodeName": node},
    }
    return orjson.dumps(pod)


async def everything(watcher: Watcher) -> list[Seen]:
    """All that waits for it."""
    found: list[Seen] = []
    while taken := await watcher.take(0):
        found += taken
    return found


changes = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.one_of(st.none(), st.tuples(st.sampled_from(["x", "y"]), st.sampled_from(["n1", "n2"]))),
    ),
    max_size=25,
)
selections = st.sampled_from(
    [
        Selection(),
        Selection(namespace="d", labels=selectors.parse_labels("app=x")),
        Selection(fields=parse_fields("spec.nodeName=n1", rules_of("", "Pod").fields)),
        Selection(fields=parse_fields("spec.nodeName!=n1", rules_of("", "Pod").fields)),
        Selection(fields=parse_fields("spec.nodeName in (n1,n2)", rules_of("", "Pod").fields)),
        Selection(namespace="d", name="b"),
    ]
)


@given(changes=changes, start=st.integers(0, 25), joined=st.integers(0, 25), selection=selections)
@settings(deadline=None)
def test_list_then_watch_equals_list_later(changes: list, start: int, joined: int, selection: Selection) -> None:
    """Whoever lists at one revision and watches from there ends with what a list at the end shows."""
    cache = ResourceCache(PODS, events_max=100, watcher_events_max=100)
    cache.install([], 0)
    start, joined = min(start, joined, len(changes)), min(joined, len(changes))
    state: dict[str, str] = {}
    watcher = None
    for revision, (name, content) in enumerate([*changes, ("end", None)]):
        if revision == start:
            state = {e.name: e.json.decode() for e in cache.select(selection)}
        if revision == joined:
            watcher = cache.watch(selection, start)
        value = None if content is None else pod_bytes(name, *content)
        cache.apply(f"/registry/pods/d/{name}", value, revision + 1)
    assert watcher is not None
    for type_, entry, _ in asyncio.run(everything(watcher)):
        if type_ == DELETED:
            del state[entry.name]
        else:
            state[entry.name] = entry.json.decode()
    assert state == {e.name: e.json.decode() for e in cache.select(selection)}


async def test_who_watches_two_nodes_hears_once_of_what_concerns_both() -> None:
    cache = ResourceCache(PODS, events_max=10, watcher_events_max=10)
    cache.install([], 0)
    both = Selection(fields=parse_fields("spec.nodeName in (n1,n2)", rules_of("", "Pod").fields))
    watcher = cache.watch(both, 0)
    for revision, node in enumerate(("n1", "n2", "n3"), 1):
        cache.apply("/registry/pods/d/a", pod_bytes("a", "x", node), revision)
    assert [type_ for type_, _, _ in await watcher.take(0) or ()] == ["ADDED", "MODIFIED", "DELETED"]
    assert cache.watcher_count == 1
    cache.leave(watcher)
    assert cache.watcher_count == 0


async def test_watch_from_before_the_kept_changes_is_expired() -> None:
    cache = ResourceCache(PODS, events_max=3, watcher_events_max=10)
    cache.install([], 1)
    for revision in range(2, 8):
        cache.apply("/registry/pods/d/a", pod_bytes("a", "x", "n1"), revision)
    with pytest.raises(Expired, match=r"too old resource version: 3 \(4\)"):
        cache.watch(Selection(), 3)
    watcher = cache.watch(Selection(), 4)
    assert [entry.revision for _, entry, _ in await watcher.take(0) or ()] == [5, 6, 7]


async def test_watcher_that_does_not_keep_up_is_ended() -> None:
    cache = ResourceCache(PODS, events_max=100, watcher_events_max=3)
    cache.install([], 1)
    watcher = cache.watch(Selection(), 1)
    for revision in range(2, 12):
        cache.apply("/registry/pods/d/a", pod_bytes("a", "x", "n1"), revision)
    assert [entry.revision for _, entry, _ in await watcher.take(0) or ()] == [2, 3, 4]
    assert await watcher.take(0) is None


async def test_watchers_of_one_selection_share_what_they_take() -> None:
    cache = ResourceCache(PODS, events_max=100, watcher_events_max=10)
    cache.install([], 1)
    first, second = (cache.watch(Selection(namespace="d"), 1) for _ in range(2))
    cache.apply("/registry/pods/d/a", pod_bytes("a", "x", "n1"), 2)
    late = cache.watch(Selection(namespace="d"), 3)  # from a list that already showed what comes next
    cache.apply("/registry/pods/d/b", pod_bytes("b", "x", "n1"), 3)
    cache.apply("/registry/pods/d/c", pod_bytes("c", "x", "n1"), 4)
    taken = await first.take(0)
    assert taken is not None and [entry.name for _, entry, _ in taken] == ["a", "b", "c"]
    assert await second.take(0) is taken
    assert taken.form("names", len) == taken.form("names", list) == 3
    assert [entry.name for _, entry, _ in await late.take(0) or ()] == ["c"]


async def test_a_slow_watcher_is_ended_and_the_others_of_its_selection_go_on() -> None:
    cache = ResourceCache(PODS, events_max=100, watcher_events_max=3)
    cache.install([], 1)
    slow, quick = cache.watch(Selection(), 1), cache.watch(Selection(), 1)
    seen = []
    for revision in range(2, 12):
        cache.apply("/registry/pods/d/a", pod_bytes("a", "x", "n1"), revision)
        seen += [entry.revision for _, entry, _ in await quick.take(0) or ()]
    assert seen == list(range(2, 12))
    assert [entry.revision for _, entry, _ in await slow.take(0) or ()] == [2, 3, 4]
    assert await slow.take(0) is None
    assert cache.watcher_count == 1


async def test_while_a_group_rests_changes_are_gathered_up_to_a_bound(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    for name, value in {"_MOMENT_S": -1.0, "_REST": 1e12, "_REST_MAX_S": 3600.0}.items():
        monkeypatch.setattr(watchers, name, value)
    cache = ResourceCache(PODS, events_max=100, watcher_events_max=16)
    cache.install([], 1)
    watcher = cache.watch(Selection(), 1)

    async def told(*changed: int) -> "asyncio.Future[list[int]]":
        async def take() -> list[int]:
            return [entry.revision for _, entry, _ in await watcher.take(3600) or ()]

        taking = asyncio.ensure_future(take())
        await asyncio.sleep(0)
        for revision in changed:
            cache.apply("/registry/pods/d/a", pod_bytes("a", "x", "n1"), revision)
        for _ in range(5):
            await asyncio.sleep(0)
        return taking

    assert (await told(2)).result() == [2] and watcher.group.resting
    gathering = await told(3, 4)
    assert not gathering.done()
    watcher.group._go_on()
    assert await gathering == [3, 4]
    assert await (await told(5, 6, 7, 8, 9, 10)) == [5, 6, 7, 8, 9, 10]


async def test_a_watcher_that_waits_is_woken_by_a_change_and_by_the_end() -> None:
    cache = ResourceCache(PODS, events_max=100, watcher_events_max=3)
    cache.install([], 1)
    both = [cache.watch(Selection(), 1) for _ in range(2)]
    waiting = [asyncio.ensure_future(w.take(60)) for w in both]
    await asyncio.sleep(0)
    cache.apply("/registry/pods/d/a", pod_bytes("a", "x", "n1"), 2)
    assert [len(taken or ()) for taken in await asyncio.gather(*waiting)] == [1, 1]
    waiting = [asyncio.ensure_future(w.take(60)) for w in both]
    await asyncio.sleep(0)
    cache.reset(Expired("gone"))
    assert await asyncio.gather(*waiting) == [None, None]
    assert all(isinstance(w.error, Expired) for w in both)


def config_map(name: str, **labels: str) -> dict:
    return {"metadata": {"name": name, "namespace": "default", "labels": labels}}


async def test_large_changes_are_kept_and_wait_within_a_bound_of_bytes() -> None:
    stack = Stack()
    await stack.add_server(limits=Limits(history_bytes=100_000))
    try:
        client, hub = stack.client(), stack.servers[0].registry.hub
        start = (await client.list("configmaps", "default")).resource_version
        cache = await hub.cache(stack.servers[0].registry.kinds.named("configmaps"))
        slow = cache.watch_from_now(Selection(), hub.revision, initial=False)
        for n in range(20):
            await client.create("configmaps", {**config_map(f"c{n}"), "data": {"a": "x" * 10_000}})
        await client.list("configmaps", "default")
        assert sum(e.size for e in cache._events) <= 100_000
        assert sum(v.size if isinstance(v, Entry) else len(v or b"") for _, _, v in hub._history) <= 100_000
        assert slow.ended and 0 < len(await slow.take(0) or ()) < 20
        with pytest.raises(Expired):
            async with asyncio.timeout(5), aclosing(client.watch("configmaps", resource_version=start)) as watch:
                await anext(watch)
    finally:
        await stack.stop()


async def test_the_history_holds_no_second_copy_and_a_cache_that_is_loaded_anew_has_all_of_it(stack: Stack) -> None:
    client, hub = stack.client(), stack.servers[0].registry.hub
    info = stack.servers[0].registry.kinds.named("configmaps")
    cache = await hub.cache(info)
    start = (await client.list("configmaps", "default")).resource_version
    for n in range(3):
        await client.create("configmaps", config_map(f"c{n}", n=str(n)))
    await client.delete("configmaps", "c1", "default")
    await client.list("configmaps", "default")
    before = [(e.key, e.revision, e.json) for e in cache.select(Selection())]
    assert all(
        any(value is entry for _, _, value in hub._history) for entry in cache.select(Selection()) if "/c" in entry.key
    )
    cache.reset(None)
    assert await hub.cache(info) is cache
    assert [(e.key, e.revision, e.json) for e in cache.select(Selection())] == before
    watcher = cache.watch(Selection(), int(start))
    told = [(type_, entry.name) for type_, entry, _ in await watcher.take(0) or ()]
    assert told == [("ADDED", "c0"), ("ADDED", "c1"), ("ADDED", "c2"), ("DELETED", "c1")]


async def test_watch_goes_on_over_a_broken_stream(stack: Stack) -> None:
    client = stack.client()
    start = (await client.list("configmaps", "default")).resource_version
    stack.etcd.break_streams()
    for i in range(3):
        await client.create("configmaps", config_map(f"c{i}"))
    seen: list[str] = []
    async with asyncio.timeout(5), aclosing(client.watch("configmaps", resource_version=start)) as watch:
        async for events in watch:
            seen += [e.object["metadata"]["name"] for e in events]
            if len(seen) == 3:
                break
    assert seen == ["c0", "c1", "c2"]


async def test_compacted_history_ends_watchers_and_reads_go_on(stack: Stack) -> None:
    client = stack.client()
    made = await client.create("configmaps", config_map("a"))
    version = made["metadata"]["resourceVersion"]
    await client.list("configmaps", "default")
    etcd = stack.etcd
    etcd.frozen = True
    for _ in range(5):
        await etcd.put(b"/registry/other", b"x")
    await etcd.compact(etcd.revision)
    etcd.break_streams()
    etcd.frozen = False
    assert [o["metadata"]["name"] for o in (await client.list("configmaps", "default")).items] == ["a"]
    with pytest.raises(Expired):
        async with asyncio.timeout(5), aclosing(client.watch("configmaps", resource_version=version)) as watch:
            async for _ in watch:
                pass


async def test_reads_are_fresh_while_the_stream_hangs() -> None:
    stack = Stack()
    await stack.add_server(timing=Timing(fresh_timeout_s=0.05))
    try:
        client = stack.client()
        await client.create("configmaps", config_map("a"))
        await client.list("configmaps", "default")
        stack.etcd.frozen = True
        await client.create("configmaps", config_map("b"))
        assert (await client.get("configmaps", "b", "default"))["metadata"]["name"] == "b"
        assert len((await client.list("configmaps", "default")).items) == 2
        server = stack.servers[0].registry
        target = Target(server.kinds.named("configmaps"), "default")
        present = await server.reader.list(target, ListOptions(resource_version="0"))
        assert [e.name for e in present.entries] == ["a", "b"]
        with pytest.raises(Timeout, match="Too large resource version: 9999999"):
            await server.reader.list(target, ListOptions(resource_version="9999999"))
    finally:
        stack.etcd.frozen = False
        await stack.stop()


async def test_initial_events_end_with_a_marked_bookmark(stack: Stack) -> None:
    client = stack.client()
    await client.create("configmaps", config_map("a"))
    async with asyncio.timeout(5), aclosing(client.watch("configmaps", "default", send_initial_events=True)) as watch:
        events = await anext(watch)
        events += await anext(watch)
    assert [e.type for e in events] == ["ADDED", "BOOKMARK"]
    assert events[1].object["metadata"]["annotations"] == {INITIAL_EVENTS_END: "true"}
    assert int(events[1].object["metadata"]["resourceVersion"]) >= stack.etcd.revision


async def test_bookmarks_tell_how_far_a_quiet_watch_has_come() -> None:
    stack = Stack()
    await stack.add_server(timing=Timing(bookmark_interval_s=0.02))
    try:
        client = stack.client()
        start = (await client.list("configmaps", "default")).resource_version
        await client.create("secrets", config_map("s"))
        async with asyncio.timeout(5), aclosing(client.watch("configmaps", resource_version=start)) as watch:
            async for events in watch:
                assert [e.type for e in events] == ["BOOKMARK"]
                if int(events[0].object["metadata"]["resourceVersion"]) > int(start):
                    break
    finally:
        await stack.stop()


async def test_no_bookmark_lies_before_where_a_watch_began() -> None:
    """A client that listed on another server, which is ahead, would else see again what it has seen."""
    stack = Stack()
    await stack.add_server(timing=Timing(bookmark_interval_s=0.02, fresh_timeout_s=0.05))
    try:
        client = stack.client()
        await client.list("configmaps", "default")
        stack.etcd.frozen = True
        await client.create("configmaps", config_map("a"))
        ahead = (await client.list("configmaps", "default")).resource_version
        assert int(ahead) > stack.servers[0].registry.hub.revision
        async with asyncio.timeout(5), aclosing(client.watch("configmaps", resource_version=ahead)) as watch:
            events = await anext(watch)
        assert [(e.type, e.object["metadata"]["resourceVersion"]) for e in events] == [("BOOKMARK", ahead)]
    finally:
        stack.etcd.frozen = False
        await stack.stop()


async def test_watch_resumes_on_a_server_that_started_later(stack: Stack) -> None:
    """A client that lists on one server and watches on another, newer one is not sent back to list."""
    client = stack.client()
    start = (await client.list("configmaps", "default")).resource_version
    await client.create("configmaps", config_map("a"))
    await stack.add_server()
    async with asyncio.timeout(5), aclosing(stack.client(1).watch("configmaps", resource_version=start)) as watch:
        events = await anext(watch)
    assert [(e.type, e.object["metadata"]["name"]) for e in events] == [("ADDED", "a")]


async def test_pages_show_one_moment_until_it_is_compacted(stack: Stack) -> None:
    client = stack.client()
    for i in range(5):
        await client.create("configmaps", config_map(f"c{i}", odd=str(i % 2)))
    first = await client.list("configmaps", "default", limit=2)
    await client.delete("configmaps", "c3", "default")
    await client.create("configmaps", config_map("c2a"))
    second = await client.list("configmaps", "default", limit=2, continue_token=first.continue_token)
    third = await client.list("configmaps", "default", limit=2, continue_token=second.continue_token)
    pages = [[o["metadata"]["name"] for o in page.items] for page in (first, second, third)]
    assert pages == [["c0", "c1"], ["c2", "c3"], ["c4"]]
    assert third.continue_token == ""
    assert first.resource_version == second.resource_version == third.resource_version
    await stack.etcd.compact(stack.etcd.revision)
    with pytest.raises(Expired, match="The provided continue parameter is too old"):
        await client.list("configmaps", "default", limit=2, continue_token=first.continue_token)


async def test_limits_of_history_are_respected_at_start() -> None:
    """A server over an etcd with a long history keeps a bounded part of it and shows the same objects."""
    stack = Stack()
    await stack.add_server()
    client = stack.client()
    for i in range(30):
        await client.create("configmaps", config_map(f"c{i:02}"))
    late = await stack.add_server(limits=Limits(history_events=5, history_at_start=10))
    listed = await stack.client(1).list("configmaps", "default")
    assert [o["metadata"]["name"] for o in listed.items] == [f"c{i:02}" for i in range(30)]
    assert late.registry.hub.revision >= int(listed.resource_version)
    await stack.stop()


def test_fake_etcd_is_used_as_an_etcd_client() -> None:
    """The stand-in has the methods that the API server calls."""
    from rayplane.control_plane.client.etcd import EtcdClient

    for name in ("range", "txn", "put", "watch", "lease_grant", "lease_keep_alive", "compact"):
        assert hasattr(EtcdClient, name)
        assert hasattr(FakeEtcd, name)


# --- compaction ---------------------------------------------------------------------------------


async def test_a_server_starts_right_after_a_compaction(stack: Stack) -> None:
    client = stack.client()
    await client.create("configmaps", config_map("kept"))
    for again in range(3):
        await stack.etcd.compact(stack.etcd.revision)
        async with asyncio.timeout(10):
            await stack.add_server()
        assert (await stack.client(again + 1).get("configmaps", "kept", "default"))["metadata"]["name"] == "kept"
        await stack.client(again + 1).create("configmaps", config_map(f"new-{again}"))


class CompactingEtcd(FakeEtcd):
    """An etcd that is compacted to the present after each page of these prefixes, so often."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def range(self, key, range_end=b"", *, timeout=5, **options):  # type: ignore[no-untyped-def]
        response = await super().range(key, range_end, timeout=timeout, **options)
        if self.times and range_end and key.startswith(b"/registry/configmaps"):
            self.times -= 1
            await self.put(b"/other", b"x")
            await self.compact(self.revision)
        return response


async def test_a_load_whose_pages_are_compacted_under_it_begins_again(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("rayplane.control_plane.apiserver.watch_cache.reading._PAGE", 2)
    stack = Stack()
    stack.etcd = CompactingEtcd(0)
    await stack.add_server()
    for n in range(7):
        await stack.client().create("configmaps", config_map(f"c{n}"))
    stack.etcd.times = 5
    async with asyncio.timeout(20):
        await stack.add_server(limits=Limits(history_at_start=0))
        listed = await stack.client(1).list("configmaps", "default")
    assert {o["metadata"]["name"] for o in listed.items} >= {f"c{n}" for n in range(7)}
    await stack.stop()


async def test_a_load_that_compaction_outruns_is_told_to_come_again_and_comes_back(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("rayplane.control_plane.apiserver.watch_cache.reading._PAGE", 1)
    monkeypatch.setattr("rayplane.control_plane.apiserver.watch_cache.reading._RETRIES", Backoff(0.001, 0.01))
    stack = Stack()
    stack.etcd = CompactingEtcd(0)
    await stack.add_server()
    for n in range(3):
        await stack.client().create("configmaps", config_map(f"c{n}"))
    server = await stack.add_server(limits=Limits(history_at_start=0))
    stack.etcd.times = 1_000_000
    info = builtin_registry().by_name("configmaps")
    server.registry.hub.forget(info.storage_prefix)
    with pytest.raises(ServiceUnavailable):
        await server.registry.hub.cache(info)
    assert stack.etcd.calls < 1000
    stack.etcd.times = 0
    assert len((await stack.client(1).list("configmaps", "default")).items) == 3
    await stack.stop()


async def test_what_was_being_loaded_as_it_was_defined_before_is_not_kept(stack: Stack) -> None:
    hub, info = stack.servers[0].registry.hub, builtin_registry().by_name("configmaps")
    hub.forget(info.storage_prefix)
    stack.etcd.hang = asyncio.Event()
    early = asyncio.ensure_future(hub.cache(info))
    await asyncio.sleep(0)
    hub.forget(info.storage_prefix, "its definition has changed")
    stack.etcd.hang.set()
    with pytest.raises(ServiceUnavailable, match="just changed"):
        await early
    changed = replace(info)
    assert (await hub.cache(changed)).info is changed


async def test_what_was_defined_in_a_gap_of_the_history_is_served(stack: Stack) -> None:
    def definition(plural: str) -> dict:
        names = {"plural": plural, "kind": plural.title(), "singular": plural, "listKind": f"{plural}List"}
        schema = {"openAPIV3Schema": {"type": "object"}}
        version = {"name": "v1", "served": True, "storage": True, "schema": schema}
        spec = {"group": "x.io", "names": names, "scope": "Cluster", "versions": [version]}
        return {"metadata": {"name": f"{plural}.x.io"}, "spec": spec}

    await stack.client().create("customresourcedefinitions.apiextensions.k8s.io", definition("apples"))
    server = await stack.add_server()
    kinds = server.registry.kinds
    stack.etcd.frozen = True
    await stack.client().create("customresourcedefinitions.apiextensions.k8s.io", definition("pears"))
    await stack.client().create("configmaps", config_map("later"))
    await stack.etcd.compact(stack.etcd.revision)
    stack.etcd.frozen = False
    stack.etcd.break_streams()
    async with asyncio.timeout(10):
        while "pears.x.io" not in kinds.custom_names():
            await asyncio.sleep(0.01)
    assert "apples.x.io" in kinds.custom_names()


async def test_the_stream_goes_on_when_etcd_fails_while_it_starts_over(stack: Stack) -> None:
    hub, etcd = stack.servers[0].registry.hub, stack.etcd
    etcd.frozen = True
    await etcd.put(b"/registry/x/y", b"{}")
    await etcd.put(b"/registry/x/y", b"{}")
    await etcd.compact(etcd.revision)
    etcd.hang = asyncio.Event()
    etcd.frozen = False
    etcd.break_streams()
    async with asyncio.timeout(10):
        while not etcd.held:
            await asyncio.sleep(0.01)
        etcd.down = RpcError(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
        hang, etcd.hang = etcd.hang, None
        hang.set()
        while not etcd.refused:
            await asyncio.sleep(0.01)
        etcd.down = None
        await hub.reached(etcd.revision)
        await stack.client().create("configmaps", config_map("after"))
