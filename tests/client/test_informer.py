"""Informers: a local copy that stays true through broken watches, lost history and changes of labels."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import Informer
from rayplane.control_plane.simulation import VirtualLoop
from tests.fakes import FakeClient, Store


def pod(name: str, **labels: str) -> Object:
    return {"metadata": {"namespace": "default", "name": name, "labels": labels}}


def by_app(obj: Object) -> list[str]:
    return [v for k, v in meta.labels(obj).items() if k == "app"]


class Seen:
    """What a handler was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def __call__(self, kind: str, old: Object | None, new: Object) -> None:
        assert (old is None) == (kind == "ADDED")
        self.events.append((kind, meta.name(new)))


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    yield Store()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def virtual(test: Any) -> Any:
    """Run a test in virtual time: pauses between retries cost nothing."""

    def run() -> None:
        VirtualLoop().run(test())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


async def started(store: Store) -> tuple[Informer, Seen, FakeClient]:
    client, seen = FakeClient(store), Seen()
    informer = Informer(client, "pods", indexers={"app": by_app})  # type: ignore[arg-type]
    informer.add_handler(seen)
    informer.start()
    await informer.synced()
    await settle()
    return informer, seen, client


@virtual
async def test_it_lists_then_follows() -> None:
    store = Store()
    store.put("pods", pod("a", app="web"))
    informer, seen, _ = await started(store)
    store.put("pods", pod("b", app="web"))
    store.put("pods", pod("a", app="db"))
    store.remove("pods", "default/b")
    await settle()
    assert seen.events == [("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]
    assert [meta.name(o) for o in informer.list()] == ["a"]
    assert informer.get("default", "b") is None
    await informer.stop()


@virtual
async def test_indexes_follow_the_objects() -> None:
    store = Store()
    for name, app in (("a", "web"), ("b", "web"), ("c", "db")):
        store.put("pods", pod(name, app=app))
    informer, _, _ = await started(store)
    assert [meta.name(o) for o in informer.by_index("app", "web")] == ["a", "b"]
    store.put("pods", pod("a", app="db"))
    store.remove("pods", "default/b")
    await settle()
    assert informer.by_index("app", "web") == []
    assert sorted(meta.name(o) for o in informer.by_index("app", "db")) == ["a", "c"]
    await informer.stop()


@virtual
async def test_after_a_disconnect_it_goes_on_where_it_was() -> None:
    store = Store()
    store.put("pods", pod("a"))
    informer, seen, client = await started(store)
    client.break_watches()
    store.put("pods", pod("b"))
    await asyncio.sleep(10)
    assert seen.events == [("ADDED", "a"), ("ADDED", "b")]
    assert client.calls.count("list") == 1
    await informer.stop()


@virtual
async def test_after_gone_it_lists_again_and_tells_the_difference() -> None:
    store = Store()
    for name in ("stays", "changes", "goes"):
        store.put("pods", pod(name))
    informer, seen, client = await started(store)
    seen.events.clear()
    client.parted = True
    client.break_watches()
    store.put("pods", pod("changes", app="web"))
    store.remove("pods", "default/goes")
    store.put("pods", pod("comes"))
    store.forget_history()
    await asyncio.sleep(1)
    client.parted = False
    await asyncio.sleep(60)
    assert client.calls.count("list") == 2
    assert sorted(seen.events) == [("ADDED", "comes"), ("DELETED", "goes"), ("MODIFIED", "changes")]
    assert [meta.name(o) for o in informer.by_index("app", "web")] == ["changes"]
    await informer.stop()


@virtual
async def test_what_the_watch_does_not_tell_is_found_when_it_is_asked_to_list_anew() -> None:
    store = Store()
    store.put("pods", pod("goes"))
    informer, seen, client = await started(store)
    lists: list[float] = []
    informer.add_list_handler(lists.append)
    seen.events.clear()
    client.silent.add("pods")
    store.put("pods", pod("comes"))
    store.remove("pods", "default/goes")
    await asyncio.sleep(60)
    assert not seen.events and not lists
    asked = asyncio.get_running_loop().time()
    client.delay_s = 0.5
    informer.refresh()
    await asyncio.sleep(0.2)
    informer.refresh()
    await asyncio.sleep(10)
    assert sorted(seen.events) == [("ADDED", "comes"), ("DELETED", "goes")]
    assert lists == [asked] and client.calls.count("list") == 2, "twice asked is once listed"
    client.silent.clear()
    store.put("pods", pod("later"))
    await asyncio.sleep(1)
    assert seen.events[-1] == ("ADDED", "later") and client.watched["pods"] == 1
    await informer.stop()


@virtual
async def test_a_list_that_is_asked_for_while_nobody_answers_comes_when_somebody_does() -> None:
    store = Store()
    informer, seen, client = await started(store)
    client.down = True
    informer.refresh()
    await asyncio.sleep(20)
    informer.refresh()
    store.put("pods", pod("a"))
    client.down = False
    await asyncio.sleep(20)
    assert seen.events == [("ADDED", "a")]
    await informer.stop()


@virtual
async def test_a_handler_that_comes_late_is_told_of_what_is_there() -> None:
    store = Store()
    store.put("pods", pod("a"))
    informer, _, _ = await started(store)
    late = Seen()
    informer.add_handler(late)
    assert late.events == [("ADDED", "a")]
    await informer.stop()


@virtual
async def test_it_syncs_when_the_api_comes_late() -> None:
    store = Store()
    client = FakeClient(store)
    client.parted = True
    informer = Informer(client, "pods")  # type: ignore[arg-type]
    informer.start()
    await asyncio.sleep(30)
    assert not informer.has_synced
    client.parted = False
    await informer.synced()
    await informer.stop()


@virtual
async def test_a_handler_that_fails_on_one_object_does_not_end_the_copy() -> None:
    store = Store()
    informer, seen, _ = await started(store)

    def fragile(kind: str, old: Object | None, new: Object) -> None:
        if meta.name(new) == "odd":
            raise KeyError("spec")

    informer.add_handler(fragile)
    store.put("pods", pod("odd"))
    store.put("pods", pod("plain"))
    await settle()
    assert seen.events == [("ADDED", "odd"), ("ADDED", "plain")]
    await informer.stop()
