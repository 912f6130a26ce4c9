"""Certificates of pods (certificates.k8s.io/v1 PodCertificateRequest): keys are made here, for the pods' files alone.

A signer may take its time, or never come: whoever asks waits a little, and finds the same request again when he asks
once more. What was denied stays denied. Bounded by the sources of the pods that are here.
Source: KEP-4317, kubelet's pkg/kubelet/podcertificate.
"""

import asyncio
import base64
import random
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object, get_condition, parse_time
from rayplane.control_plane.client import ApiClient
from rayplane.node.errors import MountError
from rayplane.node.volumes.projected import CertifiedKey, pem
from rayplane.storage.env import Clock

REQUESTS = "podcertificaterequests.certificates.k8s.io"
WAIT_S, LOOK_S = 5.0, 0.25
JITTER_S = 300.0
"""So much later than asked for certificates are renewed at most, lest all are at once."""
_Key = tuple[str, str, int]
"""The uid of a pod, its volume, the number of the source there."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key, after how long it is to be renewed, and after how long it is over."""

    certified: CertifiedKey
    renew_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that is not answered yet."""

    key: bytes
    name: str


class PodCertificates:
    """A manager of the certificates of a host's pods."""

    def __init__(self, client: ApiClient, clock: Clock, rng: random.Random) -> None:
        self._client, self._clock, self._rng = client, clock, rng
        self._asked: dict[_Key, _Asked] = {}

    async def fetch(self, pod: Object, volume: str, number: int, source: dict[str, Any]) -> Certificate:
        """Raises ApiError, and MountError while there is none, or when there will be none."""
        key, loop = (meta.uid(pod), volume, number), asyncio.get_running_loop()
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = await self._ask(pod, source)
        late = loop.time() + WAIT_S
        while True:
            request = await self._look(pod, asked.name)
            if request is None:
                self._asked.pop(key, None)
                raise MountError("the PodCertificateRequest was deleted: another one is made")
            if (issued := self._issued(request, asked.key)) is not None:
                self._asked.pop(key, None)
                return issued
            if loop.time() >= late:
                raise MountError("credential bundle is not issued yet")
            await asyncio.sleep(LOOK_S)

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        for key in [key for key in self._asked if key[0] == uid]:
            del self._asked[key]

    async def _ask(self, pod: Object, source: dict[str, Any]) -> _Asked:
        spec, namespace, client = meta.spec(pod), meta.namespace(pod), self._client
        key, stub = await asyncio.get_running_loop().run_in_executor(None, key_and_stub, source.get("keyType") or "")
        account = await client.get("serviceaccounts", spec.get("serviceAccountName") or "default", namespace)
        node = await client.get("nodes", meta.node_name(pod))
        request: Object = {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "PodCertificateRequest",
            "metadata": {"generateName": "req-", "namespace": namespace},
            "spec": {
                "signerName": source.get("signerName"),
                "podName": meta.name(pod),
                "podUID": meta.uid(pod),
                "serviceAccountName": meta.name(account),
                "serviceAccountUID": meta.uid(account),
                "nodeName": meta.name(node),
                "nodeUID": meta.uid(node),
                "maxExpirationSeconds": source.get("maxExpirationSeconds"),
                "stubPKCS10Request": base64.b64encode(stub).decode(),
                "unverifiedUserAnnotations": source.get("userAnnotations"),
            },
        }
        request["spec"] = {field: value for field, value in request["spec"].items() if value is not None}
        return _Asked(key, meta.name(await client.create(REQUESTS, request)))

    async def _look(self, pod: Object, name: str) -> Object | None:
        """The request as it is now. A node may list those that name it, and no others."""
        selector = f"metadata.name={name},spec.nodeName={meta.node_name(pod)}"
        found = await self._client.list(REQUESTS, meta.namespace(pod), field_selector=selector)
        return found.items[0] if found.items else None

    def _issued(self, request: Object, key: bytes) -> Certificate | None:
        """What came of a request; None for nothing yet. Raises MountError."""
        for end in ("Denied", "Failed"):
            condition = get_condition(request, end)
            if condition is not None and condition.get("status") == "True":
                why = f'reason="{condition.get("reason") or ""}" message="{condition.get("message") or ""}"'
                raise MountError(f"PodCertificateRequest was permanently {end.lower()}: {why}")
        status = meta.status(request)
        if not meta.condition_is(request, "Issued") or not status.get("certificateChain"):
            return None
        left_s = self._left_s(status["notAfter"])
        renew_s = self._left_s(status["beginRefreshAt"]) + self._rng.random() * JITTER_S
        certified = CertifiedKey(key, _cleaned(status["certificateChain"]))
        return Certificate(certified, max(0.0, min(renew_s, left_s)), left_s)

    def _left_s(self, stamp: str) -> float:
        moment: datetime = parse_time(stamp)
        return (moment - self._clock.now()).total_seconds()


def key_and_stub(kind: str) -> tuple[bytes, bytes]:
    """A new private key (PKCS #8, PEM), and a request (PKCS #10, DER) that shows the public one and no more.

    Raises MountError.
    """
    # Imported here so that hosts of simulated nodes never load it for this.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    curves: dict[str, type[Any]] = {"ECDSAP256": ec.SECP256R1, "ECDSAP384": ec.SECP384R1, "ECDSAP521": ec.SECP521R1}
    key: Any
    if kind in curves:
        key = ec.generate_private_key(curves[kind]())
    elif kind in ("RSA3072", "RSA4096"):
        key = rsa.generate_private_key(65537, int(kind.removeprefix("RSA")))
    elif kind == "ED25519":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        raise MountError(f"unknown key type {kind!r}")
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    digest = None if kind == "ED25519" else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, digest)
    return private, request.public_bytes(Encoding.DER)


def _cleaned(chain: str) -> bytes:
    """The certificates without what stands between them, or in their headers."""
    from rayplane.control_plane.api.kinds.certificates.pem import blocks

    return b"".join(pem(block.der) for block in blocks(chain.encode()) if block.der)
