"""Requests for certificates say who makes them, and take a right for each signer: to approve, and to sign.

So do bundles of trust anchors that name a signer: to attest. Kubernetes' CertificateApproval, CertificateSigning,
CertificateSubjectRestriction and ClusterTrustBundleAttest plugins, and what its registry writes into new requests.
Source: Kubernetes reference "Certificates and Certificate Signing Requests".
"""

from rayplane.control_plane.api import meta, signers
from rayplane.control_plane.api.errors import Forbidden, quote
from rayplane.control_plane.api.signers import GROUP, REQUESTS
from rayplane.control_plane.apiserver.admission.plugins import only, writing_of
from rayplane.control_plane.apiserver.admission.request import CREATE, UPDATE, AdmissionRequest
from rayplane.control_plane.apiserver.admission.rights import grants
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer

_BUNDLES = f"clustertrustbundles.{GROUP}"


class Certificates:
    """A plugin that looks at CertificateSigningRequests and ClusterTrustBundles."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    @only(lambda request: request.info.name == REQUESTS)
    async def admit(self, request: AdmissionRequest) -> None:
        """Forbidden."""
        spec = request.object.setdefault("spec", {})
        if request.operation == CREATE and not request.subresource:
            # Whoever approves or signs goes by these.
            for field in ("username", "uid", "groups", "extra"):
                spec.pop(field, None)
            spec |= request.user.info
            asked = signers.request_of(request.object) if spec.get("signerName") == signers.CLIENT else None
            problem = signers.subject_problem(asked, signers.CLIENT) if asked is not None else ""
            if problem:
                self._refuse(request, problem)
        elif request.operation == UPDATE:
            await self._updated(request)

    async def _updated(self, request: AdmissionRequest) -> None:
        old = request.old or {}
        signed = [meta.status(o).get("certificate") for o in (request.object, old)]
        verb = "approve" if request.subresource == "approval" else "sign"
        if verb == "sign" and signed[0] == signed[1]:
            return
        signer = str(meta.spec(old).get("signerName") or "")
        if not await self._may(request, verb, signer):
            self._refuse(request, f"user not permitted to {verb} requests with signerName {quote(signer)}")

    @only(writing_of(_BUNDLES))
    async def attest(self, request: AdmissionRequest) -> None:
        """Forbidden, unless nothing changes but what garbage collection does."""
        signer = str(meta.spec(request.object).get("signerName") or "")
        if not signer or (request.old is not None and grants(request.old) == grants(request.object)):
            return
        if not await self._may(request, "attest", signer):
            self._refuse(request, f"user not permitted to attest for signerName {quote(signer)}")

    async def _may(self, request: AdmissionRequest, verb: str, signer: str) -> bool:
        """Whether the user may do this for a signer, or for all of its domain."""
        domain = signer.partition("/")[0]
        for name in (signer, f"{domain}/*"):
            asked = request.user.asks(verb, group=GROUP, resource="signers", name=name)
            if (await self._authorizer.decide(asked)).allowed:
                return True
        return False

    def _refuse(self, request: AdmissionRequest, text: str) -> None:
        raise Forbidden.of(request.info.plural, request.shown_name, text, group=GROUP)
