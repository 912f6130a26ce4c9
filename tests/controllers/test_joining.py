"""How a machine joins: requests for certificates, bootstrap tokens, and what tells strangers where the cluster is."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography import x509

from rayplane.control_plane.api import meta, signers
from rayplane.control_plane.api.bootstrap_tokens import BootstrapToken
from rayplane.control_plane.api.signers import REQUESTS
from rayplane.control_plane.controllers.actions import ApproveCertificate, SignCertificate
from rayplane.control_plane.controllers.bootstrapsigner import BootstrapSigner
from rayplane.control_plane.controllers.csrapproving import CertificateApprover
from rayplane.control_plane.controllers.csrcleaner import CertificateCleaner
from rayplane.control_plane.controllers.csrsigning import CertificateSigner
from rayplane.control_plane.controllers.nodehostconfig import NodeHostConfigPublisher
from rayplane.control_plane.controllers.tokencleaner import TokenCleaner
from rayplane.control_plane.rpc.tls import Authority
from tests.api.certificate_requests import certificate_request, node_request
from tests.controllers.cluster import Cluster


def add(cluster: Cluster, request: dict[str, Any], **status: Any) -> None:
    fields: dict[str, Any] = {"status": status} if status else {}
    cluster.add(REQUESTS, meta.name(request), spec=request["spec"], **fields)


def condition(cluster: Cluster, kind: str) -> dict[str, Any]:
    return {"type": kind, "status": "True", "reason": "r", "message": "m", "lastUpdateTime": cluster.now.stamp}


def encoded(**data: str) -> dict[str, str]:
    return {key.replace("_", "-"): base64.b64encode(text.encode()).decode() for key, text in data.items()}


def add_token(cluster: Cluster, own: str = "abcdef", kind: str = "bootstrap.kubernetes.io/token", **data: str) -> None:
    made = encoded(token_id=own, token_secret="0123456789abcdef", **data)
    cluster.add("secrets", f"bootstrap-token-{own}", "kube-system", data=made, type=kind)


# --- requests for certificates --------------------------------------------------------------------


def test_a_nodes_own_right_is_looked_at_first() -> None:
    cluster = Cluster(CertificateApprover())
    add(cluster, node_request("new", "n1", username="system:bootstrap:abcdef"))
    add(cluster, node_request("again", "n1", username="system:node:n1"))
    add(cluster, certificate_request("jane", "jane", username="jane"))
    add(cluster, node_request("decided", "n2", username="x"), conditions=[condition(cluster, "Denied")])
    cluster.settle()
    found = {meta.name(one.csr): one for one in cluster.specials if isinstance(one, ApproveCertificate)}
    assert {name: [right for right, _ in one.rights] for name, one in found.items()} == {
        "new": ["nodeclient"],
        "again": ["selfnodeclient", "nodeclient"],
    }
    message = "Auto approving self kubelet client certificate after SubjectAccessReview."
    assert found["again"].rights[0] == ("selfnodeclient", message)


def test_a_node_serves_by_its_own_name_and_by_no_other() -> None:
    cluster = Cluster(CertificateApprover())
    own, user = x509.DNSName("n1.nodes.rayplane.internal"), "system:node:n1"
    for name, who, names in (
        ("own", user, (own,)),
        ("of-another", "system:node:n2", (own,)),
        ("other", user, (x509.DNSName("n2.nodes.rayplane.internal"),)),
        ("more", user, (own, x509.DNSName("kubernetes"))),
        ("address", user, (own, x509.IPAddress(ip_address("192.0.2.1")))),
        ("none", user, ()),
    ):
        usages, signer = ("server auth", "digital signature"), signers.KUBELET_SERVING
        made = certificate_request(name, user, "system:nodes", names=names, signer=signer, usages=usages)
        add(cluster, {**made, "spec": {**made["spec"], "username": who}})
    cluster.settle()
    [found] = [one for one in cluster.specials if isinstance(one, ApproveCertificate)]
    assert meta.name(found.csr) == "own" and [right for right, _ in found.rights] == ["selfnodeserver"]


def test_what_is_approved_is_signed_or_fails() -> None:
    cluster = Cluster(CertificateSigner())
    approved = {"conditions": [condition(cluster, "Approved")]}
    add(cluster, certificate_request("good", "jane"), **approved)
    add(cluster, certificate_request("bad", "jane", usages=("client auth", "server auth")), **approved)
    add(cluster, certificate_request("others", "jane", signer="example.org/mine"), **approved)
    add(cluster, certificate_request("waiting", "jane"))
    add(cluster, certificate_request("done", "jane"), certificate="eA==", **approved)
    cluster.settle()
    assert [meta.name(one.csr) for one in cluster.specials if isinstance(one, SignCertificate)] == ["good"]
    failed = meta.get_condition(cluster.get(REQUESTS, "", "bad"), "Failed")
    assert failed is not None and failed["reason"] == "SignerValidationFailure"
    assert failed["message"] == "invalid usage for client certificate: server auth"
    assert meta.get_condition(cluster.get(REQUESTS, "", "others"), "Failed") is None


@pytest.mark.parametrize("kind", ["Approved", "Denied", "Failed", ""])
def test_requests_go_when_nobody_waits_for_them(kind: str) -> None:
    cluster = Cluster(CertificateCleaner())
    add(cluster, certificate_request("a", "jane"), conditions=[condition(cluster, kind)] if kind else [])
    stays = 3600 if kind else 24 * 3600
    cluster.settle()
    cluster.advance(stays - 5)
    assert cluster.get(REQUESTS, "", "a")
    cluster.advance(10)
    assert cluster.get(REQUESTS, "", "a") is None


def test_a_request_goes_with_its_certificate() -> None:
    cluster = Cluster(CertificateCleaner())
    ends = Authority.create("x").issue("jane", now=cluster.now.wall, validity=timedelta(minutes=10)).cert
    issued = {"conditions": [condition(cluster, "Approved")], "certificate": base64.b64encode(ends).decode()}
    add(cluster, certificate_request("a", "jane"), **issued)
    cluster.settle()
    cluster.advance(590)
    assert cluster.get(REQUESTS, "", "a")
    cluster.advance(20)
    assert cluster.get(REQUESTS, "", "a") is None


# --- bootstrap tokens -----------------------------------------------------------------------------


def test_expired_tokens_are_deleted() -> None:
    cluster = Cluster(TokenCleaner())
    add_token(cluster, "aaaaaa", expiration=meta.format_time(cluster.now.wall + timedelta(seconds=60)))
    add_token(cluster, "bbbbbb", expiration="soon")
    add_token(cluster, "cccccc")
    add_token(cluster, "dddddd", "Opaque", expiration="2001-01-01T00:00:00Z")
    cluster.settle()
    names = {meta.name(one).removeprefix("bootstrap-token-") for one in cluster.list("secrets")}
    assert names == {"aaaaaa", "cccccc", "dddddd"}
    cluster.advance(61)
    assert cluster.get("secrets", "kube-system", "bootstrap-token-aaaaaa") is None


def test_a_signature_is_the_one_that_clients_compute() -> None:
    token = BootstrapToken("joshua", "my voice is my passcode", frozenset(), (), None)
    text = "Hello from the other side. I must have called a thousand times."
    header = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9"
    assert token.signature(text) == f"{header}..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"


def test_cluster_info_is_signed_by_every_token_for_that() -> None:
    cluster = Cluster(BootstrapSigner("https://127.0.0.1:6443", "PEM"))
    cluster.settle()
    made = cluster.require("configmaps", "kube-public", "cluster-info")["data"]
    assert list(made) == ["kubeconfig"]
    [named] = json.loads(made["kubeconfig"])["clusters"]
    authority = base64.b64encode(b"PEM").decode()
    assert named["cluster"] == {"certificate-authority-data": authority, "server": "https://127.0.0.1:6443"}
    ends = meta.format_time(cluster.now.wall + timedelta(seconds=60))
    add_token(cluster, "aaaaaa", usage_bootstrap_signing="true", expiration=ends)
    add_token(cluster, "bbbbbb", usage_bootstrap_authentication="true")
    cluster.settle()
    data = cluster.require("configmaps", "kube-public", "cluster-info")["data"]
    token = BootstrapToken("aaaaaa", "0123456789abcdef", frozenset(), (), None)
    assert data == {**made, "jws-kubeconfig-aaaaaa": token.signature(made["kubeconfig"])}
    # Another kubeconfig, which an administrator has written, is signed as it is.
    cluster.change("configmaps", "cluster-info", "kube-public", data={"kubeconfig": "other"})
    cluster.settle()
    data = cluster.require("configmaps", "kube-public", "cluster-info")["data"]
    assert data["jws-kubeconfig-aaaaaa"] == token.signature("other")
    cluster.advance(61)
    assert cluster.require("configmaps", "kube-public", "cluster-info")["data"] == {"kubeconfig": "other"}


def test_what_nodes_are_told_stays_as_it_is() -> None:
    cluster = Cluster(NodeHostConfigPublisher("{}"))
    cluster.settle()
    assert cluster.require("configmaps", "kube-system", "rayplane-node-hosts")["data"] == {"config": "{}"}
    cluster.change("configmaps", "rayplane-node-hosts", "kube-system", data={"config": "other"})
    cluster.settle()
    assert cluster.require("configmaps", "kube-system", "rayplane-node-hosts")["data"] == {"config": "{}"}
