"""Requests of nodes for certificates are approved where RBAC lets whoever asks have one.

As clients they get them as in Kubernetes, as servers only by the name that is the node's alone: an address may be
somebody else's.

Source: kubernetes/pkg/controller/certificates/approver.
"""

from __future__ import annotations

from rayplane.control_plane.api import meta, signers
from rayplane.control_plane.api.signers import REQUESTS
from rayplane.control_plane.controllers.actions import ApproveCertificate
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)

_SELF = ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.")
_OTHER = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")
_SERVER = ("selfnodeserver", "Auto approving self kubelet serving certificate after SubjectAccessReview.")


class CertificateApprover(BaseController):
    name = "csrapproving"
    component = "csrapproving-controller"
    watches = (Watch(REQUESTS),)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        csr = view.get(REQUESTS, "", key)
        if csr is None or meta.is_deleting(csr) or meta.status(csr).get("certificate") or signers.is_decided(csr):
            return NOTHING
        request, spec = signers.request_of(csr), meta.spec(csr)
        if request is None or signers.problem_of(csr):
            return NOTHING
        is_its_own = spec.get("username") == signers.common_name(request)
        if spec.get("signerName") == signers.KUBELET_CLIENT:
            rights = (_SELF, _OTHER) if is_its_own else (_OTHER,)
        elif spec.get("signerName") == signers.KUBELET_SERVING and is_its_own and signers.serves_as_itself(request):
            rights = (_SERVER,)
        else:
            return NOTHING
        return result([ApproveCertificate(csr, rights, now.stamp)])
