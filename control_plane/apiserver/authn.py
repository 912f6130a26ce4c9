"""Who is calling: client certificates, bearer tokens, impersonation; and the tokens of service accounts.

Tokens are JSON Web Tokens (RFC 7519) signed with the cluster's P-256 key (ES256), so that every server accepts what
any other has issued. Time is the injected clock's.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization

from control_plane.api.errors import BadRequest, Forbidden, Unauthorized
from control_plane.api.meta import Object, format_time
from control_plane.apiserver.config import ApiServerConfig
from control_plane.apiserver.requests import (
    ANONYMOUS,
    AUTHENTICATED,
    UNAUTHENTICATED,
    User,
)
from control_plane.rpc import Context, Identity
from storage.env import Env

SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"
_ALGORITHM = "ES256"
_CLAIMS = "kubernetes.io"
_NOBODY = User(ANONYMOUS, (UNAUTHENTICATED,))

FindServiceAccount = Callable[[str, str], Awaitable[Object | None]]


class Authenticator:
    """Turns what a caller shows into a User. `find_account(namespace, name)` looks the account up."""

    def __init__(self, config: ApiServerConfig, env: Env, find_account: FindServiceAccount) -> None:
        self._config = config
        self._env = env
        self._find_account = find_account
        self._private: Any = None
        self._public: Any = None
        if config.token_key:
            self._private = serialization.load_pem_private_key(config.token_key, password=None)
            self._public = self._private.public_key()

    async def of_call(self, context: Context) -> User:
        """The caller of a gRPC method: by its certificate, else by a bearer token."""
        token = bearer_token(context.metadata.get("authorization") or "")
        if context.identity is not None and not token:
            return of_identity(context.identity)
        if token:
            return await self.of_token(token)
        if self._config.tls_dir is None:
            user, groups = self._config.anonymous_grpc_user
            return of_identity(Identity(user, groups))
        return _NOBODY

    async def of_request(self, identity: Identity | None, authorization: str) -> User:
        """The caller of a REST request; anonymous when nothing is shown, Unauthorized when it is wrong."""
        if identity is not None:
            return of_identity(identity)
        token = bearer_token(authorization)
        return await self.of_token(token) if token else _NOBODY

    async def of_token(self, token: str) -> User:
        """The owner of a bearer token. Unauthorized."""
        static = self._config.static_tokens.get(token)
        if static is not None:
            return of_identity(Identity(static[0], tuple(static[1])))
        claims = self.claims(token)
        audiences = claims.get("aud") or []
        if self._config.issuer not in audiences:
            raise Unauthorized()
        return await self.account_user(claims)

    def claims(self, token: str) -> dict[str, Any]:
        """The claims of a valid service-account token. Unauthorized."""
        if self._public is None:
            raise Unauthorized()
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._public,
                algorithms=[_ALGORITHM],
                issuer=self._config.issuer,
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False},
            )
        except jwt.InvalidTokenError as e:
            raise Unauthorized() from e
        now = self._env.clock.now().timestamp()
        # Machines of one cluster may disagree about the time by a little.
        if not claims.get("nbf", 0) - 60 <= now < claims.get("exp", 0):
            raise Unauthorized()
        return claims

    async def account_user(self, claims: Mapping[str, Any]) -> User:
        """The user that a service-account token stands for, while the account lives. Unauthorized."""
        bound = claims.get(_CLAIMS) or {}
        namespace, account = bound.get("namespace") or "", bound.get("serviceaccount") or {}
        found = await self._find_account(namespace, account.get("name") or "")
        if found is None or found["metadata"].get("uid") != account.get("uid"):
            raise Unauthorized()
        extra = {}
        if pod := bound.get("pod"):
            extra["authentication.kubernetes.io/pod-name"] = (str(pod.get("name")),)
            extra["authentication.kubernetes.io/pod-uid"] = (str(pod.get("uid")),)
        return User(
            f"{SERVICE_ACCOUNT_PREFIX}{namespace}:{account['name']}",
            (
                "system:serviceaccounts",
                f"system:serviceaccounts:{namespace}",
                AUTHENTICATED,
            ),
            uid=account["uid"],
            extra=extra,
        )

    def issue(
        self, account: Object, *, audiences: Sequence[str], seconds: int, pod: Object | None = None
    ) -> tuple[str, str]:
        """A token for a service account, bound to a pod where one is given: (token, expiry time)."""
        if self._private is None:
            raise BadRequest("this server has no token signing key; start it with one to issue tokens")
        meta = account["metadata"]
        now = self._env.clock.now()
        expiry = now + timedelta(seconds=seconds)
        bound: dict[str, Any] = {
            "namespace": meta["namespace"],
            "serviceaccount": {"name": meta["name"], "uid": meta["uid"]},
        }
        if pod is not None:
            bound["pod"] = {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        claims = {
            "aud": list(audiences) or [self._config.issuer],
            "exp": int(expiry.timestamp()),
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "iss": self._config.issuer,
            "jti": self._env.uuid(),
            "sub": f"{SERVICE_ACCOUNT_PREFIX}{meta['namespace']}:{meta['name']}",
            _CLAIMS: bound,
        }
        return jwt.encode(claims, self._private, algorithm=_ALGORITHM), format_time(expiry)

    def public_jwk(self) -> dict[str, Any] | None:
        """The key that verifies tokens (RFC 7517), for `/openid/v1/jwks`."""
        if self._public is None:
            return None
        key: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(self._public, as_dict=True)
        return {**key, "use": "sig", "alg": _ALGORITHM}


def of_identity(identity: Identity) -> User:
    groups = identity.groups
    if AUTHENTICATED not in groups:
        groups = (*groups, AUTHENTICATED)
    return User(identity.user, groups)


def bearer_token(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def impersonated(user: User, headers: Mapping[str, str], groups: Sequence[str]) -> User | None:
    """Whom `user` asks to act as, by the Impersonate-* headers; None where there are none.

    Only members of system:masters may: a grant by RBAC is checked by the caller of this function.
    """
    name = headers.get("Impersonate-User") or ""
    if not name:
        if groups:
            raise Forbidden("requested groups without impersonating a user")
        return None
    kept = tuple(groups)
    if name.startswith(SERVICE_ACCOUNT_PREFIX) and not kept:
        namespace = name.split(":")[2]
        kept = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    if name != ANONYMOUS and AUTHENTICATED not in kept:
        kept = (*kept, AUTHENTICATED)
    return User(name, kept, uid=headers.get("Impersonate-Uid") or "")
