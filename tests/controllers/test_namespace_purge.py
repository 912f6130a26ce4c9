"""The content of a namespace that is deleted: what goes first, and what need not wait for whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import PurgeNamespace
from rayplane.control_plane.controllers.manager.executor import ActionFailed
from rayplane.control_plane.controllers.manager.namespace_purger import NamespacePurger
from rayplane.proto.rayplane.v1 import aggregation_pb2
from tests.fakes import FakeClient

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Away(FakeClient):
    """A client of a cluster one of whose aggregated APIs does not answer."""

    stale: tuple[str, ...] = ()

    async def purge_aggregated(self, namespace: str) -> aggregation_pb2.PurgeResponse:
        return aggregation_pb2.PurgeResponse(stale=self.stale)


class Doomed:
    """A namespace `team` under deletion, and rounds of purging it."""

    def __init__(self) -> None:
        self.client = Away()
        self.store = self.client.store
        self.now = NOW
        self.purger = NamespacePurger(self.client, lambda: self.now)  # type: ignore[arg-type]
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}
        self.store.create("namespaces", {**body, "spec": {"finalizers": ["kubernetes"]}})

    def add(self, resource: str, kind: str, name: str, **fields: object) -> None:
        version = "apps/v1" if "." in resource else "v1"
        own = {"name": name, "namespace": "team"}
        self.store.create(resource, {"apiVersion": version, "kind": kind, "metadata": own} | fields)

    def namespace(self) -> Object:
        return self.store.require("namespaces", "", "team")

    async def round(self) -> bool:
        """One look; whether it was the last."""
        try:
            await self.purger.purge(PurgeNamespace(self.namespace()))
        except ActionFailed:
            return False
        return True

    async def ends(self) -> None:
        for _ in range(5):
            if await self.round():
                break
        assert self.store.get("namespaces", "", "team") is None

    def left(self) -> list[str]:
        return [r for r in ("pods", "configmaps", "deployments.apps") if self.store.list(r)]

    def condition(self, kind: str) -> tuple[str, str]:
        found = meta.get_condition(self.namespace(), kind) or {}
        return found["status"], found["message"]


@pytest.fixture
def doomed() -> Doomed:
    found = Doomed()
    found.store.delete("namespaces", "team", "")
    return found


async def test_a_namespace_that_cannot_end_is_looked_through_ever_more_seldom(doomed: Doomed) -> None:
    doomed.add("configmaps", "ConfigMap", "c", metadata={"name": "c", "namespace": "team", "finalizers": ["a/b"]})
    since = meta.parse_time(meta.metadata(doomed.namespace())["deletionTimestamp"])
    waits = []
    for ending_s in (0, 20, 3600):
        doomed.now = since + timedelta(seconds=ending_s)
        with pytest.raises(ActionFailed) as again:
            await doomed.purger.purge(PurgeNamespace(doomed.namespace()))
        waits.append(again.value.retry_s)
    assert waits == [0.25, 2.0, 5.0]


async def test_nothing_goes_before_all_pods_have_gone(doomed: Doomed) -> None:
    doomed.add("pods", "Pod", "p", spec={"nodeName": "n1", "terminationGracePeriodSeconds": 30})
    doomed.add("configmaps", "ConfigMap", "c")
    doomed.add("deployments.apps", "Deployment", "d", spec={})
    for _ in range(3):
        assert not await doomed.round()
    pod = doomed.store.require("pods", "team", "p")
    assert meta.is_deleting(pod)
    assert doomed.left() == ["pods", "configmaps", "deployments.apps"]
    text = "Some resources are remaining: pods. has 1 resource instances"
    assert doomed.condition("NamespaceContentRemaining") == ("True", text)
    doomed.store.remove("pods", "team/p")
    await doomed.ends()
    assert doomed.left() == []


async def test_content_goes_while_an_aggregated_api_is_down(doomed: Doomed) -> None:
    doomed.client.stale = ("metrics.example.org/v1",)
    doomed.add("pods", "Pod", "p", spec={})
    doomed.add("configmaps", "ConfigMap", "c")
    for _ in range(4):
        assert not await doomed.round()
    assert doomed.left() == []
    status, text = doomed.condition("NamespaceDeletionDiscoveryFailure")
    assert status == "True"
    assert "metrics.example.org/v1: stale GroupVersion discovery: metrics.example.org/v1" in text
    doomed.client.stale = ()
    await doomed.ends()
