"""Checks of the user that containers run as: not root, unless root in the pod is nobody on the node."""

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api.podsecurity.check import (
    Check,
    Spec,
    Violation,
    context,
    setters,
    some,
    unless_in_user_namespace,
    where,
)
from rayplane.control_plane.api.podsecurity.levels import Level


def _non_root(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    def said(holder: Mapping[str, Any]) -> bool | None:
        return context(holder).get("runAsNonRoot")

    reason = "runAsNonRoot != true"
    who = setters(said(spec) is False, where(spec, lambda c: said(c) is False))
    if who:
        return Violation(reason, f"{who} must not set securityContext.runAsNonRoot=false")
    silent = [] if said(spec) else where(spec, lambda c: said(c) is None)
    if not silent:
        return None
    return Violation(reason, f"pod or {some('container', silent)} must set securityContext.runAsNonRoot=true")


def _user(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    def is_root(holder: Mapping[str, Any]) -> bool:
        return context(holder).get("runAsUser") == 0

    who = setters(is_root(spec), where(spec, is_root))
    return Violation("runAsUser=0", f"{who} must not set runAsUser=0") if who else None


CHECKS = (
    Check("runAsNonRoot", Level.RESTRICTED, ((0, _non_root), (35, unless_in_user_namespace(_non_root)))),
    Check("runAsUser", Level.RESTRICTED, ((23, _user), (35, unless_in_user_namespace(_user)))),
)
