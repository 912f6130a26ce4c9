"""Annotations of Ingresses as users of ingress-nginx know them. Pure.

A value that is none counts as not written, as there. Differences: bodies have no limit unless one is written, and
redirects to HTTPS need a certificate for the host.
Source: the documentation of ingress-nginx, "Annotations".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

PREFIXES = ("nginx.ingress.kubernetes.io/", "rayplane.io/")
HTTP, HTTPS, GRPC, GRPCS = "HTTP", "HTTPS", "GRPC", "GRPCS"
PROTOCOLS = (HTTP, HTTPS, GRPC, GRPCS)
CONNECT_S, READ_S = 5.0, 60.0
SECONDS_MAX = 24 * 3600.0
_SIZE = re.compile(r"(\d{1,15})([kKmMgG]?)")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, slots=True)
class Options:
    """A treatment of the requests of one Ingress. Spans in seconds."""

    rewrite_target: str = ""
    use_regex: bool = False
    ssl_redirect: bool = True
    force_ssl_redirect: bool = False
    protocol: str = HTTP
    body_bytes_max: int = 0
    """0: any size."""
    connect_s: float = CONNECT_S
    read_s: float = READ_S
    redirect: str = ""
    """Where all requests are sent for good."""


def options_of(annotations: Mapping[str, str]) -> Options:
    """The options that an Ingress's annotations say."""

    def text(name: str) -> str:
        return next((annotations[p + name].strip() for p in PREFIXES if annotations.get(p + name)), "")

    def flag(name: str, default: bool) -> bool:
        return {"true": True, "false": False}.get(text(name).lower(), default)

    def seconds(name: str, default_s: float) -> float:
        value = text(name)
        return min(float(value), SECONDS_MAX) if value.isdecimal() and 0 < len(value) < 10 and int(value) else default_s

    protocol = text("backend-protocol").upper()
    return Options(
        rewrite_target=_safe(text("rewrite-target")),
        use_regex=flag("use-regex", False),
        ssl_redirect=flag("ssl-redirect", True),
        force_ssl_redirect=flag("force-ssl-redirect", False),
        protocol=protocol if protocol in PROTOCOLS else HTTP,
        body_bytes_max=_bytes(text("proxy-body-size")),
        connect_s=seconds("proxy-connect-timeout", CONNECT_S),
        read_s=seconds("proxy-read-timeout", READ_S),
        redirect=_safe(text("permanent-redirect")),
    )


def _safe(text: str) -> str:
    """A text without what could end a line of a header; else nothing."""
    return text if text.isprintable() and " " not in text else ""


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text)
    return int(match[1]) * _UNITS[match[2].lower()] if match else 0
