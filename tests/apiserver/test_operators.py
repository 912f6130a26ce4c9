"""Definitions as twenty well-known operators have them: what they take, what not, and what is said of it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayplane.control_plane.apiserver.apiextensions import acceptance, custom_resource, defaulting, rules

OPERATORS: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("operators.yaml").read_text())
REFUSED = [(one, case) for one in OPERATORS for case in one["invalid"]]


def defined(schema: dict[str, Any], kind: str, group: str) -> dict[str, Any]:
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "plural": f"{kind.lower()}s"}
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
    return {"metadata": {"name": f"{kind.lower()}s.{group}"}, "spec": spec}


def judged(one: dict[str, Any], given: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    def whole(part: dict[str, Any]) -> dict[str, Any]:
        made = {"apiVersion": f"{one['group']}/v1", "kind": one["kind"], "metadata": {"name": "one"}}
        made |= copy.deepcopy(part)
        defaulting.default(made, one["schema"])
        return made

    before = None if old is None else whole(old)
    compiled = rules.compiled(one["schema"])
    return [str(error) for error in custom_resource.errors_of(whole(given), one["schema"], compiled, before)]


@pytest.mark.parametrize("one", OPERATORS, ids=lambda one: one["kind"])
def test_its_definition_is_taken(one: dict[str, Any]) -> None:
    crd = defined(one["schema"], one["kind"], one["group"])
    acceptance.complete(crd, "2024-02-20T10:00:00Z", ())
    assert [str(error) for error in acceptance.errors_of(crd, ())] == []


@pytest.mark.parametrize("one", OPERATORS, ids=lambda one: one["kind"])
def test_what_it_takes(one: dict[str, Any]) -> None:
    assert judged(one, one["valid"]) == []
    assert judged(one, one["valid"], one["valid"]) == []


@pytest.mark.parametrize(("one", "case"), REFUSED, ids=lambda one: one.get("kind", ""))
def test_what_it_does_not_take(one: dict[str, Any], case: dict[str, Any]) -> None:
    found = judged(one, case["object"], case.get("old"))
    assert any(case["message"] in message for message in found), found


def test_there_are_twenty() -> None:
    assert len({one["group"] for one in OPERATORS}) == 20
