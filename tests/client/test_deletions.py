"""Deleters: who deleted what is told as long as history is kept, and costs a bounded write."""

from collections.abc import Sequence
from typing import Any

import grpc
import orjson
import pytest

from rayplane.control_plane.client.deletions import NAME_MAX, NOTED_MAX, PREFIX, Deletions, deleters
from rayplane.control_plane.cluster.history import Instant, Resource, changes_between, present
from rayplane.control_plane.rpc import RpcError
from tests.apiserver.conftest import Stack, stack  # noqa: F401
from tests.apiserver.fake_etcd import FakeEtcd

WANTED = [Resource("configmaps", True), Resource("pods", True)]


async def deleted(stack: Stack, then: int) -> list[tuple[str, str, bool]]:  # noqa: F811
    """What is gone since, who deleted it, and whether it is told when."""
    etcd: Any = stack.etcd
    await stack.servers[0].registry.storage.deletions.write(etcd)
    found = await changes_between(stack.client(), etcd, WANTED, Instant(then, None), await present(etcd))
    return [(one.name, one.by, bool(one.at)) for one in found if one.what == "deleted"]


async def test_who_asked_first_that_it_be_deleted_is_told(stack: Stack) -> None:  # noqa: F811
    api, ann = stack.client(), stack.client_as("ann", "system:masters")
    await api.create("configmaps", {"metadata": {"name": "read", "namespace": "default"}})
    await api.create("configmaps", {"metadata": {"name": "held", "namespace": "default", "finalizers": ["a.io/b"]}})
    spec = {"nodeName": "node-0", "containers": [{"name": "c", "image": "i"}]}
    await api.create("pods", {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    then = stack.etcd.revision
    for resource, name in (("configmaps", "read"), ("configmaps", "held"), ("pods", "web")):
        await ann.delete(resource, name, "default")
    assert await deleted(stack, then) == [("read", "ann", True)], "the others are only marked"
    # Who ends what was marked has not asked for it.
    others = stack.client_as("bob", "system:masters")
    await others.delete("pods", "web", "default", grace_period_s=0)
    await others.patch("configmaps", "held", "default", {"metadata": {"finalizers": None}})
    assert await deleted(stack, then) == [("held", "ann", True), ("read", "ann", True), ("web", "ann", True)]


class Refusing(FakeEtcd):
    """An etcd that may not answer."""

    silent = True

    async def put(self, *args: Any, **options: Any) -> Any:
        if self.silent:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "no leader")
        return await super().put(*args, **options)


async def test_what_cannot_be_written_is_written_later_and_not_without_end() -> None:
    etcd: Any = Refusing()
    noted = Deletions("apiserver-0")
    for number in range(NOTED_MAX + 5):
        noted.note(f"uid-{number}", "ann" * 1000, "now")
        if number == 3:
            with pytest.raises(RpcError):
                await noted.write(etcd)
    etcd.silent = False
    await noted.write(etcd)
    found = await deleters(etcd, 0)
    assert len(found) == NOTED_MAX and "uid-0" in found and len(found["uid-0"][0]) == NAME_MAX
    before = etcd.revision
    await noted.write(etcd)
    assert etcd.revision == before, "there is nothing new"


async def test_what_others_write_there_is_nobody() -> None:
    etcd: Any = FakeEtcd()
    values: Sequence[bytes] = (b"no json", b"[1]", orjson.dumps({"uid": 1}), orjson.dumps({"uid": ["ann", "now"]}))
    for value in values:
        await etcd.put(PREFIX + b"x", value)
    assert await deleters(etcd, 0) == {"uid": ("ann", "now")}
    assert await deleters(etcd, etcd.revision) == {}
