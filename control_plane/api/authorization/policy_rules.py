"""Rules of roles as they are written down: short forms of a PolicyRule.

Source: Kubernetes API reference rbac.authorization.k8s.io/v1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

READ = ("get", "list", "watch")
ALL = ("*",)


def rule(verbs: Sequence[str], groups: str, resources: Sequence[str], names: Sequence[str] = ()) -> dict[str, Any]:
    """A resource rule; `groups` are separated by spaces, `core` is the empty one."""
    found: dict[str, Any] = {
        "verbs": list(verbs),
        "apiGroups": ["" if one == "core" else one for one in groups.split()],
        "resources": list(resources),
    }
    if names:
        found["resourceNames"] = list(names)
    return found


def paths(verbs: Sequence[str], *paths: str) -> dict[str, Any]:
    """A rule about paths that are no resources."""
    return {"verbs": list(verbs), "nonResourceURLs": list(paths)}


EVENTS = rule(("create", "patch", "update"), "core events.k8s.io", ("events",))
