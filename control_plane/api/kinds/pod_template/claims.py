"""Validation of a pod's claims to devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import duplicate, forbidden, invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.pods.state import MIRROR

_SOURCES: Final = ("resourceClaimName", "resourceClaimTemplateName")


def validate_pod_claims(
    claims: Sequence[Mapping[str, Any]], annotations: Mapping[str, str], path: str, errs: Errors
) -> None:
    """Each claim has a name of its own and one source; a pod that a node runs by itself has none."""
    known: set[str] = set()
    for index, claim in enumerate(claims):
        if MIRROR in annotations:
            errs.append(forbidden("", "static pods do not support resource claims"))
            continue
        _claim(claim, f"{path}[{index}]", known, errs)


def _claim(claim: Mapping[str, Any], path: str, known: set[str], errs: Errors) -> None:
    own = claim.get("name") or ""
    if not own:
        errs.append(required(f"{path}.name"))
    elif own in known:
        errs.append(duplicate(f"{path}.name", own))
    else:
        checked(names.label_errors(own), own, f"{path}.name", errs)
        known.add(own)
    given = [field for field in _SOURCES if claim.get(field) is not None]
    if len(given) > 1:
        listed = " or ".join(f"`{field}`" for field in _SOURCES)
        errs.append(invalid(path, dict(claim), f"at most one of {listed} may be specified"))
    elif not given:
        listed = ", ".join(f"`{field}`" for field in _SOURCES)
        errs.append(invalid(path, dict(claim), f"must specify one of: {listed}"))
    for field in given:
        checked(names.subdomain_errors(claim[field]), claim[field], f"{path}.{field}", errs)
