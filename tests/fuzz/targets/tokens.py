"""Who asks: bearer tokens and certificates that are garbage, spoiled, or rightly signed and odd."""

from __future__ import annotations

import base64
import contextlib
import json
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from rayplane.control_plane.api.errors import Unauthorized
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.rpc import identity_of_transport
from rayplane.control_plane.rpc.tls import Authority
from tests.apiserver.conftest import Stack
from tests.fuzz import mutate
from tests.rpc.grpc_peers import Transport

CASES = 200
CASES_PER_WORLD = 1000
_KEY = Authority.create("fuzz").key
_CLAIMS: dict[str, Any] = {
    "aud": ["https://kubernetes.default.svc.cluster.local"],
    "exp": 4_000_000_000, "iat": 1_700_000_000, "nbf": 1_700_000_000, "jti": "x",
    "iss": "https://kubernetes.default.svc.cluster.local",
    "sub": "system:serviceaccount:default:default",
    "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "default", "uid": "u"},
                      "pod": {"name": "p", "uid": "u"}, "node": {"name": "n"}},
}  # fmt: skip

Case = tuple[str, bytes]
"""`token` and what stands in the header, or `certificate` and DER."""


def make(rng: random.Random) -> Case:
    if rng.random() < 0.3:
        der = _certificate(rng)
        return "certificate", mutate.of_bytes(rng, der) if rng.random() < 0.5 else der
    header: Any = {"alg": "ES256", "typ": "JWT"}
    if rng.random() < 0.3:
        # Signed rightly: what only the cluster can sign is as the cluster makes it, but for whom it speaks of.
        signed = jwt.encode(_CLAIMS | {"jti": str(rng.random())}, _KEY.decode(), algorithm="ES256").encode()
        return "token", b"Bearer " + (mutate.of_bytes(rng, signed) if rng.random() < 0.8 else signed)
    header, claims = (mutate.of_json(rng, v) if rng.random() < 0.6 else v for v in (header, _CLAIMS))
    parts = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=") for p in (header, claims)]
    return "token", b"Bearer " + mutate.of_bytes(rng, b".".join([*parts, b"c2ln" * 22]))


def _certificate(rng: random.Random) -> bytes:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))  # whose signatures are the same each time
    oids = (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.EMAIL_ADDRESS, NameOID.COUNTRY_NAME)
    texts = ("a", "system:masters", "é", "a\0b", "b" * 64, "x,O=system:masters", "DE")
    attributes = []
    for _ in range(rng.randrange(5)):
        with contextlib.suppress(ValueError):
            attributes.append(x509.NameAttribute(rng.choice(oids), rng.choice(texts)))
    name, now = x509.Name(attributes), datetime(2026, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = (
        made.serial_number(rng.randrange(1, 1 << 64)).not_valid_before(now).not_valid_after(now + timedelta(days=9000))
    )
    try:
        return made.sign(key, None).public_bytes(serialization.Encoding.DER)
    except ValueError:  # the name cannot be said
        return b""


class _Tls(Transport):
    """A TLS connection whose client showed this certificate."""

    def __init__(self, der: bytes) -> None:
        super().__init__()
        self._der = der

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "ssl_object" else default

    def getpeercert(self, *, binary_form: bool) -> bytes:
        return self._der


class Gate:
    def __init__(self, stack: Stack, account: dict[str, Any], token: str) -> None:
        self._authenticator = stack.servers[0].registry.authenticator
        self._account, self._token = account, token

    async def run(self, case: Case) -> None:
        kind, data = case
        identity, header = None, ""
        if kind == "certificate":
            identity = identity_of_transport(_Tls(data))
            assert identity is None or identity.user
        else:
            header = data.decode("utf-8", "surrogateescape")
        user: User | None = None
        with contextlib.suppress(Unauthorized):
            user = await self._authenticator.of_request(identity, header)
        if kind == "token" and user is not None:
            assert user.name == "system:anonymous", f"{user} by a token that nobody issued"

    async def good(self) -> None:
        user = await self._authenticator.of_request(None, f"Bearer {self._token}")
        assert user.name == "system:serviceaccount:default:default" and user.uid == self._account["metadata"]["uid"]

    def sizes(self) -> dict[str, int]:
        return {}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Gate]:
    stack = Stack()
    await stack.add_server(token_key=_KEY)
    try:
        client: ApiClient = stack.client()
        account = await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
        body = {"metadata": {"name": "default", "namespace": "default"}, "spec": {}}
        answer = await client.create("serviceaccounts", body, subresource="token")
        yield Gate(stack, account, answer["status"]["token"])
    finally:
        await stack.stop()
