"""Requests for certificates say who makes them, and take a right for each signer: to approve, and to sign.

Kubernetes' CertificateApproval, CertificateSigning and CertificateSubjectRestriction plugins, and what its registry
writes into new requests.
Source: Kubernetes reference "Certificates and Certificate Signing Requests".
"""

import base64
import binascii

from cryptography import x509
from cryptography.x509.oid import NameOID

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Forbidden, quote
from rayplane.control_plane.apiserver.admission.request import CREATE, UPDATE, AdmissionRequest
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.identities import MASTERS

_GROUP = "certificates.k8s.io"
_REQUESTS = f"certificatesigningrequests.{_GROUP}"
_CLIENTS = "kubernetes.io/kube-apiserver-client"


class Certificates:
    """A plugin that looks at CertificateSigningRequests."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    async def admit(self, request: AdmissionRequest) -> None:
        """Forbidden."""
        if request.info.name != _REQUESTS:
            return
        spec = request.object.setdefault("spec", {})
        if request.operation == CREATE and not request.subresource:
            # Whoever approves or signs goes by these.
            for field in ("username", "uid", "groups", "extra"):
                spec.pop(field, None)
            spec |= request.user.info
            if spec.get("signerName") == _CLIENTS and MASTERS in _organizations(spec.get("request")):
                self._refuse(request, f"use of {_CLIENTS} signer with {MASTERS} group is not allowed")
        elif request.operation == UPDATE:
            await self._updated(request)

    async def _updated(self, request: AdmissionRequest) -> None:
        old = request.old or {}
        signed = [meta.status(o).get("certificate") for o in (request.object, old)]
        verb = "approve" if request.subresource == "approval" else "sign"
        if verb == "sign" and signed[0] == signed[1]:
            return
        signer = str(meta.spec(old).get("signerName") or "")
        domain = signer.partition("/")[0]
        for name in (signer, f"{domain}/*"):
            asked = request.user.asks(verb, group=_GROUP, resource="signers", name=name)
            if (await self._authorizer.decide(asked)).allowed:
                return
        self._refuse(request, f"user not permitted to {verb} requests with signerName {quote(signer)}")

    def _refuse(self, request: AdmissionRequest, text: str) -> None:
        raise Forbidden.of(request.info.plural, request.name, text, group=_GROUP)


def _organizations(request: object) -> list[str]:
    """The groups that a request (base64 of PEM, RFC 2986) asks for; none when it cannot be read."""
    try:
        subject = x509.load_pem_x509_csr(base64.b64decode(str(request or ""))).subject
    except (binascii.Error, ValueError, x509.InvalidVersion):
        return []
    return [str(o.value) for o in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
