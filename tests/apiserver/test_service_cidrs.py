"""Blocks of service addresses: the cluster's own is there, and those that users add are used when they are ready."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.client.api import ApiClient
from tests.apiserver.conftest import Stack

BLOCKS = "servicecidrs.networking.k8s.io"


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"ports": [{"port": 80}], **spec}}


async def add(client: ApiClient, name: str, *cidrs: str, ready: bool = True) -> None:
    await client.create(BLOCKS, {"metadata": {"name": name}, "spec": {"cidrs": list(cidrs)}})
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "r",
                 "message": ""}  # fmt: skip
    await client.patch(BLOCKS, name, "", {"status": {"conditions": [condition]}}, subresource="status")


async def test_the_clusters_own_block_is_there(stack: Stack) -> None:
    found = await stack.client().get(BLOCKS, "kubernetes")
    assert found["spec"]["cidrs"] == ["127.96.0.0/16"]


async def test_addresses_of_added_blocks_can_be_asked_for(stack: Stack) -> None:
    client = stack.client()
    await add(client, "more", "127.97.0.0/24", "fd00::/64")
    made = await client.create("services", service("a", clusterIP="127.97.0.9"))
    assert made["spec"]["clusterIPs"] == ["127.97.0.9"]
    with pytest.raises(errors.Invalid, match="provided IP is already allocated"):
        await client.create("services", service("b", clusterIP="127.97.0.9"))
    with pytest.raises(errors.Invalid, match=r"The range of valid IPs is 127\.96\.0\.0/16,127\.97\.0\.0/24"):
        await client.create("services", service("b", clusterIP="127.98.0.9"))


@pytest.mark.parametrize("how", ["not ready", "being deleted", "too small"])
async def test_blocks_that_are_not_used(how: str) -> None:
    stack = Stack()
    await stack.add_server(service_cidr="127.96.0.0/29")
    client = stack.client()
    await add(client, "more", "127.97.0.0/32" if how == "too small" else "127.97.0.0/24", ready=how != "not ready")
    if how == "being deleted":
        await client.patch(BLOCKS, "more", "", {"metadata": {"finalizers": ["a/b"]}})
        await client.delete(BLOCKS, "more")
    for n in range(5):
        await client.create("services", service(f"s{n}"))
    with pytest.raises(errors.Invalid, match="range is full"):
        await client.create("services", service("one-too-many"))
    await stack.stop()


async def test_a_full_block_is_followed_by_the_next() -> None:
    stack = Stack()
    await stack.add_server(service_cidr="127.96.0.0/29")
    client = stack.client()
    await add(client, "more", "127.97.0.0/24")
    made = [await client.create("services", service(f"s{n}")) for n in range(6)]
    places = [one["spec"]["clusterIP"].rpartition(".")[0] for one in made]
    assert places == ["127.96.0"] * 5 + ["127.97.0"]
    await stack.stop()
