"""What must never become of pods is counted when it does."""

from typing import Any

import pytest

from scripts.benchmarks.ledger import Ledger

NODES = [{"metadata": {"name": name}, "status": {"allocatable": {"cpu": "1", "pods": "2"}}} for name in ("n1", "n2")]
NOTHING = {"lost": 0, "doubled": 0, "bound_twice": 0, "overcommitted": 0}


def pod(name: str, node: str = "", *, cpu: str = "500m", phase: str = "Running", **about: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name, **about},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}], "nodeName": node},
        "status": {"phase": phase},
    }


GOING = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
A, B = pod("a", "n1"), pod("b", "n1")
COURSES: dict[str, tuple[list[tuple[str, dict[str, Any]]], list[dict[str, Any]], dict[str, int]]] = {
    "well": ([("ADDED", pod("a")), ("MODIFIED", A), ("ADDED", pod("b")), ("MODIFIED", B)], [A, B], {}),
    "gone": ([("ADDED", A), ("ADDED", B), ("DELETED", B)], [A], {"lost": 1}),
    "never made": ([("ADDED", A)], [A], {"lost": 1}),
    "gone, and nobody saw it": ([("ADDED", A), ("ADDED", B)], [A], {"lost": 1}),
    "one too many": ([("ADDED", A), ("ADDED", B), ("ADDED", pod("c", "n2"))], [A, B, pod("c", "n2")], {"doubled": 1}),
    "one too many for a moment": (
        [("ADDED", A), ("ADDED", B), ("ADDED", pod("c", "n2")), ("DELETED", pod("c", "n2"))],
        [A, B],
        {"doubled": 1, "lost": 1},
    ),
    "replaced": (
        [("ADDED", A), ("ADDED", B), ("MODIFIED", pod("b", "n1", **GOING)), ("ADDED", pod("c", "n2"))],
        [A, pod("b", "n1", **GOING)],
        {"lost": 1},
    ),
    "moved": ([("ADDED", A), ("MODIFIED", pod("a", "n2")), ("ADDED", B)], [A, B], {"bound_twice": 1}),
    "too much of a node": ([("ADDED", A), ("ADDED", pod("b", "n1", cpu="501m"))], [A, B], {"overcommitted": 1}),
    "too much for a moment": (
        [("ADDED", A), ("ADDED", B), ("ADDED", pod("c", "n1")), ("MODIFIED", pod("c", "n1", phase="Failed"))],
        [A, B, pod("c", "n1")],
        {"overcommitted": 1, "doubled": 1},
    ),
    "one after the other": (
        [("ADDED", A), ("MODIFIED", pod("a", "n1", phase="Failed")), ("ADDED", pod("b", "n1", cpu="1"))],
        [A, B],
        {},
    ),
    "on a node that is none": ([("ADDED", A), ("ADDED", pod("b", "n3"))], [A, B], {"overcommitted": 1}),
}


@pytest.mark.parametrize("course", COURSES)
def test_what_went_wrong_is_counted(course: str) -> None:
    changes, left, wrong = COURSES[course]
    ledger, known = Ledger(2, NODES), dict[str, dict[str, Any]]()
    for kind, one in changes:
        ledger.saw(kind, known.get(one["metadata"]["name"]), one)
        known[one["metadata"]["name"]] = one
    assert ledger.figures(left) == {**NOTHING, **wrong}
