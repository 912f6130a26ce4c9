"""The published schema of scenario files accepts what the reader reads, and refuses what it refuses."""

from typing import Any

import pytest
import yaml

from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.scenario import parse
from rayplane.control_plane.faults.form import VERBS, write_fault
from rayplane.control_plane.faults.schema import schema
from tests.cluster.test_scenario import ALL, DOCUMENTED
from tests.faults.test_injectors import SAMPLES

jsonschema = pytest.importorskip("jsonschema")

STEP = [{"sleep": 1}]
REFUSED: list[Any] = [
    {},
    {"step": []},
    {"steps": [{"kill": "leader", "after": 3}]},
    {"steps": [{"kill": {"target": "leader", "node": "n"}}]},
    {"steps": [{"stalled_disk": "member-0"}]},
    {"steps": [{"await": {"deployment": "web"}}]},
    {"steps": [{"await": {"ready": "cluster", "members": 3}}]},
    {"steps": [{"await": {"deployment": "web", "ready": 1, "rolled": 1}}]},
    {"steps": [{"repeat": 0, "steps": STEP}]},
    {"steps": [{"repeat": 2}]},
    {"steps": [{"choose": []}]},
    {"steps": [{"apply": {"kind": "Pod"}}]},
    {"steps": [{"sleep": "soon"}]},
    {"steps": STEP, "seed": "x"},
    {"steps": STEP, "faults": [{"kill": "leader"}]},
    {"steps": STEP, "faults": [{"kill": "leader", "at": "1s", "every": "1s"}]},
    {"steps": STEP, "expect": [{"reads": {"available": 99}}]},
    {"steps": STEP, "expect": [{"writes": {"gaps": 1}}]},
]


def accepts(data: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema()).is_valid(data))


def is_read(data: Any) -> bool:
    try:
        parse(yaml.safe_dump(data).encode(), "f")
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("text", [ALL.decode(), DOCUMENTED])
def test_what_is_documented_is_accepted(text: str) -> None:
    jsonschema.validate(yaml.safe_load(text), schema())


def test_every_fault_is_accepted_as_a_step_and_beside_the_steps() -> None:
    steps = [write_fault(fault) for fault in SAMPLES]
    data = {"steps": steps, "faults": [step | {"at": "1s"} for step in steps]}
    assert is_read(data)
    jsonschema.validate(data, schema())
    assert len(steps) == len(VERBS)


@pytest.mark.parametrize("data", REFUSED)
def test_what_cannot_be_read_is_refused(data: Any) -> None:
    assert not is_read(data) and (not accepts(data) or data == {})
