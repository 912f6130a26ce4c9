from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api import packing
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.packing import Packing, workload_of


def node(name: str, cpu: str = "4", *, ready: bool = True) -> Object:
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {
        "metadata": {"name": name},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}, "conditions": conditions},
    }


def pod(name: str, on: str = "", cpu: str = "500m", phase: str = "Running", **metadata: Any) -> Object:
    container = {"name": "c", "image": "none", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}
    return {
        "metadata": {"name": name, "namespace": "default", **metadata},
        "spec": {"nodeName": on, "containers": [container]},
        "status": {"phase": phase},
    }


def of(kind: str, name: str) -> list[Object]:
    return [{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": True}]


def test_pods_of_a_deployment_are_one_workload_whatever_replica_set_they_are_of() -> None:
    labels = {"pod-template-hash": "abc"}
    assert workload_of(pod("p", labels=labels, ownerReferences=of("ReplicaSet", "web-abc"))) == "Deployment/default/web"
    assert workload_of(pod("p", ownerReferences=of("ReplicaSet", "bare"))) == "ReplicaSet/default/bare"
    assert workload_of(pod("p", ownerReferences=of("StatefulSet", "db"))) == "StatefulSet/default/db"
    assert workload_of(pod("p")) == "Pod/default/p"


def test_a_node_is_filled_by_what_its_pods_ask_for_until_they_end() -> None:
    sums = Packing()
    sums.node_event("ADDED", None, node("a"))
    sums.pod_event("ADDED", None, pod("p", "a"))
    shown = sums.since(0)["nodes"]["a"]
    assert shown["room"] == (110, 4000, 8 * 2**30)
    assert shown["held"] == {"Pod/default/p": (1, 500, 2**30)}
    sums.pod_event("MODIFIED", None, pod("p", "a", phase="Succeeded"))
    assert sums.since(0)["nodes"]["a"]["held"] == {}


def test_other_resources_are_told_by_their_names_and_bound_how_few_nodes_could_do() -> None:
    sums, has = Packing(), node("a")
    has["status"]["allocatable"]["example.com/gpu"] = "2"
    sums.node_event("ADDED", None, has)
    for number in range(4):
        made = pod(f"p{number}", "a", cpu="1m")
        made["spec"]["containers"][0]["resources"]["requests"]["example.com/gpu"] = "1"
        sums.pod_event("ADDED", None, made)
    sums.pod_event("DELETED", None, made)
    told = sums.since(0)
    assert told["nodes"]["a"]["others"]["room"] == {"example.com/gpu": 2}
    assert told["nodes"]["a"]["others"]["held"]["Pod/default/p0"] == {"example.com/gpu": 1}
    assert told["lowerBound"] == 2


def test_a_waiting_pod_is_told_with_its_reason_until_it_has_a_node() -> None:
    sums, waiting = Packing(), pod("p")
    waiting["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": "no room"}]
    sums.pod_event("ADDED", None, waiting)
    assert (sums.since(0)["pending"], sums.since(0)["pendingCount"]) == ([["default/p", "no room"]], 1)
    sums.pod_event("MODIFIED", None, pod("p", "a"))
    assert sums.since(0)["pendingCount"] == 0


def test_who_looks_again_gets_what_changed_alone() -> None:
    sums = Packing()
    for name in "ab":
        sums.node_event("ADDED", None, node(name))
    seen = sums.since(0)["serial"]
    sums.pod_event("ADDED", None, pod("p", "b"))
    assert set(sums.since(seen)["nodes"]) == {"b"}
    sums.node_event("DELETED", None, node("a"))
    assert sums.since(seen)["nodes"]["a"] is None


def test_who_has_not_looked_for_long_gets_everything_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "REMOVED_MAX", 2)
    sums = Packing()
    for name in "abc":
        sums.node_event("ADDED", None, node(name))
    seen = sums.since(0)["serial"]
    for name in "abc":
        sums.node_event("DELETED", None, node(name))
    sums.node_event("ADDED", None, node("d"))
    told = sums.since(seen)
    assert (told["whole"], set(told["nodes"])) == (True, {"d"})
    assert not sums.since(told["serial"])["whole"]


def test_the_lower_bound_is_that_of_the_scarcest_resource() -> None:
    sums = Packing()
    for name in "abc":
        sums.node_event("ADDED", None, node(name, cpu="1"))
    for number in range(3):
        sums.pod_event("ADDED", None, pod(f"p{number}", "abc"[number], cpu="500m"))
    assert sums.lower_bound() == 2
    assert sums.since(0)["used"] == 3


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["node", "pod"]),
        st.sampled_from(["MODIFIED", "DELETED"]),
        st.integers(0, 3),
        st.sampled_from(["", "n0", "n1", "n2"]),
        st.sampled_from(["100m", "2", "none"]),
        st.sampled_from(["Pending", "Running", "Failed"]),
    ),
    max_size=40,
)


@given(EVENTS)
def test_changes_one_by_one_come_to_what_a_look_at_all_of_it_comes_to(
    events: list[tuple[str, str, int, str, str, str]],
) -> None:
    """Also for who took the changes in several parts."""
    sums, nodes, pods = Packing(), dict[str, Object](), dict[str, Object]()
    copy: dict[str, Any] = {}
    seen = 0
    for what, kind, number, on, cpu, phase in events:
        name = f"{'n' if what == 'node' else 'p'}{number}"
        made = node(name, ready=phase == "Running") if what == "node" else pod(name, on, cpu, phase)
        (sums.node_event if what == "node" else sums.pod_event)(kind, None, made)
        there = nodes if what == "node" else pods
        there.pop(name, None)
        if kind != "DELETED":
            there[name] = made
        if number == 0:
            copy, seen = applied(copy, sums.since(seen))
    copy, _ = applied(copy, sums.since(seen))
    afresh = Packing()
    for one in nodes.values():
        afresh.node_event("ADDED", None, one)
    for one in pods.values():
        afresh.pod_event("ADDED", None, one)
    wanted = afresh.since(0)
    assert copy == wanted["nodes"]
    assert sums.since(0)["pendingCount"] == wanted["pendingCount"]
    assert sums.lower_bound() == afresh.lower_bound()


def applied(copy: dict[str, Any], news: dict[str, Any]) -> tuple[dict[str, Any], int]:
    merged = ({} if news["whole"] else copy) | news["nodes"]
    return {name: shown for name, shown in merged.items() if shown is not None}, news["serial"]
