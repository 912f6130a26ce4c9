"""Paths: what jq finds, nothing where there is nothing, and an error for what is not known."""

from typing import Any

import pytest

from rayplane.control_plane.stages.errors import Failed, Unreadable
from rayplane.control_plane.stages.paths import Query

POD = {
    "metadata": {"name": "web", "labels": {"a.b/c": "x"}, "ownerReferences": [{"kind": "Job"}]},
    "status": {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "False"}],
    },
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (".", [POD]),
        (".status.phase", ["Running"]),
        ('.metadata.labels["a.b/c"]', ["x"]),
        (".metadata.ownerReferences.[].kind", ["Job"]),
        (".metadata.ownerReferences[].kind", ["Job"]),
        (".metadata.ownerReferences[0].kind", ["Job"]),
        (".metadata.ownerReferences[7].kind", [None]),
        (".none.none", [None]),
        (".none[]", []),
        (".none[]?.a", []),
        (".metadata.name.a", []),
        ('.status.conditions.[] | select( .type == "Ready" ) | .status', ["True"]),
        ('.status.conditions[] | select(.type != "Ready" and .status == "False") | .type', ["Initialized"]),
        ('.status.conditions[] | select((.type == "Ready") or .status == "False") | .type', ["Ready", "Initialized"]),
        (".status.conditions | length", [2]),
        (".none // .status.phase", ["Running"]),
        (".metadata.labels | keys", [["a.b/c"]]),
        (".none | not", [True]),
        ('"a"', ["a"]),
    ],
)
def test_what_a_path_finds(text: str, found: list[Any]) -> None:
    assert Query(text).values(POD) == found


@pytest.mark.parametrize(
    "text", ["", ".a |", ".a[", "select(.a", "env", "range(9)", ".a = 1", "(" * 99 + ")" * 99, ".a" * 9999]
)
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        Query(text)


def test_a_path_looks_at_a_bounded_number_of_values() -> None:
    with pytest.raises(Failed):
        Query(".[] | .[] | .[]").values([[[1] * 100] * 100] * 100)
