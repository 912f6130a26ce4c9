"""Whom to trust: what a stranger makes of the ConfigMap `cluster-info`, as kubeadm does. Pure.

It comes from a server that nobody knows yet. The token's signature says that whoever wrote it knows the token; the hash
of the authority's key, which came on another way, that not even another holder of the token did.
Source: Kubernetes reference "kubeadm join", token-based discovery with CA pinning.
"""

import base64
import hmac
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from rayplane.control_plane.api import bootstrap_tokens
from rayplane.control_plane.api.bootstrap_tokens import BootstrapToken
from rayplane.control_plane.api.joining import CLUSTER_INFO, KUBECONFIG, SIGNATURE
from rayplane.control_plane.cluster.errors import NotTrusted, UsageError
from rayplane.control_plane.cluster.join.options import HASH, TOKEN, UNSAFE
from rayplane.control_plane.rpc.tls import key_hash

_HASH = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Discovered:
    """The cluster, as it can be trusted."""

    server: str
    """URL of its API."""
    ca: bytes
    """PEM of its authority."""


def checked_token(text: str) -> BootstrapToken:
    """Raises UsageError."""
    token = bootstrap_tokens.of_text(text)
    if token is None:
        raise UsageError(
            f"{TOKEN}: it has the form [a-z0-9]{{6}}.[a-z0-9]{{16}}; `rayplane token create` on the cluster makes one"
        )
    return token


def check_pins(pins: Collection[str], *, unsafe: bool) -> None:
    """Raises UsageError where nothing would say that it is the right cluster."""
    for pin in pins:
        if not _HASH.fullmatch(pin.lower()):
            raise UsageError(f"{HASH} {pin!r}: it has the form sha256:HEX, as `rayplane token create` prints it")
    if not pins and not unsafe:
        raise UsageError(
            f"give {HASH}, as `rayplane token create --print-join-command` prints it; without it whoever ever saw the "
            f"token could pass for the cluster ({UNSAFE} if that is fine)"
        )


def discovered(data: Mapping[str, str], token: BootstrapToken, pins: Collection[str]) -> Discovered:
    """What the data of a `cluster-info` say. Raises NotTrusted. `pins`: hashes of which the authority's key has one;
    none: any will do.
    """
    text, signature = data.get(KUBECONFIG, ""), data.get(SIGNATURE + token.id, "")
    if not text:
        raise NotTrusted(f"the server has no {KUBECONFIG} in {CLUSTER_INFO}: it is no cluster that can be joined")
    if not signature:
        raise NotTrusted(
            f"the cluster does not know token {token.id}: it has expired, was deleted, or is another cluster's; "
            "make a new one with `rayplane token create`"
        )
    if not hmac.compare_digest(signature, token.signature(text)):
        raise NotTrusted(
            f"what the server says of itself is not signed with token {token.id}: its secret is wrong, "
            "or the server is not the cluster"
        )
    found = _read(text)
    own = key_hash(found.ca)
    if pins and own not in {pin.lower() for pin in pins}:
        raise NotTrusted(
            f"the cluster's authority has the key {own}, which {HASH} does not name: it is another cluster"
        )
    return found


def _read(text: str) -> Discovered:
    try:
        config: Any = yaml.safe_load(text)
        cluster = config["clusters"][0]["cluster"]
        server = str(cluster["server"])
        authorities = x509.load_pem_x509_certificates(base64.b64decode(cluster["certificate-authority-data"]))
    except (yaml.YAMLError, LookupError, TypeError, ValueError) as e:
        raise NotTrusted(f"the {KUBECONFIG} in {CLUSTER_INFO} cannot be read: {e}") from e
    if len(authorities) != 1:
        # A hash names one of them, and all would be trusted.
        raise NotTrusted(f"the {KUBECONFIG} in {CLUSTER_INFO} has {len(authorities)} authorities: one is needed")
    return Discovered(server, authorities[0].public_bytes(serialization.Encoding.PEM))
