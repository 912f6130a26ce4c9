"""The outside part of who somebody is and what they may do: keys of issuers, and webhooks that review."""

from rayplane.control_plane.api.config_files import ConfigFileError
from rayplane.control_plane.apiserver.authentication.authenticator import Authenticator
from rayplane.control_plane.apiserver.authentication.configuration import read_authentication
from rayplane.control_plane.apiserver.authentication.issuers import Issuers, KnownIssuer
from rayplane.control_plane.apiserver.authentication.tokens import Find
from rayplane.control_plane.apiserver.authentication.webhooks import Post, TokenWebhook
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.apiserver.authorization.configuration import WebhookSettings, read_authorization
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.outgoing.documents import IssuerKeys, ReviewWebhook
from rayplane.control_plane.apiserver.outgoing.kubeconfig import BadKubeconfig, read_kubeconfig
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.storage.env import Env

_TOKEN_REVIEW_TIMEOUT_S = 10.0


class Access:
    """A maker of authenticator and authorizer, as a server's configuration asks for. Raises ConfigFileError,
    BadKubeconfig.
    """

    def __init__(self, config: ApiServerConfig, env: Env) -> None:
        self._config = config
        self._env = env
        self._asked = read_authentication(config.authentication, own_issuer=config.issuer)
        self._keys = [IssuerKeys(one.issuer) for one in self._asked.jwt]
        self._order = read_authorization(config.authorization)
        self._reviewers: list[ReviewWebhook] = []
        self._authorizers: list[ReviewWebhook] = []
        self._authenticator: Authenticator | None = None
        self._authorizer: Authorizer | None = None

    def authenticator(self, find: Find) -> Authenticator:
        """`find` looks up what tokens are bound to."""
        kubeconfig = self._config.authentication_webhook
        self._authenticator = Authenticator(
            self._config,
            self._env,
            find,
            anonymous=self._asked.anonymous,
            issuers=self._issuers(),
            webhook=TokenWebhook(_post(kubeconfig, _TOKEN_REVIEW_TIMEOUT_S, self._reviewers)) if kubeconfig else None,
        )
        return self._authenticator

    def _issuers(self) -> Issuers:
        known = [KnownIssuer(one, keys) for one, keys in zip(self._asked.jwt, self._keys, strict=True)]
        return Issuers(known, self._env)

    def authorizer(self, kinds: Kinds, hub: WatchHub) -> Authorizer:
        self._authorizer = Authorizer(kinds, hub, order=self._order, post=self._asks)
        return self._authorizer

    def _asks(self, one: WebhookSettings) -> Post:
        return _post(one.kubeconfig, one.timeout_s, self._authorizers)

    async def reauthenticate(self, text: str) -> None:
        """Put another AuthenticationConfiguration in force. ConfigFileError."""
        asked = read_authentication(text, own_issuer=self._config.issuer)
        before, self._asked = self._keys, asked
        self._keys = [IssuerKeys(one.issuer) for one in asked.jwt]
        if self._authenticator is not None:
            self._authenticator.take(asked.anonymous, self._issuers())
        self.start()
        for keys in before:
            await keys.stop()

    async def reauthorize(self, text: str) -> None:
        """Put another AuthorizationConfiguration in force. ConfigFileError, BadKubeconfig."""
        order = read_authorization(text)
        here, there = ({one for one in steps if isinstance(one, str)} for steps in (self._order, order))
        if here - there:
            raise ConfigFileError(
                f"authorizers: Required value: missing required types: {', '.join(sorted(here - there))}"
            )
        if there - here:
            kinds = ", ".join(sorted(there - here))
            raise ConfigFileError(
                f"authorizer type {kinds} is not allowed if it was not enabled at initial server startup"
            )
        before, self._authorizers = self._authorizers, []
        try:
            if self._authorizer is not None:
                self._authorizer.take(order, self._asks)
        except BadKubeconfig:
            unused, self._authorizers = self._authorizers, before
            for webhook in unused:
                await webhook.close()
            raise
        self._order = order
        for webhook in before:
            await webhook.retire()

    def start(self) -> None:
        """Begin to fetch keys."""
        for keys in self._keys:
            keys.start()

    async def stop(self) -> None:
        for keys in self._keys:
            await keys.stop()
        for webhook in (*self._reviewers, *self._authorizers):
            await webhook.close()


def _post(kubeconfig: str, timeout_s: float, made: list[ReviewWebhook]) -> Post:
    """How to ask the webhook of a kubeconfig file. BadKubeconfig."""
    webhook = ReviewWebhook(read_kubeconfig(kubeconfig), timeout_s)
    made.append(webhook)
    return webhook.post
