"""Ports of a node that pods take (hostPort): which sockets lead to which pod, and what is said of others."""

from typing import Any

import pytest

from rayplane.node.proxy.host_ports import has_ports, left_out, plan_kubelet, plan_pod
from rayplane.node.proxy.rules import Endpoint, HostView, Socket
from tests.node.conftest import make_pod

VIEW = HostView({"n1": "10.77.1.1", "sim": "10.77.9.1"}, frozenset({"sim"}))


def pod(*ports: dict[str, Any], node: str = "n1", status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    made = make_pod("web", node=node, container={"ports": [*ports]}, **spec)
    return {**made, "status": {"phase": "Running", "podIP": "10.77.1.5"} if status is None else status}


def test_a_port_of_the_node_leads_to_the_pod_that_takes_it() -> None:
    taken = pod(
        {"containerPort": 80, "hostPort": 8080},
        {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "0.0.0.0"},
        {"containerPort": 81, "hostPort": 8081, "hostIP": "10.77.1.1"},
        {"containerPort": 82, "hostPort": 8082, "hostIP": "127.77.1.1"},  # as people at the machine call it
        {"containerPort": 83},
    )
    plan = plan_pod(taken, VIEW)
    assert {socket: target.endpoints for socket, target in plan.items()} == {
        Socket("10.77.1.1", number, protocol): (Endpoint("10.77.1.5", inner, "n1", "default/web"),)
        for number, inner, protocol in ((8080, 80, "TCP"), (53, 53, "UDP"), (8081, 81, "TCP"), (8082, 82, "TCP"))
    }
    assert left_out(taken, VIEW) == ""


@pytest.mark.parametrize(
    "none",
    [
        {"status": {}},
        {"status": {"phase": "Succeeded", "podIP": "10.77.1.5"}},
        {"node": "sim"},
        {"node": "n2"},  # of another host
        {"hostNetwork": True},
    ],
)
def test_a_pod_that_nobody_can_reach_there_has_none(none: dict[str, Any]) -> None:
    assert plan_pod(pod({"containerPort": 80, "hostPort": 8080}, **none), VIEW) == {}


def test_an_address_that_is_not_the_nodes_is_told() -> None:
    odd = pod({"containerPort": 80, "hostPort": 80, "hostIP": "192.0.2.1"})
    assert plan_pod(odd, VIEW) == {} and has_ports(odd)
    assert left_out(odd, VIEW) == "192.0.2.1:80, as its node has the address 10.77.1.1 alone"
    sctp = left_out(pod(), VIEW, [Socket("10.77.1.1", 90, "SCTP")])
    assert sctp == "ports of SCTP (90), which lead to isolated pods alone"


def test_a_pod_without_such_ports_is_of_no_account() -> None:
    assert not has_ports(pod({"containerPort": 80}))
    assert not has_ports(pod({"containerPort": 80, "hostPort": 80}, hostNetwork=True))


def test_the_kubelets_port_is_where_its_node_says() -> None:
    (socket,) = (plan := plan_kubelet("kubelet n1", "10.77.1.1", ("127.77.0.9", 41000)))
    assert (socket, plan[socket].endpoints) == (Socket("10.77.1.1", 41000), (Endpoint("127.77.0.9", 41000),))
    assert plan_kubelet("kubelet n1", "", ("127.77.0.9", 41000)) == {}  # the node has no address yet
    for own in ("10.77.1.1", "127.77.1.1"):
        assert plan_kubelet("kubelet n1", own, ("127.77.1.1", 41000)) == {}  # it listens there itself
