"""Tokens that say who a caller is: etcd's `simple` ones, known to members by the log, and signed JWTs (RFC 7519).

A simple token is good for a time that starts anew with each use. Members count that time for themselves, and forget
all tokens when they stop. A JWT carries its user, auth revision and end; nothing can call it back before that, but a
change of users or roles makes its revision old.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from rayplane.control_plane.durations import DurationError, parse_duration
from rayplane.control_plane.etcd.server.errors import RefusedToStart
from rayplane.control_plane.etcd_errors import VerifyOnly
from rayplane.storage.env import Clock

#: Simple tokens kept; beyond that the one unused for longest ends early.
TOKENS_MAX = 100_000
_JWT_OPTIONS = ("sign-method", "pub-key", "priv-key", "ttl")
_SYMMETRIC = ("HS256", "HS384", "HS512")
_ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")


class SimpleTokens:
    """Tokens and their users. `now` is the event loop's time."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        # Least recently used first: all live equally long, so the first is the first to end.
        self._tokens: dict[str, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def assign(self, token: str, user: str, now: float) -> None:
        self._expire(now)
        if len(self._tokens) >= TOKENS_MAX:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[token] = (user, now + self._ttl_s)

    def user_of(self, token: str, now: float) -> str | None:
        """Whose token it is, which is good for another while then; None when it is none (any more)."""
        self._expire(now)
        held = self._tokens.pop(token, None)
        if held is None:
            return None
        self._tokens[token] = (held[0], now + self._ttl_s)
        return held[0]

    def forget_user(self, user: str) -> None:
        for token in [t for t, (owner, _) in self._tokens.items() if owner == user]:
            del self._tokens[token]

    def clear(self) -> None:
        self._tokens = {}

    def _expire(self, now: float) -> None:
        while self._tokens:
            token, (_, ends_at) = next(iter(self._tokens.items()))
            if ends_at > now:
                return
            del self._tokens[token]


def number_of(token: str) -> int | None:
    """The number at a simple token's end; None when it is no simple token."""
    prefix, dot, number = token.partition(".")
    if not prefix or not dot or not number.isascii() or not number.isdigit() or len(number) > 20:
        return None
    return int(number)


@dataclass(frozen=True, slots=True)
class JwtTokens:
    """A maker and reader of JWTs. `sign_key` None: tokens come from somewhere else and are only read."""

    method: str
    sign_key: Any
    verify_key: Any
    ttl: timedelta

    def sign(self, user: str, revision: int, clock: Clock) -> str:
        """Raises VerifyOnly."""
        if self.sign_key is None:
            raise VerifyOnly
        claims = {"username": user, "revision": revision, "exp": int((clock.now() + self.ttl).timestamp())}
        return jwt.encode(claims, self.sign_key, algorithm=self.method)

    def read(self, token: str, clock: Clock) -> tuple[str, int] | None:
        """(user, auth revision); None when the token is not good."""
        try:
            # The library would compare the times with the machine's clock.
            claims = jwt.decode(
                token,
                self.verify_key,
                algorithms=[self.method],
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except jwt.InvalidTokenError:
            return None
        user, revision, ends = claims.get("username"), claims.get("revision"), claims.get("exp", 0)
        if not isinstance(user, str) or not isinstance(revision, int) or not isinstance(ends, int | float):
            return None
        return (user, revision) if not ends or clock.now().timestamp() < ends else None


def parse_auth_token(option: str, read: Callable[[str], bytes]) -> JwtTokens | None:
    """`simple` (None), or `jwt,sign-method=RS256,priv-key=FILE,pub-key=FILE,ttl=5m`, as etcd's --auth-token.

    `read` gives a key file's content. Raises RefusedToStart.
    """
    kind, *pairs = option.split(",")
    options = dict(pair.split("=", 1) for pair in pairs if pair.count("=") == 1)
    if len(options) != len(pairs) or not options.keys() <= set(_JWT_OPTIONS):
        raise RefusedToStart(f"auth_token {option!r}: options are NAME=VALUE, each once, of {', '.join(_JWT_OPTIONS)}")
    if kind == "simple":
        return None
    if kind != "jwt":
        raise RefusedToStart(f'auth_token {option!r} must begin with "simple" or "jwt"')
    method = options.get("sign-method", "")
    if method not in (*_SYMMETRIC, *_ASYMMETRIC):
        raise RefusedToStart(f"auth_token {option!r}: sign-method must be one of {', '.join(_SYMMETRIC + _ASYMMETRIC)}")
    ttl = timedelta(seconds=_seconds(options.get("ttl", "5m"), option))
    try:
        private = read(options["priv-key"]) if "priv-key" in options else None
        public = read(options["pub-key"]) if "pub-key" in options else None
        sign_key, verify_key = _keys(method, private, public)
    except (OSError, ValueError) as e:
        raise RefusedToStart(f"auth_token {option!r}: a key cannot be read: {e}") from e
    if verify_key is None:
        raise RefusedToStart(
            f"auth_token {option!r}: {method} needs priv-key=FILE, or pub-key=FILE to read tokens only"
        )
    return JwtTokens(method, sign_key, verify_key, ttl)


def _keys(method: str, private: bytes | None, public: bytes | None) -> tuple[Any, Any]:
    if method in _SYMMETRIC:
        return private, private
    if private is None:
        return None, public
    key: Any = load_pem_private_key(private, password=None)
    own = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if public is not None and public.split() != own.split():
        raise ValueError("priv-key and pub-key do not belong together")
    return key, own


def _seconds(text: str, option: str) -> float:
    try:
        span_s = parse_duration(text)
    except DurationError:
        span_s = 0.0
    if span_s > 0:
        return span_s
    raise RefusedToStart(f"auth_token {option!r}: ttl must be a duration such as 5m, 1h30m or 300s")
