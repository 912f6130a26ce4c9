"""Requests for certificates are deleted when nobody waits for them any more.

Source: Kubernetes reference "Certificates and Certificate Signing Requests", lifecycle of a request.
"""

from __future__ import annotations

from datetime import datetime

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.certificates.pem import blocks, certificate_of, decoded
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.signers import REQUESTS
from rayplane.control_plane.controllers.actions import Delete
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)

DECIDED_S = 3600.0
"""So long after it was approved, denied or has failed."""
PENDING_S = 24 * 3600.0


class CertificateCleaner(BaseController):
    name = "csrcleaner"
    component = "csrcleaner-controller"
    watches = (Watch(REQUESTS),)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        csr = view.get(REQUESTS, "", key)
        if csr is None or meta.is_deleting(csr):
            return NOTHING
        left = seconds_left(csr, now)
        return result([Delete(REQUESTS, csr)]) if left <= 0 else result(requeue_after=left)


def seconds_left(csr: Object, now: Moment) -> float:
    """How long a request stays; not positive for one that is to go."""
    conditions = [one for one in meta.status(csr).get("conditions") or () if one.get("type")]
    if conditions:
        stamps = [one.get("lastUpdateTime") or meta.metadata(csr).get("creationTimestamp") for one in conditions]
        left = DECIDED_S - max(now.seconds_since(stamp) for stamp in stamps)
    else:
        left = PENDING_S - now.seconds_since(meta.metadata(csr).get("creationTimestamp"))
    ends = _end_of(csr)
    return left if ends is None else min(left, (ends - now.wall).total_seconds())


def _end_of(csr: Object) -> datetime | None:
    """When the certificate that was issued expires; None where there is none."""
    data = decoded(str(meta.status(csr).get("certificate") or ""))
    found = (certificate_of(block.der) for block in blocks(data) if block.der is not None)
    return next((one.not_valid_after_utc for one in found if one is not None), None)
