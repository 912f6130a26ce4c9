"""Tokens of other issuers: taken for what their claims say, where they are signed with a key of the issuer.

Source: OpenID Connect Core 1.0, "ID Token Validation"; Kubernetes reference "Authenticating", OpenID Connect Tokens.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import jwt

from rayplane.control_plane.api.errors import Unauthorized
from rayplane.control_plane.apiserver.authentication.claims import INLINE_COST_MAX, Refused, TooDear
from rayplane.control_plane.apiserver.authentication.configuration import JwtAuthenticator
from rayplane.control_plane.apiserver.flowcontrol.heavy import Heavy
from rayplane.control_plane.apiserver.requests import User
from rayplane.storage.env import Env

log = logging.getLogger(__name__)

# All that are signed with one key and verified with another.
_ALGORITHMS = [f"{kind}{bits}" for kind in ("RS", "ES", "PS") for bits in (256, 384, 512)]
_BY_HAND = ("exp", "nbf", "iat", "aud", "sub", "jti")
_UNCHECKED: Any = {f"verify_{claim}": False for claim in _BY_HAND}
# Clocks of issuers may be ahead by a little.
_EARLY_S = 300


class Keys(Protocol):
    """The keys of one issuer."""

    @property
    def known(self) -> Sequence[jwt.PyJWK]: ...

    async def renewed(self) -> Sequence[jwt.PyJWK]:
        """As the issuer has them now, unless it was asked just before."""


@dataclass(frozen=True, slots=True)
class KnownIssuer:
    """An issuer with its keys."""

    authenticator: JwtAuthenticator
    keys: Keys


class Issuers:
    """All issuers beside the cluster itself."""

    def __init__(self, issuers: Sequence[KnownIssuer], env: Env) -> None:
        self._issuers = {one.authenticator.issuer.url: one for one in issuers}
        self._env = env
        self._heavy = Heavy(env)

    async def user(self, token: str) -> User | None:
        """The owner of a token; None where it is of none of these issuers. Unauthorized."""
        unproven = _unproven(token) if self._issuers else None
        issuer = self._issuers.get(unproven.issuer) if unproven is not None else None
        if unproven is None or issuer is None:
            return None
        claims = await self._claims(token, unproven.key, issuer)
        try:
            self._check(claims, issuer.authenticator)
            return await self._made(claims, issuer.authenticator)
        except Refused as e:
            log.info("a token of %s is refused: %s", issuer.authenticator.issuer.url, e)
            raise Unauthorized() from e

    async def _claims(self, token: str, key: str, issuer: KnownIssuer) -> Mapping[str, Any]:
        found = _verified(token, key, issuer.authenticator.issuer.url, issuer.keys.known)
        if found is None:
            # It may be signed with a newer key.
            found = _verified(token, key, issuer.authenticator.issuer.url, await issuer.keys.renewed())
        if found is None:
            raise Unauthorized()
        return found

    async def _made(self, claims: Mapping[str, Any], authenticator: JwtAuthenticator) -> User:
        try:
            return authenticator.mapping.user(claims, INLINE_COST_MAX)
        except TooDear:
            return await self._heavy.apart(authenticator.mapping.user, claims)

    def _check(self, claims: Mapping[str, Any], authenticator: JwtAuthenticator) -> None:
        now: datetime = self._env.clock.now()
        end, begin, audiences = claims.get("exp"), claims.get("nbf", 0), claims.get("aud")
        if not isinstance(end, int | float) or not isinstance(begin, int | float):
            raise Refused("exp and nbf must be numbers")
        if not begin - _EARLY_S <= now.timestamp() < end:
            raise Refused("it has expired, or is not good yet")
        meant_for = [audiences] if isinstance(audiences, str) else audiences
        if not isinstance(meant_for, list) or not any(one in authenticator.issuer.audiences for one in meant_for):
            raise Refused(f"it is for {meant_for}")


class _Unproven(NamedTuple):
    """The issuer of a token and the key that it is signed with, as it says itself: nobody has verified that yet."""

    issuer: str
    key: str


def _unproven(token: str) -> _Unproven | None:
    """None for what is no token."""
    try:
        found = jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        return None
    said = found["payload"].get("iss"), found["header"].get("kid", "")
    return _Unproven(*said) if all(isinstance(one, str) for one in said) else None


def _verified(token: str, named: str, issuer: str, keys: Sequence[jwt.PyJWK]) -> Mapping[str, Any] | None:
    """The claims of a token that one of these keys has signed; None where none has. Unauthorized."""
    for key in keys:
        if named and key.key_id and named != key.key_id:
            continue
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token, key.key, algorithms=_ALGORITHMS, issuer=issuer, options=_UNCHECKED
            )
            return claims
        except (jwt.InvalidSignatureError, jwt.InvalidKeyError, jwt.InvalidAlgorithmError, TypeError, AttributeError):
            continue  # another key, or one of another kind
        except (jwt.InvalidTokenError, ValueError, RecursionError) as e:
            raise Unauthorized() from e
    return None
