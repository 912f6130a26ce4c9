"""The scopes of a quota must fit its resources and each other."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.validation import validate_create, validate_update
from rayplane.control_plane.api.machinery.resources import builtin_registry

INFO = builtin_registry().by_name("resourcequotas")
AT = "spec.scopeSelector.matchExpressions"


def quota(*hard: str, scopes: list[str] | None = None, terms: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"hard": dict.fromkeys(hard, "1")}
    if scopes is not None:
        spec["scopes"] = scopes
    if terms is not None:
        spec["scopeSelector"] = {"matchExpressions": terms}
    made = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "d"}, "spec": spec}
    default(made)
    return made


def refused(*hard: str, **scopes: Any) -> list[str]:
    return [f"{error.field}: {error.detail}" for error in validate_create(quota(*hard, **scopes), INFO)]


def term(scope: str, operator: str, *values: str) -> dict[str, Any]:
    return {"scopeName": scope, "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("hard", "scopes", "errors"),
    [
        (["pods"], ["BestEffort"], []),
        (["cpu", "limits.memory", "pods"], ["NotBestEffort", "Terminating"], []),
        (["requests.cpu"], ["BestEffort"], ["unsupported scope applied to resource"]),
        (["services", "secrets"], ["Terminating"], ["unsupported scope applied to resource"] * 2),
        (["count/pods", "example.com/gpu"], ["BestEffort"], []),
        (["requests.storage"], ["VolumeAttributesClass"], []),
        (["pods"], ["VolumeAttributesClass"], ["unsupported scope applied to resource"]),
        (["pods"], ["Spare"], ["unsupported scope"]),
        (["pods"], ["BestEffort", "NotBestEffort"], ["conflicting scopes"]),
        (["pods"], ["Terminating", "NotTerminating"], ["conflicting scopes"]),
    ],
)
def test_scopes_and_what_they_are_applied_to(hard: list[str], scopes: list[str], errors: list[str]) -> None:
    assert refused(*hard, scopes=scopes) == [f"spec.scopes: {error}" for error in errors]


@pytest.mark.parametrize(
    ("terms", "errors"),
    [
        ([term("PriorityClass", "In", "high")], []),
        ([term("PriorityClass", "Exists")], []),
        (
            [term("PriorityClass", "In")],
            [f"{AT}.values: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"],
        ),
        (
            [term("PriorityClass", "Exists", "high")],
            [f"{AT}.values: must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"],
        ),
        ([term("PriorityClass", "Near")], [f"{AT}.operator: not a valid selector operator"]),
        ([term("Spare", "Exists")], [f"{AT}.scopeName: unsupported scope"]),
        ([term("BestEffort", "Exists"), term("NotBestEffort", "Exists")], [f"{AT}: conflicting scopes"]),
    ],
)
def test_terms_of_a_scope_selector(terms: list[dict[str, Any]], errors: list[str]) -> None:
    assert refused("pods", terms=terms) == errors


def test_a_scope_that_is_there_or_not_takes_no_values() -> None:
    [error] = refused("pods", terms=[term("Terminating", "In", "a")])
    assert error.startswith(f"{AT}.operator: must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ")


def test_what_is_no_resource_of_quotas() -> None:
    assert refused("nodes") == [
        "spec.hard[nodes]: must be a standard resource type or fully qualified",
        "spec.hard[nodes]: must be a standard resource for quota",
    ]
    assert refused("requests.hugepages-2Mi", "limits.ephemeral-storage", "count/foos.example.com") == []


def test_scopes_stay() -> None:
    old, new = quota("pods", scopes=["Terminating", "BestEffort"]), quota("pods", scopes=["BestEffort", "Terminating"])
    assert validate_update(new, old, INFO) == []
    [error] = validate_update(quota("pods", scopes=["BestEffort"]), old, INFO)
    assert str(error) == 'spec.scopes: Invalid value: ["BestEffort"]: field is immutable'
