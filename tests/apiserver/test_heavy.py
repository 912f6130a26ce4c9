"""Large documents are worked on beside the loop, which goes on serving others meanwhile."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from rayplane.control_plane.api.machinery import apply, decoding
from rayplane.control_plane.apiserver.flowcontrol.heavy import LARGE_BYTES, Heavy
from tests.apiserver.conftest import Stack, make_env


async def test_small_work_stays_and_large_work_goes_one_at_a_time() -> None:
    heavy = Heavy(make_env())
    assert await heavy.run(LARGE_BYTES, threading.current_thread) is threading.main_thread()
    go_on, entered = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait() -> threading.Thread:
        loop.call_soon_threadsafe(entered.set)
        assert go_on.wait(20)
        return threading.current_thread()

    first = asyncio.create_task(heavy.run(LARGE_BYTES + 1, wait))
    await entered.wait()
    second = asyncio.create_task(heavy.run(LARGE_BYTES + 1, threading.current_thread))
    assert await heavy.run(1, lambda: 1) == 1
    await asyncio.sleep(0)
    assert not second.done()
    go_on.set()
    assert await first is not threading.main_thread()
    assert await second is not threading.main_thread()


async def test_large_objects_are_created_updated_patched_and_applied_beside_the_loop(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: dict[str, set[bool]] = {}

    def spy(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments: Any, **named: Any) -> Any:
            where.setdefault(name, set()).add(threading.current_thread() is threading.main_thread())
            return real(*arguments, **named)

        monkeypatch.setattr(module, name, call)

    for module, name in ((decoding, "decode_object"), (apply, "track_update"), (apply, "apply")):
        spy(module, name)
    client = stack.client()
    large = {f"k{n}": "x" * 10 for n in range(10_000)}
    made = await client.create("configmaps", {"metadata": {"name": "a", "namespace": "default"}, "data": large})
    assert len(made["data"]) == 10_000
    made["data"]["k0"] = "y"
    made = await client.update("configmaps", made)
    patched = await client.patch("configmaps", "a", "default", {"data": {"k1": None}})
    assert (patched["data"]["k0"], "k1" in patched["data"]) == ("y", False)
    assert where["decode_object"] == {False}
    await client.create("configmaps", {"metadata": {"name": "b", "namespace": "default"}, "data": {"a": "b"}})
    assert where["decode_object"] == {False, True}
