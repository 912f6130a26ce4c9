"""Bootstrap tokens: Secrets by which a machine that has nothing yet joins a cluster.

Source: Kubernetes reference "Authenticating with Bootstrap Tokens", cluster-bootstrap/token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.certificates.pem import decoded
from rayplane.control_plane.api.meta import Object

NAMESPACE: Final = "kube-system"
TYPE: Final = "bootstrap.kubernetes.io/token"
USER_PREFIX: Final = "system:bootstrap:"
EVERY_GROUP: Final = "system:bootstrappers"
AUTHENTICATION, SIGNING = "authentication", "signing"

_NAME_PREFIX: Final = "bootstrap-token-"
_TOKEN: Final = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_GROUP: Final = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")


def secret_name(token_id: str) -> str:
    return _NAME_PREFIX + token_id


def parse(token: str) -> tuple[str, str] | None:
    """The id and the secret of what has the form of a bootstrap token; None for anything else."""
    found = _TOKEN.fullmatch(token)
    return (found[1], found[2]) if found else None


def of_text(token: str) -> BootstrapToken | None:
    """What whoever holds a token knows of it; None for what is none."""
    parts = parse(token)
    return BootstrapToken(*parts, frozenset(), (), None) if parts is not None else None


def is_token(secret: Object) -> bool:
    """Whether a Secret is a bootstrap token where they are looked for."""
    return secret.get("type") == TYPE and meta.namespace(secret) == NAMESPACE


@dataclass(frozen=True, slots=True)
class BootstrapToken:
    """One token, as its Secret has it."""

    id: str
    secret: str
    usages: frozenset[str]
    groups: tuple[str, ...]
    """Of whoever shows it, beside the one of all."""
    expires: datetime | None
    """None: never."""

    @staticmethod
    def of(secret: Object) -> BootstrapToken | None:
        """None for a Secret that is no token, or not the one that its name says."""
        # Others' Secrets may be large: they are not looked into.
        data = _data(secret) if is_token(secret) else {}
        own, value = data.get("token-id", ""), data.get("token-secret", "")
        if parse(f"{own}.{value}") is None or meta.name(secret) != secret_name(own):
            return None
        usages = frozenset(one for one in (AUTHENTICATION, SIGNING) if data.get(f"usage-bootstrap-{one}") == "true")
        asked = [group for group in data.get("auth-extra-groups", "").split(",") if group]
        if not all(_GROUP.fullmatch(group) for group in asked):
            # Which rights it should bring cannot be told.
            usages -= {AUTHENTICATION}
        return BootstrapToken(own, value, usages, (EVERY_GROUP, *dict.fromkeys(sorted(asked))), expiry(secret))

    def serves(self, usage: str, now: datetime) -> bool:
        return usage in self.usages and (self.expires is None or now < self.expires)

    def signature(self, content: str) -> str:
        """A JSON Web Signature without its content (RFC 7515, appendix F), by HMAC with SHA-256."""
        header = _encoded(f'{{"alg":"HS256","kid":"{self.id}"}}'.encode())
        signed = f"{header}.{_encoded(content.encode())}"
        return f"{header}..{_encoded(hmac.digest(self.secret.encode(), signed.encode(), hashlib.sha256))}"


def secret_object(token: str, *, expires: datetime | None, groups: Sequence[str], description: str = "") -> Object:
    """The Secret of a new token, for both uses. `expires`: None for never."""
    own, _, value = token.partition(".")
    # Secrets tell whole seconds: no token lives shorter than was asked for.
    ends = expires + timedelta(seconds=1, microseconds=-1) if expires is not None else None
    data = {
        "token-id": own,
        "token-secret": value,
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": ",".join(groups),
        "description": description,
        "expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ") if ends is not None else "",
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret_name(own), "namespace": NAMESPACE},
        "type": TYPE,
        "stringData": {key: text for key, text in data.items() if text},
    }


def description(secret: Object) -> str:
    return _data(secret).get("description", "")


def expiry(secret: Object) -> datetime | None:
    """When a token expires; None for never. What cannot be read has long been over."""
    text = _data(secret).get("expiration", "")
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return found if found.tzinfo else datetime.min.replace(tzinfo=UTC)


def _data(secret: Object) -> Mapping[str, str]:
    data = secret.get("data") or {}
    return {key: decoded(str(value or "")).decode(errors="replace") for key, value in data.items()}


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
