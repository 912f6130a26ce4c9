"""Garbage in aggregated APIs: their objects go with the last of their owners, if the caller may delete them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.aggregator import collecting
from rayplane.control_plane.apiserver.config import Timing
from tests.apiserver.test_aggregation import GROUP, ROOT, Setting, extended


@pytest_asyncio.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    async with extended(tmp_path, Timing()) as made:
        yield made


async def test_objects_there_go_with_the_last_of_their_owners(setting: Setting) -> None:
    await setting.lead()
    await setting.becomes("Passed")
    client = setting.client
    alive, gone = [
        await client.create("configmaps", {"metadata": {"name": name, "namespace": "default"}}) for name in ("a", "b")
    ]
    await client.delete("configmaps", "b", "default")

    def owned(name: str, *owners: Object, **more: Any) -> Object:
        refs = [{**meta.owner_reference(one), "kind": "ConfigMap", "apiVersion": "v1"} for one in owners]
        own = {
            "name": name,
            "namespace": "default",
            "uid": f"u-{name}",
            "resourceVersion": "7",
            "ownerReferences": refs,
        }
        return {"metadata": {**own, **more}}

    elsewhere = {"apiVersion": f"{GROUP}/v1", "kind": "Flunder", "name": "x", "uid": "u-x"}
    kept = [
        owned("of-alive", alive),
        owned("of-both", alive, gone),
        owned("going", gone, deletionTimestamp="2026-01-01T00:00:00Z"),
        owned("of-another", ownerReferences=[elsewhere]),
        owned("of-nobody", ownerReferences=[{"apiVersion": "x/v1", "kind": "Unknown", "name": "x", "uid": "u"}]),
        owned("free"),
    ]
    held = [
        *kept,
        owned("of-gone", gone),
        owned("of-namesake", {**alive, "metadata": {**alive["metadata"], "uid": "o"}}),
    ]
    deletes: dict[str, Object] = {}

    async def flunders(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"kind": "FlunderList", "items": held})

    async def flunder(request: web.BaseRequest) -> web.StreamResponse:
        assert request.method == "DELETE"
        deletes[request.path.rpartition("/")[2]] = await request.json()
        return web.json_response({"kind": "Status"})

    setting.extension.answers[f"{ROOT}/flunders"] = flunders
    for one in held:
        setting.extension.answers[f"{ROOT}/namespaces/default/flunders/{meta.name(one)}"] = flunder
    assert (await client.collect_aggregated()).deleted == 2
    assert sorted(deletes) == ["of-gone", "of-namesake"]
    assert deletes["of-gone"]["preconditions"] == {"uid": "u-of-gone", "resourceVersion": "7"}
    with pytest.raises(Forbidden):
        await setting.stack.client_as("jane", "team").collect_aggregated()


async def test_lists_are_read_page_by_page_and_what_is_left_out_is_told(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setting.lead()
    await setting.becomes("Passed")
    asked: list[str | None] = []
    tokens = ["one&two=3%+/", ""]

    async def flunders(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.query.get("continue"))
        return web.json_response({"metadata": {"continue": tokens[len(asked) - 1]}, "items": []})

    setting.extension.answers[f"{ROOT}/flunders"] = flunders
    assert (await setting.client.collect_aggregated()).failures == []
    assert asked == [None, tokens[0]]
    asked.clear()
    monkeypatch.setattr(collecting, "_PAGES_MAX", 1)
    (told,) = (await setting.client.collect_aggregated()).failures
    assert "only 500 objects are looked at" in told
