"""Validation of a pod's claims to devices, and of the containers' references to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rayplane.control_plane.api.errors import NOT_FOUND, FieldError, duplicate, invalid, required
from rayplane.control_plane.api.kinds.metadata import checked
from rayplane.control_plane.api.machinery import names

_SOURCES: Final = ("resourceClaimName", "resourceClaimTemplateName")
_CONTAINERS: Final = ("containers", "initContainers")


def validate_claims(spec: Mapping[str, Any], path: str, errs: list[FieldError]) -> None:
    """Each claim has a name of its own and one source; containers name only claims of the pod."""
    known: set[str] = set()
    for index, claim in enumerate(spec.get("resourceClaims") or ()):
        _claim(claim, f"{path}.resourceClaims[{index}]", known, errs)
    for field in _CONTAINERS:
        for index, container in enumerate(spec.get(field) or ()):
            claims = (container.get("resources") or {}).get("claims") or ()
            _references(claims, f"{path}.{field}[{index}].resources.claims", known, errs)


def _claim(claim: Mapping[str, Any], path: str, known: set[str], errs: list[FieldError]) -> None:
    own = claim.get("name") or ""
    if not own:
        errs.append(required(f"{path}.name"))
    elif own in known:
        errs.append(duplicate(f"{path}.name", own))
    else:
        checked(names.label_errors(own), own, f"{path}.name", errs)
        known.add(own)
    given = [field for field in _SOURCES if claim.get(field) is not None]
    if not given:
        listed = ", ".join(f"`{field}`" for field in _SOURCES)
        errs.append(invalid(path, dict(claim), f"must specify one of: {listed}"))
    elif len(given) > 1:
        listed = " or ".join(f"`{field}`" for field in _SOURCES)
        errs.append(invalid(path, dict(claim), f"at most one of {listed} may be specified"))
    for field in given:
        checked(names.subdomain_errors(claim[field]), claim[field], f"{path}.{field}", errs)


def _references(claims: Any, path: str, known: set[str], errs: list[FieldError]) -> None:
    seen: set[str] = set()
    for index, claim in enumerate(claims):
        own, at = claim.get("name") or "", f"{path}[{index}]"
        if not own:
            errs.append(required(at))
            continue
        if own in seen:
            errs.append(duplicate(at, own))
        seen.add(own)
        if own not in known:
            named = f": {', '.join(sorted(known))}" if known else " which is empty"
            detail = f"must be one of the names in pod.spec.resourceClaims{named}"
            errs.append(FieldError(NOT_FOUND, at, own, detail))
