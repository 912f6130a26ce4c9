"""Volumes of other people's drivers: a node tells that it uses them, and its pods wait until they are attached."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.node.config import NodeConfig
from rayplane.node.host import NodeHost
from rayplane.node.volumes import attachments
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import phase

MakeHost = Callable[..., Awaitable[NodeHost]]
DRIVER = "ebs.csi.aws.com"
UNIQUE = f"kubernetes.io/csi/{DRIVER}^vol-1"


def add_volume(api: FakeClient, **claim: Any) -> None:
    source = {"driver": DRIVER, "volumeHandle": "vol-1"}
    ref = {"namespace": "default", "name": "c", "uid": "claim-1"}
    api.put("persistentvolumes", {"metadata": {"name": "pv"}, "spec": {"csi": source, "claimRef": ref}})
    own = {"name": "c", "namespace": "default", "uid": "claim-1", **claim}
    status = {"phase": "Bound"}
    api.put("persistentvolumeclaims", {"metadata": own, "spec": {"volumeName": "pv"}, "status": status})


def add_pod(api: FakeClient, name: str) -> None:
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]
    api.put("pods", make_pod(name, volumes=volumes, container={"volumeMounts": [{"name": "data", "mountPath": "/d"}]}))


def in_use(api: FakeClient) -> list[str]:
    return list(meta.status(api.store.require("nodes", "", "n1")).get("volumesInUse") or ())


def attach(api: FakeClient, *names: str) -> None:
    node = api.store.require("nodes", "", "n1")
    attached = [{"name": name, "devicePath": ""} for name in names]
    api.put("nodes", {**node, "status": {**node["status"], "volumesAttached": attached}})


def failures(api: FakeClient) -> list[str]:
    return [e["message"] for e in api.store.list("events") if e["reason"] == "FailedMount"]


async def test_a_pod_waits_for_what_is_attached_and_the_node_tells_that_it_uses_it(
    api: FakeClient, make_host: MakeHost
) -> None:
    await make_host(NodeConfig("n1"))
    add_volume(api)
    add_pod(api, "p")
    await api.until(lambda: in_use(api) == [UNIQUE])
    assert phase(api, "p") == "Pending"
    attach(api, f"{UNIQUE}0")
    attach(api, f"{UNIQUE}0", UNIQUE)
    await api.until(lambda: phase(api, "p") == "Running")
    add_pod(api, "q")
    await api.until(lambda: phase(api, "q") == "Running")
    # It is in use until the last pod has ended.
    await api.delete("pods", "p", "default")
    await api.until(lambda: api.store.get("pods", "default", "p") is None)
    assert in_use(api) == [UNIQUE]
    await api.delete("pods", "q", "default")
    await api.until(lambda: in_use(api) == [])


async def test_what_is_never_attached_is_told_to_the_pods_users(
    api: FakeClient, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "WAIT_S", 0.05)
    await make_host(NodeConfig("n1"))
    add_volume(api)
    add_pod(api, "p")
    waiting = "unmounted volumes=[data], unattached volumes=[data], failed to process volumes=[]"
    text = f"Unable to attach or mount volumes: {waiting}: context deadline exceeded"
    await api.until(lambda: text in failures(api))


async def test_a_driver_that_needs_no_attaching_is_not_waited_for(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    api.put("csidrivers.storage.k8s.io", {"metadata": {"name": DRIVER}, "spec": {"attachRequired": False}})
    add_volume(api)
    add_pod(api, "p")
    await api.until(lambda: phase(api, "p") == "Running")
    assert in_use(api) == []


async def test_no_pod_begins_with_a_claim_that_goes(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    add_volume(api, deletionTimestamp="2026-01-01T00:00:00Z", finalizers=["kubernetes.io/pvc-protection"])
    add_pod(api, "p")
    await api.until(lambda: any("can't start pod because PVC c is being deleted" in text for text in failures(api)))
