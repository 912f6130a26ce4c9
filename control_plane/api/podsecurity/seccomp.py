"""Seccomp profiles: which system calls a container may make."""

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api.errors import quote
from rayplane.control_plane.api.pods.containers import every
from rayplane.control_plane.api.podsecurity.check import (
    Check,
    Spec,
    Violation,
    context,
    names,
    plural,
    quoted,
    setters,
    some,
    unless_windows,
    where,
)
from rayplane.control_plane.api.podsecurity.levels import Level

_POD = "seccomp.security.alpha.kubernetes.io/pod"
_CONTAINER = "container.seccomp.security.alpha.kubernetes.io/"
_PROFILES = ("RuntimeDefault", "Localhost")


def _annotated(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    """Versions before v1.19, where annotations chose the profile."""
    bad = set()
    for key in (_POD, *(_CONTAINER + name for name in names(every(spec)))):
        value = annotations.get(key)
        if value is None or value in ("runtime/default", "docker/default") or value.startswith("localhost/"):
            continue
        bad.add(f"{key}={quote(value)}")
    if not bad:
        return None
    return Violation("seccompProfile", f"forbidden {plural('annotation', len(bad))} {', '.join(sorted(bad))}")


def _kind(holder: Mapping[str, Any]) -> str | None:
    """The type of profile; None where nothing is said."""
    profile = context(holder).get("seccompProfile")
    return None if profile is None else profile.get("type") or ""


def _bad(holder: Mapping[str, Any]) -> bool:
    kind = _kind(holder)
    return kind is not None and kind not in _PROFILES


def _baseline(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    who = setters(_bad(spec), where(spec, _bad))
    if not who:
        return None
    kinds = sorted({_kind(holder) or "" for holder in (spec, *every(spec)) if _bad(holder)})
    return Violation("seccompProfile", f"{who} must not set securityContext.seccompProfile.type to {quoted(kinds)}")


def _restricted(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    found = _baseline(annotations, spec)
    if found is not None or _kind(spec) is not None:
        return found
    silent = where(spec, lambda c: _kind(c) is None)
    if not silent:
        return None
    detail = (
        f"pod or {some('container', silent)} must set securityContext.seccompProfile.type to "
        '"RuntimeDefault" or "Localhost"'
    )
    return Violation("seccompProfile", detail)


CHECKS = (
    Check("seccompProfile_baseline", Level.BASELINE, ((0, _annotated), (19, _baseline))),
    Check(
        "seccompProfile_restricted",
        Level.RESTRICTED,
        ((19, _restricted), (25, unless_windows(_restricted))),
        overrides="seccompProfile_baseline",
    ),
)
