"""Validation of security contexts: users and groups, profiles, kernel parameters, privileges."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import duplicate, invalid, not_supported, required, too_long
from rayplane.control_plane.api.kinds.metadata import Errors, in_range, one_of
from rayplane.control_plane.api.kinds.pod_template.paths import validate_local_path
from rayplane.control_plane.api.kinds.pod_template.windows import validate_windows_options

_ID_MAX: Final = 2**31 - 1
_PROFILES: Final = ("Localhost", "RuntimeDefault", "Unconfined")
_PROC_MOUNTS: Final = ("Default", "Unmasked")
_GROUP_CHANGES: Final = ("Always", "OnRootMismatch")
_GROUP_POLICIES: Final = ("Merge", "Strict")
_LABEL_CHANGES: Final = ("MountOption", "Recursive")
_PROFILE_NAME_MAX: Final = 4095
_SYSCTL_MAX: Final = 253
_SEGMENT: Final = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SYSCTL_TEXT: Final = rf"^({_SEGMENT}[\./])*{_SEGMENT}$"
_SYSCTL: Final = re.compile(r"[a-z0-9](?:[-_a-z0-9]*[a-z0-9])?(?:[./][a-z0-9](?:[-_a-z0-9]*[a-z0-9])?)*")
#: What the fields of most contexts need no more than a look at.
_PLAIN: Final = frozenset({"capabilities", "privileged", "runAsNonRoot", "readOnlyRootFilesystem", "seLinuxOptions"})


def validate_user(user: int | None, path: str, errs: Errors) -> None:
    """The number of a user or group."""
    in_range(user, 0, _ID_MAX, path, errs)


def validate_container_security(context: Mapping[str, Any], path: str, errs: Errors, *, host_users: bool) -> None:
    """The security context of a container; whether its users are those of the node."""
    if context.keys() <= _PLAIN:
        return
    for field in ("runAsUser", "runAsGroup"):
        validate_user(context.get(field), f"{path}.{field}", errs)
    mount = context.get("procMount")
    if mount is not None:
        one_of(mount, _PROC_MOUNTS, f"{path}.procMount", errs)
        if mount == "Unmasked" and host_users:
            errs.append(invalid(f"{path}.procMount", mount, "`hostUsers` must be false to use `Unmasked`"))
    _seccomp(context.get("seccompProfile"), f"{path}.seccompProfile", errs)
    if context.get("allowPrivilegeEscalation") is False:
        _no_escalation(context, path, errs)
    _windows_and_app_armor(context, path, errs)


def _no_escalation(context: Mapping[str, Any], path: str, errs: Errors) -> None:
    if context.get("privileged"):
        text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
        errs.append(invalid(path, dict(context), text))
    if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or ()):
        text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
        errs.append(invalid(path, dict(context), text))


def validate_pod_security(context: Mapping[str, Any], spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    """The security context of a pod."""
    for field in ("fsGroup", "runAsUser", "runAsGroup"):
        validate_user(context.get(field), f"{path}.{field}", errs)
    for index, group in enumerate(context.get("supplementalGroups") or ()):
        validate_user(group, f"{path}.supplementalGroups[{index}]", errs)
    if context.get("sysctls"):
        _sysctls(context["sysctls"], spec, f"{path}.sysctls", errs)
    _choice(context, "fsGroupChangePolicy", _GROUP_CHANGES, path, errs)
    _seccomp(context.get("seccompProfile"), f"{path}.seccompProfile", errs)
    _windows_and_app_armor(context, path, errs)
    _choice(context, "supplementalGroupsPolicy", _GROUP_POLICIES, path, errs)
    _choice(context, "seLinuxChangePolicy", _LABEL_CHANGES, path, errs)


def _choice(context: Mapping[str, Any], field: str, supported: Sequence[str], path: str, errs: Errors) -> None:
    if context.get(field) is not None:
        one_of(context[field], supported, f"{path}.{field}", errs)


def _windows_and_app_armor(context: Mapping[str, Any], path: str, errs: Errors) -> None:
    if context.get("windowsOptions") is not None:
        validate_windows_options(context["windowsOptions"], f"{path}.windowsOptions", errs)
    if context.get("appArmorProfile") is not None:
        validate_app_armor(context["appArmorProfile"], f"{path}.appArmorProfile", errs)


def _seccomp(profile: Mapping[str, Any] | None, path: str, errs: Errors) -> None:
    if profile is None:
        return
    kind, name = profile.get("type") or "", profile.get("localhostProfile")
    if not kind:
        errs.append(required(f"{path}.type", "type is required when seccompProfile is set"))
    elif kind not in _PROFILES:
        errs.append(not_supported(f"{path}.type", kind, _PROFILES))
    if kind != "Localhost":
        if name is not None:
            text = "can only be set when seccomp type is Localhost"
            errs.append(invalid(f"{path}.localhostProfile", dict(profile), text))
    elif name is None:
        errs.append(required(f"{path}.localhostProfile", "must be set when seccomp type is Localhost"))
    else:
        validate_local_path(name, f"{path}.localhostProfile", errs)


def validate_app_armor(profile: Mapping[str, Any], path: str, errs: Errors) -> None:
    kind, name, at = profile.get("type") or "", profile.get("localhostProfile"), f"{path}.localhostProfile"
    if not kind:
        errs.append(required(f"{path}.type", "type is required when appArmorProfile is set"))
    elif kind not in _PROFILES:
        errs.append(not_supported(f"{path}.type", kind, _PROFILES))
    elif kind != "Localhost":
        if name is not None:
            errs.append(invalid(at, name, "can only be set when AppArmor type is Localhost"))
    elif not name:
        errs.append(required(at, "must be set when AppArmor type is Localhost"))
    else:
        if name != name.strip():
            errs.append(invalid(at, name, "must not be padded with whitespace"))
        if len(name.encode()) > _PROFILE_NAME_MAX:
            errs.append(too_long(at, _PROFILE_NAME_MAX))


def _sysctls(sysctls: Sequence[Mapping[str, Any]], spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    seen: set[str] = set()
    for index, sysctl in enumerate(sysctls):
        own, at = sysctl.get("name") or "", f"{path}[{index}].name"
        if not own:
            errs.append(required(at))
        elif len(own) > _SYSCTL_MAX or not _SYSCTL.fullmatch(own):
            text = f"must have at most {_SYSCTL_MAX} characters and match regex {_SYSCTL_TEXT}"
            errs.append(invalid(at, own, text))
        elif own in seen:
            errs.append(duplicate(at, own))
        seen.add(own)
        shared = _shared_with_node(own, spec)
        if shared:
            errs.append(invalid(at, own, f"may not be specified when '{shared}' is true"))


def _shared_with_node(sysctl: str, spec: Mapping[str, Any]) -> str:
    """The field by which a pod shares with its node what a kernel parameter is about; empty when it does not."""
    first = next((c for c in sysctl if c in "./"), "")
    dotted = sysctl.translate(str.maketrans("./", "/.")) if first == "/" else sysctl
    if dotted.startswith("net."):
        return "hostNetwork" if spec.get("hostNetwork") else ""
    if dotted == "kernel.sem" or dotted.startswith(("kernel.shm", "kernel.msg", "fs.mqueue.")):
        return "hostIPC" if spec.get("hostIPC") else ""
    return ""
