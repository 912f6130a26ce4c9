"""Linux capabilities that containers may add, and must drop."""

from collections.abc import Collection, Mapping
from typing import Any

from rayplane.control_plane.api.pods.containers import every
from rayplane.control_plane.api.podsecurity.check import (
    Check,
    Spec,
    Violation,
    context,
    quoted,
    some,
    unless_windows,
    where,
)
from rayplane.control_plane.api.podsecurity.levels import Level

_DEFAULT = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)
_RESTRICTED = frozenset({"NET_BIND_SERVICE"})


def _listed(container: Mapping[str, Any], field: str) -> Collection[str]:
    return (context(container).get("capabilities") or {}).get(field) or ()


def _adding(spec: Spec, allowed: Collection[str]) -> str:
    """Which containers add what they may not; empty when none does."""

    def extra(container: Mapping[str, Any]) -> set[str]:
        return set(_listed(container, "add")) - set(allowed)

    bad = where(spec, lambda c: bool(extra(c)))
    if not bad:
        return ""
    added = sorted({one for container in every(spec) for one in extra(container)})
    return f"{some('container', bad)} must not include {quoted(added)} in securityContext.capabilities.add"


def _baseline(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    adding = _adding(spec, _DEFAULT)
    return Violation("non-default capabilities", adding) if adding else None


def _restricted(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    details = []
    keeping = where(spec, lambda c: "ALL" not in _listed(c, "drop"))
    if keeping:
        details.append(f'{some("container", keeping)} must set securityContext.capabilities.drop=["ALL"]')
    adding = _adding(spec, _RESTRICTED)
    if adding:
        details.append(adding)
    return Violation("unrestricted capabilities", "; ".join(details)) if details else None


CHECKS = (
    Check("capabilities_baseline", Level.BASELINE, ((0, _baseline),)),
    Check(
        "capabilities_restricted",
        Level.RESTRICTED,
        ((22, _restricted), (25, unless_windows(_restricted))),
        overrides="capabilities_baseline",
    ),
)
