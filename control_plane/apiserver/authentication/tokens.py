"""Tokens of service accounts: made, and taken for what they say while what they are bound to lives.

Tokens are JSON Web Tokens (RFC 7519) signed with the cluster's P-256 key (ES256), so that every server accepts what
any other has issued. Owns their claims; who may ask for one is decided elsewhere. Time is the injected clock's.
"""

import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import jwt
from cryptography.hazmat.primitives import serialization

from rayplane.control_plane.api.errors import BadRequest, Unauthorized
from rayplane.control_plane.api.meta import Object, format_time, parse_time
from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.requests import AUTHENTICATED, User
from rayplane.control_plane.identities import SERVICE_ACCOUNT_PREFIX
from rayplane.storage.env import Env

_ALGORITHM = "ES256"
CLAIMS = "kubernetes.io"
"""Where a token says whose it is and what it is bound to."""
_EXTRA = "authentication.kubernetes.io/"
_STALE = "authentication.k8s.io/stale-token"
# Machines of one cluster may disagree about the time by a little; so long a deleted object's tokens are good.
_LEEWAY_S = 60
_SIGNED_KEPT = 1024
MOUNTED_S = 3607
"""Life of the tokens that every pod mounts, which nobody else asks for."""

Find = Callable[[str, str, str], Awaitable[Object | None]]
"""`find(resource, name, namespace)`: the object, None where there is none."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The objects a token is bound to: with one, the token dies. `node` beside a pod only says where the pod runs."""

    pod: Object | None = None
    secret: Object | None = None
    node: Object | None = None


class Issued(NamedTuple):
    """A token, the time from which another is to be used, and what the audit log calls it."""

    token: str
    renewed: str
    credential: str


