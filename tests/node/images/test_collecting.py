"""Images go when the disk gets full: the longest unused first, and only those that can be pulled again."""

import asyncio
import os
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.node.images.catalog import PULLED
from rayplane.node.images.collection import Candidate, Thresholds, wanted
from rayplane.node.images.store import ImageStore
from rayplane.node.kubelet import registration
from rayplane.node.kubelet.image_manager import ImageManager, ImageRules
from tests.node.images.tars import entry, kept, tar

THRESHOLDS = Thresholds(85, 80, 100.0)


def images(*used_at: float) -> list[Candidate]:
    return [Candidate(f"image-{number}", 100, at) for number, at in enumerate(used_at)]


@pytest.mark.parametrize(
    ("free", "gone"),
    [(200, ()), (151, ()), (150, ("image-1",)), (50, ("image-1", "image-0")), (0, ("image-1", "image-0"))],
)
def test_the_longest_unused_go_until_there_is_room(free: int, gone: tuple[str, ...]) -> None:
    plan = wanted(images(50.0, 10.0, 950.0), total=1000, free=free, thresholds=THRESHOLDS, now=1000.0)
    assert plan.digests == gone
    assert plan.short == (200 - free if gone else 0)


@given(
    st.lists(st.tuples(st.integers(0, 500), st.floats(0, 1000)), max_size=8), st.integers(0, 1000), st.integers(0, 1200)
)
def test_no_more_goes_than_is_short_and_nothing_young(sizes: list[tuple[int, float]], free: int, now: int) -> None:
    candidates = [Candidate(str(number), size, at) for number, (size, at) in enumerate(sizes)]
    plan = wanted(candidates, total=1000, free=free, thresholds=THRESHOLDS, now=now)
    by = {one.digest: one for one in candidates}
    assert all(now - by[digest].used_at >= THRESHOLDS.min_age_s for digest in plan.digests)
    if plan.digests:
        assert free <= 150 and sum(by[digest].size for digest in plan.digests[:-1]) < plan.short


def test_of_a_store_only_unused_pulled_images_are_candidates(tmp_path: Path) -> None:
    now = 1000.0
    store = ImageStore(tmp_path, None, lambda: now)
    store.prepare()
    everything = Thresholds(high=0, low=0, min_age_s=100.0)
    kept(store, "loaded", [tar([entry("a")])])
    used, unused = (kept(store, name, [tar([entry(name)])], source=PULLED) for name in ("used", "unused"))
    use = store.use(used)
    store.use(unused).close()
    assert store.to_collect(everything).digests == ()
    now = 2000.0
    assert store.to_collect(everything).digests == (unused.digest,)
    use.close()
    assert store.to_collect(everything).digests == (unused.digest,)
    now = 3000.0
    assert store.to_collect(everything).digests == (unused.digest, used.digest)


def test_what_was_loaded_goes_when_another_has_its_name(tmp_path: Path) -> None:
    now = 1000.0
    store = ImageStore(tmp_path, None, lambda: now)
    store.prepare()
    first, second, third = (kept(store, "shop:1", [tar([entry(name)])]) for name in ("a", "b", "c"))
    store.use(first).close()
    use = store.use(second)
    now = 2000.0
    assert store.collect(Thresholds(high=0, low=0, min_age_s=100.0))[0] > 0
    assert {*store.catalog().images} == {second.digest, third.digest}
    assert first.digest not in store.blobs.digests()
    use.close()


def test_what_goes_is_measured_by_the_disk_and_not_by_what_images_are_said_to_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    store = ImageStore(tmp_path, None, lambda: now)
    store.prepare()
    shared = tar([entry("shared", data=b"x" * 100_000)])
    for number in range(4):
        image = kept(store, f"n{number}", [shared, tar([entry(f"own-{number}")])], source=PULLED)
        store.use(image).close()
        now += 1.0
    frees = 6  # percent of the disk, by each image that goes
    blocks = namedtuple("blocks", "f_blocks f_frsize f_bavail")

    def room(place: object) -> blocks:
        return blocks(100, 1 << 20, 10 + frees * (4 - len(store.catalog().images)))

    monkeypatch.setattr(os, "statvfs", room)
    now = 5000.0
    assert store.collect(THRESHOLDS) == (10 << 20, 0)
    left = [one.names[0].rpartition("/")[2] for one in store.catalog().images.values()]
    assert left == ["n2:latest", "n3:latest"]
    frees = 0
    monkeypatch.setattr(os, "statvfs", lambda place: blocks(100, 1 << 20, 5))
    assert store.collect(THRESHOLDS) == (15 << 20, 15 << 20) and not store.catalog().images


async def test_a_full_disk_costs_every_image_that_can_be_pulled_again_and_nobody_uses(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, None, lambda: 1.0)
    store.prepare()
    kept(store, "loaded", [tar([entry("a")])])
    used, _ = (kept(store, name, [tar([entry(name)])], source=PULLED) for name in ("used", "unused"))
    use = store.use(used)
    manager = ImageManager(store, None, None, ImageRules(isolates=True))  # type: ignore[arg-type]
    assert await manager.reclaim() and not await manager.reclaim()
    names = {name.rpartition("/")[2] for one in store.catalog().images.values() for name in one.names}
    assert names == {"loaded:latest", "used:latest"}
    use.close()
    await manager.close()


async def test_no_image_is_held_for_a_pod_that_went_while_it_was_being_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ImageStore(tmp_path, None, lambda: 1.0)
    store.prepare()
    image = kept(store, "shop", [tar([entry("a")])], source=PULLED)
    begun, goes_on, use = threading.Event(), threading.Event(), store.use

    def slowly(image: Any) -> Any:
        begun.set()
        goes_on.wait()
        return use(image)

    monkeypatch.setattr(store, "use", slowly)
    manager = ImageManager(store, None, None, ImageRules(isolates=True))  # type: ignore[arg-type]
    holding = asyncio.ensure_future(manager.held("pod", image))
    await manager.run(begun.wait)
    holding.cancel()
    manager.release("pod")
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await holding
    async with asyncio.timeout(10):
        while not await manager.reclaim():
            pass
    await manager.close()


def test_simulated_nodes_have_the_images_that_they_are_said_to_have() -> None:
    def images(text: str) -> object:
        node = {"metadata": {"annotations": {"rayplane.io/images": text}}}
        return registration.node_images(node, None)["images"]

    assert images('{"nginx:1": "50Mi", "redis:7": 1000}') == [
        {"names": ["nginx:1"], "sizeBytes": 52428800},
        {"names": ["redis:7"], "sizeBytes": 1000},
    ]
    for odd in ("", "{", "[]", '{"a": "many"}', '{"a": null}'):
        assert images(odd) is None
