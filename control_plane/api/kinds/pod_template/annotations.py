"""Validation of annotations that mean something to pods: mirrors, cost of deletion, profiles of old."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import forbidden, invalid
from rayplane.control_plane.api.kinds.metadata import Errors
from rayplane.control_plane.api.kinds.pod_template.paths import validate_local_path
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import every
from rayplane.control_plane.api.pods.state import MIRROR

Containers = Sequence[tuple[str, Mapping[str, Any]]]
"""Containers of all kinds with their paths."""
DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
APP_ARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"
_SECCOMP_POD: Final = "seccomp.security.alpha.kubernetes.io/pod"
_SECCOMP: Final = "container.seccomp.security.alpha.kubernetes.io/"
_DEFAULTS: Final = ("runtime/default", "docker/default")
_LOCAL: Final = "localhost/"
_KNOWN_PREFIXES: Final = (MIRROR, DELETION_COST, APP_ARMOR, _SECCOMP_POD, _SECCOMP)


def validate_pod_annotations(
    annotations: Mapping[str, str], spec: Mapping[str, Any], containers: Containers, path: str, errs: Errors
) -> None:
    if not any(key.startswith(_KNOWN_PREFIXES) for key in annotations):
        return
    if MIRROR in annotations and not spec.get("nodeName"):
        text = "must set spec.nodeName if mirror pod annotation is set"
        errs.append(invalid(f"{path}[{MIRROR}]", annotations[MIRROR], text))
    cost = annotations.get(DELETION_COST)
    if cost is not None and not is_int32(cost):
        errs.append(invalid(f"{path}[{DELETION_COST}]", cost, "must be a 32bit integer"))
    for key, profile in annotations.items():
        if key == _SECCOMP_POD or key.startswith(_SECCOMP):
            _seccomp(profile, f"{path}.{key}", errs)
    for key, profile in annotations.items():
        if key.startswith(APP_ARMOR):
            own = key.removeprefix(APP_ARMOR)
            if own not in [container.get("name") for _, container in containers]:
                errs.append(invalid(f"{path}[{key}]", own, "container not found"))
            if profile not in ("", "runtime/default", "unconfined") and not profile.startswith(_LOCAL):
                errs.append(invalid(f"{path}[{key}]", profile, f'invalid AppArmor profile name: "{profile}"'))


def is_int32(text: str) -> bool:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 20 or (text[0] == "0" and text != "0"):
        return False
    return -(2**31) <= int(text) < 2**31


def _seccomp(profile: str, path: str, errs: Errors) -> None:
    if profile in (*_DEFAULTS, "unconfined"):
        return
    if profile.startswith(_LOCAL):
        validate_local_path(profile.removeprefix(_LOCAL), path, errs)
    else:
        errs.append(invalid(path, profile, "must be a valid seccomp profile"))


def validate_profiles_match(
    annotations: Mapping[str, str], spec: Mapping[str, Any], containers: Containers, path: str, errs: Errors
) -> None:
    """Profiles that are said in annotations and in fields are the same ones."""
    if not any(key.startswith((APP_ARMOR, _SECCOMP_POD, _SECCOMP)) for key in annotations):
        return
    of_pod = spec.get("securityContext") or {}
    _match(annotations.get(_SECCOMP_POD), of_pod.get("seccompProfile"), f"{path}.securityContext", errs)
    for at, container in containers:
        own = (container.get("securityContext") or {}).get("seccompProfile")
        _match(annotations.get(f"{_SECCOMP}{container.get('name')}"), own, f"{at}.securityContext", errs)
    if (spec.get("os") or {}).get("name") == "windows":
        return
    for at, container in containers:
        own = (container.get("securityContext") or {}).get("appArmorProfile") or of_pod.get("appArmorProfile")
        said = annotations.get(f"{APP_ARMOR}{container.get('name')}")
        _match(said, own, f"{at}.securityContext", errs, kind="apparmor", field="appArmorProfile")


def _match(
    said: str | None,
    profile: Mapping[str, Any] | None,
    path: str,
    errs: Errors,
    *,
    kind: str = "seccomp",
    field: str = "seccompProfile",
) -> None:
    if said is None or profile is None:
        return
    of = profile.get("type")
    defaults = _DEFAULTS if kind == "seccomp" else _DEFAULTS[:1]
    expected = {"Unconfined": said == "unconfined", "RuntimeDefault": said in defaults}
    if not expected.get(of or "", said.startswith(_LOCAL) or of != "Localhost"):
        errs.append(forbidden(f"{path}.{field}.type", f"{kind} type in annotation and field must match"))
    elif of == "Localhost" and said.removeprefix(_LOCAL) != profile.get("localhostProfile"):
        text = f"{kind} profile in annotation and field must match"
        errs.append(forbidden(f"{path}.{field}.localhostProfile", text))


def validate_annotations_update(new: Mapping[str, str], old: Mapping[str, str], path: str, errs: Errors) -> None:
    """What was said of profiles and mirrors stays said."""
    kept = ((APP_ARMOR, "AppArmor annotations"), (MIRROR, "mirror pod annotation"))
    for key, value in old.items():
        for prefix, what in kept:
            if key.startswith(prefix) and new.get(key) != value:
                errs.append(forbidden(f"{path}[{key}]", f"may not remove or update {what}"))
    for key in new.keys() - old.keys():
        for prefix, what in kept:
            if key.startswith(prefix):
                errs.append(forbidden(f"{path}[{key}]", f"may not add {what}"))


def fill_profiles(pod: Object) -> None:
    """Profiles that a new pod says in annotations alone become fields of its containers, in place."""
    annotations, spec = meta.annotations(pod), pod["spec"]
    if not any(key.startswith(APP_ARMOR) for key in annotations) or (spec.get("os") or {}).get("name") == "windows":
        return
    of_pod = (spec.get("securityContext") or {}).get("appArmorProfile")
    for container in every(spec):
        context = container.get("securityContext") or {}
        profile = _app_armor_of(annotations.get(f"{APP_ARMOR}{container.get('name')}") or "")
        if profile is not None and profile != of_pod and context.get("appArmorProfile") is None:
            container["securityContext"] = {**context, "appArmorProfile": profile}


def _app_armor_of(said: str) -> dict[str, Any] | None:
    """The field that an annotation stands for; None when it says none."""
    if said == "unconfined":
        return {"type": "Unconfined"}
    if said == "runtime/default":
        return {"type": "RuntimeDefault"}
    name = said.removeprefix(_LOCAL)
    return {"type": "Localhost", "localhostProfile": name} if said.startswith(_LOCAL) and name.strip() else None