class Tokens:
    """An issuer and verifier of service-account tokens. Without `config.token_key` none are issued or accepted."""

    def __init__(self, config: ApiServerConfig, env: Env, find: Find) -> None:
        self._config = config
        self._env = env
        self._find = find
        self._private: Any = None
        self._public: Any = None
        self._key_id = ""
        if config.token_key:
            self._private = serialization.load_pem_private_key(config.token_key, password=None)
            self._public = self._private.public_key()
            self._key_id = _key_id(self._public)
        # A signature that holds does so for ever, and to look costs more than many a request; only what holds is kept.
        self._signed = lru_cache(_SIGNED_KEPT)(self._verified)

    # --- issuing ------------------------------------------------------------------------------

    def issue(self, account: Object, *, audiences: Sequence[str], seconds: int, bound: Bound | None = None) -> Issued:
        """A token for a service account."""
        if self._private is None:
            raise BadRequest("this server has no token signing key; start it with one to issue tokens")
        meta = account["metadata"]
        now = self._env.clock.now()
        renewed = expiry = now + timedelta(seconds=seconds)
        private: dict[str, Any] = {"namespace": meta["namespace"], "serviceaccount": _reference(account)}
        for kind in ("pod", "secret", "node"):
            if (o := getattr(bound, kind, None)) is not None:
                private[kind] = _reference(o)
        if (
            bound is not None
            and bound.pod is not None
            and seconds == MOUNTED_S
            and [*audiences] == [self._config.issuer]
        ):
            # As in Kubernetes: programs that read their token once go on for as long as their pod lives, up to a year.
            expiry = now + timedelta(seconds=self._config.token_seconds_max)
            private["warnafter"] = int(renewed.timestamp())
        claims = {
            "aud": list(audiences) or [self._config.issuer],
            "exp": int(expiry.timestamp()),
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "iss": self._config.issuer,
            "jti": (jti := self._env.uuid()),
            "sub": f"{SERVICE_ACCOUNT_PREFIX}{meta['namespace']}:{meta['name']}",
            CLAIMS: private,
        }
        named = {"kid": self._key_id}
        token = jwt.encode(claims, self._private, algorithm=_ALGORITHM, headers=named)
        return Issued(token, format_time(renewed), _credential(jti))

    def public_jwk(self) -> dict[str, Any] | None:
        """The key that verifies tokens (RFC 7517), for `/openid/v1/jwks`."""
        if self._public is None:
            return None
        key: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(self._public, as_dict=True)
        return {**key, "kid": self._key_id, "use": "sig", "alg": _ALGORITHM}

    # --- checking -----------------------------------------------------------------------------

    def claims(self, token: str) -> Mapping[str, Any]:
        """The claims of a token that is signed and in its time. Unauthorized."""
        if self._public is None:
            raise Unauthorized()
        try:
            claims = self._signed(token)
        except (jwt.InvalidTokenError, ValueError, RecursionError) as e:
            raise Unauthorized() from e
        now = self._env.clock.now().timestamp()
        # Tokens may be older than the bound on their life.
        end = min(claims.get("exp", 0), claims.get("iat", 0) + self._config.token_seconds_max)
        if not claims.get("nbf", 0) - _LEEWAY_S <= now < end:
            raise Unauthorized()
        return claims

    def _verified(self, token: str) -> Mapping[str, Any]:
        """What stands in a token that this cluster has signed. Raises what jwt does."""
        claims: Mapping[str, Any] = jwt.decode(
            token,
            self._public,
            algorithms=[_ALGORITHM],
            issuer=self._config.issuer,
            options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False},
        )
        return claims

    async def user(self, claims: Mapping[str, Any]) -> User:
        """The user that a token stands for, while the account and what it is bound to live. Unauthorized."""
        private = claims.get(CLAIMS) or {}
        namespace, account = private.get("namespace") or "", private.get("serviceaccount") or {}
        pod, node = private.get("pod"), private.get("node")
        self._tell_if_stale(claims)
        await self._must_live("serviceaccounts", account, namespace)
        if pod is not None:
            await self._must_live("pods", pod, namespace)
        elif node is not None:
            await self._must_live("nodes", node, "")
        if (secret := private.get("secret")) is not None:
            await self._must_live("secrets", secret, namespace)
        return User(
            f"{SERVICE_ACCOUNT_PREFIX}{namespace}:{account['name']}",
            ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED),
            uid=account["uid"],
            extra=_extra(str(claims.get("jti") or ""), pod, node),
        )

    def _tell_if_stale(self, claims: Mapping[str, Any]) -> None:
        """Have the audit log name who goes on with a token that should have been read anew."""
        since = (claims.get(CLAIMS) or {}).get("warnafter") or 0
        late_s = int(self._env.clock.now().timestamp()) - since
        if since and late_s > 0:
            text = f"subject: {claims.get('sub')}, seconds after warning threshold: {late_s}"
            audit.annotate({_STALE: text})

    async def _must_live(self, resource: str, reference: Mapping[str, Any], namespace: str) -> None:
        found = await self._find(resource, reference.get("name") or "", namespace)
        if found is None or found["metadata"].get("uid") != reference.get("uid"):
            raise Unauthorized()
        deleted = found["metadata"].get("deletionTimestamp")
        if deleted and parse_time(deleted) + timedelta(seconds=_LEEWAY_S) < self._env.clock.now():
            raise Unauthorized()


def _key_id(public: Any) -> str:
    """The name of a key: others look a token's key up by it among those that an issuer publishes."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()


def _reference(o: Object) -> dict[str, str]:
    meta = o["metadata"]
    # The node of a pod may be gone: only its name is known then.
    return {key: meta[key] for key in ("name", "uid") if meta.get(key)}


def _credential(jti: str) -> str:
    return f"JTI={jti}"


def _extra(jti: str, pod: Mapping[str, Any] | None, node: Mapping[str, Any] | None) -> Mapping[str, tuple[str, ...]]:
    extra = {"credential-id": _credential(jti)} if jti else {}
    for kind, reference in (("node", node), ("pod", pod)):
        for part in ("name", "uid"):
            if value := (reference or {}).get(part):
                extra[f"{kind}-{part}"] = str(value)
    return {_EXTRA + key: (value,) for key, value in extra.items()}
