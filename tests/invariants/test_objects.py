"""Invariants of objects: each holds of a good history, and finds the bug that is planted in a bad one."""

from typing import Any

import pytest

from rayplane.control_plane.invariants import Invariant, Judge, Runs
from rayplane.control_plane.invariants.pods import BoundOnce, Fits, OneOfAName, OneWriter, Room
from rayplane.control_plane.invariants.services import STALE_S, BudgetsHonoured, EndpointsReady
from rayplane.control_plane.invariants.workloads import Converges, NoOrphans, QuotasExact
from tests.invariants.histories import GOING, Line, judged, named, node, pod, tell, with_status

N1, N2 = ("nodes", node("n1", disk="ssd")), ("nodes", node("n2", disk="hdd"))
SSD = {"nodeSelector": {"disk": "ssd"}}
CLAIM: dict[str, Any] = {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}
DATA = {**named("data"), "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
SHARED = {**DATA, "spec": {**DATA["spec"], "accessModes": ["ReadWriteMany"]}}
SERVICE = {**named("web"), "spec": {"selector": {"app": "web"}}}
BUDGET = {**named("web"), "spec": {"selector": {"matchLabels": {"app": "web"}}}}
READY = pod("a", "n1", ready=True)
EVICTED = with_status(
    {**READY, "metadata": {**READY["metadata"], **GOING}},
    conditions=[
        {"type": "Ready", "status": "True"},
        {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"},
    ],
)


def slice_of(*uids: str, ready: bool = True) -> dict[str, Any]:
    targets = [{"targetRef": {"kind": "Pod", "uid": u, "namespace": "default", "name": u}} for u in uids]
    endpoints = [{**target, "conditions": {"ready": ready}} for target in targets]
    return {**named("web-1", labels={"kubernetes.io/service-name": "web"}), "endpoints": endpoints}


def deployment(*, replicas: int = 2, seen: int = 1, **counts: int) -> dict[str, Any]:
    status = {
        "observedGeneration": seen,
        **{k: counts.get(k, 2) for k in ("replicas", "readyReplicas", "updatedReplicas")},
    }
    return {**named("web", generation=1), "spec": {"replicas": replicas}, "status": status}


def quota(pods: str) -> dict[str, Any]:
    return {**named("q"), "spec": {"hard": {"pods": "5"}}, "status": {"used": {"pods": pods}}}


def owned(name: str, *owners: str) -> dict[str, Any]:
    return named(name, ownerReferences=[{"uid": owner, "name": owner} for owner in owners])


def bound(name: str, on: str, **more: Any) -> list[Line]:
    return [("pods", pod(name, **more)), ("pods", pod(name, on, **more))]


SLICES, BUDGETS = "endpointslices.discovery.k8s.io", "poddisruptionbudgets.policy"
COUNTED = with_status(BUDGET, disruptionsAllowed=0, disruptedPods={"a": "now"})
GOOD: list[tuple[type[Invariant], list[Line]]] = [
    (BoundOnce, [*bound("a", "n1"), ("pods", pod("a", "n1"), "gone"), ("pods", pod("a", "n2", uid="b"))]),
    (Fits, bound("a", "n1", **SSD)),
    (Room, [*bound("a", "n1"), *bound("b", "n1"), ("pods", pod("a", "n1", phase="Failed")), *bound("c", "n1")]),
    (Room, [*bound("a", "n1", cpu="1"), ("pods", pod("a", "n1", cpu="1"), "gone"), *bound("b", "n1", cpu="1")]),
    # A resize waits at the kubelet.
    (Room, [*bound("a", "n1"), ("pods", pod("a", "n1", cpu="2"))]),
    (OneOfAName, [Runs((("default/db-0", "n1"),)), Runs((("default/db-0", "n2"), ("default/db-1", "n1")))]),
    (OneWriter, [("pods", pod("a", "n1", **CLAIM)), ("pods", pod("b", "n1", **CLAIM))]),
    (
        OneWriter,
        [("persistentvolumeclaims", SHARED), ("pods", pod("a", "n1", **CLAIM)), ("pods", pod("b", "n2", **CLAIM))],
    ),
    # Nobody knows what runs on a node that is away.
    (
        OneWriter,
        [("pods", pod("a", "n1", **CLAIM)), ("nodes", node("n1", ready=False)), ("pods", pod("b", "n2", **CLAIM))],
    ),
    (
        EndpointsReady,
        [("pods", READY), (SLICES, slice_of("a")), ("pods", pod("a", "n1")), (SLICES, slice_of("a", ready=False))],
    ),
    (EndpointsReady, [("pods", READY), (SLICES, slice_of("a")), ("pods", READY, "gone"), (SLICES, slice_of())]),
    (
        EndpointsReady,
        [
            ("services", {**SERVICE, "spec": {"publishNotReadyAddresses": True}}),
            ("pods", pod("a", "n1")),
            (SLICES, slice_of("a")),
        ],
    ),
    (BudgetsHonoured, [("pods", READY), (BUDGETS, COUNTED), ("pods", EVICTED)]),
    (BudgetsHonoured, [("pods", READY), ("pods", EVICTED)]),
    (NoOrphans, [("pods", owned("p", "gone", "r")), ("replicasets.apps", named("r"))]),
    (QuotasExact, [("pods", pod("a")), ("resourcequotas", quota("1"))]),
    (Converges, [("deployments.apps", deployment(readyReplicas=1)), ("deployments.apps", deployment())]),
]
BAD: list[tuple[type[Invariant], list[Line], str]] = [
    (BoundOnce, [*bound("a", "n1"), ("pods", pod("a", "n2"))], "pod default/a was bound to n1 and to n2"),
    (BoundOnce, [*bound("a", "n1"), ("pods", pod("a"))], "to nobody"),
    (BoundOnce, [("pods", pod("a")), ("pods", pod("a", uid="b"))], "replaced by another of its name"),
    (Fits, bound("a", "n2", **SSD), "bound to n2, which its selector or affinity does not admit"),
    (Room, [*bound("a", "n1"), *bound("b", "n1", cpu="501m")], "n1 is asked for 1.001 of cpu and has 1"),
    (Room, [line for name in "abcd" for line in bound(name, "n1", cpu="1m")], "asked for 4 of pods and has 3"),
    (Room, bound("a", "n3"), "n3 is asked for 0.5 of cpu and has 0"),
    (OneOfAName, [Runs((("default/db-0", "n1"), ("default/db-0", "n2")))], "default/db-0 runs on n1 and on n2 at once"),
    (
        OneWriter,
        [("pods", pod("a", "n1", **CLAIM)), ("pods", pod("b", "n2", **CLAIM))],
        "default/data is written by default/b on n2",
    ),
    (EndpointsReady, [("pods", pod("a", "n1")), (SLICES, slice_of("a"))], "tells pod default/a ready, which it is not"),
    (EndpointsReady, [(SLICES, slice_of("a"))], "tells pod default/a ready"),
    (
        EndpointsReady,
        [
            *[
                ("pods", READY),
                (SLICES, slice_of("a")),
                ("pods", pod("a", "n1")),
                ("later", STALE_S),
                ("pods", pod("b")),
            ],
            (SLICES, slice_of("a", ready=False)),
        ],
        "is not since 3.0 s",
    ),
    # A slice that is written again tells no better for it.
    (
        EndpointsReady,
        [
            *[("pods", READY), (SLICES, slice_of("a")), ("pods", pod("a", "n1"))],
            *[("later", STALE_S / 2), (SLICES, slice_of("a")), ("later", STALE_S / 2), ("pods", pod("b"))],
            (SLICES, slice_of("a", ready=False)),
        ],
        "is not since 3.0 s",
    ),
    (
        BudgetsHonoured,
        [("pods", READY), (BUDGETS, with_status(BUDGET, disruptionsAllowed=1)), ("pods", EVICTED)],
        "has not counted it",
    ),
    (BudgetsHonoured, [(BUDGETS, with_status(BUDGET, disruptionsAllowed=-1))], "allows -1 disruptions"),
    (
        NoOrphans,
        [("pods", owned("p", "r")), ("replicasets.apps", named("r")), ("replicasets.apps", named("r"), "gone")],
        "owner r is gone",
    ),
    (NoOrphans, [("pods", pod("a", "n9"))], "its node n9 is gone"),
    (
        QuotasExact,
        [("pods", pod("a")), ("pods", pod("b")), ("resourcequotas", quota("1"))],
        "says 1 of pods used, and it is 2",
    ),
    (QuotasExact, [("resourcequotas", quota("1"))], "says 1 of pods used, and it is 0"),
    (Converges, [("deployments.apps", deployment(readyReplicas=1))], "'readyReplicas': 1"),
    (Converges, [("deployments.apps", deployment(seen=0))], "has not seen its newest version"),
    (Converges, [("deployments.apps", deployment(replicas=3))], "wanted 3"),
]
THERE = [N1, N2, ("persistentvolumeclaims", DATA), ("services", SERVICE)]


@pytest.mark.parametrize(("kind", "lines"), GOOD)
def test_a_good_history_is_good(kind: type[Invariant], lines: list[Line]) -> None:
    assert judged(kind, lines, there=THERE) == []


@pytest.mark.parametrize(("kind", "lines", "said"), BAD)
def test_a_planted_bug_is_found_and_nothing_else(kind: type[Invariant], lines: list[Line], said: str) -> None:
    [found] = judged(kind, lines, there=THERE)
    assert said in found


@pytest.mark.parametrize(
    ("kind", "vacuous", "telling"),
    [
        (
            BudgetsHonoured,
            [("pods", READY), (BUDGETS, BUDGET), ("pods", READY)],
            [(BUDGETS, COUNTED), ("pods", EVICTED)],
        ),
        (OneWriter, [("pods", pod("a", "n1"))], [("pods", pod("a", "n1", **CLAIM))]),
        (QuotasExact, [("pods", pod("a"))], [("resourcequotas", quota("1"))]),
        (EndpointsReady, [("pods", READY), (SLICES, slice_of())], [(SLICES, slice_of("a"))]),
        (BoundOnce, [("pods", pod("a"))], [("pods", pod("a", "n1"))]),
        (Fits, [("pods", pod("a"))], [("pods", pod("a", "n1"))]),
        (Room, [("pods", pod("a"))], [("pods", pod("a", "n1"))]),
        (OneOfAName, [Runs(())], [Runs((("default/a", "n1"),))]),
        (NoOrphans, [("pods", pod("a"))], [("pods", pod("a", "n1"))]),
        (Converges, [("pods", pod("a"))], [("deployments.apps", deployment())]),
    ],
)
def test_an_invariant_says_nothing_before_it_has_compared_anything(
    kind: type[Invariant], vacuous: list[Line], telling: list[Line]
) -> None:
    judge = Judge([(kind.name, kind)])
    judge.begin(0.0, 10, THERE)
    tell(judge, vacuous)
    judge.finished(judge.history.time_s)
    assert judge.unseen() == [kind.name]
    tell(judge, telling)
    judge.finished(judge.history.time_s)
    assert judge.unseen() == [] and judge.violations == []


def test_what_was_there_when_recording_began_counts() -> None:
    there = [N1, ("pods", pod("a", "n1", cpu="900m"))]
    [found] = judged(Room, bound("b", "n1"), there=there)
    assert "1.4 of cpu" in found
