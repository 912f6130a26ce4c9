"""The ConfigMap `cluster-info` in `kube-public` says where the cluster is, signed by every bootstrap token for that.

Whoever has nothing but a token reads it from a server that it does not trust yet, and sees by the token's signature
that it comes from one who knows the token.
Source: Kubernetes reference "Authenticating with Bootstrap Tokens", ConfigMap signing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable

from rayplane.control_plane.api import bootstrap_tokens, meta
from rayplane.control_plane.api.bootstrap_tokens import BootstrapToken
from rayplane.control_plane.api.joining import CLUSTER_INFO as NAME
from rayplane.control_plane.api.joining import KUBECONFIG, SIGNATURE
from rayplane.control_plane.api.joining import PUBLIC_NAMESPACE as NAMESPACE
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Create, Update
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
    soonest,
)

_KEY = f"{NAMESPACE}/{NAME}"


def _of_info(config_map: Object, _view: View) -> Iterable[str]:
    return (_KEY,) if meta.key(config_map) == _KEY else ()


def _of_token(secret: Object, _view: View) -> Iterable[str]:
    return (_KEY,) if bootstrap_tokens.is_token(secret) else ()


class BootstrapSigner(BaseController):
    """A signer of `cluster-info`, which it makes where it is missing.

    `server`: URL of the API; `certificate`: PEM of the authority to trust there.
    """

    name = "bootstrapsigner"
    component = "bootstrap-signer"
    watches = (Watch("configmaps", _of_info), Watch("secrets", _of_token))
    resync_keys = (_KEY,)

    def __init__(self, server: str, certificate: str) -> None:
        self._kubeconfig = kubeconfig(server, certificate)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        info = view.get("configmaps", NAMESPACE, NAME)
        if info is None:
            own = {"name": NAME, "namespace": NAMESPACE}
            made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": own, "data": {KUBECONFIG: self._kubeconfig}}
            return result([Create("configmaps", made, exists_ok=True)])
        if meta.is_deleting(info):
            return NOTHING
        data = info.get("data") or {}
        tokens = [token for one in view.list("secrets") if (token := BootstrapToken.of(one)) is not None]
        signing = [one for one in tokens if one.serves(bootstrap_tokens.SIGNING, now.wall)]
        wanted = {key: text for key, text in data.items() if not key.startswith(SIGNATURE)}
        if KUBECONFIG in wanted:
            wanted |= {SIGNATURE + one.id: one.signature(wanted[KUBECONFIG]) for one in signing}
        ends = [(one.expires - now.wall).total_seconds() for one in signing if one.expires is not None]
        changes = [Update("configmaps", {**meta.copy_for_write(info), "data": wanted})] if wanted != data else []
        return result(changes, requeue_after=soonest(*ends))


def kubeconfig(server: str, certificate: str) -> str:
    """A kubeconfig without a user, as YAML (of which JSON is a part)."""
    authority = base64.b64encode(certificate.encode()).decode()
    cluster = {"name": "", "cluster": {"certificate-authority-data": authority, "server": server}}
    parts = {"clusters": [cluster], "contexts": [], "current-context": "", "preferences": {}, "users": []}
    return json.dumps({"apiVersion": "v1", "kind": "Config", **parts}, indent=2)
