"""The anchors by which API servers are trusted, as a ClusterTrustBundle that pods can project.

Its name ends in a digest of what it holds: after a change of the authority another bundle is made, and the former goes.
Source: kubernetes/pkg/controller/certificates/clustertrustbundlepublisher; KEP-3257 (cluster trust bundles).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from rayplane.control_plane.api import meta, signers
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.signers import API_SERVING
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    Update,
)
from rayplane.control_plane.controllers.core import (
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)

BUNDLES: Final = f"clustertrustbundles.{signers.GROUP}"
_DIGEST_BYTES: Final = 12


def _of_signer(bundle: Object, _view: View) -> Iterable[str]:
    return (API_SERVING,) if meta.spec(bundle).get("signerName") == API_SERVING else ()


class TrustBundlePublisher(BaseController):
    """A publisher of `certificate`, PEM of the authority of the API servers."""

    name = component = "kube-apiserver-serving-clustertrustbundle-publisher"
    watches = (Watch(BUNDLES, _of_signer),)
    resync_keys = (API_SERVING,)

    def __init__(self, certificate: str) -> None:
        self._certificate = certificate
        digest = hashlib.sha256(certificate.encode()).digest()[:_DIGEST_BYTES].hex()
        self._bundle = f"{API_SERVING.replace('/', ':')}:{digest}"

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        wanted = {"signerName": API_SERVING, "trustBundle": self._certificate}
        actions: list[Action] = []
        current = view.get(BUNDLES, "", self._bundle)
        if current is None:
            own = {"name": self._bundle}
            made = {"apiVersion": f"{signers.GROUP}/v1", "kind": "ClusterTrustBundle", "metadata": own, "spec": wanted}
            actions.append(Create(BUNDLES, made, exists_ok=True))
        elif meta.spec(current) != wanted:
            actions.append(Update(BUNDLES, {**meta.copy_for_write(current), "spec": wanted}))
        former = (one for one in view.list(BUNDLES) if _of_signer(one, view) and meta.name(one) != self._bundle)
        actions += [Delete(BUNDLES, one) for one in former if not meta.is_deleting(one)]
        return result(actions)
