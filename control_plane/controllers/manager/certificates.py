"""The outside part of requests for certificates: what RBAC says of who asks, and the signature.

The authority's key never comes here: the supervisor signs, and looks itself at what it signs.
"""

from __future__ import annotations

import base64

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.signers import GROUP, REQUESTS
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.controllers.actions import (
    Action,
    ApproveCertificate,
    Patch,
    SignCertificate,
    UpdateStatus,
    Write,
)
from rayplane.control_plane.controllers.csrsigning import failed, with_condition
from rayplane.control_plane.controllers.manager.executor import ActionFailed
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

_SUPERVISOR = pb.DESCRIPTOR.services_by_name["Supervisor"]
_REVIEWS = "subjectaccessreviews.authorization.k8s.io"
_TIMEOUT_S = 10.0
# Somebody may be given the right later.
_REFUSED_RETRY_S = 30.0


class Certificates:
    """Approval and signing. By `client` it is known where the supervisors are."""

    def __init__(self, client: ApiClient, network: Network) -> None:
        self._client = client
        self._network = network

    async def approve(self, action: Action) -> list[Write]:
        """The write that approves. Raises ActionFailed where no right is found, ApiError."""
        assert isinstance(action, ApproveCertificate)
        csr = action.csr
        for right, message in action.rights:
            answer = await self._client.create(_REVIEWS, _review(csr, right))
            if meta.status(answer).get("allowed"):
                approved = with_condition(csr, "Approved", "AutoApproved", message, action.stamp)
                guard = {"resourceVersion": meta.resource_version(csr)}
                patch = {"metadata": guard, "status": {"conditions": approved["status"]["conditions"]}}
                return [Patch(REQUESTS, "", meta.name(csr), patch, subresource="approval")]
        raise ActionFailed(f"{meta.name(csr)}: nobody lets its requestor have this", retry_s=_REFUSED_RETRY_S)

    async def sign(self, action: Action) -> list[Write]:
        """The write of the certificate, or of why there will be none. Raises ActionFailed."""
        assert isinstance(action, SignCertificate)
        csr, why = action.csr, "no supervisor is known"
        for address in self._client.supervisors:
            stub = Stub(self._network.channel(address), _SUPERVISOR)
            try:
                answer = await stub.Sign(pb.SignRequest(name=meta.name(csr), uid=meta.uid(csr)), timeout=_TIMEOUT_S)
            except RpcError as e:
                if e.code.name == "FAILED_PRECONDITION":
                    return [UpdateStatus(REQUESTS, failed(csr, e.message, action.stamp))]
                why = e.message
                continue
            signed = {**meta.status(csr), "certificate": base64.b64encode(answer.certificate).decode()}
            return [UpdateStatus(REQUESTS, {**meta.copy_for_write(csr), "status": signed})]
        raise ActionFailed(f"{meta.name(csr)} is not signed yet: {why}")


def _review(csr: Object, right: str) -> Object:
    spec = meta.spec(csr)
    attributes = {"group": GROUP, "resource": "certificatesigningrequests", "subresource": right, "verb": "create"}
    asked = {
        "user": spec.get("username") or "",
        "uid": spec.get("uid") or "",
        "groups": spec.get("groups") or [],
        "extra": spec.get("extra") or {},
    }
    return {"spec": {**asked, "resourceAttributes": attributes}}
