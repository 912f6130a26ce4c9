"""Authentication of callers: by client certificate, by bearer token, or as nobody."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from rayplane.control_plane.api import bootstrap_tokens, meta
from rayplane.control_plane.api.bootstrap_tokens import BootstrapToken
from rayplane.control_plane.api.errors import Unauthorized
from rayplane.control_plane.apiserver.authentication.configuration import EVERYWHERE, Anonymous
from rayplane.control_plane.apiserver.authentication.issuers import Issuers
from rayplane.control_plane.apiserver.authentication.legacy_tokens import LegacyTokens
from rayplane.control_plane.apiserver.authentication.tokens import Find, Tokens
from rayplane.control_plane.apiserver.authentication.webhooks import TokenWebhook
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.requests import ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User
from rayplane.control_plane.apiserver.tracing.spans import spanned
from rayplane.control_plane.rpc import Context, Identity
from rayplane.storage.env import Env

_NOBODY = User(ANONYMOUS, (UNAUTHENTICATED,))
NOT_FOR_THEM = "token audiences do not match the requested audiences"


@dataclass(frozen=True, slots=True)
class Identified:
    """The owner of a token, and whom of those who were asked for it is for."""

    user: User
    audiences: tuple[str, ...]


def _shown(_: object, identity: Identity | None, authorization: str, __: str = "") -> dict[str, object]:
    """How a caller shows who it is."""
    certificate = identity.user if identity is not None else ""
    return {"certificate": certificate, "token": "bearer" if bearer_token(authorization) else ""}


def _of(user: User) -> dict[str, object]:
    return {"user": user.name, "groups": ", ".join(user.groups)}


class Authenticator:
    """An authenticator that turns what a caller shows into a User. `find` looks up what tokens are bound to."""

    def __init__(
        self,
        config: ApiServerConfig,
        env: Env,
        find: Find,
        *,
        legacy: LegacyTokens,
        anonymous: Anonymous = EVERYWHERE,
        issuers: Issuers | None = None,
        webhook: TokenWebhook | None = None,
    ) -> None:
        self.tokens = Tokens(config, env, find)
        self._config = config
        self._find = find
        self._legacy = legacy
        self._anonymous = anonymous
        self._issuers = issuers
        self._webhook = webhook
        self.audiences = (config.issuer,)
        """Whom a token must be for to be taken here."""
        self._env = env

    def take(self, anonymous: Anonymous, issuers: Issuers) -> None:
        """Go by another configuration from now on."""
        self._anonymous, self._issuers = anonymous, issuers

    @spanned("authentication", answered=_of)
    async def of_call(self, context: Context) -> User:
        """The caller of a gRPC method: by its certificate, else by a bearer token, as over REST.

        A component, which shows its certificate in all its calls, makes those in somebody else's name that have a token
        of theirs beside it.
        """
        theirs = context.metadata.get("impersonate-token")
        if theirs:
            return await self.of_token(theirs)
        user = self.of_certificate(context.identity) if context.identity is not None else None
        if user is not None:
            return user
        token = bearer_token(context.metadata.get("authorization") or "")
        if token:
            return await self.of_token(token)
        if context.identity is None and self._config.tls_dir is None:
            name, groups = self._config.anonymous_grpc_user
            return of_identity(Identity(name, groups))
        return self._nobody()

    @spanned("authentication", about=_shown, answered=_of)
    async def of_request(self, identity: Identity | None, authorization: str, path: str = "") -> User:
        """The caller of a REST request; anonymous when nothing is shown, if it may be at this path, Unauthorized when
        it is wrong.
        """
        user = self.of_certificate(identity) if identity is not None else None
        if user is not None:
            return user
        token = bearer_token(authorization)
        return await self.of_token(token) if token else self._nobody(path)

    def _nobody(self, path: str = "") -> User:
        if not self._anonymous.may_be(path):
            raise Unauthorized()
        return _NOBODY

    def of_certificate(self, identity: Identity) -> User | None:
        """None for a certificate that names nobody. Unauthorized when it has expired since the connection began."""
        if not identity.user:
            return None
        if identity.not_after <= self._env.clock.now().timestamp():
            raise Unauthorized()
        return of_identity(identity)

    async def of_token(self, token: str) -> User:
        """The owner of a bearer token. Unauthorized."""
        return (await self.identify(token, self.audiences)).user

    async def identify(self, token: str, audiences: Sequence[str]) -> Identified:
        """The owner of a token that is for one of these audiences. Unauthorized."""
        user, meant_for = await self._owner(token, audiences)
        accepted = tuple(one for one in audiences if one in meant_for)
        if not accepted:
            raise Unauthorized(NOT_FOR_THEM)
        return Identified(user, accepted)

    async def _owner(self, token: str, audiences: Sequence[str]) -> tuple[User, Sequence[str]]:
        """With whom the token is for. Unauthorized."""
        static = self._config.static_tokens.get(token)
        if static is not None:
            return of_identity(Identity(static[0], tuple(static[1]))), self.audiences
        parts = bootstrap_tokens.parse(token)
        if parts is not None:
            return await self._bootstrapping(*parts), self.audiences
        user = await self._issuers.user(token) if self._issuers is not None else None
        if user is not None:
            return user, self.audiences
        try:
            claims = self.tokens.claims(token)
        except Unauthorized:
            if self._webhook is None:
                raise
            return await self._webhook.owner(token, audiences)
        user = await self.tokens.user(claims)
        await self._legacy.used(token, claims)
        return user, claims.get("aud") or ()

    async def _bootstrapping(self, own: str, secret: str) -> User:
        """Who shows a bootstrap token. Unauthorized."""
        stored = await self._find("secrets", bootstrap_tokens.secret_name(own), bootstrap_tokens.NAMESPACE)
        found = BootstrapToken.of(stored) if stored is not None and not meta.is_deleting(stored) else None
        if found is None or not hmac.compare_digest(found.secret, secret):
            raise Unauthorized()
        if not found.serves(bootstrap_tokens.AUTHENTICATION, self._env.clock.now()):
            raise Unauthorized()
        return User(bootstrap_tokens.USER_PREFIX + own, (*found.groups, AUTHENTICATED))


@lru_cache(maxsize=1024)
def of_identity(identity: Identity) -> User:
    groups = identity.groups
    if AUTHENTICATED not in groups:
        groups = (*groups, AUTHENTICATED)
    return User(identity.user, groups)


def bearer_token(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
