"""The signing of requests for certificates that users make, where the authority's key is.

Whoever asks names a CertificateSigningRequest: it is read here, and signed only if it is approved and is what its
signer gives. So a controller manager that is somebody else's cannot have certificates that nobody has approved.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding

from rayplane.control_plane.api import meta, signers
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.errors import Code


class CertificateSigning:
    """A signer for `kubernetes.io` signers.

    `now`: by the clocks of those who are shown certificates; `ahead`: by how much the cluster's is ahead of them.
    """

    def __init__(
        self, api: ApiClient, secrets: Secrets | None, now: Callable[[], datetime], ahead: Callable[[], timedelta]
    ) -> None:
        self._ahead = ahead
        self._api = api
        self._secrets = secrets
        self._now = now

    async def sign(self, name: str, uid: str) -> bytes:
        """PEM. Raises RpcError: FAILED_PRECONDITION for what is never signed, whoever approves it."""
        if self._secrets is None:
            raise RpcError(Code.UNAVAILABLE, "this cluster has no certificates")
        try:
            csr = await self._api.get(signers.REQUESTS, name)
        except NotFound as e:
            raise RpcError(Code.NOT_FOUND, e.message) from e
        except ApiError as e:
            raise RpcError(Code.UNAVAILABLE, e.message) from e
        if meta.uid(csr) != uid or not signers.is_approved(csr):
            raise RpcError(Code.ABORTED, f"{name} is not approved, or another one now")
        problem, request = signers.problem_of(csr), signers.request_of(csr)
        if problem or request is None:
            raise RpcError(Code.FAILED_PRECONDITION, problem)
        usages, life = meta.spec(csr).get("usages") or (), signers.life_of(csr) + self._ahead()
        try:
            pem = request.public_bytes(Encoding.PEM)
            return self._secrets.authority.grant(pem, usages, now=self._now(), validity=life)
        except ValueError as e:
            raise RpcError(Code.FAILED_PRECONDITION, f"the request cannot be signed: {e}") from e
