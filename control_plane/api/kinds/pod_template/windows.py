"""Validation of what pods of Windows say, and of what pods of one system may not say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.machinery import names

Containers = Sequence[tuple[str, Mapping[str, Any]]]
"""Containers of all kinds with their paths."""
_SYSTEMS: Final = ("linux", "windows")
_CREDENTIALS_KIB_MAX: Final = 64
_DOMAIN_END: Final = 256
_USER_MAX: Final = 104
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_NETBIOS: Final = re.compile(r'[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}')
_DNS_LABEL: Final = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_DNS: Final = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_NOT_IN_USERS: Final = frozenset('"/\\:;|=,+*?<>@[]')
_NOT_FOR_WINDOWS: Final = "cannot be set for a windows pod"
_NOT_FOR_LINUX: Final = "windows options cannot be set for a linux pod"
_POD_FIELDS: Final = (
    "appArmorProfile", "seLinuxOptions", "seccompProfile", "fsGroup", "fsGroupChangePolicy", "sysctls", "runAsUser",
    "runAsGroup", "supplementalGroups", "supplementalGroupsPolicy", "seLinuxChangePolicy",
)  # fmt: skip
_SPEC_FIELDS: Final = ("hostUsers", "hostPID", "hostIPC", "shareProcessNamespace")
_CONTAINER_FIELDS: Final = (
    "appArmorProfile", "seLinuxOptions", "seccompProfile", "capabilities", "readOnlyRootFilesystem", "privileged",
    "allowPrivilegeEscalation", "procMount", "runAsUser", "runAsGroup",
)  # fmt: skip


def validate_windows_options(options: Mapping[str, Any], path: str, errs: Errors) -> None:
    name, credentials, user = (
        options.get(f) for f in ("gmsaCredentialSpecName", "gmsaCredentialSpec", "runAsUserName")
    )
    if name is not None:
        checked(names.subdomain_errors(name), name, f"{path}.gmsaCredentialSpecName", errs)
    if credentials is not None:
        at = f"{path}.gmsaCredentialSpec"
        if not credentials:
            errs.append(invalid(at, credentials, "gmsaCredentialSpec cannot be an empty string"))
        elif len(credentials.encode()) > _CREDENTIALS_KIB_MAX * 1024:
            text = f"gmsaCredentialSpec size must be under {_CREDENTIALS_KIB_MAX} KiB"
            errs.append(invalid(at, credentials, text))
    if user is not None:
        errs += [invalid(f"{path}.runAsUserName", user, text) for text in _user_problems(user)]


def _user_problems(text: str) -> list[str]:
    """What is wrong with a user's name, which may have a domain before it."""
    if not text:
        return ["runAsUserName cannot be an empty string"]
    if _CONTROL.search(text):
        return ["runAsUserName cannot contain control characters"]
    domain, backslash, user = text.rpartition("\\")
    if "\\" in domain:
        return ["runAsUserName cannot contain more than one backslash"]
    found = []
    if len(domain) >= _DOMAIN_END:
        found.append(f"runAsUserName's Domain length must be under {_DOMAIN_END} characters")
    if backslash and not (_NETBIOS.fullmatch(domain) or _DNS.fullmatch(domain)):
        found.append("runAsUserName's Domain doesn't match the NetBios nor the DNS format")
    if not user:
        found.append("runAsUserName's User cannot be empty")
    elif len(user) > _USER_MAX:
        found.append(f"runAsUserName's User length must not be longer than {_USER_MAX} characters")
    if user and not user.strip(". "):
        found.append("runAsUserName's User cannot contain only periods or spaces")
    if not _NOT_IN_USERS.isdisjoint(user):
        found.append("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]")
    return found


def validate_host_process(spec: Mapping[str, Any], containers: Containers, path: str, errs: Errors) -> None:
    """Processes of the node itself: all containers of a pod are, or none, and they have its network."""
    of_pod = _host_process(spec.get("securityContext"))
    count = 0
    for at, container in containers:
        own = _host_process(container.get("securityContext"))
        if of_pod is not None and own is not None and of_pod != own:
            text = f"pod hostProcess value must be identical if both are specified, was {str(of_pod).lower()}"
            errs.append(invalid(f"{at}.securityContext.windowsOptions.hostProcess", own, text))
        count += bool(of_pod if own is None else own)
    if not count:
        return
    if count != len(containers):
        text = "If pod contains any hostProcess containers then all containers must be HostProcess containers"
        errs.append(invalid(path, "", text))
    if not spec.get("hostNetwork"):
        text = "hostNetwork must be true if pod contains any hostProcess containers"
        errs.append(invalid(f"{path}.hostNetwork", False, text))


def _host_process(context: Mapping[str, Any] | None) -> bool | None:
    found: bool | None = ((context or {}).get("windowsOptions") or {}).get("hostProcess")
    return found


def validate_system(spec: Mapping[str, Any], containers: Containers, path: str, errs: Errors) -> None:
    """The operating system that a pod is for, and what is not for it."""
    own = spec["os"].get("name")
    if not own:
        errs.append(required(f"{path}.os.name"))
    elif own not in _SYSTEMS:
        errs.append(not_supported(f"{path}.os", own, _SYSTEMS))
    elif own == "linux":
        for at, holder in ((path, spec), *containers):
            if (holder.get("securityContext") or {}).get("windowsOptions") is not None:
                errs.append(forbidden(f"{at}.securityContext.windowsOptions", _NOT_FOR_LINUX))
    else:
        _not_for_windows(spec.get("securityContext"), _POD_FIELDS, f"{path}.securityContext", errs)
        _not_for_windows(spec, _SPEC_FIELDS, path, errs)
        for at, container in containers:
            _not_for_windows(container.get("securityContext"), _CONTAINER_FIELDS, f"{at}.securityContext", errs)


def _not_for_windows(holder: Mapping[str, Any] | None, fields: Sequence[str], path: str, errs: Errors) -> None:
    given = (field for field in fields if (holder or {}).get(field) is not None)
    errs += [forbidden(f"{path}.{field}", _NOT_FOR_WINDOWS) for field in given]
