"""Requests for certificates: who makes, approves and signs them."""

import base64
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from rayplane.control_plane.api import errors
from rayplane.control_plane.client import ApiClient
from tests.api.certificate_requests import certificate_request, unreadable
from tests.api.pems import AUTHORITY
from tests.apiserver.conftest import Stack
from tests.apiserver.test_rights import BINDINGS, ROLES, binding, role

REQUESTS = "certificatesigningrequests.certificates.k8s.io"
CLIENTS = "kubernetes.io/kube-apiserver-client"
ISSUED = {"certificate": base64.b64encode(AUTHORITY.encode()).decode()}
APPROVED = {"conditions": [{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]}


def asked(name: str, *organizations: str, user: str = "jane", **spec: Any) -> dict[str, Any]:
    names = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
    names += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in organizations]
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    pem = made.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.PEM)
    text = base64.b64encode(pem).decode()
    return {
        "metadata": {"name": name},
        "spec": {"request": text, "signerName": CLIENTS, "usages": ["client auth"], **spec},
    }


async def jane(stack: Stack, *signer_verbs: str, signer: str = CLIENTS) -> ApiClient:
    """She writes all of requests, and has these verbs on a signer."""
    group = "certificates.k8s.io"
    everything = {"apiGroups": [group], "resources": ["certificatesigningrequests", "certificatesigningrequests/*"]}
    everything["resources"] += [f"certificatesigningrequests/{part}" for part in ("approval", "status")]
    signers = {"apiGroups": [group], "resources": ["signers"], "resourceNames": [signer], "verbs": list(signer_verbs)}
    admin = stack.client()
    writes = {**everything, "verbs": ["create", "get", "update", "patch"]}
    await admin.create(ROLES, role("requester", writes, *([signers] if signer_verbs else [])))
    await admin.create(BINDINGS, binding("jane", "requester"))
    return stack.client_as("jane", "team")


async def test_a_request_is_of_who_makes_it(stack: Stack) -> None:
    client = await jane(stack)
    made = await client.create(REQUESTS, asked("a", username="kubernetes-admin", groups=["system:masters"], uid="0"))
    assert made["spec"]["username"] == "jane"
    assert made["spec"]["groups"] == ["team", "system:authenticated"]
    assert "uid" not in made["spec"]
    with pytest.raises(errors.Forbidden, match="signer with system:masters group is not allowed"):
        await client.create(REQUESTS, asked("b", "system:masters"))
    with pytest.raises(errors.Forbidden, match="signer with the name system:apiserver is not allowed"):
        await client.create(REQUESTS, asked("c", user="system:apiserver"))
    with pytest.raises(errors.Forbidden, match="the subject has more than one common name"):
        await client.create(REQUESTS, certificate_request("d", "jane", others=("admin",)))
    for text in (b"\x0c\x04\xffev1", b"\x03\x04\x00ev1"):
        with pytest.raises(errors.Invalid, match="malformed certificate request"):
            await client.create(REQUESTS, unreadable("e", text))


@pytest.mark.parametrize(("part", "verb"), [("approval", "approve"), ("status", "sign")])
@pytest.mark.parametrize("signer", [CLIENTS, "kubernetes.io/*"])
async def test_a_signer_takes_a_right_of_its_own(stack: Stack, part: str, verb: str, signer: str) -> None:
    body = {"status": APPROVED if part == "approval" else ISSUED}
    client = await jane(stack, "other", signer=signer)
    await client.create(REQUESTS, asked("a"))
    with pytest.raises(errors.Forbidden, match=f'not permitted to {verb} requests with signerName "{CLIENTS}"'):
        await client.patch(REQUESTS, "a", "", body, subresource=part)
    rule = {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": [signer], "verbs": [verb]}
    await stack.client().create(ROLES, role("signers", rule))
    await stack.client().create(BINDINGS, binding("signers", "signers"))
    changed = await client.patch(REQUESTS, "a", "", body, subresource=part)
    assert changed["status"].items() >= body["status"].items() or part == "approval"


async def test_anchors_of_a_signer_take_the_right_to_attest(stack: Stack) -> None:
    bundles, signer = "clustertrustbundles.certificates.k8s.io", "example.com/own"
    admin, signers = stack.client(), {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"]}
    writes = {"apiGroups": ["certificates.k8s.io"], "resources": ["clustertrustbundles"], "verbs": ["create", "patch"]}
    await admin.create(ROLES, role("writer", writes))
    await admin.create(BINDINGS, binding("jane", "writer"))
    client = stack.client_as("jane")

    def bundle(name: str, **spec: str) -> dict[str, Any]:
        return {"metadata": {"name": name}, "spec": {"trustBundle": AUTHORITY, **spec}}

    await client.create(bundles, bundle("of-nobody"))
    with pytest.raises(errors.Forbidden, match="user not permitted to attest for signerName"):
        await client.create(bundles, bundle("example.com:own:a", signerName=signer))
    await admin.create(bundles, bundle("example.com:own:a", signerName=signer))
    labelled = {"metadata": {"labels": {"a": "b"}}}
    with pytest.raises(errors.Forbidden, match="not permitted to attest"):
        await client.patch(bundles, "example.com:own:a", "", labelled)
    # What the collector of garbage does says nothing of whom to trust.
    await client.patch(bundles, "example.com:own:a", "", {"metadata": {"finalizers": ["x/y"]}})
    for name in ("example.com/*", signer):
        attesting = role("writer", writes, {**signers, "resourceNames": [name], "verbs": ["attest"]})
        await admin.update(ROLES, attesting)
        await client.create(bundles, bundle(f"example.com:own:{len(name)}", signerName=signer))
