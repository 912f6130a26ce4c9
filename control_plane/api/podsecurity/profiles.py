"""Confinement by the kernel: AppArmor profiles and SELinux options."""

from collections.abc import Collection, Mapping
from typing import Any

from rayplane.control_plane.api.errors import quote
from rayplane.control_plane.api.pods.containers import every
from rayplane.control_plane.api.podsecurity.check import (
    Check,
    Look,
    Spec,
    Violation,
    context,
    plural,
    quoted,
    setters,
    some,
    where,
)
from rayplane.control_plane.api.podsecurity.levels import Level

_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"
_PROFILES = ("RuntimeDefault", "Localhost")
_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t"})


def _bad_profile(holder: Mapping[str, Any]) -> str | None:
    profile = context(holder).get("appArmorProfile")
    kind = (profile or {}).get("type") or ""
    return kind if profile is not None and kind not in _PROFILES else None


def _apparmor(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    holders = [spec, *every(spec)]
    values = sorted({kind for holder in holders if (kind := _bad_profile(holder)) is not None})
    who = setters(_bad_profile(spec) is not None, where(spec, lambda c: _bad_profile(c) is not None))
    old = sorted(
        f"{key}={quote(value)}"
        for key, value in annotations.items()
        if key.startswith(_ANNOTATION) and value not in ("", "runtime/default") and not value.startswith("localhost/")
    )
    if old:
        values += old
        who = " and ".join(filter(None, (who, plural("annotation", len(old)))))
    if not who:
        return None
    reason = plural("forbidden AppArmor profile", len(values))
    return Violation(reason, f"{who} must not set AppArmor profile type to {quoted(values)}")


def _options(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    return context(holder).get("seLinuxOptions") or {}


def _selinux(allowed: Collection[str]) -> Look:
    def bad(holder: Mapping[str, Any]) -> bool:
        options = _options(holder)
        return (options.get("type") or "") not in allowed or bool(options.get("user") or options.get("role"))

    def look(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
        who = setters(bad(spec), where(spec, bad))
        if not who:
            return None
        all_options = [_options(holder) for holder in (spec, *every(spec))]
        types = sorted({o.get("type") or "" for o in all_options} - set(allowed))
        what = [some("type", types)] if types else []
        what += [f"{field} may not be set" for field in ("user", "role") if any(o.get(field) for o in all_options)]
        return Violation("seLinuxOptions", f"{who} set forbidden securityContext.seLinuxOptions: {'; '.join(what)}")

    return look


CHECKS = (
    Check("appArmorProfile", Level.BASELINE, ((0, _apparmor),)),
    Check("seLinuxOptions", Level.BASELINE, ((0, _selinux(_TYPES)), (31, _selinux(_TYPES | {"container_engine_t"})))),
)
