"""The outside part of who somebody is and what they may do: keys of issuers, and webhooks that review."""

from rayplane.control_plane.api.config_files import ConfigFileError
from rayplane.control_plane.apiserver.admission.chain import Admission
from rayplane.control_plane.apiserver.admission.configuration import AdmissionSettings, read_admission
from rayplane.control_plane.apiserver.authentication.authenticator import Authenticator
from rayplane.control_plane.apiserver.authentication.configuration import read_authentication
from rayplane.control_plane.apiserver.authentication.issuers import Issuers, KnownIssuer
from rayplane.control_plane.apiserver.authentication.legacy_tokens import LegacyTokens, Mark
from rayplane.control_plane.apiserver.authentication.tokens import Find
from rayplane.control_plane.apiserver.authentication.webhooks import Post, TokenWebhook
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.apiserver.authorization.configuration import WebhookSettings, read_authorization
from rayplane.control_plane.apiserver.config import ADMISSION, AUTHENTICATION, AUTHORIZATION, ApiServerConfig, Take
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.outgoing.documents import IssuerKeys, Patience, ReviewWebhook
from rayplane.control_plane.apiserver.outgoing.kubeconfig import BadKubeconfig, read_kubeconfig
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.storage.env import Env

_REVIEW_TIMEOUT_S = 10.0


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
        self._settings = read_admission(config.admission)
        self._chain: Admission | None = None
        self._imagers: list[ReviewWebhook] = []
        self._reviewers: list[ReviewWebhook] = []
        self._authorizers: list[ReviewWebhook] = []
        self._authenticator: Authenticator | None = None
        self._authorizer: Authorizer | None = None

    def authenticator(self, find: Find, mark: Mark) -> Authenticator:
        """`find` looks up what tokens are bound to, `mark` notes uses of those that Secrets hold."""
        kubeconfig = self._config.authentication_webhook
        self._authenticator = Authenticator(
            self._config,
            self._env,
            find,
            legacy=LegacyTokens(self._env, find, mark),
            anonymous=self._asked.anonymous,
            issuers=self._issuers(),
            webhook=TokenWebhook(self._post(kubeconfig, _REVIEW_TIMEOUT_S, self._reviewers)) if kubeconfig else None,
        )
        return self._authenticator

    def _issuers(self) -> Issuers:
        known = [KnownIssuer(one, keys) for one, keys in zip(self._asked.jwt, self._keys, strict=True)]
        return Issuers(known, self._env)

    def authorizer(self, kinds: Kinds, hub: WatchHub) -> Authorizer:
        self._authorizer = Authorizer(kinds, hub, order=self._order, post=self._asks)
        return self._authorizer

    def _asks(self, one: WebhookSettings) -> Post:
        return self._post(one.kubeconfig, one.timeout_s, self._authorizers)

    def admission(self, chain: Admission) -> Admission:
        """The chain with what its plug-ins are told. ValueError."""
        self._chain = chain
        chain.take(self._settings, self._images(self._settings))
        return chain

    def _images(self, settings: AdmissionSettings) -> Post | None:
        asked = settings.images
        return self._post(asked.kubeconfig, _REVIEW_TIMEOUT_S, self._imagers, asked.retry_s) if asked else None

    def _post(self, kubeconfig: str, timeout_s: float, made: list[ReviewWebhook], retry_s: float | None = None) -> Post:
        """How to ask the webhook of a kubeconfig file. BadKubeconfig."""
        timing = self._config.timing
        first_s = timing.webhook_retry_s if retry_s is None else retry_s
        patience = Patience(timeout_s, timing.request_timeout_s, first_s)
        webhook = ReviewWebhook(read_kubeconfig(kubeconfig), patience, self._env.rng)
        made.append(webhook)
        return webhook.post

    @property
    def takers(self) -> dict[str, Take]:
        """Who takes what configuration files say."""
        return {
            AUTHENTICATION: self.reauthenticate,
            AUTHORIZATION: self.reauthorize,
            ADMISSION: self.readmit,
        }

    async def readmit(self, text: str) -> None:
        """Put another AdmissionConfiguration in force. ConfigFileError, BadKubeconfig."""
        settings = read_admission(text)
        before, self._imagers = self._imagers, []
        try:
            images = self._images(settings)
            if self._chain is not None:
                self._chain.take(settings, images)
        except ValueError:
            before, self._imagers = self._imagers, before
            raise
        finally:
            for webhook in before:
                await webhook.retire()

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
            self._order = order
        except BadKubeconfig:
            before, self._authorizers = self._authorizers, before
            raise
        finally:
            for webhook in before:
                await webhook.retire()

    def start(self) -> None:
        """Begin to fetch keys."""
        for keys in self._keys:
            keys.start()

    async def stop(self) -> None:
        for keys in self._keys:
            await keys.stop()
        for webhook in (*self._reviewers, *self._authorizers, *self._imagers):
            await webhook.close()
