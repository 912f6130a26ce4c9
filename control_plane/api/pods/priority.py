"""Priorities of pods as nodes see them: which are critical, and who yields to whom.

Source: Kubernetes concepts "Pod Priority and Preemption"; kubelet (critical pods).
"""

from __future__ import annotations

from typing import Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import is_mirror, is_static

SYSTEM_CRITICAL: Final = 2_000_000_000
"""Priority of system-cluster-critical; no user's PriorityClass may have more than half of it."""


def is_critical(pod: Object) -> bool:
    """Whether a node makes room for the pod, and rather suffers than ends it."""
    return is_mirror(pod) or is_static(pod) or (meta.spec(pod).get("priority") or 0) >= SYSTEM_CRITICAL


def yields_to(pod: Object, other: Object) -> bool:
    """Whether a node ends the pod where another one has no room."""
    if is_critical(other) and not is_critical(pod):
        return True
    mine, theirs = meta.spec(pod).get("priority"), meta.spec(other).get("priority")
    return mine is not None and theirs is not None and bool(theirs > mine)
