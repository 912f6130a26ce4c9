"""Reads of what is no longer known: lists, pages and watches from before a compaction."""

from __future__ import annotations

import json
from typing import Any

from tests.apiserver.test_patches import NAMESPACE, Api, api, config_map  # noqa: F401

MAPS = f"{NAMESPACE}/configmaps"


def names(listed: dict[str, Any]) -> list[str]:
    return [one["metadata"]["name"] for one in listed["items"]]


async def five(api: Api) -> None:  # noqa: F811
    for i in range(5):
        made = config_map(f"c{i}")
        made["metadata"]["labels"] = {"odd": str(i % 2)}
        await api.made(MAPS, made)


async def test_a_list_of_a_compacted_revision_is_gone(api: Api) -> None:  # noqa: F811
    await five(api)
    version = (await api("GET", MAPS))[1]["metadata"]["resourceVersion"]
    await api("DELETE", f"{MAPS}/c1")
    exact = f"{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact"
    assert names((await api("GET", exact))[1]) == ["c0", "c1", "c2", "c3", "c4"]
    etcd = api.stack.etcd
    await etcd.compact(etcd.revision)
    for query in ("", "&limit=2"):
        code, refused = await api("GET", exact + query)
        assert (code, refused["reason"], refused["metadata"]) == (410, "Expired", {})
        assert refused["message"] == "The resourceVersion for the provided list is too old."
    assert names((await api("GET", f"{MAPS}?resourceVersion={version}"))[1]) == ["c0", "c2", "c3", "c4"]


async def test_pages_go_on_after_a_compaction_for_who_takes_what_there_is_now(api: Api) -> None:  # noqa: F811
    await five(api)
    first = (await api("GET", f"{MAPS}?limit=2"))[1]
    assert (names(first), first["metadata"]["remainingItemCount"]) == (["c0", "c1"], 3)
    await api("DELETE", f"{MAPS}/c3")
    etcd = api.stack.etcd
    await etcd.compact(etcd.revision)
    code, refused = await api("GET", f"{MAPS}?limit=2&continue={first['metadata']['continue']}")
    assert (code, refused["reason"]) == (410, "Expired")
    assert refused["message"].startswith(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
        "without the continue parameter, or use the continue token in this response to retrieve the remainder"
    )
    code, rest = await api("GET", f"{MAPS}?limit=2&continue={refused['metadata']['continue']}")
    assert (code, names(rest)) == (200, ["c2", "c4"])
    assert rest["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]


async def test_pages_of_what_a_selector_selects_are_full(api: Api) -> None:  # noqa: F811
    await five(api)
    first = (await api("GET", f"{MAPS}?limit=2&labelSelector=odd%3D0"))[1]
    assert names(first) == ["c0", "c2"]
    assert "remainingItemCount" not in first["metadata"], "nobody has counted them"
    query = f"limit=2&labelSelector=odd%3D0&continue={first['metadata']['continue']}"
    last = (await api("GET", f"{MAPS}?{query}"))[1]
    assert (names(last), last["metadata"].get("continue")) == (["c4"], None)


async def test_a_watch_from_before_what_is_known_ends_with_an_error_event(api: Api) -> None:  # noqa: F811
    await five(api)
    await api.stack.etcd.compact(api.stack.etcd.revision)
    late = await api.stack.add_server(https_address="127.0.0.1:0")
    cache = await late.registry.hub.cache(late.registry.kinds.named("configmaps"))
    watch = f"http://{late.https_address}{MAPS}?watch=true&resourceVersion=1&timeoutSeconds=5"
    async with api.session.get(watch) as response:
        assert (response.status, response.content_type) == (200, "application/json")
        [event] = [json.loads(line) async for line in response.content]
    assert event == {
        "type": "ERROR",
        "object": {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": f"too old resource version: 1 ({cache.floor})",
            "reason": "Expired",
            "code": 410,
        },
    }
