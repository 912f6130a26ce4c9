"""Approved requests for certificates are signed where the cluster's authority is their signer.

Source: kubernetes/pkg/controller/certificates/signer.
"""

from __future__ import annotations

from rayplane.control_plane.api import meta, signers
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.signers import REQUESTS
from rayplane.control_plane.controllers.actions import SignCertificate, UpdateStatus
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)


class CertificateSigner(BaseController):
    name = "csrsigning"
    component = "csrsigning-controller"
    watches = (Watch(REQUESTS),)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        csr = view.get(REQUESTS, "", key)
        if csr is None or meta.is_deleting(csr) or not signers.is_approved(csr):
            return NOTHING
        if meta.status(csr).get("certificate") or meta.condition_is(csr, "Failed"):
            return NOTHING
        if meta.spec(csr).get("signerName") not in signers.SIGNERS:
            return NOTHING
        problem = signers.problem_of(csr)
        if problem:
            return result([UpdateStatus(REQUESTS, failed(csr, problem, now.stamp))])
        return result([SignCertificate(csr, now.stamp)])


def failed(csr: Object, why: str, stamp: str) -> Object:
    """A request with the condition that it will never be signed."""
    return with_condition(csr, "Failed", "SignerValidationFailure", why, stamp)


def with_condition(csr: Object, kind: str, reason: str, message: str, stamp: str) -> Object:
    """A copy of a request with one condition more."""
    condition = {"type": kind, "status": "True", "reason": reason, "message": message}
    times = {"lastUpdateTime": stamp, "lastTransitionTime": stamp}
    status = meta.status(csr)
    conditions = [*(status.get("conditions") or ()), {**condition, **times}]
    return {**meta.copy_for_write(csr), "status": {**status, "conditions": conditions}}
