"""What a node refuses, with the reasons of Kubernetes' kubelet, and what it tells of extended resources."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.node.config import NodeConfig
from rayplane.node.host import NodeHost
from rayplane.node.kubelet.admission import Allocations, Room, room_of, unwanted
from tests.fakes import FakeClient
from tests.node.conftest import make_pod

MakeHost = Callable[..., Awaitable[NodeHost]]
NODE: Object = {
    "metadata": {"name": "n1", "labels": {"kubernetes.io/os": "linux", "disk": "ssd"}},
    "spec": {"taints": [{"key": "a", "effect": "NoExecute"}, {"key": "b", "effect": "NoSchedule"}]},
}
TOLERANT = [{"key": "a", "operator": "Exists"}]
AFFINE = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]},
]}}}  # fmt: skip


def port(number: int, **fields: Any) -> Object:
    return {"containerPort": 80, "hostPort": number, **fields}


def wanting(*ports: Object, **requests: str) -> Room:
    return room_of({"spec": {"containers": [{"ports": list(ports), "resources": {"requests": requests}}]}})


@pytest.mark.parametrize(
    ("spec", "reason", "text"),
    [
        ({}, "", ""),
        ({"nodeSelector": {"disk": "ssd"}, "os": {"name": "linux"}}, "", ""),
        (
            {"nodeSelector": {"disk": "tape"}},
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
        (
            {"affinity": AFFINE},
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
        (
            {"tolerations": []},
            "TaintToleration",
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
        ),
        (
            {"nodeSelector": {"kubernetes.io/os": "windows"}},
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ),
        (
            {"os": {"name": "windows"}},
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        ),
    ],
)
def test_pods_that_do_not_want_the_node(spec: Object, reason: str, text: str) -> None:
    found = unwanted({"spec": {"tolerations": TOLERANT, **spec}}, NODE)
    if not reason:
        assert found is None
    else:
        assert found is not None
        assert (found.reason, found.message) == (reason, text)


@pytest.mark.parametrize(
    ("first", "second", "conflict"),
    [
        (port(80), port(80), True),
        (port(80), port(81), False),
        (port(80), port(80, protocol="UDP"), False),
        (port(80, hostIP="127.0.0.1"), port(80, hostIP="127.0.0.2"), False),
        (port(80, hostIP="127.0.0.1"), port(80), True),
    ],
)
def test_a_port_of_the_node_is_one_pods(first: Object, second: Object, conflict: bool) -> None:
    held = Allocations(Room(1000, 1000, 10))
    held.hold(wanting(first))
    refused = held.refuse_ports(wanting(second))
    assert (refused is not None) == conflict
    if refused is not None:
        text = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
        assert (refused.reason, refused.message) == ("NodePorts", text)
    held.release(wanting(first))
    assert held.refuse_ports(wanting(second)) is None


def test_other_resources_are_counted_where_the_node_has_them() -> None:
    held, has = Allocations(Room(1000, 1000, 10)), {"example.org/dongle": "2", "ephemeral-storage": "1Ki"}
    held.hold(wanting(**{"example.org/dongle": "1", "example.org/cluster-wide": "9"}))
    assert held.refuse_others(wanting(**{"example.org/dongle": "1", "example.org/cluster-wide": "9"}), has) is None
    refused = held.refuse_others(wanting(**{"example.org/dongle": "2"}), has)
    assert refused is not None
    text = "Node didn't have enough resource: example.org/dongle, requested: 2, used: 1, capacity: 2"
    assert (refused.reason, refused.message) == ("OutOfexample.org/dongle", text)
    mapped = {"requestMappings": [{"resourceName": "example.org/dongle"}], "resourceClaimName": "c"}
    container = {"resources": {"requests": {"example.org/dongle": "2"}}}
    behind = {"spec": {"containers": [container]}, "status": {"extendedResourceClaimStatus": mapped}}
    assert held.refuse_others(room_of(behind), has) is None, "devices stand behind it"
    full = held.refuse_others(wanting(**{"ephemeral-storage": "2Ki"}), has)
    assert full is not None and full.reason == "OutOfephemeral-storage"


# --- on a node ----------------------------------------------------------------------------------


def reason(api: FakeClient, name: str) -> str:
    found = meta.status(api.pod(name))
    return str(found.get("reason") or found.get("phase"))


async def test_of_two_pods_with_one_host_port_the_second_is_refused(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    for name in ("first", "second"):
        api.put("pods", make_pod(name, container={"ports": [port(8080)]}))
        await api.until(lambda name=name: reason(api, name) != "Pending")
    assert (reason(api, "first"), reason(api, "second")) == ("Running", "NodePorts")
    assert meta.status(api.pod("second"))["phase"] == "Failed"
    assert meta.status(api.pod("second"))["message"].startswith("Pod was rejected: Predicate NodePorts failed: ")
    told = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
    await api.until(lambda: told in [e["message"] for e in api.objects.get("events", {}).values()])
    assert "containerStatuses" not in meta.status(api.pod("second"))  # else kubectl shows theirs
    await api.delete("pods", "first", "default", grace_period_s=0)
    await api.until(lambda: "default/first" not in api.objects["pods"])
    api.put("pods", make_pod("third", container={"ports": [port(8080)]}))
    await api.until(lambda: reason(api, "third") == "Running")


async def test_a_pod_is_judged_by_the_node_as_it_is_now(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("stranger", nodeSelector={"disk": "ssd"}))
    await api.until(lambda: reason(api, "stranger") == "NodeAffinity")
    (kubelet,) = host.kubelets.values()
    known = kubelet.node
    await api.patch("nodes", "n1", "", {"metadata": {"labels": {"disk": "ssd"}}})
    await api.until(lambda: kubelet.node is not known)
    kubelet.node = known  # whoever bound the pod knew of the label before this node did
    api.put("pods", make_pod("friend", nodeSelector={"disk": "ssd"}))
    await api.until(lambda: reason(api, "friend") == "Running")


async def test_extended_resources_follow_what_users_write_into_the_capacity(
    api: FakeClient, make_host: MakeHost
) -> None:
    await make_host(NodeConfig("n1"))

    def allocatable() -> Object:
        return dict(meta.status(api.objects["nodes"]["n1"])["allocatable"])

    before = allocatable()
    await api.patch("nodes", "n1", "", {"status": {"capacity": {"example.org/dongle": "2"}}}, subresource="status")
    await api.until(lambda: allocatable() == {**before, "example.org/dongle": "2"})
    asks = {"resources": {"requests": {"example.org/dongle": "2"}, "limits": {"example.org/dongle": "2"}}}
    for name in ("a", "b"):
        api.put("pods", make_pod(name, container=asks))
        await api.until(lambda name=name: reason(api, name) != "Pending")
    assert (reason(api, "a"), reason(api, "b")) == ("Running", "OutOfexample.org/dongle")
    await api.patch("nodes", "n1", "", {"status": {"capacity": {"example.org/dongle": None}}}, subresource="status")
    await api.until(lambda: allocatable() == before)


async def test_a_running_pod_ends_when_its_deadline_is_set_later(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    api.put("pods", make_pod("p"))
    await api.until(lambda: reason(api, "p") == "Running")
    await api.patch("pods", "p", "default", {"spec": {"activeDeadlineSeconds": 1}})
    await api.until(lambda: reason(api, "p") == "DeadlineExceeded")
