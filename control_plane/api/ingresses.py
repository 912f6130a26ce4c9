"""Rules about Ingresses that the API servers and the ingress share: whose they are, and which Secrets they show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

INGRESSES: Final = "ingresses.networking.k8s.io"
INGRESS_CLASS: Final = "rayplane"
CLASS_ANNOTATION: Final = "kubernetes.io/ingress.class"
DEFAULT_CERTIFICATE: Final = ("kube-system", "rayplane-ingress-tls")
"""Namespace and name of the Secret whose certificate is shown for hosts that have none of their own."""
TLS_SECRET: Final = "kubernetes.io/tls"


def is_served(ingress: Object) -> bool:
    """Tell whether an Ingress is for this cluster's own ingress."""
    name = meta.spec(ingress).get("ingressClassName") or meta.annotations(ingress).get(CLASS_ANNOTATION)
    return name in (None, "", INGRESS_CLASS)


def tls_parts(ingress: Object) -> Iterator[tuple[str, list[str]]]:
    """Names of the Secrets in an Ingress's own namespace, and the hosts for which each is shown.

    A part without hosts is for those of the Ingress's rules.
    """
    spec = meta.spec(ingress)
    ruled = [rule["host"] for rule in spec.get("rules") or () if rule.get("host")]
    for part in spec.get("tls") or ():
        if part.get("secretName"):
            yield part["secretName"], list(part.get("hosts") or ruled)
