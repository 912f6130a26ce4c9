"""Privileges of containers over their node: privileged mode, escalation, /proc, host processes of Windows."""

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api.pods.containers import every
from rayplane.control_plane.api.podsecurity.check import (
    Check,
    Spec,
    Violation,
    context,
    quoted,
    setters,
    some,
    unless_in_user_namespace,
    unless_windows,
    where,
)
from rayplane.control_plane.api.podsecurity.levels import Level


def _privileged(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    bad = where(spec, lambda c: context(c).get("privileged") is True)
    if not bad:
        return None
    return Violation("privileged", f"{some('container', bad)} must not set securityContext.privileged=true")


def _escalation(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    bad = where(spec, lambda c: context(c).get("allowPrivilegeEscalation") is not False)
    if not bad:
        return None
    detail = f"{some('container', bad)} must set securityContext.allowPrivilegeEscalation=false"
    return Violation("allowPrivilegeEscalation != false", detail)


def _bad_mount(container: Mapping[str, Any]) -> str | None:
    """The way /proc is mounted, when it is not the usual masked one."""
    mount = context(container).get("procMount")
    return mount if mount is not None and mount != "Default" else None


def _proc_mount(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    bad = where(spec, lambda c: _bad_mount(c) is not None)
    if not bad:
        return None
    mounts = sorted({mount for c in every(spec) if (mount := _bad_mount(c)) is not None})
    return Violation(
        "procMount", f"{some('container', bad)} must not set securityContext.procMount to {quoted(mounts)}"
    )


def _hosts_process(holder: Mapping[str, Any]) -> bool:
    return (context(holder).get("windowsOptions") or {}).get("hostProcess") is True


def _host_process(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    who = setters(_hosts_process(spec), where(spec, _hosts_process))
    if not who:
        return None
    return Violation("hostProcess", f"{who} must not set securityContext.windowsOptions.hostProcess=true")


CHECKS = (
    Check("privileged", Level.BASELINE, ((0, _privileged),)),
    Check("procMount", Level.BASELINE, ((0, _proc_mount), (35, unless_in_user_namespace(_proc_mount)))),
    Check("procMount_restricted", Level.RESTRICTED, ((35, _proc_mount),), overrides="procMount"),
    Check("windowsHostProcess", Level.BASELINE, ((0, _host_process),)),
    Check("allowPrivilegeEscalation", Level.RESTRICTED, ((8, _escalation), (25, unless_windows(_escalation)))),
)
