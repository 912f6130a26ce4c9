"""What the cluster's own signers sign, and what they refuse, in Kubernetes' words."""

from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography import x509

from rayplane.control_plane.api import signers
from rayplane.control_plane.api.signers import CLIENT, KUBELET_CLIENT, KUBELET_SERVING
from tests.api.certificate_requests import certificate_request, unreadable

NODE, NODES = "system:node:n1", "system:nodes"
DNS, IP = x509.DNSName("n1.example.org"), x509.IPAddress(ip_address("10.0.0.1"))
SIGNS, BOTH = "digital signature", ("digital signature", "key encipherment")


@pytest.mark.parametrize(
    ("signer", "user", "groups", "names", "usages", "problem"),
    [
        (CLIENT, "jane", ("dev",), (), ("client auth",), ""),
        (CLIENT, "jane", (), (DNS,), (*BOTH, "client auth"), ""),
        (CLIENT, "jane", (), (), ("client auth", "server auth"), "invalid usage for client certificate: server auth"),
        (CLIENT, "jane", (), (), BOTH, "missing required usage for client certificate: client auth"),
        (CLIENT, "jane", ("system:masters",), (), ("client auth",), "with system:masters group is not allowed"),
        (CLIENT, "jane", ("system:apiservers",), (), ("client auth",), "with system:apiservers group is not allowed"),
        (KUBELET_CLIENT, NODE, (NODES,), (), (SIGNS, "client auth"), ""),
        (KUBELET_CLIENT, NODE, (NODES,), (), (*BOTH, "client auth"), ""),
        (KUBELET_CLIENT, NODE, (NODES,), (), ("client auth",), "usages did not match [client auth digital signature"),
        (KUBELET_CLIENT, NODE, (NODES, "x"), (), (SIGNS, "client auth"), "subject organization is not system:nodes"),
        (KUBELET_CLIENT, "n1", (NODES,), (), (SIGNS, "client auth"), "does not begin with system:node:"),
        (KUBELET_CLIENT, NODE, (NODES,), (DNS,), (SIGNS, "client auth"), "DNS subjectAltNames are not allowed"),
        (KUBELET_CLIENT, NODE, (NODES,), (IP,), (SIGNS, "client auth"), "IP subjectAltNames are not allowed"),
        (KUBELET_CLIENT, "system:node:*", (NODES,), (), (SIGNS, "client auth"), "no name of a node"),
        (KUBELET_CLIENT, "system:node:", (NODES,), (), (SIGNS, "client auth"), "no name of a node"),
        (KUBELET_SERVING, "system:node:*", (NODES,), (DNS,), (SIGNS, "server auth"), "no name of a node"),
        (KUBELET_SERVING, NODE, (NODES,), (DNS, IP), (SIGNS, "server auth"), ""),
        (KUBELET_SERVING, NODE, (NODES,), (), (SIGNS, "server auth"), "DNS or IP subjectAltName is required"),
        (KUBELET_SERVING, NODE, (NODES,), (IP,), (SIGNS, "client auth"), "usages did not match"),
        (
            KUBELET_SERVING, NODE, (NODES,), (IP, x509.RFC822Name("a@example.org")), (SIGNS, "server auth"),
            "Email subjectAltNames are not allowed",
        ),
        (
            KUBELET_SERVING, NODE, (NODES,), (IP, x509.UniformResourceIdentifier("https://x")), (SIGNS, "server auth"),
            "URI subjectAltNames are not allowed",
        ),
        ("example.org/mine", "jane", (), (), ("client auth",), "is signed by others"),
    ],
)  # fmt: skip
def test_what_a_signer_takes(
    signer: str, user: str, groups: Any, names: Any, usages: tuple[str, ...], problem: str
) -> None:
    csr = certificate_request("a", user, *groups, signer=signer, names=names, usages=usages)
    found = signers.problem_of(csr)
    assert problem in found and bool(found) is bool(problem)


@pytest.mark.parametrize("signer", [CLIENT, KUBELET_CLIENT, KUBELET_SERVING])
@pytest.mark.parametrize(
    ("users", "problem"),
    [
        ((NODE, "system:node:n2"), "the subject has more than one common name"),
        ((NODE, "system:apiserver"), "signer with the name system:apiserver is not allowed"),
        (("system:apiserver",), "signer with the name system:apiserver is not allowed"),
    ],
)
def test_who_is_approved_is_nobody_else_too(signer: str, users: tuple[str, ...], problem: str) -> None:
    usage = "server auth" if signer == KUBELET_SERVING else "client auth"
    csr = certificate_request("a", users[0], NODES, others=users[1:], signer=signer, usages=(SIGNS, usage))
    assert problem in signers.problem_of(csr)


def test_what_cannot_be_read_is_not_signed() -> None:
    for request in ("", "bm9uZQ==", "%", None, 7):
        csr = {"spec": {"request": request, "signerName": CLIENT, "usages": ["client auth"]}}
        assert signers.problem_of(csr) == "unable to parse the request"
    for text in (b"\x0c\x04\xffev1", b"\x02\x04dev1", b"\x03\x04\x00ev1", b"\x30\x04\x02\x00v1"):
        assert signers.problem_of(unreadable("a", text)) == "unable to parse the request"


@pytest.mark.parametrize(
    ("seconds", "life"), [(None, 365 * 86400), (3600, 3600), (1, 600), (10**9, 365 * 86400), ("x", 365 * 86400)]
)
def test_how_long_a_certificate_lasts(seconds: Any, life: int) -> None:
    assert signers.life_of({"spec": {"expirationSeconds": seconds}}) == timedelta(seconds=life)
