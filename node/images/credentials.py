"""Credentials for registries, from secrets of the types dockerconfigjson and dockercfg. Pure.

Source: kubelet's credential keyring: a key names a host (its parts may be patterns), maybe a port and the beginning of
a path; the longest that fits counts most.
"""

import base64
import binascii
import fnmatch
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.node.images.catalog import Credentials
from rayplane.node.images.references import Reference

_TYPES = {"kubernetes.io/dockerconfigjson": ".dockerconfigjson", "kubernetes.io/dockercfg": ".dockercfg"}
ENTRIES_MAX = 1000


@dataclass(frozen=True, slots=True)
class Auth:
    """A user at a registry. `secret`: the uid of what says so; in place of a password, `identity_token`: what a token
    is given for; `registry_token`: one that is shown as it is.
    """

    pattern: str
    user: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""
    secret: str = ""

    @property
    def hashed(self) -> str:
        whole = "\0".join((self.pattern, self.user, self.password, self.identity_token, self.registry_token))
        return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


def auths_of(secret: Object) -> list[Auth]:
    """The users that a secret names; none where it is of another type, or damaged."""
    field = _TYPES.get(str(secret.get("type")), "")
    try:
        found = orjson.loads(base64.b64decode((secret.get("data") or {}).get(field) or "", validate=True))
    except (ValueError, TypeError):
        return []
    if field == ".dockerconfigjson" and isinstance(found, dict):
        found = found.get("auths")
    if not isinstance(found, dict):
        return []
    uid = meta.uid(secret)
    entries = [(key, one) for key, one in found.items() if isinstance(one, dict)][:ENTRIES_MAX]
    return [auth for key, one in entries if (auth := auth_named(key, one, uid)) is not None]


def auth_named(key: str, found: Mapping[str, Any], secret: str = "") -> Auth | None:
    """The user that an entry of such a secret names, for the hosts of its key; None where it names none."""

    def text(name: str) -> str:
        value = found.get(name)
        return value if isinstance(value, str) else ""

    user, password = text("username"), text("password")
    if text("auth"):
        try:
            user, _, password = base64.b64decode(text("auth"), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
    identity, registry = text("identitytoken"), text("registrytoken")
    if not (user or identity or registry):
        return None
    return Auth(key, user, password.rstrip("\0"), identity, registry, secret)


def fitting(auths: Iterable[Auth], reference: Reference) -> list[Auth]:
    """Those for a repository, the most exact first."""
    found = [one for one in auths if _fits(one.pattern, reference)]
    return sorted(dict.fromkeys(found), key=lambda one: -len(_bare(one.pattern)))


def credentials_of(auths: Iterable[Auth]) -> Credentials:
    every = [*auths]
    return Credentials(frozenset(one.secret for one in every if one.secret), frozenset(one.hashed for one in every))


def _bare(pattern: str) -> str:
    bare = pattern.removeprefix("https://").removeprefix("http://").rstrip("/")
    for version in ("/v1", "/v2"):
        bare = bare.removesuffix(version)
    return "docker.io" if bare in ("index.docker.io", "registry-1.docker.io") else bare


def _fits(pattern: str, reference: Reference) -> bool:
    host, _, path = _bare(pattern).partition("/")
    (name, _, port), (own, _, own_port) = host.partition(":"), reference.registry.partition(":")
    parts, own_parts = name.split("."), own.split(".")
    if len(parts) != len(own_parts) or port != own_port:
        return False
    if not all(fnmatch.fnmatchcase(one, part) for one, part in zip(own_parts, parts, strict=True)):
        return False
    return not path or f"{reference.repository}/".startswith(f"{path.rstrip('/')}/")
