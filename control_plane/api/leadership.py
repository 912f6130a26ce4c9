"""Leadership by a Lease, as a write claims it: which Lease, who holds it, since how many changes of holder.

Source: Kubernetes API reference coordination.k8s.io/v1 LeaseSpec (holderIdentity, leaseTransitions).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import BadRequest
from rayplane.control_plane.api.meta import Object

HEADER: Final = "rayplane-leads"
"""Metadata of a call over gRPC that holds a claim."""
_LENGTH_MAX = 1024


def term_of(lease: Object) -> str:
    """The holding of a Lease that lasts from one change of its holder to the next."""
    spec: Mapping[str, Any] = meta.spec(lease)
    return f"{spec.get('leaseTransitions') or 0} {spec.get('holderIdentity') or ''}"


def claim_of(lease: Object) -> str:
    """What its holder says with each write."""
    return f"{meta.key(lease)} {term_of(lease)}"


def parse_claim(text: str) -> tuple[str, str]:
    """The Lease (`namespace/name`) and the term; BadRequest where it cannot be read."""
    lease, _, term = text.partition(" ")
    if len(text) > _LENGTH_MAX or lease.count("/") != 1 or not term:
        raise BadRequest(f"{HEADER} must be NAMESPACE/NAME TRANSITIONS HOLDER of a Lease")
    return lease, term
