"""ConfigMaps and Secrets of a host's pods: asked for one by one, watched one by one, never all of them."""

import asyncio
from typing import Any

from rayplane.node.environment import Reference
from rayplane.node.kubelet.referenced_objects import ReferencedObjects
from tests.fakes import FakeClient

SECRET = Reference("secrets", "s")


class Counting(FakeClient):
    """A client that knows what it was asked; answers to `get` wait until `answering` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.answering = asyncio.Event()
        self.answering.set()

    async def get(self, resource: str, name: str, namespace: str = "", **rest: Any) -> Any:
        self.asked.append(f"get {resource} {name}")
        await self.answering.wait()
        return await super().get(resource, name, namespace, **rest)

    async def list(self, resource: str, namespace: str = "", **rest: Any) -> Any:
        self.asked.append(f"list {resource} {namespace} {rest.get('field_selector')}")
        return await super().list(resource, namespace, **rest)


def secret(value: str) -> dict[str, Any]:
    return {"metadata": {"name": "s", "namespace": "d"}, "data": {"k": value}}


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def test_what_a_pod_shows_is_watched_alone_until_it_ends() -> None:
    api, changes = Counting(), []
    sources = ReferencedObjects(api)  # type: ignore[arg-type]
    api.put("secrets", secret("old"))
    found = await sources.find("d", [SECRET])
    sources.watch("d", [SECRET], lambda: changes.append("changed"))
    await until(lambda: "list secrets d metadata.name=s" in api.asked)
    api.put("secrets", secret("new"))
    # What the pod was given when it began is no change.
    await until(lambda: changes == ["changed"])
    found = await sources.find("d", [SECRET])
    assert found["secrets", "s"] is not None and found["secrets", "s"]["data"] == {"k": "new"}
    assert api.asked == ["get secrets s", "list secrets d metadata.name=s"]
    sources.unwatch("d", [SECRET], changes.clear)
    assert sources._followed
    for watcher in [*sources._followed["secrets", "d", "s"].watchers]:
        sources.unwatch("d", [SECRET], watcher)
    assert not sources._followed
    await until(lambda: not sources._ending)
    await sources.stop()


async def test_pods_that_start_together_ask_once() -> None:
    api = Counting()
    sources = ReferencedObjects(api)  # type: ignore[arg-type]
    api.put("secrets", secret("x"))
    api.answering.clear()
    first, *others = [asyncio.ensure_future(sources.find("d", [SECRET])) for _ in range(5)]
    await until(lambda: api.asked)
    # Whoever asked first may be gone before the answer.
    first.cancel()
    await asyncio.sleep(0)
    api.answering.set()
    assert all(found["secrets", "s"] is not None for found in await asyncio.gather(*others))
    assert api.asked == ["get secrets s"]
    await sources.stop()


async def test_an_answer_of_nothing_is_not_shared() -> None:
    """The secret may have been made between the first question and the second."""
    api = Counting()
    sources = ReferencedObjects(api)  # type: ignore[arg-type]
    api.answering.clear()
    asking = [asyncio.ensure_future(sources.find("d", [SECRET])) for _ in range(2)]
    await until(lambda: api.asked)
    api.answering.set()
    assert [found["secrets", "s"] for found in await asyncio.gather(*asking)] == [None, None]
    assert len(api.asked) == 2
    await sources.stop()
