"""The outside part of who somebody is and what they may do: keys of issuers, and webhooks that review."""

from rayplane.control_plane.apiserver.authentication.authenticator import Authenticator
from rayplane.control_plane.apiserver.authentication.configuration import read_authentication
from rayplane.control_plane.apiserver.authentication.issuers import Issuers, KnownIssuer
from rayplane.control_plane.apiserver.authentication.tokens import Find
from rayplane.control_plane.apiserver.authentication.webhooks import Post, TokenWebhook
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.apiserver.authorization.configuration import read_authorization
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.outgoing.documents import IssuerKeys, ReviewWebhook
from rayplane.control_plane.apiserver.outgoing.kubeconfig import read_kubeconfig
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
        self._webhooks: list[ReviewWebhook] = []

    def authenticator(self, find: Find) -> Authenticator:
        """`find` looks up what tokens are bound to."""
        known = [KnownIssuer(one, keys) for one, keys in zip(self._asked.jwt, self._keys, strict=True)]
        kubeconfig = self._config.authentication_webhook
        return Authenticator(
            self._config,
            self._env,
            find,
            anonymous=self._asked.anonymous,
            issuers=Issuers(known, self._env),
            webhook=TokenWebhook(self._post(kubeconfig, _TOKEN_REVIEW_TIMEOUT_S)) if kubeconfig else None,
        )

    def authorizer(self, kinds: Kinds, hub: WatchHub) -> Authorizer:
        order = read_authorization(self._config.authorization)
        return Authorizer(kinds, hub, order=order, post=lambda one: self._post(one.kubeconfig, one.timeout_s))

    def _post(self, kubeconfig: str, timeout_s: float) -> Post:
        webhook = ReviewWebhook(read_kubeconfig(kubeconfig), timeout_s)
        self._webhooks.append(webhook)
        return webhook.post

    def start(self) -> None:
        """Begin to fetch keys."""
        for keys in self._keys:
            keys.start()

    async def stop(self) -> None:
        for keys in self._keys:
            await keys.stop()
        for webhook in self._webhooks:
            await webhook.close()
