"""Certificates of a node, by CertificateSigningRequests, as a kubelet gets them."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from rayplane.control_plane.api import meta, signers
from rayplane.control_plane.api.authorization.node_identity import node_user, server_name
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cluster.errors import ClusterError, NotAdmitted
from rayplane.control_plane.identities import NODES
from rayplane.control_plane.rpc import Identity
from rayplane.control_plane.rpc.tls import Request

PATIENCE_S = 120.0
POLL_S = 0.5


class Requests(Protocol):
    """The API, as far as it is needed here."""

    @property
    def get(self) -> Callable[..., Awaitable[Object]]: ...

    @property
    def create(self) -> Callable[..., Awaitable[Object]]: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """One of a node's two certificates. `new`: a request with a key of its own."""

    signer: str
    usages: tuple[str, ...]
    new: Callable[[], Request]

    @staticmethod
    def client(node: str) -> "Kind":
        """As whom it calls."""
        identity = Identity(node_user(node), (NODES,))
        return Kind(signers.KUBELET_CLIENT, ("digital signature", "client auth"), partial(Request, identity))

    @staticmethod
    def serving(node: str) -> "Kind":
        """What it is called."""
        made = partial(Request, Identity(node_user(node), (NODES,)), (server_name(node),))
        return Kind(signers.KUBELET_SERVING, ("digital signature", "server auth"), made)


async def certify(api: Requests, kind: Kind, request: bytes, *, patience_s: float = PATIENCE_S) -> bytes:
    """The certificate (PEM) for a request, once that is signed. Raises NotAdmitted, ApiError, ClusterError."""
    spec = {
        "request": base64.b64encode(request).decode(),
        "signerName": kind.signer,
        "usages": [*kind.usages],
    }
    made = {
        "apiVersion": f"{signers.GROUP}/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "node-csr-"},
        "spec": spec,
    }
    csr = await api.create(signers.REQUESTS, made)
    name = meta.name(csr)
    try:
        async with asyncio.timeout(patience_s):
            while not (certificate := meta.status(csr).get("certificate")):
                _check(csr, name)
                await asyncio.sleep(POLL_S)
                csr = await api.get(signers.REQUESTS, name)
    except TimeoutError:
        raise NotAdmitted(
            f"nobody has approved the request for a certificate {name} in {patience_s:.0f} s: "
            f"`kubectl certificate approve {name}` on the cluster, and join again"
        ) from None
    return base64.b64decode(certificate)


def _check(csr: Object, name: str) -> None:
    for verdict in ("Denied", "Failed"):
        condition = meta.get_condition(csr, verdict)
        if condition is not None:
            raise NotAdmitted(f"the request for a certificate {name} is {verdict}: {condition.get('message', '')}")


def asking(api: Requests, kind: Kind) -> Callable[[bytes], Awaitable[bytes]]:
    """What gives the next certificate for a request; raises OSError while there is none."""

    async def ask(request: bytes) -> bytes:
        try:
            return await certify(api, kind, request)
        except (ApiError, ClusterError) as e:
            raise OSError(str(e)) from e

    return ask
