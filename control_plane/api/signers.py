"""Signers of a cluster's own authority: which requests for certificates each of them takes.

`kubernetes.io/legacy-unknown` is none of them: no version of the API that is served takes requests for it.
Source: Kubernetes reference "Certificates and Certificate Signing Requests", kubernetes/pkg/apis/certificates.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.authorization.node_identity import node_user, server_name
from rayplane.control_plane.api.kinds.certificates.pem import request_in
from rayplane.control_plane.api.machinery.names import subdomain_errors
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.identities import API_SERVER, API_SERVERS, FRONT_PROXY, MASTERS, MEMBERS, NODE_HOSTS, NODES

GROUP: Final = "certificates.k8s.io"
REQUESTS: Final = f"certificatesigningrequests.{GROUP}"
CLIENT: Final = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT: Final = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING: Final = "kubernetes.io/kubelet-serving"
API_SERVING: Final = "kubernetes.io/kube-apiserver-serving"
"""Signs nothing on request: its anchors are those by which API servers are trusted."""
SIGNERS: Final = (CLIENT, KUBELET_CLIENT, KUBELET_SERVING)

LIFE_MAX: Final = timedelta(days=365)
LIFE_MIN: Final = timedelta(minutes=10)

#: Groups that the cluster itself gives out: whoever is in one is an administrator, or a part of the cluster.
RESERVED_GROUPS: Final = frozenset({MASTERS, API_SERVERS, MEMBERS, NODE_HOSTS})
#: A user that nobody else may be: who bears its name tells servers of aggregated APIs who somebody else is.
RESERVED_USERS: Final = frozenset({API_SERVER, FRONT_PROXY})
_NODE: Final = "system:node:"
_MAYBE_RSA: Final = "key encipherment"
_USAGES: Final = {
    KUBELET_CLIENT: ("client auth", "digital signature"),
    KUBELET_SERVING: ("digital signature", "server auth"),
}


def request_of(csr: Object) -> x509.CertificateSigningRequest | None:
    """What a CertificateSigningRequest holds; None where it cannot be read."""
    return request_in(str(meta.spec(csr).get("request") or ""))


def texts_of(request: x509.CertificateSigningRequest, oid: x509.ObjectIdentifier) -> list[str]:
    """The attributes of this kind in a request's subject."""
    return [str(one.value) for one in request.subject.get_attributes_for_oid(oid)]


def common_name(request: x509.CertificateSigningRequest) -> str:
    return next(iter(texts_of(request, NameOID.COMMON_NAME)), "")


def organizations(request: x509.CertificateSigningRequest) -> list[str]:
    return texts_of(request, NameOID.ORGANIZATION_NAME)


def is_approved(csr: Object) -> bool:
    return meta.condition_is(csr, "Approved") and not meta.condition_is(csr, "Denied")


def is_decided(csr: Object) -> bool:
    return any(meta.get_condition(csr, kind) is not None for kind in ("Approved", "Denied"))


def subject_problem(request: x509.CertificateSigningRequest, signer: str) -> str:
    """Why nobody may have a certificate with this subject; empty where somebody may."""
    users = texts_of(request, NameOID.COMMON_NAME)
    reserved = RESERVED_GROUPS.intersection(organizations(request))
    if reserved:
        return f"use of {signer} signer with {min(reserved)} group is not allowed"
    if taken := RESERVED_USERS.intersection(users):
        return f"use of {signer} signer with the name {min(taken)} is not allowed"
    # Some servers read the first, others the last: who approves one of them would give the other away, too.
    return "the subject has more than one common name" if len(users) > 1 else ""


def serves_as_itself(request: x509.CertificateSigningRequest) -> bool:
    """Whether a node asks to serve by the one name that is its own, which no other server has."""
    node = common_name(request).removeprefix(_NODE)
    try:
        names = _alternative_names(request)
    except ValueError:
        return False
    own = x509.SubjectAlternativeName([x509.DNSName(server_name(node))]) if not subdomain_errors(node) else None
    return common_name(request) == node_user(node) and own is not None and names == own


def problem_of(csr: Object) -> str:
    """Why the signer that a request names would not sign it; empty where it would."""
    request, signer = request_of(csr), str(meta.spec(csr).get("signerName") or "")
    if request is None:
        return "unable to parse the request"
    usages = [str(one) for one in meta.spec(csr).get("usages") or ()]
    problem = subject_problem(request, signer)
    if problem:
        return problem
    try:
        names = _alternative_names(request)
    except ValueError as e:
        return f"the request has extensions that cannot be read: {e}"
    if signer == CLIENT:
        return _client_usages(usages)
    if signer in _USAGES:
        return (
            _node_subject(request)
            or _node_names(names, serving=signer == KUBELET_SERVING)
            or _node_usages(signer, usages)
        )
    return f"{signer} is signed by others"


def life_of(csr: Object) -> timedelta:
    """How long the certificate for a request is to last."""
    asked = meta.spec(csr).get("expirationSeconds")
    if not isinstance(asked, int):
        return LIFE_MAX
    return min(max(timedelta(seconds=asked), LIFE_MIN), LIFE_MAX)


def _client_usages(usages: Sequence[str]) -> str:
    for usage in usages:
        if usage not in ("client auth", "digital signature", _MAYBE_RSA):
            return f"invalid usage for client certificate: {usage}"
    return "" if "client auth" in usages else "missing required usage for client certificate: client auth"


def _node_usages(signer: str, usages: Sequence[str]) -> str:
    wanted = {*_USAGES[signer]}
    if set(usages) in (wanted, wanted | {_MAYBE_RSA}):
        return ""
    return f"usages did not match [{' '.join(sorted(wanted | {_MAYBE_RSA}))}]"


def _node_subject(request: x509.CertificateSigningRequest) -> str:
    if organizations(request) != [NODES]:
        return f"subject organization is not {NODES}"
    if not common_name(request).startswith(_NODE):
        return f"subject common name does not begin with {_NODE}"
    # A name with a wildcard would be every node's.
    if subdomain_errors(common_name(request).removeprefix(_NODE)):
        return f"subject common name has no name of a node behind {_NODE}"
    return ""


def _alternative_names(request: x509.CertificateSigningRequest) -> x509.SubjectAlternativeName | None:
    """The names beside the subject; None where there are none. Raises ValueError."""
    try:
        return request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as e:
        raise ValueError(str(e)) from e


def _node_names(names: x509.SubjectAlternativeName | None, *, serving: bool) -> str:
    kinds = {type(one) for one in names or ()}
    places = kinds & {x509.DNSName, x509.IPAddress}
    if serving and not places:
        return "DNS or IP subjectAltName is required"
    if not serving and x509.DNSName in kinds:
        return "DNS subjectAltNames are not allowed"
    if not serving and x509.IPAddress in kinds:
        return "IP subjectAltNames are not allowed"
    if x509.RFC822Name in kinds:
        return "Email subjectAltNames are not allowed"
    return "URI subjectAltNames are not allowed" if kinds - {x509.DNSName, x509.IPAddress} else ""
