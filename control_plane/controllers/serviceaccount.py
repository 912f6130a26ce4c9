"""Every namespace has its ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`."""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api import meta
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
)

ROOT_CA = "kube-root-ca.crt"


def _own_namespace(namespace: Object, _view: View) -> Iterable[str]:
    return (meta.name(namespace),)


def _active(view: View, name: str) -> bool:
    namespace = view.get("namespaces", "", name)
    return (
        namespace is not None
        and not meta.is_deleting(namespace)
        and meta.status(namespace).get("phase") != "Terminating"
    )


class ServiceAccountController(BaseController):
    name = "serviceaccount"
    component = "service-account-controller"

    def __init__(self) -> None:
        def named_default(account: Object, _view: View) -> Iterable[str]:
            return (meta.namespace(account),) if meta.name(account) == "default" else ()

        self.watches = (
            Watch("namespaces", _own_namespace),
            Watch("serviceaccounts", named_default),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        if not _active(view, key) or view.get("serviceaccounts", key, "default"):
            return NOTHING
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": key},
        }
        return result([Create("serviceaccounts", account, exists_ok=True)])


class RootCAController(BaseController):
    name = "rootca"
    component = "root-ca-cert-publisher"

    def __init__(self, certificate: str) -> None:
        self._certificate = certificate

        def named_root_ca(o: Object, _view: View) -> Iterable[str]:
            return (meta.namespace(o),) if meta.name(o) == ROOT_CA else ()

        self.watches = (Watch("namespaces", _own_namespace), Watch("configmaps", named_root_ca))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        if not _active(view, key):
            return NOTHING
        data = {"ca.crt": self._certificate}
        current = view.get("configmaps", key, ROOT_CA)
        if current is None:
            own = {"name": ROOT_CA, "namespace": key}
            config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": own, "data": data}
            return result([Create("configmaps", config_map, exists_ok=True)])
        if current.get("data") != data:
            return result([Update("configmaps", {**current, "data": data})])
        return NOTHING
