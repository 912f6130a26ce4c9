"""Secrets that hold a token of a service account, for programs outside the cluster: they are filled as they are made.

Kubernetes does so a moment later, so that who may make Secrets and not read them never sees the token: here such a one
gets a Secret without. The token dies with the Secret and with the account, and lives a year at most.
Source: Kubernetes concepts "Managing Service Accounts", long-lived API tokens.
"""

import base64
from pathlib import Path

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.legacy_tokens import ACCOUNT, ACCOUNT_UID, is_token
from rayplane.control_plane.apiserver.admission.plugins import creation_of, only
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.authentication.tokens import Bound, Tokens
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.storage.env import Env


class TokenSecrets:
    """A plugin that fills new Secrets of this type, where their account is there."""

    def __init__(self, config: ApiServerConfig, env: Env, lookup: Lookup, authorizer: Authorizer) -> None:
        self._config = config
        self._lookup = lookup
        self._authorizer = authorizer
        self._tokens = Tokens(config, env, lookup.get)

    @only(creation_of("secrets"))
    async def admit(self, request: AdmissionRequest) -> None:
        secret = request.object
        if not (is_token(secret) and self._config.token_key):
            return
        notes = meta.annotations(secret)
        account = await self._lookup.get("serviceaccounts", notes.get(ACCOUNT) or "", request.namespace)
        if account is None or notes.get(ACCOUNT_UID, meta.uid(account)) != meta.uid(account):
            return
        reads = request.user.asks("get", resource="secrets", namespace=request.namespace, name=meta.name(secret))
        if not (await self._authorizer.decide(reads)).allowed:
            return
        seconds = self._config.token_seconds_max
        token = self._tokens.issue(account, audiences=(), seconds=seconds, bound=Bound(secret=secret)).token
        files = {"token": token.encode(), "namespace": request.namespace.encode()}
        if self._config.tls_dir is not None:
            files["ca.crt"] = Credentials.read(Path(self._config.tls_dir)).ca
        secret["metadata"]["annotations"] = {**notes, ACCOUNT_UID: meta.uid(account)}
        filled = {name: base64.b64encode(data).decode() for name, data in files.items()}
        secret["data"] = {**filled, **(secret.get("data") or {})}
