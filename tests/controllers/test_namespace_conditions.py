"""A namespace that cannot end says why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rayplane.control_plane.controllers.namespace import Remains, conditions_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def told(namespace: dict[str, Any], remains: Remains) -> dict[str, tuple[str, str, str]]:
    found = conditions_of(namespace, remains, NOW)
    return {one["type"]: (one["status"], one["reason"], one["message"]) for one in found}


def test_what_remains_is_counted_by_resource_and_by_finalizer() -> None:
    remains = Remains()
    held = {"metadata": {"finalizers": ["example.com/a", "example.com/b"]}}
    remains.add("configmaps", [held, {"metadata": {"finalizers": ["example.com/a"]}}])
    remains.add("deployments.apps", [{"metadata": {}}])
    remains.failures += ["no such luck", "a quota is in the way"]
    assert told({}, remains) == {
        "NamespaceDeletionDiscoveryFailure": (
            "False", "ResourcesDiscovered", "All resources successfully discovered",
        ),
        "NamespaceDeletionGroupVersionParsingFailure": (
            "False", "ParsedGroupVersions", "All legacy kube types successfully parsed",
        ),
        "NamespaceDeletionContentFailure": (
            "True",
            "ContentDeletionFailed",
            "Failed to delete all resource types, 2 remaining: a quota is in the way, no such luck",
        ),
        "NamespaceContentRemaining": (
            "True",
            "SomeResourcesRemain",
            "Some resources are remaining: configmaps. has 2 resource instances, "
            "deployments.apps has 1 resource instances",
        ),
        "NamespaceFinalizersRemaining": (
            "True",
            "SomeFinalizersRemain",
            "Some content in the namespace has finalizers remaining: example.com/a in 2 resource instances, "
            "example.com/b in 1 resource instances",
        ),
    }  # fmt: skip


def test_what_has_gone_is_told_too() -> None:
    remains = Remains(undiscovered="the server is away")
    remains.add("pods", [{"metadata": {"finalizers": ["example.com/a"]}}])
    held = {"status": {"phase": "Terminating", "conditions": conditions_of({}, remains, NOW)}}
    assert told(held, remains)["NamespaceDeletionDiscoveryFailure"] == (
        "True", "DiscoveryFailed", "Discovery failed for some groups, 1 failing: the server is away"
    )  # fmt: skip
    free = told(held, Remains())
    assert {status for status, _, _ in free.values()} == {"False"}
    assert free["NamespaceContentRemaining"][1:] == ("ContentRemoved", "All content successfully removed")
    assert free["NamespaceFinalizersRemaining"][1:] == (
        "ContentHasNoFinalizers", "All content-preserving finalizers finished"
    )  # fmt: skip
